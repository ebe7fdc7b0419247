package chain

import (
	"context"
	"testing"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/policies"
)

// nothing is an observer that costs what an interface call costs.
type nothing struct{}

func (nothing) Ran(Status, time.Duration) {}
func (nothing) Failed(Failure)            {}
func (nothing) Slow(time.Duration, bool)  {}

func trivial(tb testing.TB) (*Run, *Chain, *workerv1.Call) {
	scopes := []string{"read"}
	c := mustCompile(tb, false,
		Policy{Observer: nothing{}, Timeout: time.Second, Instance: requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			r.SetIdentity(policies.Identity{Subject: "alice", Method: "p0", Scopes: scopes})
			r.SetMetadata("k", "v")
			return policies.Continue(), nil
		})},
		Policy{Observer: nothing{}, Timeout: time.Second, Instance: requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			r.SetHeader("x-user", r.Identity().Subject)
			r.SetMetadata("k", "w")
			return policies.Continue(), nil
		})},
		Policy{Observer: nothing{}, Timeout: time.Second, Instance: requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			r.RemoveHeader("x-a")
			return policies.Continue(), nil
		})},
	)
	return NewRun(&Settings{Limits: limits, Now: time.Now}), c, requestCall()
}

// unused is a tracer that calls without a trace must not ask.
type unused struct{}

func (unused) Join([]byte) Trace { panic("a call without a trace was traced") }

// TestNoAllocation: with tracing on, too, for calls that are not traced.
func TestNoAllocation(t *testing.T) {
	run, c, call := trivial(t)
	run.settings.Tracer = unused{}
	ctx, h := context.Background(), Holder(new(holds))
	var buf [4096]byte
	n := testing.AllocsPerRun(100, func() {
		if run.Load(c, call, time.Now(), time.Now(), h) != nil || !run.Inline(ctx) {
			t.Fatal("not run inline")
		}
		result := run.Result()
		if result.Outcome != workerv1.Result_OUTCOME_CONTINUE || len(result.Context) == 0 || len(result.Mutations) != 2 {
			t.Fatal(show(result))
		}
		if _, err := result.MarshalToSizedBufferVT(buf[:]); err != nil {
			t.Fatal(err)
		}
		run.Reset()
	})
	if n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// BenchmarkChain is a run of three policies that set an identity, metadata and a header, with the context for the next call.
func BenchmarkChain(b *testing.B) {
	run, c, call := trivial(b)
	ctx, h := context.Background(), Holder(new(holds))
	b.ReportAllocs()
	for b.Loop() {
		if run.Load(c, call, time.Now(), time.Now(), h) != nil || !run.Inline(ctx) {
			b.Fatal("not run inline")
		}
		run.Result()
		run.Reset()
	}
}

// BenchmarkChainWithContext is the same in a later call, which gets a context.
func BenchmarkChainWithContext(b *testing.B) {
	run, c, call := trivial(b)
	ctx, h := context.Background(), Holder(new(holds))
	call.Context = encodeContext(b, &workerv1.Context{
		Identity: &workerv1.Identity{Subject: "bob", Method: "p0", Scopes: []string{"a"}},
		Metadata: []*workerv1.Entry{{Key: "a", Value: "b"}}, RequestMutations: []*workerv1.Mutation{{Kind: 1, Name: "a", Value: []byte("b")}},
	})
	b.ReportAllocs()
	for b.Loop() {
		if run.Load(c, call, time.Now(), time.Now(), h) != nil || !run.Inline(ctx) {
			b.Fatal("not run inline")
		}
		run.Result()
		run.Reset()
	}
}

// BenchmarkBlocking is a run of one policy on a goroutine of its own.
func BenchmarkBlocking(b *testing.B) {
	run, _, call := trivial(b)
	c := mustCompile(b, false, Policy{Observer: nothing{}, Timeout: time.Second, Instance: blockingFunc{give(policies.Continue())}})
	ctx, h := context.Background(), Holder(new(holds))
	b.ReportAllocs()
	for b.Loop() {
		if run.Load(c, call, time.Now(), time.Now(), h) != nil {
			b.Fatal("not loaded")
		}
		run.Wait(ctx)
		run.Result()
		run.Reset()
	}
}
