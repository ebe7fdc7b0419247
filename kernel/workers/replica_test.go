package workers

import (
	"errors"
	"net"
	"os"
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
		HealthCheck: config.HealthCheck{Interval: 10 * time.Millisecond, Timeout: time.Second},
	}}, Options{KernelID: testKernel, Logger: zap.New(log), Lean: onLean(), Metrics: metrics.NewSet()})
	reg.Start()
	t.Cleanup(reg.Close)
	w := reg.inUse()[0]
	push(t, reg, 5)
	ready(t, w)
	f.set(func() { f.mute = true })
	for start := time.Now(); time.Since(start) < 2500*time.Millisecond; { // Longer than the timeout of two checks.
		if _, err := evaluate(t, w, 5); err != nil {
			t.Fatalf("a worker that answers calls was given up: %v", err)
		}
	}
	if logged.Len() != 0 {
		t.Errorf("logged %v", logged.All())
	}
	eventually(t, "an idle one is given up", func() bool { return logged.FilterMessage("worker replica is down").Len() > 0 })
}

func TestUnhealthyThreshold(t *testing.T) {
	path := socketPath(t)
	f := newFake("w", 1, "p")
	f.start(t, path)
	log, logged := observer.New(zapcore.WarnLevel)
	ref := config.WorkerRef{
		Name: "w", SocketPaths: []string{path}, Connections: 1, Timeout: time.Minute,
		HealthCheck: config.HealthCheck{Interval: 10 * time.Millisecond, Timeout: 100 * time.Millisecond, UnhealthyThreshold: 1000},
	}
	reg := New([]config.WorkerRef{ref}, Options{KernelID: testKernel, Logger: zap.New(log), Lean: onLean(), Metrics: metrics.NewSet()})
	reg.Start()
	t.Cleanup(reg.Close)
	w := reg.inUse()[0]
	push(t, reg, 5)
	ready(t, w)
	asked := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.checks
	}
	f.set(func() { f.mute = true })
	before := asked()
	eventually(t, "three checks are late", func() bool { return asked() > before+3 })
	if logged.Len() != 0 || !w.Available() {
		t.Errorf("available %t, logged %v", w.Available(), logged.All())
	}
	f.set(func() { f.mute, f.sick = false, true })
	eventually(t, "one that fails is given up at once", func() bool { return logged.FilterMessage("worker replica is down").Len() > 0 })
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
