//go:build !race

// With the race detector, a sync.Pool forgets on purpose.

package chain

import (
	"context"
	"testing"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// TestOneAllocation: with a context, the strings in it are cloned at once, since policies may keep them.
func TestOneAllocation(t *testing.T) {
	run, c, call := trivial(t)
	call.Context = laterContext(t)
	ctx, h := context.Background(), Holder(new(holds))
	n := testing.AllocsPerRun(100, func() {
		if run.Load(c, call, time.Now(), time.Now(), h) != nil || !run.Inline(ctx) {
			t.Fatal("not run inline")
		}
		if result := run.Result(); result.Outcome != workerv1.Result_OUTCOME_CONTINUE || len(result.Context) == 0 {
			t.Fatal(show(result))
		}
		run.Reset()
	})
	if n != 1 {
		t.Errorf("%v allocations, want one", n)
	}
}

// laterContext is what an earlier call left.
func laterContext(tb testing.TB) []byte {
	return encodeContext(tb, &workerv1.Context{
		Identity: &workerv1.Identity{
			Subject: "bob", Method: "p0", Issuer: "i", Scopes: []string{"a", "b", "c"}, Claims: []*workerv1.Entry{{Key: "org", Value: "acme"}, {Key: "tier", Value: "gold"}},
		},
		Metadata: []*workerv1.Entry{{Key: "a", Value: "b"}, {Key: "c", Value: "d"}}, RequestMutations: []*workerv1.Mutation{{Kind: 1, Name: "a", Value: []byte("b")}},
	})
}
