package workers

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

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
		string(c.RequestHeaders) != "rh" || string(c.Context) != "ctx" || !c.WantContext || string(c.Body) != "b" || c.TimeoutUs != 5_000_000 || c.Id == 0 {
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

func TestHungAndSick(t *testing.T) {
	tests := []struct {
		name string
		fail func(*fake)
	}{
		{"health check fails", func(f *fake) { f.sick = true }},
		{"health check does not answer", func(f *fake) { f.mute = true }},
		{"another instance answers", func(f *fake) { f.instance++ }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := socketPath(t)
			f := newFake("w", 1, "p")
			f.answer = func(*workerv1.Call) *workerv1.Result { return nil }
			f.start(t, path)
			reg, w := setup(t, func(r *config.WorkerRef) { r.Timeout, r.HealthCheck.Timeout = time.Minute, 200*time.Millisecond }, path)
			push(t, reg, 5)
			ready(t, w)
			p := newProbe(t, 5)
			w.Evaluate(&p.Call)
			pushes := len(f.pushed())
			f.set(func() { tt.fail(f) })
			if _, err := p.wait(); !errors.Is(err, route.ErrUnavailable) {
				t.Fatalf("got %v", err)
			}
			f.set(func() { f.sick, f.mute = false, false })
			eventually(t, "the generation is pushed again", func() bool { return len(f.pushed()) > pushes })
			ready(t, w)
		})
	}
}

func TestSlowHealthCheckOfABusyWorker(t *testing.T) {
	path := socketPath(t)
	f := newFake("w", 1, "p")
	f.start(t, path)
	log, logged := observer.New(zapcore.WarnLevel)
	reg := New([]config.WorkerRef{{
		Name: "w", SocketPaths: []string{path}, Connections: 1, Timeout: time.Minute,
		HealthCheck: config.HealthCheck{Interval: 10 * time.Millisecond, Timeout: 300 * time.Millisecond},
	}}, Options{KernelID: testKernel, Logger: zap.New(log), Metrics: metrics.NewSet()})
	reg.Start()
	t.Cleanup(reg.Close)
	w := reg.byName["w"]
	push(t, reg, 5)
	ready(t, w)
	f.set(func() { f.mute = true })
	for start := time.Now(); time.Since(start) < time.Second; {
		if _, err := evaluate(t, w, 5); err != nil {
			t.Fatalf("a worker that answers calls was given up: %v", err)
		}
	}
	if logged.Len() != 0 {
		t.Errorf("logged %v", logged.All())
	}
	eventually(t, "an idle one is given up", func() bool { return logged.FilterMessage("worker replica is down").Len() > 0 })
}

func TestDraining(t *testing.T) {
	path := socketPath(t)
	f := newFake("w", 1, "p")
	f.start(t, path)
	reg, w := setup(t, nil, path)
	push(t, reg, 5)
	ready(t, w)
	f.set(func() { f.draining = true })
	eventually(t, "no calls to a draining worker", func() bool { return !w.Available() })
	if _, err := evaluate(t, w, 5); !errors.Is(err, route.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	f.set(func() { f.draining = false })
	ready(t, w)
	if n := len(f.pushed()); n != 1 {
		t.Errorf("%d pushes, want 1", n)
	}
}

func TestLostGenerationIsPushedAgain(t *testing.T) {
	path := socketPath(t)
	f := newFake("w", 1, "p")
	f.start(t, path)
	reg, w := setup(t, nil, path)
	push(t, reg, 5)
	ready(t, w)
	f.set(func() { delete(f.generations, 5) })
	eventually(t, "it is pushed again", func() bool { return len(f.pushed()) == 2 })
	eventually(t, "it is usable again", func() bool { _, err := evaluate(t, w, 5); return err == nil })
}

func TestRefusedReplicas(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(t *testing.T, path string)
		problem string
	}{
		{"wrong name", func(t *testing.T, path string) { newFake("other", 1, "p").start(t, path) }, `calls itself "other", want "w"`},
		{"mode 0666", func(t *testing.T, path string) {
			f := newFake("w", 1, "p")
			f.mode = 0o666
			f.start(t, path)
		}, "mode 0666, want 0600"},
		{"a file", func(t *testing.T, path string) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "it is no socket"},
		{"a link to a socket", func(t *testing.T, path string) {
			newFake("w", 1, "p").start(t, path+".real")
			if err := os.Symlink(path+".real", path); err != nil {
				t.Fatal(err)
			}
		}, "it is no socket"},
		{"nothing there", func(*testing.T, string) {}, "there is no such file"},
		{"a socket of nobody", func(t *testing.T, path string) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false)
			_ = os.Chmod(path, 0o600)
			_ = l.Close()
		}, "connection refused"},
		{"another user's", func(t *testing.T, path string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a file away")
			}
			newFake("w", 1, "p").start(t, path)
			if err := os.Chown(path, 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}, "its owner is user 65534"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := socketPath(t)
			tt.prepare(t, path)
			reg, w := setup(t, nil, path)
			eventually(t, tt.problem, func() bool { return strings.Contains(reg.Status()[0].Replicas[0].Problem, tt.problem) })
			push(t, reg, 5)
			if _, err := evaluate(t, w, 5); !errors.Is(err, route.ErrUnavailable) || w.Available() {
				t.Errorf("a refused replica took a call: %v", err)
			}
			if w.offer().discovered {
				t.Error("a refused replica was discovered")
			}
		})
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
	eventually(t, "both are up", func() bool { return len(*w.targets.Load()) == 4 })
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
	eventually(t, "one is left", func() bool { return len(*w.targets.Load()) == 2 })
	for range n {
		if _, err := evaluate(t, w, 5); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRejectedConfiguration(t *testing.T) {
	a, b := socketPath(t), socketPath(t)
	fa, fb := newFake("w", 1, "p"), newFake("w", 2, "p")
	fa.start(t, a)
	fb.start(t, b)
	reg, w := setup(t, nil, a, b)
	push(t, reg, 5)
	eventually(t, "both are up", func() bool { return len(*w.targets.Load()) == 4 })
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
	reg := New([]config.WorkerRef{ref}, Options{KernelID: testKernel, Logger: zap.NewNop(), Metrics: metrics.NewSet(), Changed: func() { changed <- struct{}{} }})
	w := reg.byName["w"]
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

func TestOfferOfReplicas(t *testing.T) {
	d := func(names ...string) (all []*workerv1.PolicyDescriptor) {
		for _, n := range names {
			all = append(all, &workerv1.PolicyDescriptor{Name: n})
		}
		return all
	}
	tests := []struct {
		name     string
		replicas []*replica
		want     []string
	}{
		{"none discovered", []*replica{{}, {}}, nil},
		{"one discovered", []*replica{{}, {discovered: true, policies: d("a", "b")}}, []string{"a", "b"}},
		{"what each has", []*replica{{discovered: true, policies: d("a", "b")}, {discovered: true, policies: d("b", "c")}}, []string{"b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := Worker{replicas: tt.replicas}
			o := w.offer()
			var got []string
			for _, p := range o.policies {
				got = append(got, p.Name)
			}
			if !slices.Equal(got, tt.want) || o.discovered != (tt.want != nil) {
				t.Errorf("got %v, %t; want %v", got, o.discovered, tt.want)
			}
		})
	}
}
