package rewritepath

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

// A path on which the expression takes too many steps is refused, also where paths that do not match may stay.
func TestStepsAreBounded(t *testing.T) {
	for _, unmatched := range []string{"deny", "continue"} {
		for _, regex := range []string{"/.*(a?){300}b", "/.*[a-z]{1,900}-", "/(.*)*(?:a|b|ab|ba|a.|.b){100}z", "/(.*)x?(.{1,900})!"} {
			env := policytest.NewEnv(t)
			p := policytest.Build(t, Definition(), env, `{"regex": "`+regex+`", "to": "/x", "unmatched": "`+unmatched+`"}`)
			got := policytest.Run(t, p, policytest.Request{Path: "/" + strings.Repeat("a", 15<<10)})
			if got.String() != "414 pattern_budget" || len(got.Changes) != 0 || env.Count("refused") != 1 {
				t.Errorf("%s: %s, %d refusals", regex, got, env.Count("refused"))
			}
		}
		// An honest path fits, however large the program is.
		p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"regex": "/users/([a-z0-9-]{1,500})/(.{0,500})", "to": "/u/{1}", "unmatched": "`+unmatched+`"}`)
		if got, to := rewrite(t, p, "/users/"+strings.Repeat("a", 300)+"/"+strings.Repeat("b", 300)); !got.Continued() || to != "/u/"+strings.Repeat("a", 300) {
			t.Errorf("%s, %s", got, to)
		}
	}
}

func TestAbandonedCallsStop(t *testing.T) {
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"regex": "/(a?){300}b", "to": "/x"}`).(*Policy)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	x := new(policies.Exchange)
	if err := x.BeginRequest("r", policytest.Request{Path: "/a"}.HeaderMap(), true); err != nil {
		t.Fatal(err)
	}
	if _, err := p.OnRequestHeaders(ctx, x.Request()); !errors.Is(err, context.Canceled) || len(x.Changes()) != 0 {
		t.Error(err, x.Changes())
	}
}
