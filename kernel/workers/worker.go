package workers

import (
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/telemetry"
)

// Worker is a worker name: its replicas share the calls. It implements route.Evaluator. When a reload changes how a worker is called, another Worker takes its place, and this one
// remains for the tables that it is in.
type Worker struct {
	name     string
	timeout  time.Duration
	replicas []*replica
	// ref is what the worker was made from, without its place in the file.
	ref config.WorkerRef
	// generation is the newest one that was pushed to this worker. The registry's mu guards it.
	generation uint64
	// local runs the calls if the worker is in this process; then there is one replica, without connections. It calls afterBatch.
	local      Local
	afterBatch func()

	// targets are the connections that take calls now; available is Available.
	targets   atomic.Pointer[[]target]
	available atomic.Bool
	next      atomic.Uint32
	// unmatched counts results without a call.
	unmatched *metrics.Counter
	batches   *batchMeters
}

// target is a healthy replica.
type target struct {
	session *session
	conns   []*conn
}

// enough is how many calls a connection has under way before the next one of its replica is used. Few connections make large batches; several let a replica use more than one
// processor.
const enough = 64

func newWorker(ref config.WorkerRef, set *metrics.Set) *Worker {
	ref.Pos = config.Pos{}
	w := &Worker{name: ref.Name, timeout: ref.Timeout, ref: ref}
	w.targets.Store(&[]target{})
	// Get or create: the worker may take the place of another one of its name.
	w.unmatched = set.GetOrCreateCounter(telemetry.Series(unmatchedResults, "worker", ref.Name))
	w.batches = newBatchMeters(set, ref.Name)
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
	if best == nil {
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
	if best != nil {
		c := best.pick()
		n := c.submitAll(best.session, calls)
		c.flush()
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

// choose finds the replica with the fewest calls under way that holds the generation, or nil. It doesn't allocate.
func (w *Worker) choose(targets []target, generation uint64) (best *target) {
	start := int(w.next.Add(1)) // Among equals they take turns.
	var fewest int32
	for i := range targets {
		t := &targets[(start+i)%len(targets)]
		if n := t.inFlight(); (best == nil || n < fewest) && t.session.holds(generation) {
			best, fewest = t, n
		}
	}
	return best
}

func (t *target) inFlight() (n int32) {
	for _, c := range t.conns {
		n += c.inFlight.Load()
	}
	return n
}

// pick chooses a connection: the first with fewer than enough calls under way, or the one with the fewest.
func (t *target) pick() *conn {
	best := t.conns[0]
	for _, c := range t.conns {
		n := c.inFlight.Load()
		if n < enough {
			return c
		}
		if n < best.inFlight.Load() {
			best = c
		}
	}
	return best
}

// try has the best target take a call, or any other one that can.
func (w *Worker) try(targets []target, best *target, c *route.Call) {
	// Fast path: it takes the call.
	first := best.pick()
	err := first.submit(c)
	if err == nil {
		first.flush()
		return
	}
	// Slow path: it is full, or was closed just now; any other will do.
	overloaded := err == route.ErrOverloaded
	for i := range targets {
		if !targets[i].session.holds(c.Message.Generation) {
			continue
		}
		for _, other := range targets[i].conns {
			if other == first {
				continue
			}
			if err = other.submit(c); err == nil {
				other.flush()
				return
			}
			overloaded = overloaded || err == route.ErrOverloaded
		}
	}
	if overloaded {
		c.Done.Complete(c, nil, route.ErrOverloaded)
		return
	}
	c.Done.Complete(c, nil, route.ErrUnavailable)
}

// refresh recomputes what Evaluate and Available look at. The registry's mu is held.
func (w *Worker) refresh() {
	var targets []target
	available := false
	for _, r := range w.replicas {
		if r.session == nil || !r.session.served || !r.session.serving {
			continue
		}
		available = available || r.session.holds(w.generation)
		if len(r.session.conns) > 0 { // A local worker has none.
			targets = append(targets, target{session: r.session, conns: r.session.conns})
		}
	}
	w.targets.Store(&targets)
	w.available.Store(available)
}

var _ route.BatchEvaluator = (*Worker)(nil)
