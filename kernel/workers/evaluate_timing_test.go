package workers

import (
	"strconv"
	"testing"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// BenchmarkEvaluate measures a call over a real Unix socket and back, the worker's stock gRPC server in the same process included.
func BenchmarkEvaluate(b *testing.B) {
	for _, parallel := range []int{1, 32, 256} {
		b.Run("parallel="+strconv.Itoa(parallel), func(b *testing.B) {
			path := socketPath(b)
			newFake("w", 1, "p").start(b, path)
			reg, w := setup(b, func(r *config.WorkerRef) { r.HealthCheck.Interval = time.Second }, path)
			push(b, reg, 5)
			ready(b, w)
			headers := benchHeaders()
			b.ReportAllocs()
			b.SetParallelism(max(1, parallel/2))
			b.RunParallel(func(pb *testing.PB) {
				c := &caller{done: make(chan error, 1)}
				c.Done = c
				for pb.Next() {
					c.Message = workerv1.Call{Generation: 5, Chain: 1, Phase: workerv1.Phase_PHASE_REQUEST_HEADERS, Headers: headers}
					w.Evaluate(&c.Call)
					if err := <-c.done; err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

type caller struct {
	route.Call
	done chan error
}

func (c *caller) Complete(_ *route.Call, _ *workerv1.Result, err error) { c.done <- err }

func benchHeaders() []byte {
	var b []byte
	for i := range 12 {
		b = headermap.AppendField(b, "x-header-"+strconv.Itoa(i), "some value of usual length")
	}
	return b
}

// TestEvaluateDoesNotAllocate measures submission and completion without gRPC.
func TestEvaluateDoesNotAllocate(t *testing.T) {
	c := newConn(nil, time.Hour, func() {})
	defer c.close(route.ErrUnavailable)
	s := &session{replica: &replica{bit: 1}, serving: true, conns: []*conn{c}, capacity: maxInFlight}
	s.held.Store(&[]uint64{5})
	w := &Worker{name: "w", timeout: time.Second, epoch: c.epoch, maxInFlight: 1 << 20, ratio: 1, suspectAfter: time.Hour}
	w.loads.Store(&[]*chainLoad{{}})
	c.session, c.worker, c.breaker = s, w, &s.replica.breaker
	w.targets.Store(&[]target{{session: s, conns: []*conn{c}}})
	call := &caller{done: make(chan error, 1)}
	call.Done = call
	headers := benchHeaders()
	var result workerv1.Result
	allocs := testing.AllocsPerRun(1000, func() {
		call.Message = workerv1.Call{Generation: 5, Chain: 1, Headers: headers}
		w.Evaluate(&call.Call)
		c.pending = c.pending[:0]
		result.ResetVT()
		result.Id = call.Message.Id
		if taken, _ := c.take(result.Id); taken != nil {
			taken.Done.Complete(taken, &result, nil)
		}
		if err := <-call.done; err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per call", allocs)
	}
}
