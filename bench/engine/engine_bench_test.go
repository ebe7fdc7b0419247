package engine

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

// BenchmarkEngine is the whole engine, driven directly with what Envoy sent: kernel and worker are processes, the driver is this one. An op is a request.
func BenchmarkEngine(b *testing.B) {
	e := harness.StartEngine(b, noEnvoy(b))
	processes := []process{{"kernel", e.Kernel.PID()}, {"worker", e.Worker("worker-1").PID()}}
	b.Run("two-processes", func(b *testing.B) {
		for _, tc := range []struct {
			scene                string
			connections, streams int
		}{
			{"none", 1, 64},
			{"key", 1, 64},
			{"chain", 1, 1},
			{"chain", 1, 64},
			{"chain", 1, 256},
			{"chain", 2, 64},
			{"chain-and-response", 1, 64},
		} {
			b.Run(fmt.Sprintf("%s/connections=%d/streams=%d", tc.scene, tc.connections, tc.streams), func(b *testing.B) {
				drive(b, e.ExtProc, recordingOf(b, tc.scene), tc.connections, tc.streams, processes)
			})
		}
	})
}

func noEnvoy(t testing.TB) harness.Spec {
	s := spec(t)
	s.NoEnvoy = true
	return s
}

// process is one whose CPU time is a figure.
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

// warmUp is how many requests come first: token caches, pools and the HPACK tables are full afterwards.
const warmUp = 1000

func drive(b *testing.B, address string, r *Recording, connections, streams int, processes []process) {
	drivers := make([]*Driver, connections)
	for i := range drivers {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		drivers[i] = NewDriver(conn, r)
		if err := drivers[i].Run(warmUp, streams); err != nil {
			b.Fatal(err)
		}
	}
	before := make([]time.Duration, len(processes))
	for i, p := range processes {
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
	for i, p := range processes {
		used := p.cpu(b) - before[i]
		total += used
		b.ReportMetric(float64(used.Nanoseconds())/float64(b.N), p.name+"-cpu-ns/op")
	}
	b.ReportMetric(float64(b.N)/total.Seconds(), "req/core-s")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
}
