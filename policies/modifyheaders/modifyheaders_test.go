package modifyheaders

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

func TestExamples(t *testing.T) {
	policytest.RunExamples(t, "README.md", Definition(), policytest.NewEnv(t))
}

func TestParameters(t *testing.T) {
	for params, want := range map[string]string{
		``:                                                 "nothing is to be done",
		`{"set": {}}`:                                      "nothing is to be done",
		`{"set": {"": "a"}}`:                               "the name is empty",
		`{"set": {"x a": "a"}}`:                            "not allowed in a header name",
		`{"set": {"x": "a\nb"}}`:                           "set: set header \"x\": the value has a NUL, CR or LF",
		`{"set": {"host": "a"}}`:                           "the host is not for policies to change: Envoy forbids it",
		`{"append": {"x": "\u0000"}}`:                      "append: set header \"x\": the value",
		`{"append": {":method": "a"}}`:                     "not allowed in a header name",
		`{"append": {"X-Envoy-A": ""}}`:                    "x-envoy-",
		`{"remove": ["x-envoy-a"]}`:                        "x-envoy-",
		`{"remove": [":path"]}`:                            "not allowed in a header name",
		`{"remove": [""]}`:                                 "the name is empty",
		`{"remove": ["x", "X"]}`:                           `remove: "x" is there twice`,
		`{"set": {"x": "", "X": ""}}`:                      `set: "x" is there twice, in two spellings`,
		`{"append": {"x": "", "X": ""}}`:                   `append: "x" is there twice, in two spellings`,
		`{"remove": ["X"], "append": {"x": "a"}}`:          `append: "x" stands in remove too`,
		`{"set": {"x": 1}}`:                                "number is not legal here; want a string",
		`{"set": {"x": "1", "x": "2"}}`:                    "set.x: it is there more than once",
		`{"sets": {"x": "1"}}`:                             "sets: unknown parameter; legal are remove, set, add_if_absent, append",
		`{"add_if_absent": {"x a": "a"}}`:                  "not allowed in a header name",
		`{"add_if_absent": {"x": "a"}, "set": {"X": "b"}}`: `add_if_absent: "x" stands in set too`,
		`{"add_if_absent": {"x": "a"}, "remove": ["X"]}`:   `add_if_absent: "x" stands in remove too`,
		`{"set": {"a": "\n"}, "remove": ["host"]}`:         "remove: ",
	} {
		_, err := Definition().Build(policytest.NewEnv(t), json.RawMessage(params))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", params, err, want)
		}
	}
}

func TestOrder(t *testing.T) {
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"set": {"x-b": "2", "X-A": "1"}, "append": {"x-a": "3"}}`)
	got := policytest.Run(t, p, policytest.Request{Headers: []string{"x-a: 0"}})
	var lines []string
	for _, h := range got.Headers[4:] {
		lines = append(lines, h.Name+"="+h.Value)
	}
	if strings.Join(lines, " ") != "x-a=1 x-b=2 x-a=3" || got.Err != nil {
		t.Errorf("%v %v", lines, got)
	}
	if len(got.Changes) != 3 {
		t.Errorf("%d changes", len(got.Changes))
	}
}

func run(t testing.TB) func() {
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"remove": ["x-debug"], "set": {"x-gateway": "a"}, "append": {"via": "b"}}`).(*Policy)
	request, response := policytest.Request{Headers: []string{"x-gateway: 1", "x-debug: 1"}}.HeaderMap(), policytest.Response{Headers: []string{"x-debug: 1"}}.HeaderMap()
	x, ctx := new(policies.Exchange), t.Context()
	return func() {
		x.Reset()
		if err := x.BeginRequest("r", request, true); err != nil {
			t.Fatal(err)
		}
		if v, err := p.OnRequestHeaders(ctx, x.Request()); err != nil || !v.IsContinue() {
			t.Fatal(v, err)
		}
		if err := x.BeginResponse(response, true); err != nil {
			t.Fatal(err)
		}
		if v, err := p.OnResponseHeaders(ctx, x.Response()); err != nil || !v.IsContinue() || len(x.Changes()) != 6 {
			t.Fatal(v, err, x.Changes())
		}
	}
}

func TestNoAllocations(t *testing.T) {
	if n := testing.AllocsPerRun(100, run(t)); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkBothFlows(b *testing.B) {
	run := run(b)
	b.ReportAllocs()
	for b.Loop() {
		run()
	}
}
