package policies_test

import (
	"context"
	"slices"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
)

func TestVerdicts(t *testing.T) {
	await := func(context.Context) (policies.Verdict, error) { return policies.Continue(), nil }
	for name, c := range map[string]struct {
		verdict policies.Verdict
		// Is: continue, deny, immediate, skip, await.
		is      [5]bool
		status  int
		reason  string
		headers []policies.Header
		body    string
	}{
		"zero":     {policies.Verdict{}, [5]bool{true}, 0, "", nil, ""},
		"continue": {policies.Continue(), [5]bool{true}, 0, "", nil, ""},
		"deny":     {policies.Deny(403, "scope_missing"), [5]bool{false, true, true}, 403, "scope_missing", nil, `{"error":"Forbidden","code":"SCOPE_MISSING"}`},
		"message": {
			policies.Deny(429, "rate_limited").WithMessage(`wait "5" s`).WithHeader("Retry-After", "5"),
			[5]bool{false, true, true},
			429, "rate_limited",
			[]policies.Header{{Name: "retry-after", Value: "5"}},
			`{"error":"wait \"5\" s","code":"RATE_LIMITED"}`,
		},
		"body":          {policies.Deny(400, "bad").WithBody("text/plain", []byte("no")), [5]bool{false, true, true}, 400, "bad", []policies.Header{{Name: "content-type", Value: "text/plain"}}, "no"},
		"empty body":    {policies.Deny(400, "bad").WithBody("text/plain", []byte{}), [5]bool{false, true, true}, 400, "bad", []policies.Header{{Name: "content-type", Value: "text/plain"}}, ""},
		"respond":       {policies.Respond(200, "cached", "text/html", []byte("<p>")), [5]bool{false, false, true}, 200, "cached", []policies.Header{{Name: "content-type", Value: "text/html"}}, "<p>"},
		"respond, bare": {policies.Respond(204, "ok", "", nil), [5]bool{false, false, true}, 204, "ok", nil, ""},
		"skip":          {policies.SkipRemaining("trusted"), [5]bool{false, false, false, true}, 0, "trusted", nil, ""},
		"await":         {policies.Await(await), [5]bool{false, false, false, false, true}, 0, "", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := c.verdict
			if got := [5]bool{v.IsContinue(), v.IsDeny(), v.IsImmediate(), v.IsSkipRemaining(), v.Awaited() != nil}; got != c.is {
				t.Errorf("is %v, want %v", got, c.is)
			}
			if v.Status() != c.status || v.Reason() != c.reason || !slices.Equal(v.Headers(), c.headers) || string(v.Body()) != c.body {
				t.Errorf("got %d %s %v %s", v.Status(), v.Reason(), v.Headers(), v.Body())
			}
		})
	}
}

// A policy keeps a verdict and adds a header for each request: those must not get into each other's way.
func TestVerdictsAreValues(t *testing.T) {
	base := policies.Deny(401, "no").WithHeader("a", "1").WithHeader("b", "2").WithHeader("c", "3")
	one, two := base.WithHeader("d", "one"), base.WithHeader("d", "two")
	if one.Headers()[3].Value != "one" || two.Headers()[3].Value != "two" || len(base.Headers()) != 3 {
		t.Errorf("base %v, one %v, two %v", base.Headers(), one.Headers(), two.Headers())
	}
}

func TestGRPCStatus(t *testing.T) {
	base := policies.Respond(200, "no", "", nil)
	ok, notFound := base.WithGRPCStatus(0), base.WithGRPCStatus(5)
	for name, c := range map[string]struct {
		verdict policies.Verdict
		status  uint32
		given   bool
	}{"none": {base, 0, false}, "0": {ok, 0, true}, "5": {notFound, 5, true}} {
		if status, given := c.verdict.GRPCStatus(); status != c.status || given != c.given {
			t.Errorf("%s: %d, %v", name, status, given)
		}
	}
}
