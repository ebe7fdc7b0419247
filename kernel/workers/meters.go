package workers

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/telemetry"
)

// metricsTimeout is how long a replica may take to tell its metrics.
const metricsTimeout = time.Second

// batchSizes are the upper bounds of the buckets of batches, in calls.
var batchSizes = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}

// batchMeters measure how well calls gather: each batch costs both sides a system call. nil measures nothing.
type batchMeters struct{ calls, results *metrics.PrometheusHistogram }

func newBatchMeters(set *metrics.Set, worker string) *batchMeters {
	return &batchMeters{
		calls:   set.NewPrometheusHistogramExt(telemetry.Series("policy_kernel_worker_batch_calls", "worker", worker), batchSizes),
		results: set.NewPrometheusHistogramExt(telemetry.Series("policy_kernel_worker_batch_results", "worker", worker), batchSizes),
	}
}

func (m *batchMeters) sent(calls int) {
	if m != nil && calls > 0 {
		m.calls.Update(float64(calls))
	}
}

func (m *batchMeters) received(results int) {
	if m != nil && results > 0 {
		m.results.Update(float64(results))
	}
}

// measure shows the state of a replica, which is the index-th of its worker.
func (reg *Registry) measure(set *metrics.Set, r *replica, index int) {
	labels := []string{"worker", r.worker.name, "replica", strconv.Itoa(index)}
	set.NewGauge(telemetry.Series("policy_kernel_worker_calls_in_flight", labels...), func() float64 {
		reg.mu.Lock()
		defer reg.mu.Unlock()
		if r.session == nil || !r.session.served {
			return 0
		}
		t := target{conns: r.session.conns}
		return float64(t.inFlight())
	})
	set.NewGauge(telemetry.Series("policy_kernel_worker_replica_up", labels...), func() float64 {
		reg.mu.Lock()
		defer reg.mu.Unlock()
		if r.session != nil && r.session.serving {
			return 1
		}
		return 0
	})
}

// CollectMetrics adds the metrics of all replicas: a series that several replicas have counts once, with the sum of their values; what a replica tells of its process has
// the labels component, worker and replica. A replica that can't be asked counts with its last metrics, so that no counter seems to go back.
func (reg *Registry) CollectMetrics(ctx context.Context, e *telemetry.Exposition) {
	ctx, cancel := context.WithTimeout(ctx, metricsTimeout)
	defer cancel()
	var asked sync.WaitGroup
	for _, worker := range reg.workers {
		for _, r := range worker.replicas {
			reg.mu.Lock()
			s := r.session
			reg.mu.Unlock()
			if s == nil {
				continue
			}
			asked.Go(func() {
				if resp, err := s.control.GetMetrics(ctx, &workerv1.GetMetricsRequest{}); err == nil {
					reg.mu.Lock()
					r.metrics = resp.Text
					reg.mu.Unlock()
				}
			})
		}
	}
	asked.Wait()
	reg.mu.Lock()
	defer reg.mu.Unlock()
	for _, worker := range reg.workers {
		for i, r := range worker.replicas {
			from := telemetry.Source{Reserved: "policy_kernel_"}
			if r.session != nil { // A process that has ended has no memory any more.
				from.Process = telemetry.ProcessLabels("component", "worker", "worker", worker.name, "replica", strconv.Itoa(i))
			}
			e.Add(r.metrics, from)
		}
	}
}
