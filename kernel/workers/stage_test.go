package workers

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

func refTo(path string, timeout time.Duration) config.WorkerRef {
	return config.WorkerRef{
		Name: "w", SocketPaths: []string{path}, Connections: 2, Timeout: timeout,
		HealthCheck: config.HealthCheck{Interval: 20 * time.Millisecond, Timeout: 2 * time.Second},
	}
}

// adopt brings a generation into use with other workers, as a reload does.
func adopt(t testing.TB, reg *Registry, generation uint64, refs ...config.WorkerRef) []*Worker {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	st := reg.Stage(refs)
	st.Settle(ctx)
	chains := map[string][]*workerv1.Chain{}
	for _, o := range st.Offers() {
		chains[o.Worker.Name()] = []*workerv1.Chain{{Id: 1, RouteName: "r"}}
	}
	if err := st.Push(ctx, generation, chains); err != nil {
		t.Fatal(err)
	}
	st.Adopt()
	return reg.inUse()
}

func health(reg *Registry) string {
	var b bytes.Buffer
	reg.metrics.WritePrometheus(&b)
	var found []string
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(line, "policy_kernel_worker_health") {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}

// TestChangedWorker: another Worker takes the place of one whose configuration has changed, and both serve until the last stream of the old table has ended.
func TestChangedWorker(t *testing.T) {
	path := socketPath(t)
	f := newFake("w", 1, "p")
	f.start(t, path)
	reg, old := setup(t, nil, path)
	push(t, reg, 5)
	ready(t, old)
	changed := adopt(t, reg, 6, refTo(path, time.Second))[0]
	if changed == old {
		t.Fatal("the worker is the one with the old timeout")
	}
	ready(t, changed)
	for range 5 { // Health checks come between.
		for w, generation := range map[*Worker]uint64{old: 5, changed: 6} {
			if _, err := evaluate(t, w, generation); err != nil || !w.Available() {
				t.Errorf("generation %d: %v, available %t", generation, err, w.Available())
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	if got := f.held(); !slices.Equal(got, []uint64{5, 6}) {
		t.Errorf("the process holds %v", got)
	}
	reg.Retire(5)
	eventually(t, "the old one has ended", func() bool { return !old.Available() && len(*old.targets.Load()) == 0 })
	eventually(t, "its generation is freed", func() bool { return slices.Equal(f.held(), []uint64{6}) })
	if _, err := evaluate(t, changed, 6); err != nil {
		t.Error(err)
	}
	if got := health(reg); got != `policy_kernel_worker_health{worker="w"} 1`+"\n" {
		t.Error(got)
	}
}

func TestUnchangedWorkerStays(t *testing.T) {
	path := socketPath(t)
	newFake("w", 1, "p").start(t, path)
	reg, w := setup(t, nil, path)
	push(t, reg, 5)
	ready(t, w)
	session := w.replicas[0].session
	ref := refTo(path, 5*time.Second)
	ref.Pos.Line = 9 // It stands elsewhere now.
	if got := adopt(t, reg, 6, ref)[0]; got != w || w.replicas[0].session != session {
		t.Error("the worker was made anew")
	}
	reg.Retire(5)
	if _, err := evaluate(t, w, 6); err != nil {
		t.Error(err)
	}
}

func TestAddedAndRemovedWorkers(t *testing.T) {
	path, path2 := socketPath(t), socketPath(t)
	newFake("w", 1, "p").start(t, path)
	newFake("w2", 2, "p2").start(t, path2)
	reg, w := setup(t, nil, path)
	push(t, reg, 5)
	ready(t, w)
	second := refTo(path2, time.Second)
	second.Name = "w2"
	both := adopt(t, reg, 6, refTo(path, 5*time.Second), second)
	ready(t, both[1])
	if len(reg.Offers()) != 2 || len(reg.Status()) != 2 {
		t.Errorf("offers %v, status %v", reg.Offers(), reg.Status())
	}
	one := adopt(t, reg, 7, second)
	reg.Retire(5)
	if _, err := evaluate(t, w, 6); err != nil || !w.Available() {
		t.Errorf("the removed worker, for the table that has it: %v, available %t", err, w.Available())
	}
	reg.Retire(6)
	eventually(t, "the removed worker has ended", func() bool { return !w.Available() && len(*w.targets.Load()) == 0 })
	if _, err := evaluate(t, w, 6); !errors.Is(err, route.ErrUnavailable) {
		t.Errorf("a worker that nothing needs: %v", err)
	}
	if _, err := evaluate(t, one[0], 7); err != nil {
		t.Error(err)
	}
	if got := health(reg); got != `policy_kernel_worker_health{worker="w2"} 1`+"\n" {
		t.Error(got)
	}
}

func TestDroppedStage(t *testing.T) {
	path, path2 := socketPath(t), socketPath(t)
	newFake("w", 1, "p").start(t, path)
	reg, w := setup(t, nil, path)
	eventually(t, "the worker is known", func() bool { return reg.Offers()[0].Discovered })
	f2 := newFake("w2", 2, "p2")
	f2.start(t, path2)
	second := refTo(path2, time.Second)
	second.Name = "w2"
	st := reg.Stage([]config.WorkerRef{refTo(path, 5*time.Second), second})
	st.Settle(t.Context())
	if offers := st.Offers(); len(offers) != 2 || !offers[1].Discovered {
		t.Errorf("the stage offers %v", offers)
	}
	f2.set(func() { f2.reject = []*workerv1.ConfigError{{Message: "no"}} })
	var rejected *RejectedError
	if err := st.Push(t.Context(), 6, map[string][]*workerv1.Chain{"w2": {{Id: 1}}}); !errors.As(err, &rejected) {
		t.Errorf("push: %v", err)
	}
	w2 := st.workers[1]
	st.Drop()
	eventually(t, "the new worker has ended", func() bool {
		reg.mu.Lock()
		defer reg.mu.Unlock()
		return w2.replicas[0].session == nil && len(reg.members) == 1 && len(reg.live) == 0
	})
	if len(reg.Offers()) != 1 || reg.inUse()[0] != w {
		t.Error("the workers in use have changed")
	}
}

// TestSettleDoesNotWaitForTheAbsent: one failed attempt to connect is enough.
func TestSettleDoesNotWaitForTheAbsent(t *testing.T) {
	reg, _ := setup(t, nil, socketPath(t))
	absent := refTo(socketPath(t), time.Second)
	absent.Name = "absent"
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	st := reg.Stage([]config.WorkerRef{absent})
	st.Settle(ctx)
	if ctx.Err() != nil {
		t.Error("it waited")
	}
	st.Drop()
}

// TestAdoptTellsOfLateWorkers: what a worker offers that connects between Offers and Adopt is not missed.
func TestAdoptTellsOfLateWorkers(t *testing.T) {
	path := socketPath(t)
	reg, _ := setup(t, nil, socketPath(t))
	told := make(chan struct{}, 9)
	reg.changed = func() { told <- struct{}{} }
	late := refTo(path, time.Second)
	late.Name = "late"
	st := reg.Stage([]config.WorkerRef{late})
	st.Settle(t.Context())
	if st.Offers()[0].Discovered {
		t.Fatal("it is there already")
	}
	newFake("late", 1, "p").start(t, path)
	eventually(t, "it has come", func() bool {
		reg.mu.Lock()
		defer reg.mu.Unlock()
		return st.workers[0].offer().discovered
	})
	if len(told) > 0 {
		t.Error("a stage's worker changes nothing")
	}
	st.Adopt()
	if len(told) != 1 {
		t.Errorf("told %d times", len(told))
	}
}
