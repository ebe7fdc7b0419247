package workers

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/zap"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

func TestRejectedConfiguration(t *testing.T) {
	a, b := socketPath(t), socketPath(t)
	fa, fb := newFake("w", 1, "p"), newFake("w", 2, "p")
	fa.start(t, a)
	fb.start(t, b)
	reg, w := setup(t, nil, a, b)
	push(t, reg, 5)
	eventually(t, "both are up", func() bool { return len(*w.targets.Load()) == 2 })
	mistake := &workerv1.ConfigError{Chain: 1, Path: "policy_kernel.route_policies[0].request_flow.policy_chain[1].params.key_store", Message: "no such key store"}
	fb.set(func() { fb.reject = []*workerv1.ConfigError{mistake} })
	err := reg.Push(t.Context(), 6, map[string][]*workerv1.Chain{"w": nil})
	var rejected *RejectedError
	if !errors.As(err, &rejected) || len(rejected.Rejections) != 1 || rejected.Rejections[0].Worker != "w" || rejected.Rejections[0].Errors[0].Path != mistake.Path {
		t.Fatalf("got %v", err)
	}
	eventually(t, "it is retired where it was accepted", func() bool { return slices.Equal(fa.held(), []uint64{5}) })
	if _, err := evaluate(t, w, 5); err != nil || !w.Available() {
		t.Errorf("the generation before is lost: %v", err)
	}
	if _, err := evaluate(t, w, 6); err == nil {
		t.Error("a rejected generation runs")
	}
	fb.set(func() { fb.reject = nil })
	push(t, reg, 7)
	eventually(t, "both hold the next", func() bool { return slices.Equal(fa.held(), []uint64{5, 7}) && slices.Equal(fb.held(), []uint64{5, 7}) })
	reg.Retire(5)
	eventually(t, "both free the old one", func() bool { return slices.Equal(fa.held(), []uint64{7}) && slices.Equal(fb.held(), []uint64{7}) })
	if _, err := evaluate(t, w, 5); !errors.Is(err, route.ErrUnavailable) {
		t.Errorf("a retired generation runs: %v", err)
	}
}

func TestPushToAnUnknownWorker(t *testing.T) {
	reg, _ := setup(t, nil, socketPath(t))
	if err := reg.Push(t.Context(), 5, map[string][]*workerv1.Chain{"x": nil}); err == nil {
		t.Error("it was accepted")
	}
}

func TestPushEndsWithItsContext(t *testing.T) {
	path := socketPath(t)
	f := newFake("w", 1, "p")
	f.start(t, path)
	reg, w := setup(t, func(r *config.WorkerRef) { r.HealthCheck.Interval = time.Hour }, path)
	push(t, reg, 5)
	ready(t, w)
	f.mu.Lock() // The worker hangs while it compiles.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := reg.Push(ctx, 6, nil)
	f.mu.Unlock()
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	eventually(t, "it is retired", func() bool { return slices.Equal(f.held(), []uint64{5}) })
}

func TestChanged(t *testing.T) {
	path := socketPath(t)
	changed := make(chan struct{}, 100)
	ref := config.WorkerRef{Name: "w", SocketPaths: []string{path}, Connections: 1, Timeout: time.Second, HealthCheck: config.HealthCheck{Interval: 10 * time.Millisecond, Timeout: time.Second}}
	reg := New([]config.WorkerRef{ref}, Options{KernelID: testKernel, Logger: zap.NewNop(), Lean: onLean(), Metrics: metrics.NewSet(), Changed: func() { changed <- struct{}{} }})
	w := reg.inUse()[0]
	reg.Start()
	t.Cleanup(reg.Close)
	start := func(instance uint64, policies ...string) func() {
		f := newFake("w", instance, policies...)
		kill := f.start(t, path)
		eventually(t, "it is connected", func() bool {
			reg.mu.Lock()
			defer reg.mu.Unlock()
			s := w.replicas[0].session
			return s != nil && s.instance == instance
		})
		return func() {
			kill()
			eventually(t, "it is gone", func() bool { reg.mu.Lock(); defer reg.mu.Unlock(); return w.replicas[0].session == nil })
		}
	}
	start(1, "p")()
	if len(changed) != 1 {
		t.Fatalf("%d events after the discovery, want 1", len(changed))
	}
	start(2, "p")()
	if len(changed) != 1 {
		t.Fatalf("%d events after a restart that changed nothing, want 1", len(changed))
	}
	start(3, "p", "q")()
	if len(changed) != 2 || len(w.offer().policies) != 2 {
		t.Fatalf("%d events after a new policy, want 2", len(changed))
	}
}
