package e2e

import (
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

// TestFailover: with a healthy replica, no fault of another one costs a request; and none passes unchecked.
func TestFailover(t *testing.T) {
	t.Parallel()
	harness.NeedWorkerProcesses(t)
	e := harness.StartEngine(t, replicaSpec())
	eventually(t, e, 200, "/on-a")
	waitReplicas(t, e, "worker-a", 2)

	restart := func(t *testing.T, name string) {
		t.Helper()
		start := time.Now()
		e.StartWorker(name)
		waitReplicas(t, e, "worker-a", 2)
		t.Logf("%s took calls again after %v", name, time.Since(start))
	}
	tests := []struct {
		name string
		// path is where the load goes; /slow waits in the worker, so that there are always calls under way.
		path  string
		fault func(t *testing.T, l *loader, name string)
	}{
		{"kill -9", "/slow", func(t *testing.T, l *loader, name string) {
			e.Worker(name).Kill()
			l.wait(20)
			restart(t, name)
			l.wait(20)
		}},
		{"SIGTERM", "/slow", func(t *testing.T, l *loader, name string) {
			e.Worker(name).Signal(sigterm)
			if status := e.Worker(name).Wait(); status != 0 {
				t.Errorf("exit status %d", status)
			}
			l.wait(20)
			restart(t, name)
			l.wait(20)
		}},
		{"hangs", "/on-a", func(t *testing.T, l *loader, name string) {
			e.Worker(name).Suspend()
			l.wait(50)
			waitReplicas(t, e, "worker-a", 1)
			l.wait(50)
			e.Worker(name).Signal(syscall.SIGCONT)
			waitReplicas(t, e, "worker-a", 2)
			l.wait(20)
		}},
		{"hangs for a moment", "/on-a", func(t *testing.T, l *loader, name string) {
			e.Worker(name).Suspend()
			l.wait(5)
			e.Worker(name).Signal(syscall.SIGCONT)
			l.wait(50)
			waitReplicas(t, e, "worker-a", 2)
		}},
		{"its socket is removed", "/on-a", func(t *testing.T, l *loader, name string) {
			if err := os.Remove(e.RunDir + "/" + name + ".sock"); err != nil {
				t.Fatal(err)
			}
			l.wait(20)
			e.Worker(name).Kill()
			restart(t, name)
			l.wait(20)
		}},
		{"another program on its socket", "/on-a", func(t *testing.T, l *loader, name string) {
			e.Worker(name).Kill()
			stop := babble(t, e.RunDir+"/"+name+".sock")
			l.wait(50)
			stop()
			restart(t, name)
			l.wait(20)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var lines []string
			if tt.path == "/slow" {
				lines = []string{"X-Misbehave: 50ms"}
			}
			for _, name := range []string{"a1", "a2"} {
				l := startLoad(t, e, tt.path, lines...)
				tt.fault(t, l, name)
				l.stop()
			}
		})
	}
	checkLogs(t, e, []string{"a1", "a2", "b"})
}

// babble listens on a socket, and says to everyone what is no answer.
func babble(t *testing.T, path string) (stop func()) {
	t.Helper()
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("200 OK, all of you\r\n\r\n"))
			_ = c.Close()
		}
	}()
	return func() {
		_ = l.Close()
		<-done
	}
}
