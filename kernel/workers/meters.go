package workers

import (
	"context"
	"slices"
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
		calls:   set.GetOrCreatePrometheusHistogramExt(telemetry.Series(batchCalls, "worker", worker), batchSizes),
		results: set.GetOrCreatePrometheusHistogramExt(telemetry.Series(batchResults, "worker", worker), batchSizes),
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

// The names of a worker's metrics.
const (
	workerHealth     = "policy_kernel_worker_health"
	replicaUp        = "policy_kernel_worker_replica_up"
	callsInFlight    = "policy_kernel_worker_calls_in_flight"
	unmatchedResults = "policy_kernel_worker_unmatched_results_total"
	batchCalls       = "policy_kernel_worker_batch_calls"
	batchResults     = "policy_kernel_worker_batch_results"
	callRetries      = "policy_kernel_worker_retries_total"
	callsQueued      = "policy_kernel_worker_queued_total"
	callsWaiting     = "policy_kernel_worker_calls_waiting"
	queueRefusals    = "policy_kernel_worker_queue_refusals_total"
	breakerState     = "policy_kernel_worker_breaker_state"
)

// measure has the series follow a change of the workers in use. Gauges show whoever has the name and the place now; what has neither any more is taken away.
func (reg *Registry) measure(before, after []*Worker) {
	had, has := reg.gauges(before), reg.gauges(after)
	for series := range had {
		if has[series] == nil {
			reg.metrics.UnregisterMetric(series)
		}
	}
	for series, value := range has {
		if had[series] == nil {
			reg.metrics.NewGauge(series, value)
		}
	}
	for _, w := range before {
		if slices.ContainsFunc(after, func(other *Worker) bool { return other.name == w.name }) {
			continue
		}
		for _, metric := range []string{unmatchedResults, batchCalls, batchResults, callsQueued} {
			reg.metrics.UnregisterMetric(telemetry.Series(metric, "worker", w.name))
		}
		for why := range numQueueRefusals {
			reg.metrics.UnregisterMetric(telemetry.Series(queueRefusals, "worker", w.name, "reason", why.String()))
		}
		for why := range numReasons {
			reg.metrics.UnregisterMetric(telemetry.Series(callRetries, "worker", w.name, "reason", why.String()))
		}
	}
}

// gauges are the series of workers and their replicas with what they show.
func (reg *Registry) gauges(workers []*Worker) map[string]func() float64 {
	all := make(map[string]func() float64)
	for _, w := range workers {
		all[telemetry.Series(workerHealth, "worker", w.name)] = func() float64 {
			return reg.shown(w.name, 0, func(now *Worker, _ *replica) bool { return now.Available() })
		}
		all[telemetry.Series(callsWaiting, "worker", w.name)] = func() float64 {
			waiting := int32(0)
			reg.shown(w.name, 0, func(now *Worker, _ *replica) bool {
				waiting = now.queue.size.Load()
				return true
			})
			return float64(waiting)
		}
		for i := range w.replicas {
			labels := []string{"worker", w.name, "replica", strconv.Itoa(i)}
			all[telemetry.Series(replicaUp, labels...)] = func() float64 {
				return reg.shown(w.name, i, func(_ *Worker, r *replica) bool { return r.session != nil && r.session.serving })
			}
			all[telemetry.Series(breakerState, labels...)] = func() float64 {
				state := breakerClosed
				reg.shown(w.name, i, func(_ *Worker, r *replica) bool {
					state = r.breaker.state.Load()
					return true
				})
				return float64(state)
			}
			all[telemetry.Series(callsInFlight, labels...)] = func() float64 {
				calls := int32(0)
				reg.shown(w.name, i, func(_ *Worker, r *replica) bool {
					if r.session != nil && r.session.served {
						calls, _ = (&target{conns: r.session.conns}).underWay()
					}
					return true
				})
				return float64(calls)
			}
		}
	}
	return all
}

// shown is 1 if the replica at that place of the worker in use exists and is so, else 0.
func (reg *Registry) shown(worker string, place int, is func(*Worker, *replica) bool) float64 {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	for _, w := range reg.workers {
		if w.name == worker && place < len(w.replicas) && is(w, w.replicas[place]) {
			return 1
		}
	}
	return 0
}

// CollectMetrics adds the metrics of all replicas: a series that several replicas have counts once, with the sum of their values; what a replica tells of its process has
// the labels component, worker and replica. A replica that can't be asked counts with its last metrics, so that no counter seems to go back.
func (reg *Registry) CollectMetrics(ctx context.Context, e *telemetry.Exposition) {
	ctx, cancel := context.WithTimeout(ctx, metricsTimeout)
	defer cancel()
	var asked sync.WaitGroup
	workers := reg.inUse()
	for _, worker := range workers {
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
	for _, worker := range workers {
		for i, r := range worker.replicas {
			from := telemetry.Source{Reserved: "policy_kernel_"}
			if r.session != nil { // A process that has ended has no memory any more.
				from.Process = telemetry.ProcessLabels("component", "worker", "worker", worker.name, "replica", strconv.Itoa(i))
			}
			e.Add(r.metrics, from)
		}
	}
}
