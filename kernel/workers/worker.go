package workers

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/telemetry"
)

// Worker is a worker name: its replicas share the calls. It implements route.Evaluator.
type Worker struct {
	name     string
	timeout  time.Duration
	replicas []*replica
	// local runs the calls if the worker is in this process; then there is one replica, without connections. It calls afterBatch.
	local      Local
	afterBatch func()

	// targets are the connections that take calls now; available is Available.
	targets   atomic.Pointer[[]target]
	available atomic.Bool
	next      atomic.Uint32
	// unmatched counts results without a call.
	unmatched *metrics.Counter
}

// target is a connection of a healthy replica.
type target struct {
	conn    *conn
	session *session
}

func newWorker(ref config.WorkerRef, set *metrics.Set) *Worker {
	w := &Worker{name: ref.Name, timeout: ref.Timeout}
	w.targets.Store(&[]target{})
	w.unmatched = set.NewCounter(telemetry.Series("policy_kernel_worker_unmatched_results_total", "worker", ref.Name))
	set.NewGauge(telemetry.Series("policy_kernel_worker_health", "worker", ref.Name), func() float64 {
		if w.Available() {
			return 1
		}
		return 0
	})
	return w
}

// Name implements route.Evaluator.
func (w *Worker) Name() string { return w.name }

// Available implements route.Evaluator.
func (w *Worker) Available() bool { return w.available.Load() }

// Evaluate implements route.Evaluator.
func (w *Worker) Evaluate(c *route.Call) {
	w.budget(c)
	if w.local != nil {
		w.local.Evaluate(c, w.afterBatch)
		return
	}
	targets := *w.targets.Load()
	best := w.choose(targets, c.Message.Generation)
	if best == none {
		c.Done.Complete(c, nil, route.ErrUnavailable)
		return
	}
	w.try(targets, best, c)
}

// EvaluateAll implements route.BatchEvaluator. One connection takes all calls, as long as it can: what leaves together comes back together, which saves both sides
// system calls.
func (w *Worker) EvaluateAll(calls []*route.Call) {
	if len(calls) == 0 {
		return
	}
	for _, c := range calls {
		w.budget(c)
	}
	if w.local != nil {
		for _, c := range calls {
			w.local.Evaluate(c, w.afterBatch)
		}
		return
	}
	targets := *w.targets.Load()
	best := w.choose(targets, calls[0].Message.Generation)
	if best != none {
		n := targets[best].conn.submitAll(targets[best].session, calls)
		targets[best].conn.flush()
		calls = calls[n:]
	}
	for _, c := range calls {
		w.Evaluate(c)
	}
}

// budget gives a call the worker's timeout.
func (w *Worker) budget(c *route.Call) {
	if c.Message.TimeoutUs == 0 {
		c.Message.TimeoutUs = uint64(w.timeout.Microseconds())
	}
}

// choose finds the healthy connection with the fewest calls whose replica holds the generation, or none. It doesn't allocate.
func (w *Worker) choose(targets []target, generation uint64) (best int) {
	best = none
	start := int(w.next.Add(1)) // Among equals they take turns.
	var fewest int32
	for i := range targets {
		j := (start + i) % len(targets)
		if n := targets[j].conn.inFlight.Load(); (best == none || n < fewest) && targets[j].session.holds(generation) {
			best, fewest = j, n
		}
	}
	return best
}

// try has the best target take a call, or any other one that can.
func (w *Worker) try(targets []target, best int, c *route.Call) {
	// Fast path: it takes the call.
	err := targets[best].conn.submit(c)
	if err == nil {
		targets[best].conn.flush()
		return
	}
	// Slow path: it is full, or was closed just now; any other will do.
	overloaded := err == route.ErrOverloaded
	for i := range targets {
		if i == best || !targets[i].session.holds(c.Message.Generation) {
			continue
		}
		if err = targets[i].conn.submit(c); err == nil {
			targets[i].conn.flush()
			return
		}
		overloaded = overloaded || err == route.ErrOverloaded
	}
	if overloaded {
		c.Done.Complete(c, nil, route.ErrOverloaded)
		return
	}
	c.Done.Complete(c, nil, route.ErrUnavailable)
}

// refresh recomputes what Evaluate and Available look at. The registry's mu is held.
func (w *Worker) refresh(current uint64) {
	var targets []target
	available := false
	for _, r := range w.replicas {
		if r.session == nil || !r.session.served || !r.session.serving {
			continue
		}
		for _, c := range r.session.conns {
			targets = append(targets, target{conn: c, session: r.session})
		}
		available = available || r.session.holds(current)
	}
	if old := *w.targets.Load(); !slices.Equal(old, targets) {
		w.targets.Store(&targets)
	}
	w.available.Store(available)
}

var _ route.BatchEvaluator = (*Worker)(nil)
