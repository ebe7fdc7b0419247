package ratelimit

import (
	"fmt"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/policies/policytest"
)

// A request that comes again under its id is counted once, when that is asked for, and within bounds.
func TestRetries(t *testing.T) {
	const limit = `{"requests": %d, "per": "1h", "key": "header:x-tenant", "count_retries": %v}`
	request := func(tenant string, ids ...string) policytest.Request {
		lines := []string{"x-tenant: " + tenant}
		for _, id := range ids {
			lines = append(lines, "x-request-id: "+id)
		}
		return from(lines...)
	}
	env := policytest.NewEnv(t)
	want := func(p *Policy, admitted bool, r policytest.Request) {
		t.Helper()
		if got := policytest.Run(t, p, r); got.Continued() != admitted {
			t.Errorf("%v: %v", r.Headers, got)
		}
	}
	counted := policytest.Build(t, Definition(), env, fmt.Sprintf(limit, 1, true)).(*Policy)
	want(counted, true, request("a", "1"))
	want(counted, false, request("a", "1"))

	p := policytest.Build(t, Definition(), env.At("once"), fmt.Sprintf(limit, 1, false)).(*Policy)
	want(p, true, request("a", "1"))
	for range maxRetries {
		want(p, true, request("a", "1"))
	}
	want(p, false, request("a", "1"))      // An id is no ticket for ever.
	want(p, false, request("a", "2"))      // Another request of the client.
	want(p, false, request("a", "2"))      // One that was refused does not pass when it comes again.
	want(p, true, request("b", "1"))       // Another client with the same id is counted for itself,
	want(p, false, request("b", "1", "1")) // and which id counts must be clear.
	want(p, false, request("b"))
	want(p, false, request("b", ""))
	want(p, true, request("b", "1"))
	env.Advance(retryWindow)
	want(p, false, request("b", "1"))

	// A reload forgets nothing.
	want(p, true, request("c", "1"))
	env.Advance(time.Second)
	again := policytest.Build(t, Definition(), env.At("once"), fmt.Sprintf(limit, 1, false)).(*Policy)
	want(again, true, request("c", "1"))
}
