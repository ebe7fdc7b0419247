package securityheaders

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
		`{"strict_transport_security": "includeSubDomains"}`:             "strict_transport_security: ",
		`{"strict_transport_security": "max-age=1; preload; max-age"}`:   "strict_transport_security: ",
		`{"strict_transport_security": "max-age=-1"}`:                    "strict_transport_security: ",
		`{"content_type_options": "sniff"}`:                              `content_type_options: "sniff" is not legal; legal are nosniff,`,
		`{"frame_options": "deny"}`:                                      "frame_options: ",
		`{"referrer_policy": "never"}`:                                   "referrer_policy: ",
		`{"content_security_policy": "a\nb"}`:                            "content_security_policy: set header",
		`{"permissions_policy": "\u0000"}`:                               "permissions_policy: set header",
		`{"cross_origin_opener_policy": "same-site"}`:                    "cross_origin_opener_policy: ",
		`{"cross_origin_resource_policy": "none"}`:                       "cross_origin_resource_policy: ",
		`{"cross_origin_embedder_policy": "yes"}`:                        "cross_origin_embedder_policy: ",
		`{"remove": ["Strict-Transport-Security"]}`:                      "is set by this policy",
		`{"remove": [":status"]}`:                                        "remove: ",
		`{"hsts": "max-age=1"}`:                                          "hsts: unknown parameter; legal are override, strict_transport_security",
		`{"frame_options": "x", "referrer_policy": "y", "remove": [""]}`: "referrer_policy: ",
	} {
		_, err := Definition().Build(policytest.NewEnv(t), json.RawMessage(params))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", params, err, want)
		}
	}
	for _, params := range []string{
		`{"strict_transport_security": "max-age=63072000; includeSubDomains; preload"}`, `{"strict_transport_security": "max-age=0"}`,
		`{"strict_transport_security": "", "remove": ["strict-transport-security"]}`,
	} {
		policytest.Build(t, Definition(), policytest.NewEnv(t), params)
	}
}

func TestAllOff(t *testing.T) {
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"strict_transport_security": "", "content_type_options": "", "frame_options": "", "referrer_policy": "",
		"content_security_policy": "", "permissions_policy": "", "cross_origin_opener_policy": "", "cross_origin_resource_policy": "", "remove": []}`)
	got := policytest.RunResponse(t, p, policytest.Request{}, policytest.Response{Headers: []string{"server: a", "x-frame-options: ALLOWALL"}})
	if got.String() != "continue unchanged" {
		t.Error(got, got.Changes)
	}
}

func TestRepeatedHeadersOfTheUpstream(t *testing.T) {
	response := policytest.Response{Headers: []string{"X-Frame-Options: SAMEORIGIN", "x-frame-options: ALLOWALL"}}
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), "")
	if v, n := policytest.RunResponse(t, p, policytest.Request{}, response).Header("x-frame-options"); v != "DENY" || n != 1 {
		t.Errorf("%q, %d times", v, n)
	}
	p = policytest.Build(t, Definition(), policytest.NewEnv(t), `{"override": false}`)
	if v, n := policytest.RunResponse(t, p, policytest.Request{}, response).Header("x-frame-options"); v != "SAMEORIGIN" || n != 2 {
		t.Errorf("%q, %d times", v, n)
	}
}

func run(t testing.TB) func() {
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), "").(*Policy)
	request, response := policytest.Request{}.HeaderMap(), policytest.Response{Headers: []string{"server: a", "x-frame-options: b"}}.HeaderMap()
	x, ctx := new(policies.Exchange), t.Context()
	return func() {
		x.Reset()
		if err := x.BeginRequest("r", request, true); err != nil {
			t.Fatal(err)
		}
		if err := x.BeginResponse(response, true); err != nil {
			t.Fatal(err)
		}
		if v, err := p.OnResponseHeaders(ctx, x.Response()); err != nil || !v.IsContinue() || len(x.Changes()) != 9 {
			t.Fatal(v, err, x.Changes())
		}
	}
}

func TestNoAllocations(t *testing.T) {
	if n := testing.AllocsPerRun(100, run(t)); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDefaults(b *testing.B) {
	run := run(b)
	b.ReportAllocs()
	for b.Loop() {
		run()
	}
}
