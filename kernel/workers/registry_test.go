package workers

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

func TestEvaluate(t *testing.T) {
	path := socketPath(t)
	f := newFake("w", 1, "p")
	f.start(t, path)
	reg, w := setup(t, nil, path)
	push(t, reg, 5)
	ready(t, w)
	for range 100 {
		r, err := evaluate(t, w, 5)
		if err != nil || r.Outcome != workerv1.Result_OUTCOME_CONTINUE || r.Reason != "w" || r.Phase != workerv1.Phase_PHASE_REQUEST_HEADERS {
			t.Fatalf("got %v, %v", r, err)
		}
	}
	if _, err := evaluate(t, w, 6); !errors.Is(err, route.ErrUnavailable) {
		t.Errorf("a generation that no replica holds: %v", err)
	}
	if f.calls.Load() != 100 {
		t.Errorf("the worker got %d calls, want 100", f.calls.Load())
	}
}

func TestCallArrivesWhole(t *testing.T) {
	path := socketPath(t)
	f := newFake("w", 1, "p")
	got := make(chan *workerv1.Call, 1)
	f.answer = func(c *workerv1.Call) *workerv1.Result {
		got <- c
		return &workerv1.Result{Id: c.Id, Outcome: workerv1.Result_OUTCOME_CONTINUE}
	}
	f.start(t, path)
	reg, w := setup(t, nil, path)
	push(t, reg, 5)
	ready(t, w)
	p := newProbe(t, 5)
	p.Message = workerv1.Call{
		Generation: 5, Chain: 9, Phase: workerv1.Phase_PHASE_RESPONSE_HEADERS, Headers: []byte(strings.Repeat("h", 70000)), EndOfStream: true,
		RequestHeaders: []byte("rh"), Context: []byte("ctx"), WantContext: true, Body: []byte("b"),
	}
	w.Evaluate(&p.Call)
	p.wait()
	c := <-got
	if c.Generation != 5 || c.Chain != 9 || c.Phase != workerv1.Phase_PHASE_RESPONSE_HEADERS || len(c.Headers) != 70000 || !c.EndOfStream ||
		string(c.RequestHeaders) != "rh" || string(c.Context) != "ctx" || !c.WantContext || string(c.Body) != "b" || c.TimeoutUs != 4_980_000 /* less than ours */ || c.Id == 0 {
		t.Errorf("got %v", c)
	}
}

func TestUnavailable(t *testing.T) {
	reg, w := setup(t, nil, filepath.Join(t.TempDir(), "nothing.sock"))
	push(t, reg, 5)
	if _, err := evaluate(t, w, 5); !errors.Is(err, route.ErrUnavailable) || w.Available() {
		t.Errorf("got %v, available %t", err, w.Available())
	}
}

func TestKilledWithCallsInFlight(t *testing.T) {
	path := socketPath(t)
	f := newFake("w", 1, "p")
	f.answer = func(*workerv1.Call) *workerv1.Result { return nil }
	kill := f.start(t, path)
	reg, w := setup(t, func(r *config.WorkerRef) { r.Timeout = time.Minute }, path)
	push(t, reg, 5)
	ready(t, w)
	probes := make([]*probe, 100)
	for i := range probes {
		probes[i] = newProbe(t, 5)
		w.Evaluate(&probes[i].Call)
	}
	eventually(t, "the worker has the calls", func() bool { return f.calls.Load() == 100 })
	kill()
	for _, p := range probes {
		if _, err := p.wait(); !errors.Is(err, route.ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
	}
	eventually(t, "the worker is not available", func() bool { return !w.Available() })

	// Its successor has another instance id and knows nothing: it gets all live generations before it takes calls.
	push(t, reg, 6)
	next := newFake("w", 2, "p")
	next.start(t, path)
	ready(t, w)
	for _, g := range []uint64{5, 6} {
		eventually(t, "the generation is usable", func() bool { _, err := evaluate(t, w, g); return err == nil })
	}
	if got := next.pushed(); !slices.Equal(got, []uint64{6, 5}) {
		t.Errorf("pushed %v, want the newest first", got)
	}
}

func TestGarbage(t *testing.T) {
	path := socketPath(t)
	f := newFake("w", 1, "p")
	f.garbage = true
	f.start(t, path)
	reg, w := setup(t, nil, path)
	push(t, reg, 5)
	ready(t, w)
	if _, err := evaluate(t, w, 5); !errors.Is(err, route.ErrIllegalResult) {
		t.Errorf("got %v", err)
	}
	ready(t, w)
}

func TestRepeatedAndUnknownResults(t *testing.T) {
	path := socketPath(t)
	f := newFake("w", 1, "p")
	f.start(t, path)
	f.answer = func(c *workerv1.Call) *workerv1.Result { return &workerv1.Result{Id: c.Id + 1<<40} }
	reg, w := setup(t, func(r *config.WorkerRef) { r.Timeout = 50 * time.Millisecond }, path)
	push(t, reg, 5)
	ready(t, w)
	if _, err := evaluate(t, w, 5); !errors.Is(err, route.ErrTimeout) {
		t.Errorf("got %v", err)
	}
	eventually(t, "the result is counted", func() bool { return w.unmatched.Get() == 1 })
	if !w.Available() {
		t.Error("a result without a call ended the connection")
	}
}

func TestReplicasShareTheLoad(t *testing.T) {
	a, b := socketPath(t), socketPath(t)
	fa, fb := newFake("w", 1, "p"), newFake("w", 2, "p")
	fa.start(t, a)
	killB := fb.start(t, b)
	reg, w := setup(t, nil, a, b)
	push(t, reg, 5)
	eventually(t, "both are up", func() bool { return len(*w.targets.Load()) == 2 })
	const n = 200
	for range n {
		if _, err := evaluate(t, w, 5); err != nil {
			t.Fatal(err)
		}
	}
	if fa.calls.Load() != n/2 || fb.calls.Load() != n/2 {
		t.Errorf("%d and %d calls", fa.calls.Load(), fb.calls.Load())
	}
	killB()
	eventually(t, "one is left", func() bool { return len(*w.targets.Load()) == 1 })
	for range n {
		if _, err := evaluate(t, w, 5); err != nil {
			t.Fatal(err)
		}
	}
}
