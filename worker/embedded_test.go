package worker

import (
	"context"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/policies"
)

// inbox keeps copies of results.
type inbox chan *workerv1.Result

func (b inbox) Result(r *workerv1.Result) {
	if r != nil {
		r = proto.Clone(r).(*workerv1.Result)
	}
	b <- r
}

// embedded is an Embedded worker with the test's policies.
type embedded struct {
	*Embedded
	*world
	log *output
	// later counts the calls that were completed after Execute.
	later chan struct{}
}

const (
	chainSet = iota + 1
	chainGate
	chainWall
	chainBad
	chainStall
	chainQuit
	chainQuitLater
)

// embed starts a worker with a chain of each kind in generation 1.
func embed(t *testing.T, change func(*config.Worker, *Options), more ...policies.Definition) *embedded {
	t.Helper()
	e := &embedded{world: newWorld(), log: &output{}, later: make(chan struct{}, 1000)}
	quits := policies.Define("quit", "1", func(policies.Env, none) (quitter, error) { return quitter{}, nil })
	yields := policies.Define("yield", "1", func(policies.Env, none) (yielder, error) { return yielder{}, nil })
	registry, err := NewRegistry(append(append(e.definitions(), quits, yields), more...)...)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &config.Worker{Name: "worker-1", MaxConcurrentRequests: 10, ResourceLimits: config.ResourceLimits{MaxBodySize: 64 << 10, MaxStateSize: 1 << 10}}
	opts := Options{Poison: true, Log: slog.New(slog.NewTextHandler(e.log, nil))}
	if change != nil {
		change(cfg, &opts)
	}
	if e.Embedded, err = Embed(cfg, registry, opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	resp, err := e.Protocol().PushConfig(t.Context(), &workerv1.PushConfigRequest{KernelId: testKernel, Generation: 1, Chains: []*workerv1.Chain{
		requestChain(chainSet, policy("set", `{"header":"a","value":"b"}`)),
		requestChain(chainGate, policy("set", `{"header":"a","value":"b"}`), policy("gate", "")),
		requestChain(chainWall, policy("wall", "")),
		requestChain(chainBad, policy("bad", "")),
		requestChain(chainStall, policy("stall", "")),
		requestChain(chainQuit, policy("quit", "")),
		requestChain(chainQuitLater, policy("yield", ""), policy("quit", "")),
	}})
	if err != nil || len(resp.Errors) > 0 {
		t.Fatal(resp, err)
	}
	return e
}

// quitter ends the goroutine that it is called on.
type quitter struct{}

func (quitter) OnRequestHeaders(context.Context, *policies.Request) (policies.Verdict, error) {
	runtime.Goexit()
	return policies.Continue(), nil
}

// yielder may wait, but does not.
type yielder struct{}

func (yielder) MayBlock() {}

func (yielder) OnRequestHeaders(context.Context, *policies.Request) (policies.Verdict, error) {
	return policies.Continue(), nil
}

func (e *embedded) execute(to Receiver, call *workerv1.Call) {
	e.Execute(call, to, func() { e.later <- struct{}{} })
}

// now runs a call that does not wait.
func (e *embedded) now(t *testing.T, call *workerv1.Call) *workerv1.Result {
	t.Helper()
	results := make(inbox, 1)
	e.execute(results, call)
	select {
	case r := <-results:
		return r
	default:
		t.Fatal("Execute returned without a result")
		return nil
	}
}

func TestEmbeddedRunsInline(t *testing.T) {
	e := embed(t, nil)
	if r := e.now(t, requestCall(7, 1, chainSet)); r.Id != 7 || r.Outcome != workerv1.Result_OUTCOME_CONTINUE || len(r.Mutations) != 1 || r.Subject != "alice" {
		t.Errorf("result %v", r)
	}
	if r := e.now(t, requestCall(1, 1, chainBad)); r.Failure != workerv1.Result_FAILURE_POLICY_PANIC {
		t.Errorf("a policy that panics: %v", r)
	}
	malformed := requestCall(1, 1, chainSet)
	malformed.Headers = []byte{0xff}
	large := requestCall(1, 1, chainSet)
	large.Headers = make([]byte, 64<<10+1)
	for name, tt := range map[string]struct {
		call *workerv1.Call
		want workerv1.Result_Failure
	}{
		"unknown generation": {requestCall(1, 2, chainSet), workerv1.Result_FAILURE_UNKNOWN_GENERATION},
		"unknown chain":      {requestCall(1, 1, 99), workerv1.Result_FAILURE_UNKNOWN_CHAIN},
		"malformed":          {malformed, workerv1.Result_FAILURE_MALFORMED_CALL},
		"too large":          {large, workerv1.Result_FAILURE_TOO_LARGE},
	} {
		if r := e.now(t, tt.call); r.Outcome != workerv1.Result_OUTCOME_FAILED || r.Failure != tt.want {
			t.Errorf("%s: %v", name, r)
		}
	}
	if len(e.later) != 0 {
		t.Error("later was called for a call that was completed at once")
	}
}

// TestEmbeddedWaits: a chain that waits holds up neither its caller nor other calls, and does not use the caller's bytes any more.
func TestEmbeddedWaits(t *testing.T) {
	e := embed(t, nil)
	results := make(inbox, 1)
	call := requestCall(1, 1, chainGate)
	e.execute(results, call)
	clear(call.Headers)
	receive(t, e.entered)
	if r := e.now(t, requestCall(2, 1, chainSet)); r.Outcome != workerv1.Result_OUTCOME_CONTINUE {
		t.Errorf("beside it: %v", r)
	}
	close(e.open)
	if r := receive(t, results); r.Outcome != workerv1.Result_OUTCOME_IMMEDIATE || r.Immediate.Status != 200 {
		t.Errorf("result %v", r)
	}
	receive(t, e.later)
}

func TestEmbeddedTimeout(t *testing.T) {
	e := embed(t, nil)
	for _, chain := range []uint32{chainGate, chainWall} {
		results := make(inbox, 1)
		call := requestCall(1, 1, chain)
		call.TimeoutUs = 20000
		e.execute(results, call)
		clear(call.Headers) // A policy that overruns still has its own.
		if r := receive(t, results); r.Failure != workerv1.Result_FAILURE_POLICY_TIMEOUT {
			t.Errorf("chain %d: %v", chain, r)
		}
	}
	close(e.open)
}

func TestEmbeddedOverload(t *testing.T) {
	e := embed(t, nil)
	results := make(inbox, 10)
	for id := range uint64(10) {
		e.execute(results, requestCall(id, 1, chainGate))
		receive(t, e.entered)
	}
	if r := e.now(t, requestCall(11, 1, chainGate)); r.Failure != workerv1.Result_FAILURE_OVERLOADED {
		t.Errorf("beyond the limit: %v", r)
	}
	if ofChain, free := e.Room(1, chainGate); ofChain != 10 || free > 0 {
		t.Errorf("%d calls of the chain, room for %d", ofChain, free)
	}
	// A chain that does not wait has room at all times.
	if ofChain, free := e.Room(1, chainSet); ofChain != 0 || free < 1000 {
		t.Errorf("%d calls of a chain that does not wait, room for %d", ofChain, free)
	}
	for range 100 {
		if r := e.now(t, requestCall(12, 1, chainSet)); r.Outcome != workerv1.Result_OUTCOME_CONTINUE {
			t.Errorf("a chain that does not wait: %v", r)
		}
	}
	close(e.open)
	for range 10 {
		if r := receive(t, results); r.Outcome != workerv1.Result_OUTCOME_IMMEDIATE {
			t.Errorf("within the limit: %v", r)
		}
	}
	eventually(t, "there is room again", func() bool {
		_, free := e.Room(1, chainGate)
		return free >= 10
	})
}

// again is a Receiver that makes the next call from within.
type again struct {
	e     *embedded
	calls int
	last  inbox
}

func (a *again) Result(r *workerv1.Result) {
	if a.calls--; a.calls == 0 || r.Outcome != workerv1.Result_OUTCOME_CONTINUE {
		a.last.Result(r)
		return
	}
	a.e.execute(a, requestCall(uint64(a.calls), 1, chainSet))
}

// TestEmbeddedCallsFromWithin: calls that the result of a call leads to are one after the other for the limit.
func TestEmbeddedCallsFromWithin(t *testing.T) {
	e := embed(t, func(c *config.Worker, _ *Options) { c.MaxConcurrentRequests = 1 })
	a := &again{e: e, calls: 100, last: make(inbox, 1)}
	e.execute(a, requestCall(0, 1, chainSet))
	if r := receive(t, a.last); r.Outcome != workerv1.Result_OUTCOME_CONTINUE || a.calls != 0 {
		t.Errorf("%d calls left, result %v", a.calls, r)
	}
	if n := e.worker.service.core.inFlight.Load(); n != 0 {
		t.Errorf("%d in flight", n)
	}
}

// TestEmbeddedCloses: what is in flight ends undecided, what comes later is refused, and what policies have open is closed.
func TestEmbeddedCloses(t *testing.T) {
	e := embed(t, nil)
	results := make(inbox, 2)
	e.execute(results, requestCall(1, 1, chainGate))
	receive(t, e.entered)
	e.execute(results, requestCall(2, 1, chainWall)) // deaf
	receive(t, e.entered)
	var closing sync.WaitGroup
	closing.Go(e.Close)
	for range 2 {
		if r := receive(t, results); r.Outcome != workerv1.Result_OUTCOME_FAILED || r.Failure != workerv1.Result_FAILURE_DRAINING {
			t.Errorf("in flight: %v", r)
		}
	}
	if r := e.now(t, requestCall(3, 1, chainSet)); r.Failure != workerv1.Result_FAILURE_DRAINING {
		t.Errorf("after Close began: %v", r)
	}
	close(e.open) // of the deaf one
	closing.Wait()
	if n := e.closedSoFar(); n != 3 {
		t.Errorf("%d instances closed, want 3", n)
	}
	if r := e.now(t, requestCall(4, 1, chainSet)); r.Failure != workerv1.Result_FAILURE_DRAINING {
		t.Errorf("after Close: %v", r)
	}
}

// brittle is a clock that panics when it is told to.
type brittle struct {
	mu    sync.Mutex
	reads int // until the panic; 0 is never
}

func (b *brittle) Now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reads > 0 {
		if b.reads--; b.reads == 0 {
			panic("the clock broke")
		}
	}
	return time.Now()
}

// TestEmbeddedCorePanics: wherever the core breaks, the call gets no result, which denies, and the worker goes on.
func TestEmbeddedCorePanics(t *testing.T) {
	clock := &brittle{}
	e := embed(t, func(_ *config.Worker, o *Options) { o.Clock = clock })
	for _, chain := range []uint32{chainSet, chainGate} {
		panics := 0
		for reads := 1; reads < 20; reads++ {
			clock.mu.Lock()
			clock.reads = reads
			clock.mu.Unlock()
			results := make(inbox, 1)
			call := requestCall(1, 1, chain)
			call.TimeoutUs = 10000
			e.execute(results, call)
			if r := receive(t, results); r == nil {
				panics++
			}
			clock.mu.Lock()
			unused := clock.reads > 0
			clock.reads = 0
			clock.mu.Unlock()
			if unused {
				break
			}
		}
		if panics < 2 { // One before there is a run, one within it.
			t.Errorf("chain %d: %d panics, too few to prove anything", chain, panics)
		}
	}
	if r := e.now(t, requestCall(1, 1, chainSet)); r == nil || r.Outcome != workerv1.Result_OUTCOME_CONTINUE {
		t.Errorf("afterwards: %v", r)
	}
	eventually(t, "nothing is in flight", func() bool { return e.worker.service.core.inFlight.Load() == 0 })
	if !strings.Contains(e.log.String(), "panic in the worker core") || !strings.Contains(e.log.String(), "the clock broke") {
		t.Errorf("log %q", e.log.String())
	}
}

// TestEmbeddedGoexit: a policy that ends the goroutine that it is called on leaves no call without an outcome.
func TestEmbeddedGoexit(t *testing.T) {
	e := embed(t, nil)
	for _, chain := range []uint32{chainQuit, chainQuitLater} {
		results := make(inbox, 2)
		var caller sync.WaitGroup
		caller.Go(func() { e.execute(results, requestCall(1, 1, chain)) })
		if r := receive(t, results); r != nil {
			t.Errorf("chain %d: %v", chain, r)
		}
		caller.Wait()
		if chain == chainQuitLater {
			receive(t, e.later)
		}
		if len(results) > 0 {
			t.Errorf("chain %d: two results", chain)
		}
	}
	eventually(t, "nothing is in flight", func() bool { return e.worker.service.core.inFlight.Load() == 0 })
	if !strings.Contains(e.log.String(), "a policy ended the goroutine") {
		t.Errorf("log %q", e.log.String())
	}
}
