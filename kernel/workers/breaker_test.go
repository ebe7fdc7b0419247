package workers

import (
	"sync/atomic"
	"testing"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
)

func TestBreaker(t *testing.T) {
	const second = time.Second
	changes := ""
	b := &breaker{config: config.CircuitBreaker{ConsecutiveFailures: 3, OpenTime: second}, changed: func(open bool) {
		changes += map[bool]string{true: "o", false: "c"}[open]
	}}
	expect := func(what string, want int32, admits bool, now time.Duration) {
		t.Helper()
		if got := b.state.Load(); got != want || b.admits(now) != admits {
			t.Fatalf("%s: state %s, admits %t; want %s, %t", what, breakerName(got), b.admits(now), breakerName(want), admits)
		}
	}
	b.failure(0)
	b.failure(0)
	b.success()
	b.failure(0)
	b.failure(0)
	expect("failures that are not in a row", breakerClosed, true, 0)
	b.failure(0)
	expect("three in a row", breakerOpen, false, second/2-1)
	b.success()
	expect("a late answer", breakerOpen, false, second/2-1)
	if !b.admits(second) || !b.admit(second) || b.admit(second) {
		t.Fatal("after its time, one call is the trial")
	}
	expect("a trial is under way", breakerHalfOpen, false, second)
	b.failure(second)
	expect("the trial failed", breakerOpen, false, 2*second-1)
	if !b.admit(3*second) || !b.admit(4*second+1) {
		t.Fatal("a trial of which nothing is heard must not be the last one")
	}
	b.success()
	expect("the trial was answered", breakerClosed, true, 4*second)
	for range 2 {
		b.failure(0)
	}
	expect("it counts from 0 again", breakerClosed, true, 0)
	b.failure(0)
	b.reset()
	expect("another process", breakerClosed, true, 0)
	if changes != "ococ" {
		t.Errorf("changes %q", changes)
	}
	off := &breaker{}
	for range 100 {
		off.failure(0)
	}
	if !off.admit(0) {
		t.Error("a breaker without a limit has opened")
	}
}

func TestBreakerStaysOpenLonger(t *testing.T) {
	b := &breaker{config: config.CircuitBreaker{ConsecutiveFailures: 1, OpenTime: time.Second}, changed: func(bool) {}}
	now := time.Duration(0)
	for i := range 12 {
		b.failure(now)
		wait := time.Duration(b.until.Load()) - now
		if full := time.Second << min(i, maxDoublings); wait < full/2 || wait > full {
			t.Errorf("time %d: open for %v, want between half of %v and all", i, wait, full)
		}
		now = time.Duration(b.until.Load())
		if !b.admit(now) {
			t.Fatal("no trial")
		}
	}
}

func TestShare(t *testing.T) {
	s := share{slowStart: time.Second}
	if s.cost(7, 0) != 7 {
		t.Error("without a slow start a call is a call")
	}
	s.begin(time.Second)
	last := int64(1 << 30)
	for ms := range 1000 {
		cost := s.cost(3, time.Second+time.Duration(ms)*time.Millisecond)
		if cost > last || cost <= 3 {
			t.Fatalf("after %d ms 3 calls cost %d, before %d", ms, cost, last)
		}
		last = cost
	}
	if s.cost(3, 2*time.Second) != 3 || s.since.Load() != 0 {
		t.Error("it never ends")
	}
}

// TestBreakerOfWorker: the only replica says nothing at all; then calls are refused at once, until one is tried.
func TestBreakerOfWorker(t *testing.T) {
	path := socketPath(t)
	f := newFake("w", 1, "p")
	var well atomic.Bool
	f.answer = func(c *workerv1.Call) *workerv1.Result {
		if !well.Load() {
			return nil
		}
		return &workerv1.Result{Id: c.Id, Phase: c.Phase, Outcome: workerv1.Result_OUTCOME_CONTINUE}
	}
	f.start(t, path)
	reg, w := setup(t, func(r *config.WorkerRef) {
		r.Timeout, r.Breaker = 30*time.Millisecond, config.CircuitBreaker{ConsecutiveFailures: 3, OpenTime: 200 * time.Millisecond}
	}, path)
	push(t, reg, 5)
	ready(t, w)
	f.set(func() { f.mute = true })
	for range 3 {
		_, _ = evaluate(t, w, 5)
	}
	eventually(t, "the breaker opens", func() bool { return !w.Available() || f.calls.Load() > 3 })
	if st := reg.Status()[0].Replicas[0].Breaker; st != "open" && f.calls.Load() <= 3 {
		t.Errorf("status says %q", st)
	}
	well.Store(true)
	f.set(func() { f.mute = false })
	eventually(t, "a call closes it", func() bool {
		_, err := evaluate(t, w, 5)
		return err == nil && w.Available() && reg.Status()[0].Replicas[0].Breaker == "closed"
	})
}
