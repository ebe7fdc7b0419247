package worker

import (
	"io"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/policy-engine/policy-engine/telemetry"
	"github.com/policy-engine/policy-engine/worker/chain"
)

// noPolicy is the policy label of failures that are not a policy's: calls that the worker refused.
const noPolicy = "none"

// durations are the upper bounds of the histogram's buckets, in seconds: most policies take microseconds, those that ask a server milliseconds.
var durations = []float64{1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1}

// meters are the worker's metrics. Labels come from the registry and from code, never from a request.
type meters struct {
	set      *metrics.Set
	policies map[string]*policyMeters
	refused  [numRefusals]*metrics.Counter
	stuck    *metrics.Counter // policies that kept a connection
	panics   *metrics.Counter // of the worker itself
	// process is true if the worker has a process of its own, to tell of.
	process bool
	// strangers counts connections of processes that run as other users.
	strangers *metrics.Counter
}

// policyMeters are the handles of one policy.
type policyMeters struct {
	executions [chain.NumStatuses]*metrics.Counter
	failures   [chain.NumCauses]*metrics.Counter
	duration   *metrics.PrometheusHistogram
	slow       *metrics.Counter // runs that overran their slice
}

func newMeters(r *Registry) *meters {
	m := &meters{set: metrics.NewSet(), policies: make(map[string]*policyMeters, len(r.names))}
	for _, name := range r.names {
		p := &policyMeters{
			duration: m.set.NewPrometheusHistogramExt(telemetry.Series("policy_worker_execution_duration_seconds", "policy", name), durations),
		}
		p.slow = m.set.NewCounter(telemetry.Series("policy_worker_slow_inline_runs_total", "policy", name))
		for s := range p.executions {
			p.executions[s] = m.set.NewCounter(telemetry.Series("policy_worker_executions_total", "policy", name, "status", chain.Status(s).String()))
		}
		for c := range p.failures {
			p.failures[c] = m.set.NewCounter(telemetry.Series("policy_worker_policy_failures_total", "policy", name, "reason", chain.Cause(c).String()))
		}
		m.policies[name] = p
	}
	m.stuck = m.set.NewCounter("policy_worker_stuck_policies_total")
	m.strangers = m.set.NewCounter("policy_worker_connections_refused_total")
	m.panics = m.set.NewCounter("policy_worker_panics_total")
	for r := range m.refused {
		m.refused[r] = m.set.NewCounter(telemetry.Series("policy_worker_policy_failures_total", "policy", noPolicy, "reason", refusal(r).String()))
	}
	return m
}

// gauge shows the value of f. It is for start, before anything is served.
func (m *meters) gauge(name string, f func() float64) { m.set.NewGauge(name, f) }

// event is the counter of a policy's own event.
func (m *meters) event(policy, event string) *metrics.Counter {
	return m.set.GetOrCreateCounter(telemetry.Series("policy_worker_policy_events_total", "policy", policy, "event", event))
}

func (m *meters) write(w io.Writer) error {
	if err := telemetry.WriteMetrics(w, m.set); err != nil || !m.process {
		return err
	}
	return telemetry.WriteProcessMetrics(w)
}

func (p *policyMeters) ran(s chain.Status, d time.Duration) {
	p.executions[s].Inc()
	p.duration.Update(d.Seconds())
}
