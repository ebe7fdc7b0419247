package workers

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// pair starts two replicas of a worker with failover; the registry's configuration may be changed.
func pair(t *testing.T, change func(*config.WorkerRef), first, second *fake) (w *Worker, kill [2]func()) {
	t.Helper()
	paths := []string{socketPath(t), socketPath(t)}
	for i, f := range []*fake{first, second} {
		kill[i] = f.start(t, paths[i])
	}
	reg, w := setup(t, func(r *config.WorkerRef) {
		r.Retry = config.Retry{MaxAttempts: 2, Backoff: time.Millisecond}
		r.Connections = 1
		if change != nil {
			change(r)
		}
	}, paths...)
	push(t, reg, 5)
	eventually(t, "both replicas take calls", func() bool { return len(*w.targets.Load()) == 2 })
	return w, kill
}

func refuses(f workerv1.Result_Failure) func(*workerv1.Call) *workerv1.Result {
	return func(c *workerv1.Call) *workerv1.Result {
		return &workerv1.Result{Id: c.Id, Phase: c.Phase, Outcome: workerv1.Result_OUTCOME_FAILED, Failure: f, Reason: "refused"}
	}
}

func silent(*workerv1.Call) *workerv1.Result { return nil }

func retried(w *Worker) (n uint64) {
	for _, c := range w.retries {
		n += c.Get()
	}
	return n
}

func TestFailover(t *testing.T) {
	tests := []struct {
		name   string
		faulty func(*fake)
		// strike makes the fault when the call is under way, if it is not there from the beginning.
		strike func(f *fake, kill func())
		why    reason
	}{
		{"connection lost", func(f *fake) { f.answer = silent }, func(_ *fake, kill func()) { kill() }, becauseLost},
		{"health check fails", func(f *fake) { f.answer = silent }, func(f *fake, _ func()) { f.set(func() { f.sick = true }) }, becauseLost},
		{"garbage", func(f *fake) { f.garbage = true }, nil, becauseIllegal},
		{"overloaded", func(f *fake) { f.answer = refuses(workerv1.Result_FAILURE_OVERLOADED) }, nil, becauseOverloaded},
		{"draining", func(f *fake) { f.answer = refuses(workerv1.Result_FAILURE_DRAINING) }, nil, becauseDraining},
		{"generation lost", func(f *fake) { f.answer = refuses(workerv1.Result_FAILURE_UNKNOWN_GENERATION) }, nil, becauseGeneration},
		{"hung", func(f *fake) { f.answer = silent }, nil, becauseSlow},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bad, good := newFake("w", 1, "p"), newFake("w", 2, "p")
			tt.faulty(bad)
			arrived := make(chan *workerv1.Call, 64)
			good.answer = func(c *workerv1.Call) *workerv1.Result {
				arrived <- c
				return &workerv1.Result{Id: c.Id, Phase: c.Phase, Outcome: workerv1.Result_OUTCOME_CONTINUE}
			}
			w, kill := pair(t, func(r *config.WorkerRef) { r.Timeout = 2 * time.Second }, bad, good)
			for bad.calls.Load() == 0 { // They take turns.
				p := newProbe(t, 5)
				p.Message.Context, p.Message.Body = []byte(strings.Repeat("context", 100)), []byte("body")
				before := bad.calls.Load()
				w.Evaluate(&p.Call)
				if tt.strike != nil {
					eventually(t, "the call arrives somewhere", func() bool { return bad.calls.Load() > before || p.count.Load() > 0 })
					if bad.calls.Load() > before {
						tt.strike(bad, kill[0])
					}
				}
				r, err := p.wait()
				if err != nil || r.Outcome != workerv1.Result_OUTCOME_CONTINUE {
					t.Fatalf("got %v, %v", r, err)
				}
				if c := <-arrived; string(c.Context) != string(p.Message.Context) || string(c.Body) != "body" || len(c.Headers) == 0 || c.Generation != 5 {
					t.Errorf("the other replica got %v", c)
				}
			}
			// A retry is counted when the other replica has it, which may answer before.
			eventually(t, "the retry is counted", func() bool { return w.retries[tt.why].Get() > 0 })
			if retried(w) != w.retries[tt.why].Get() {
				t.Errorf("%d retries, %d of them %s", retried(w), w.retries[tt.why].Get(), tt.why)
			}
		})
	}
}

func TestNoFailover(t *testing.T) {
	tests := []struct {
		name     string
		attempts int
		answer   func(*workerv1.Call) *workerv1.Result
		garbage  bool
		want     error
		failure  workerv1.Result_Failure
	}{
		{"one attempt only", 1, refuses(workerv1.Result_FAILURE_DRAINING), false, nil, workerv1.Result_FAILURE_DRAINING},
		{"both overloaded", 2, refuses(workerv1.Result_FAILURE_OVERLOADED), false, nil, workerv1.Result_FAILURE_OVERLOADED},
		{"both hung", 2, silent, false, route.ErrTimeout, 0},
		{"both talk garbage", 2, nil, true, route.ErrIllegalResult, 0},
		{"a policy's own failure", 2, refuses(workerv1.Result_FAILURE_POLICY_ERROR), false, nil, workerv1.Result_FAILURE_POLICY_ERROR},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fakes := [2]*fake{newFake("w", 1, "p"), newFake("w", 2, "p")}
			for _, f := range fakes {
				f.answer, f.garbage = tt.answer, tt.garbage
			}
			w, _ := pair(t, func(r *config.WorkerRef) { r.Timeout, r.Retry.MaxAttempts = 400*time.Millisecond, tt.attempts }, fakes[0], fakes[1])
			start := time.Now()
			r, err := evaluate(t, w, 5)
			if !errors.Is(err, tt.want) || r.GetFailure() != tt.failure {
				t.Errorf("got %v, %v", r, err)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("it took %v, more than the timeout of all attempts together", took)
			}
			want := int64(tt.attempts)
			if tt.failure == workerv1.Result_FAILURE_POLICY_ERROR {
				want = 1
			}
			if n := fakes[0].calls.Load() + fakes[1].calls.Load(); n != want {
				t.Errorf("%d attempts, want %d", n, want)
			}
		})
	}
}

// TestHungReplica: of many calls, none is lost, and those after the first few don't get to the replica that hangs.
func TestHungReplica(t *testing.T) {
	hung, good := newFake("w", 1, "p"), newFake("w", 2, "p")
	hung.answer, hung.mute = silent, true
	w, _ := pair(t, func(r *config.WorkerRef) {
		r.Timeout, r.Breaker = 500*time.Millisecond, config.CircuitBreaker{ConsecutiveFailures: 5, OpenTime: time.Minute}
	}, hung, good)
	var running sync.WaitGroup
	for range 16 {
		running.Go(func() {
			for range 200 {
				if _, err := evaluate(t, w, 5); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
	if n := hung.calls.Load(); n == 0 || n > 100 {
		t.Errorf("%d of 3200 calls got to the replica that hangs", n)
	}
	eventually(t, "no hedges are left", func() bool { return w.hedges.Load() == 0 })
}

// TestWaitsForReplica: the only replica is lost; the call waits and gets to the one that takes its place.
func TestWaitsForReplica(t *testing.T) {
	path := socketPath(t)
	f := newFake("w", 1, "p")
	f.answer = silent
	kill := f.start(t, path)
	reg, w := setup(t, func(r *config.WorkerRef) { r.Retry = config.Retry{MaxAttempts: 2, Backoff: time.Second} }, path)
	push(t, reg, 5)
	ready(t, w)
	p := newProbe(t, 5)
	w.Evaluate(&p.Call)
	eventually(t, "the call arrives", func() bool { return f.calls.Load() == 1 })
	kill()
	newFake("w", 2, "p").start(t, path)
	if r, err := p.wait(); err != nil {
		t.Errorf("got %v, %v", r, err)
	}
}

// TestCloseWithCallsThatWait: they don't hold up the end.
func TestCloseWithCallsThatWait(t *testing.T) {
	reg, w := setup(t, func(r *config.WorkerRef) {
		r.Timeout, r.Retry = 5*time.Minute, config.Retry{MaxAttempts: 2, Backoff: time.Minute}
	}, socketPath(t))
	p := newProbe(t, 5)
	w.Evaluate(&p.Call)
	reg.Close()
	if _, err := p.wait(); !errors.Is(err, route.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestDrainNotice(t *testing.T) {
	leaving, other := newFake("w", 1, "p"), newFake("w", 2, "p")
	var drains atomic.Bool
	leaving.draining = false
	leaving.notice = &drains
	w, _ := pair(t, nil, leaving, other)
	drains.Store(true)
	eventually(t, "the replica has said that it drains", func() bool {
		if _, err := evaluate(t, w, 5); err != nil {
			t.Fatal(err)
		}
		return len(*w.targets.Load()) == 1
	})
	before := leaving.calls.Load()
	for range 50 {
		if _, err := evaluate(t, w, 5); err != nil {
			t.Fatal(err)
		}
	}
	if n := leaving.calls.Load(); n != before {
		t.Errorf("%d calls to a replica that drains", n-before)
	}
	if retried(w) != 0 {
		t.Errorf("%d retries; want none", retried(w))
	}
}

func TestMaxInFlight(t *testing.T) {
	path := socketPath(t)
	f := newFake("w", 1, "p")
	f.answer = silent
	f.start(t, path)
	reg, w := setup(t, func(r *config.WorkerRef) { r.MaxInFlight, r.Timeout = 3, time.Minute }, path)
	push(t, reg, 5)
	ready(t, w)
	var taken []*probe
	for range 2 {
		p := newProbe(t, 5)
		taken = append(taken, p)
		w.Evaluate(&p.Call)
	}
	batch := []*probe{newProbe(t, 5), newProbe(t, 5), newProbe(t, 5)}
	w.EvaluateAll([]*route.Call{&batch[0].Call, &batch[1].Call, &batch[2].Call})
	for _, p := range batch[1:] {
		if _, err := p.wait(); !errors.Is(err, route.ErrOverloaded) {
			t.Errorf("got %v", err)
		}
	}
	if batch[0].count.Load() != 0 {
		t.Error("the call for which there was room was refused")
	}
	reg.Close()
	for _, p := range append(taken, batch[0]) {
		_, _ = p.wait()
	}
}

// TestFailoverStorm: replicas of all kinds of moods, killed and started again; each call completes once, and in time.
func TestFailoverStorm(t *testing.T) {
	moods := []func(*workerv1.Call) *workerv1.Result{
		nil, silent, refuses(workerv1.Result_FAILURE_OVERLOADED),
		func(c *workerv1.Call) *workerv1.Result {
			time.Sleep(time.Duration(rand.IntN(120)) * time.Millisecond) // Some of the hedges lose, some win.
			return &workerv1.Result{Id: c.Id, Phase: c.Phase}
		},
	}
	mood := func(c *workerv1.Call) *workerv1.Result {
		r := &workerv1.Result{Id: c.Id, Phase: c.Phase, Outcome: workerv1.Result_OUTCOME_CONTINUE}
		if m := moods[rand.IntN(len(moods))]; m != nil && rand.IntN(4) == 0 {
			if made := m(c); made == nil || made.Outcome != workerv1.Result_OUTCOME_UNSPECIFIED {
				return made
			}
		}
		return r
	}
	paths := []string{socketPath(t), socketPath(t), socketPath(t)}
	reg, w := setup(t, func(r *config.WorkerRef) {
		r.Retry = config.Retry{MaxAttempts: 3, Backoff: time.Millisecond}
		r.Timeout, r.Breaker, r.SlowStart = 200*time.Millisecond, config.CircuitBreaker{ConsecutiveFailures: 3, OpenTime: 20 * time.Millisecond}, 50*time.Millisecond
		r.HealthCheck.Timeout = 100 * time.Millisecond
	}, paths...)
	stop := make(chan struct{})
	var running, calling sync.WaitGroup
	for i, path := range paths {
		running.Go(func() {
			for n := uint64(1); ; n++ {
				f := newFake("w", n*10+uint64(i), "p")
				f.answer = mood
				kill := f.start(t, path)
				select {
				case <-time.After(time.Duration(100+rand.IntN(300)) * time.Millisecond):
					kill()
				case <-stop:
					kill()
					return
				}
			}
		})
	}
	push(t, reg, 5)
	ready(t, w)
	var done atomic.Int64
	for range 24 {
		calling.Go(func() {
			for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
				p := newProbe(t, 5)
				w.Evaluate(&p.Call)
				_, _ = p.wait()
				done.Add(1)
			}
		})
	}
	calling.Wait()
	close(stop)
	running.Wait()
	reg.Close()
	if w.hedges.Load() != 0 {
		t.Errorf("%d hedges are left", w.hedges.Load())
	}
	t.Logf("%d calls, %d further attempts", done.Load(), retried(w))
}
