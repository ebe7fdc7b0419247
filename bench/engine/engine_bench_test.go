package engine

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

// BenchmarkEngine is the whole engine, driven directly with what Envoy sent: kernel and worker are processes, the driver is this one. An op is a request.
func BenchmarkEngine(b *testing.B) {
	b.Run("two-processes", func(b *testing.B) {
		e := harness.StartEngine(b, noEnvoy(b))
		target{e, []process{{"kernel", e.Kernel.PID()}, {"worker", e.Worker("worker-1").PID()}}}.bench(b)
	})
	b.Run("one-process", func(b *testing.B) {
		e := startOneProcess(b)
		target{e, []process{{"engine", e.Kernel.PID()}}}.bench(b)
	})
}

func noEnvoy(t testing.TB) harness.Spec {
	s := spec(t)
	s.NoEnvoy = true
	return s
}

// startOneProcess starts the engine as the program that is kernel and worker.
func startOneProcess(t testing.TB) *harness.Engine {
	t.Helper()
	s := noEnvoy(t)
	e := harness.Prepare(t, s)
	port := func(address string) string {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		return port
	}
	env := append(s.Env, "RUN_DIR="+e.RunDir, "PORT_KERNEL="+port(e.ExtProc), "PORT_ADMIN="+port(e.Admin), "TRANSPORT=fast")
	e.Kernel = harness.Start(t, "engine", harness.Program(t, "policy-engine"), env,
		"--kernel-config", filepath.Join(e.Dir, "kernel.yaml"), "--worker-config", filepath.Join(e.Dir, "worker-1.yaml"))
	e.WaitReady()
	return e
}

// target is an engine and the processes whose CPU time is a figure; the first one has the admin port.
type target struct {
	*harness.Engine
	processes []process
}

type process struct {
	name string
	pid  int
}

func (p process) cpu(t testing.TB) time.Duration {
	used, err := CPUTime(p.pid)
	if err != nil {
		t.Fatal(err)
	}
	return used
}

func (t target) bench(b *testing.B) {
	for _, tc := range []struct {
		scene                string
		connections, streams int
	}{
		{"none", 1, 64},
		{"key", 1, 64},
		{"chain", 1, 1},
		{"chain", 1, 16},
		{"chain", 1, 64},
		{"chain", 1, 256},
		{"chain", 2, 64},
		{"chain-and-response", 1, 64},
	} {
		b.Run(fmt.Sprintf("%s/connections=%d/streams=%d", tc.scene, tc.connections, tc.streams), func(b *testing.B) {
			t.drive(b, recordingOf(b, tc.scene), tc.connections, tc.streams)
		})
	}
}

// warmUp is how many requests come first: token caches, pools and the HPACK tables are full afterwards.
const warmUp = 1000

func (t target) drive(b *testing.B, r *Recording, connections, streams int) {
	drivers := make([]*Driver, connections)
	for i := range drivers {
		drivers[i] = dial(b, t.ExtProc, r)
		if err := drivers[i].Run(warmUp, streams); err != nil {
			b.Fatal(err)
		}
	}
	before := make([]time.Duration, len(t.processes))
	allocations := t.allocations()
	for i, p := range t.processes {
		before[i] = p.cpu(b)
	}
	b.ResetTimer()
	ended := make(chan error)
	for i, d := range drivers {
		n := b.N / connections
		if i == 0 {
			n += b.N % connections
		}
		go func() { ended <- d.Run(n, streams) }()
	}
	for range drivers {
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}
	b.StopTimer()
	if b.Failed() {
		return
	}
	var total time.Duration
	for i, p := range t.processes {
		used := p.cpu(b) - before[i]
		total += used
		b.ReportMetric(float64(used.Nanoseconds())/float64(b.N), p.name+"-cpu-ns/op")
	}
	b.ReportMetric(float64(b.N)/total.Seconds(), "req/core-s")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
	b.ReportMetric((t.allocations()-allocations)/float64(b.N), t.processes[0].name+"-allocs/op")
}

// allocations is how many objects the process with the admin port has allocated. It costs about a thousand itself.
func (t target) allocations() float64 { return t.Scrape()["go_memstats_mallocs_total"] }
