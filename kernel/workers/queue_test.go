package workers

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// held is a fake whose answers to the calls of chain 1 wait until release is called.
type held struct {
	*fake
	open    chan struct{}
	release func()
}

func newHeld() *held {
	h := &held{fake: newFake("w", 1, "p"), open: make(chan struct{})}
	h.release = sync.OnceFunc(func() { close(h.open) })
	h.later = func(c *workerv1.Call) <-chan struct{} {
		if c.Chain == 1 {
			return h.open
		}
		return nil
	}
	return h
}

// pushChains pushes a generation with chains of these numbers.
func pushChains(t testing.TB, reg *Registry, generation uint64, ids ...uint32) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	var chains []*workerv1.Chain
	for _, id := range ids {
		chains = append(chains, &workerv1.Chain{Id: id, RouteName: "r"})
	}
	if err := reg.Push(ctx, generation, map[string][]*workerv1.Chain{"w": chains}); err != nil {
		t.Fatal(err)
	}
}

// start starts n calls of a chain, one by one or together.
func start(t testing.TB, w *Worker, chain uint32, n int, together bool) []*probe {
	t.Helper()
	all := make([]*probe, n)
	calls := make([]*route.Call, n)
	for i := range all {
		all[i] = newProbe(t, 5)
		all[i].Message.Chain = chain
		calls[i] = &all[i].Call
	}
	if together {
		w.EvaluateAll(calls)
		return all
	}
	for _, c := range calls {
		w.Evaluate(c)
	}
	return all
}

func completed(all []*probe) (n int) {
	for _, p := range all {
		if p.count.Load() > 0 {
			n++
		}
	}
	return n
}

func queueSetup(t testing.TB, change func(*config.WorkerRef)) (*held, *Registry, *Worker) {
	t.Helper()
	path := socketPath(t)
	h := newHeld()
	h.start(t, path)
	t.Cleanup(h.release)
	reg, w := setup(t, func(r *config.WorkerRef) {
		r.MaxInFlight, r.RouteShare, r.MaxQueued, r.Timeout = 8, 0.5, 1000, 20*time.Second
		if change != nil {
			change(r)
		}
	}, path)
	pushChains(t, reg, 5, 1, 2, 3)
	ready(t, w)
	return h, reg, w
}

// TestQueue: what there is no room for waits, and has its answer when there is.
func TestQueue(t *testing.T) {
	for _, together := range []bool{false, true} {
		h, _, w := queueSetup(t, nil)
		all := start(t, w, 1, 300, together)
		eventually(t, "the chain has its share", func() bool { return h.fake.calls.Load() == 4 })
		if n := w.queue.size.Load(); n != 296 {
			t.Errorf("%d calls wait", n)
		}
		// Others are not held up, however many wait.
		for _, p := range start(t, w, 2, 50, together) {
			if r, err := p.wait(); err != nil || r.Outcome != workerv1.Result_OUTCOME_CONTINUE {
				t.Fatalf("another chain: %v, %v", r, err)
			}
		}
		if completed(all) != 0 {
			t.Error("a call was completed without an answer")
		}
		h.release()
		for _, p := range all {
			if _, err := p.wait(); err != nil {
				t.Fatal(err)
			}
		}
		if n := w.queue.size.Load(); n != 0 || len(w.queue.ring)+len(w.queue.lines) != 0 {
			t.Errorf("%d calls and %d lines are left", n, len(w.queue.ring))
		}
		if n := w.load(1).inFlight.Load() + w.load(2).inFlight.Load(); n != 0 {
			t.Errorf("%d calls count as in flight", n)
		}
	}
}

// TestQueueTurns: a chain with one call does not wait behind all calls of another one.
func TestQueueTurns(t *testing.T) {
	path := socketPath(t)
	f := newFake("w", 1, "p")
	var mu sync.Mutex
	var order []uint32
	step := make(chan struct{})
	f.later = func(c *workerv1.Call) <-chan struct{} {
		mu.Lock()
		order = append(order, c.Chain)
		mu.Unlock()
		return step
	}
	f.start(t, path)
	reg, w := setup(t, func(r *config.WorkerRef) { r.MaxInFlight, r.MaxQueued, r.Timeout = 1, 1000, 20*time.Second }, path)
	pushChains(t, reg, 5, 1, 2, 3)
	ready(t, w)
	all := start(t, w, 1, 10, false)
	all = append(all, start(t, w, 2, 1, false)...)
	all = append(all, start(t, w, 3, 1, false)...)
	for range all {
		step <- struct{}{}
	}
	for _, p := range all {
		if _, err := p.wait(); err != nil {
			t.Fatal(err)
		}
	}
	late := 0
	for i, chain := range order {
		if chain != 1 {
			late = i
		}
	}
	if len(order) != 12 || late > 4 {
		t.Errorf("order %v", order)
	}
}

func TestQueueRefusals(t *testing.T) {
	t.Run("waits too long", func(t *testing.T) {
		_, _, w := queueSetup(t, func(r *config.WorkerRef) { r.QueueTimeout = 30 * time.Millisecond })
		all := start(t, w, 1, 20, false)
		for _, p := range all[4:] {
			if _, err := p.wait(); !errors.Is(err, route.ErrRouteOverloaded) {
				t.Errorf("got %v", err)
			}
		}
		if completed(all) != 16 || w.refused[queueTimeout].Get() != 16 || w.queue.size.Load() != 0 {
			t.Errorf("%d refused, %d counted, %d wait", completed(all), w.refused[queueTimeout].Get(), w.queue.size.Load())
		}
	})
	t.Run("the chain's share is full", func(t *testing.T) {
		_, _, w := queueSetup(t, func(r *config.WorkerRef) { r.MaxQueued = 10 })
		all := start(t, w, 1, 20, false)
		// 4 are in flight, 5 wait: half of the queue.
		for _, p := range all[9:] {
			if _, err := p.wait(); !errors.Is(err, route.ErrRouteOverloaded) {
				t.Errorf("got %v", err)
			}
		}
		if n := w.refused[queueFull].Get(); n != 11 {
			t.Errorf("%d counted", n)
		}
	})
	t.Run("all is full", func(t *testing.T) {
		_, _, w := queueSetup(t, func(r *config.WorkerRef) { r.RouteShare, r.MaxQueued = 1, 2 })
		all := start(t, w, 1, 12, false)
		for _, p := range all[10:] {
			if _, err := p.wait(); !errors.Is(err, route.ErrOverloaded) {
				t.Errorf("got %v", err)
			}
		}
	})
	t.Run("the kernel ends", func(t *testing.T) {
		_, reg, w := queueSetup(t, nil)
		all := start(t, w, 1, 20, false)
		reg.Close()
		for _, p := range all {
			if _, err := p.wait(); !errors.Is(err, route.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		}
		p := start(t, w, 1, 1, false)[0]
		if _, err := p.wait(); !errors.Is(err, route.ErrUnavailable) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// TestQueueOfLostReplica: what waits when the only replica is lost goes to the one that takes its place.
func TestQueueOfLostReplica(t *testing.T) {
	path := socketPath(t)
	h := newHeld()
	kill := h.start(t, path)
	defer h.release()
	reg, w := setup(t, func(r *config.WorkerRef) {
		r.MaxInFlight, r.MaxQueued, r.Retry = 4, 100, config.Retry{MaxAttempts: 2, Backoff: 500 * time.Millisecond}
	}, path)
	pushChains(t, reg, 5, 1)
	ready(t, w)
	all := start(t, w, 1, 40, true)
	eventually(t, "calls arrive", func() bool { return h.fake.calls.Load() == 4 })
	h.release()
	kill()
	newFake("w", 2, "p").start(t, path)
	for _, p := range all {
		if _, err := p.wait(); err != nil {
			t.Errorf("got %v", err)
		}
	}
}

// TestAnnouncedCapacity: a replica gets no more calls than it announces.
func TestAnnouncedCapacity(t *testing.T) {
	h, _, w := queueSetup(t, func(r *config.WorkerRef) { r.MaxInFlight, r.RouteShare = 4096, 1 })
	_ = h
	path := socketPath(t)
	small := newHeld()
	small.capacity = 10
	small.start(t, path)
	defer small.release()
	reg, w2 := setup(t, func(r *config.WorkerRef) {
		r.MaxInFlight, r.RouteShare, r.MaxQueued, r.Timeout = 4096, 1, 1000, 20*time.Second
	}, path)
	pushChains(t, reg, 5, 1)
	ready(t, w2)
	all := start(t, w2, 1, 100, true)
	eventually(t, "it has what it takes", func() bool { return small.fake.calls.Load() == 10 })
	if n := w2.queue.size.Load(); n != 90 {
		t.Errorf("%d calls wait", n)
	}
	small.release()
	for _, p := range all {
		if _, err := p.wait(); err != nil {
			t.Fatal(err)
		}
	}
	if w.queue.size.Load() != 0 {
		t.Error("calls wait at another worker")
	}
}

// TestQueueStorm: many chains, replicas that come and go, calls that wait or not; each call is completed once.
func TestQueueStorm(t *testing.T) {
	paths := []string{socketPath(t), socketPath(t)}
	reg, w := setup(t, func(r *config.WorkerRef) {
		r.MaxInFlight, r.RouteShare, r.MaxQueued, r.Timeout, r.QueueTimeout = 12, 0.5, 100, 100*time.Millisecond, 20*time.Millisecond
		r.Retry = config.Retry{MaxAttempts: 2, Backoff: time.Millisecond}
		r.HealthCheck.Timeout = 100 * time.Millisecond
	}, paths...)
	stop := make(chan struct{})
	var running, calling sync.WaitGroup
	for i, path := range paths {
		running.Go(func() {
			for n := uint64(1); ; n++ {
				f := newFake("w", n*10+uint64(i), "p")
				f.later = func(c *workerv1.Call) <-chan struct{} {
					if c.Chain > 1 {
						return nil
					}
					ch := make(chan struct{})
					time.AfterFunc(time.Duration(c.Id%7)*time.Millisecond, func() { close(ch) })
					return ch
				}
				kill := f.start(t, path)
				select {
				case <-time.After(150 * time.Millisecond):
					kill()
				case <-stop:
					kill()
					return
				}
			}
		})
	}
	pushChains(t, reg, 5, 1, 2, 3)
	ready(t, w)
	var done, lost atomic.Int64
	for i := range 48 {
		calling.Go(func() {
			for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
				for _, p := range start(t, w, uint32(1+i%3), 1+i%4, i%2 == 0) {
					if _, err := p.wait(); err != nil {
						lost.Add(1)
					}
					done.Add(1)
				}
			}
		})
	}
	calling.Wait()
	close(stop)
	running.Wait()
	reg.Close()
	if n := w.queue.size.Load(); n != 0 || len(w.queue.ring) != 0 {
		t.Errorf("%d calls are left in %d lines", n, len(w.queue.ring))
	}
	for chain := range uint32(4) {
		if l := w.load(chain); l.inFlight.Load() != 0 || l.hedges.Load() != 0 {
			t.Errorf("chain %d: %d in flight, %d hedges", chain, l.inFlight.Load(), l.hedges.Load())
		}
	}
	t.Logf("%d calls, %d without a result", done.Load(), lost.Load())
}
