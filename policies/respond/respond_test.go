package respond

import (
	"encoding/json"
	"slices"
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
		`{"status": 199}`:                                "status: 199 is not legal; legal are 200 to 599",
		`{"status": 600}`:                                "status: 600 is not legal",
		`{"status": 0}`:                                  "status: 0 is not legal",
		`{"status": "200"}`:                              "status: string is not legal here",
		`{"status": 204, "body": "a"}`:                   "body: an answer with status 204 has no body",
		`{"status": 205, "body": "a"}`:                   "body: an answer with status 205 has no body",
		`{"status": 304, "body": "a"}`:                   "body: an answer with status 304 has no body",
		`{"body": "` + strings.Repeat("a", 65537) + `"}`: "body: it has 65537 bytes; legal are 65536",
		`{"content_type": "text/html"}`:                  "content_type: there is no body",
		`{"body": "a", "content_type": "a\nb"}`:          "content_type: set header",
		`{"headers": {"content-type": "a"}}`:             "content_type",
		`{"headers": {"Content-Length": "0"}}`:           `headers: "Content-Length" is Envoy's`,
		`{"headers": {"transfer-encoding": "a"}}`:        `headers: "transfer-encoding" is Envoy's`,
		`{"headers": {"Connection": "close"}}`:           `headers: "Connection" is Envoy's`,
		`{"headers": {"grpc-status": "0"}}`:              `headers: "grpc-status" is Envoy's`,
		`{"headers": {":status": "200"}}`:                "not allowed in a header name",
		`{"headers": {"x-envoy-a": ""}}`:                 "x-envoy-",
		`{"headers": {"x": "a\r\nb: c"}}`:                "CR or LF",
		`{"headers": {"x": "1", "X": "2"}}`:              `headers: "x" is there twice, in two spellings`,
		`{"headers": {"set-cookie": ["a"]}}`:             "headers: array is not legal here; want a string",
		`{"status": 404, "grpc_status": 0}`:              "grpc_status: 0 is OK, which a status of 404 is not",
		`{"grpc_status": 17}`:                            "grpc_status: 17 is not legal",
		`{"grpc_status": -1}`:                            "grpc_status: ",
		`{"grpc_status": null}`:                          "grpc_status: null is not legal here",
		`{"reason": ""}`:                                 `reason: "" is not legal`,
		`{"reason": "No Way"}`:                           `reason: "No Way" is not legal`,
		`{"reason": "` + strings.Repeat("a", 65) + `"}`:  "reason: ",
		`{"statuses": 1}`:                                "statuses: unknown parameter; legal are status, content_type, headers, body, grpc_status, reason",
	} {
		_, err := Definition().Build(policytest.NewEnv(t), json.RawMessage(params))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %s", params, err, want)
		}
	}
}

func TestAnswers(t *testing.T) {
	type header = policies.Header
	for params, c := range map[string]struct {
		status  int
		headers []header
		body    string
	}{
		``:                {200, nil, ""},
		`{"body": "a"}`:   {200, []header{{Name: "content-type", Value: "text/plain; charset=utf-8"}}, "a"},
		`{"status": 204}`: {204, nil, ""},
		`{"status": 304, "headers": {"ETag": "\"1\""}}`:             {304, []header{{Name: "etag", Value: `"1"`}}, ""},
		`{"body": "{}", "content_type": "application/json"}`:        {200, []header{{Name: "content-type", Value: "application/json"}}, "{}"},
		`{"status": 418, "headers": {"b": "2", "A": "1", "c": ""}}`: {418, []header{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}, {Name: "c"}}, ""},
	} {
		p := policytest.Build(t, Definition(), policytest.NewEnv(t), params)
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "CONNECT"} {
			got := policytest.Run(t, p, policytest.Request{Method: method, Headers: []string{"content-length: 5"}, Body: true})
			v := got.Verdict
			if !v.IsImmediate() || v.IsDeny() || v.Status() != c.status || !slices.Equal(v.Headers(), c.headers) || string(v.Body()) != c.body || len(got.Changes) != 0 {
				t.Errorf("%s %s: %v %v %s", method, params, got, v.Headers(), v.Body())
			}
			if _, ok := v.GRPCStatus(); ok {
				t.Errorf("%s %s: a gRPC status that nobody asked for", method, params)
			}
		}
	}
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"grpc_status": 0}`)
	if status, ok := policytest.Run(t, p, policytest.Request{}).Verdict.GRPCStatus(); !ok || status != 0 {
		t.Errorf("gRPC status %d, %v", status, ok)
	}
}

func run(t testing.TB) func() {
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"status": 503, "body": "closed", "headers": {"retry-after": "5"}, "grpc_status": 14}`).(*Policy)
	request := policytest.Request{}.HeaderMap()
	x, ctx := new(policies.Exchange), t.Context()
	return func() {
		x.Reset()
		if err := x.BeginRequest("r", request, true); err != nil {
			t.Fatal(err)
		}
		if v, err := p.OnRequestHeaders(ctx, x.Request()); err != nil || v.Status() != 503 {
			t.Fatal(v, err)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	if n := testing.AllocsPerRun(100, run(t)); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAnswer(b *testing.B) {
	run := run(b)
	b.ReportAllocs()
	for b.Loop() {
		run()
	}
}
