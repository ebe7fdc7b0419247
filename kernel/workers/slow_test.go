package workers

import (
	"sync"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/config"
)

// slowChain keeps calls of chain 1 coming, which the replicas leave without an answer, until stop is called.
func slowChain(t testing.TB, w *Worker, parallel int) (stop func() (late int)) {
	t.Helper()
	var calling sync.WaitGroup
	var mu sync.Mutex
	late := 0
	done := make(chan struct{})
	for range parallel {
		calling.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				p := newProbe(t, 5)
				w.Evaluate(&p.Call)
				if _, err := p.wait(); err != nil {
					mu.Lock()
					late++
					mu.Unlock()
				}
			}
		})
	}
	return func() int {
		close(done)
		calling.Wait()
		return late
	}
}

// TestSlowPolicyKeepsTheBreakerClosed: hundreds of late calls of one chain do not count against a replica that answers its health
// checks, and other chains lose nothing, whether they have calls all the time or none for a while.
func TestSlowPolicyKeepsTheBreakerClosed(t *testing.T) {
	h, reg, w := queueSetup(t, func(r *config.WorkerRef) {
		r.MaxInFlight, r.Timeout, r.HealthCheck.Interval = 200, 300*time.Millisecond, time.Hour
		r.Breaker = config.CircuitBreaker{ConsecutiveFailures: 5, OpenTime: time.Minute}
	})
	stop := slowChain(t, w, 60)
	for range 40 {
		time.Sleep(25 * time.Millisecond)
		for _, p := range start(t, w, 2, 3, true) {
			if _, err := p.wait(); err != nil {
				t.Fatalf("another chain: %v", err)
			}
		}
	}
	time.Sleep(500 * time.Millisecond) // Only late calls.
	if _, err := start(t, w, 2, 1, false)[0].wait(); err != nil {
		t.Errorf("another chain, after a while: %v", err)
	}
	if st := reg.Status()[0].Replicas[0].Breaker; st != "closed" {
		t.Errorf("the breaker is %s", st)
	}
	if late := stop(); late < 200 {
		t.Errorf("%d late calls only", late)
	}
	h.release()
}

// TestSlowPolicyIsNotHedged: while the first replica is not silent, few late calls of a chain go to another one too.
func TestSlowPolicyIsNotHedged(t *testing.T) {
	first, second := newHeld(), newHeld()
	second.instance = 2
	w, _ := pair(t, func(r *config.WorkerRef) {
		r.MaxInFlight, r.RouteShare, r.MaxQueued, r.Timeout = 1000, 0.5, 1000, 200*time.Millisecond
		r.Breaker = config.CircuitBreaker{ConsecutiveFailures: 5, OpenTime: time.Minute}
	}, first.fake, second.fake)
	defer first.release()
	defer second.release()
	stop := slowChain(t, w, 80)
	time.Sleep(2 * time.Second)
	late := stop()
	calls := first.calls.Load() + second.calls.Load()
	if late < 300 || calls > int64(late)*3/2 {
		t.Errorf("%d calls for %d requests", calls, late)
	}
	if w.tripped.Load() != 0 {
		t.Error("a breaker has opened")
	}
	for chain := range uint32(2) {
		if n := w.load(chain).hedges.Load(); n != 0 {
			t.Errorf("%d hedges are left", n)
		}
	}
}
