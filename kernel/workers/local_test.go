package workers

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/zap"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// localFake is a fake in the kernel's process. Calls with a body are completed later.
type localFake struct{ *fake }

func (f localFake) Room(*route.Call) (ofChain, free int64) { return 0, 1 }

func (f localFake) Evaluate(c *route.Call, afterBatch func()) {
	f.calls.Add(1)
	if !slices.Contains(f.held(), c.Message.Generation) {
		c.Done.Complete(c, nil, route.ErrUnavailable)
		return
	}
	result := &workerv1.Result{Phase: c.Message.Phase, Outcome: workerv1.Result_OUTCOME_CONTINUE, Reason: f.name}
	if len(c.Message.Body) == 0 {
		c.Done.Complete(c, result, nil)
		return
	}
	go func() {
		c.Done.Complete(c, result, nil)
		afterBatch()
	}()
}

func TestLocal(t *testing.T) {
	f := newFake("w", 1, "p")
	f.metrics = "policy_worker_executions_total 7\n"
	batches, changes := make(chan struct{}, 10), make(chan struct{}, 10)
	reg := New([]config.WorkerRef{
		{Name: "w", SocketPaths: []string{"/nowhere/a.sock", "/nowhere/b.sock"}, Timeout: 3 * time.Second, HealthCheck: config.HealthCheck{Interval: 10 * time.Millisecond, Timeout: time.Second}},
		{Name: "far", SocketPaths: []string{"/nowhere/far.sock"}, HealthCheck: config.HealthCheck{Interval: time.Second, Timeout: time.Second}},
	}, Options{
		KernelID: testKernel, Logger: zap.NewNop(), Metrics: metrics.NewSet(), Lean: onLean(), Local: map[string]Local{"w": localFake{f}},
		AfterBatch: func() { batches <- struct{}{} }, Changed: func() { changes <- struct{}{} },
	})
	reg.Start()
	t.Cleanup(reg.Close)
	w := reg.inUse()[0]
	<-changes
	if o := reg.Offers(); !o[0].Discovered || len(o[0].Policies) != 1 || o[0].Policies[0].Name != "p" || o[1].Discovered {
		t.Errorf("offers %+v", o)
	}
	push(t, reg, 5)
	ready(t, w)

	p := newProbe(t, 5)
	w.Evaluate(&p.Call)
	if p.count.Load() != 1 || p.err != nil || p.r.Reason != "w" || p.Message.TimeoutUs != 3_000_000 {
		t.Errorf("when Evaluate returns: %d completions, %v, %v; timeout %d µs", p.count.Load(), p.r, p.err, p.Message.TimeoutUs)
	}
	if len(batches) != 0 {
		t.Error("AfterBatch was called for a call that was completed within Evaluate: its caller does that")
	}
	later := newProbe(t, 5)
	later.Message.Body = []byte("later")
	w.EvaluateAll([]*route.Call{&later.Call})
	if r, err := later.wait(); err != nil || r.Reason != "w" {
		t.Errorf("completed later: %v, %v", r, err)
	}
	<-batches

	push(t, reg, 6)
	reg.Retire(5)
	eventually(t, "the generation before is retired", func() bool { return slices.Equal(f.held(), []uint64{6}) })
	if _, err := evaluate(t, w, 5); !errors.Is(err, route.ErrUnavailable) {
		t.Errorf("a retired generation: %v", err)
	}
	f.set(func() { delete(f.generations, 6) })
	eventually(t, "what it has lost is pushed again", func() bool { return slices.Equal(f.held(), []uint64{6}) && w.Available() })

	var text bytes.Buffer
	if err := collect(t, reg, &text); err != nil || !strings.Contains(text.String(), "policy_worker_executions_total 7\n") {
		t.Errorf("metrics %q, error %v", text.String(), err)
	}
	if st := reg.Status()[0]; !st.Available || len(st.Replicas) != 1 || st.Replicas[0].Socket != localPath || st.Replicas[0].Problem != "" {
		t.Errorf("status %+v", st)
	}
	f.set(func() { f.draining = true })
	eventually(t, "a draining worker is not available", func() bool { return !w.Available() })
}

func TestLocalRejects(t *testing.T) {
	f := newFake("w", 1, "p")
	f.reject = []*workerv1.ConfigError{{Path: "policy_kernel.route_policies[0]", Message: "no such key store"}}
	reg := New([]config.WorkerRef{{Name: "w", HealthCheck: config.HealthCheck{Interval: time.Second, Timeout: time.Second}}},
		Options{KernelID: testKernel, Logger: zap.NewNop(), Metrics: metrics.NewSet(), Local: map[string]Local{"w": localFake{f}}})
	reg.Start()
	t.Cleanup(reg.Close)
	eventually(t, "it is discovered", func() bool { return reg.Offers()[0].Discovered })
	var rejected *RejectedError
	if err := reg.Push(t.Context(), 5, map[string][]*workerv1.Chain{"w": nil}); !errors.As(err, &rejected) || rejected.Rejections[0].Worker != "w" {
		t.Errorf("got %v", err)
	}
}
