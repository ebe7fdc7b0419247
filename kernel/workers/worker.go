package workers

import (
	"cmp"
	"math"
	"sync"
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
	// afterLocal is called after a local worker has completed a call later: it makes room.
	afterLocal func()

	// epoch is what the times of calls are counted from.
	epoch time.Time
	// attempts is how many a call has, maxInFlight how many calls may be under way. hedgeAfter is after how long another replica gets a call too; 0 means never.
	attempts    int
	maxInFlight int64
	hedgeAfter  time.Duration
	// hedges counts calls that two replicas have, tripped breakers that are not closed.
	hedges, tripped atomic.Int32
	retries         [numReasons]*metrics.Counter
	// queue has the calls that there is no room for yet: at most maxQueued, each for at most patience.
	queue       queue
	maxQueued   int64
	patience    time.Duration
	queuedCalls *metrics.Counter
	refused     [numQueueRefusals]*metrics.Counter
	// loads has the counts of chains by their numbers; it has at least one. ratio bounds them, see share.
	loads atomic.Pointer[[]*chainLoad]
	ratio float64
	// suspectAfter is after how long without an answer a replica is asked for its health.
	suspectAfter time.Duration
	// waiting has the calls that wait for their next attempt; ended is closed when nobody needs the worker any more.
	waiting sync.WaitGroup
	ended   chan struct{}

	// targets are the connections that take calls now; available is Available.
	targets   atomic.Pointer[[]target]
	available atomic.Bool
	next      atomic.Uint32
	// unmatched counts results without a call.
	unmatched *metrics.Counter
	batches   *batchMeters
}

func newWorker(ref config.WorkerRef, set *metrics.Set) *Worker {
	ref.Pos = config.Pos{}
	w := &Worker{
		name: ref.Name, timeout: ref.Timeout, ref: ref, epoch: time.Now(), ended: make(chan struct{}),
		attempts: max(1, ref.Retry.MaxAttempts), maxInFlight: math.MaxInt32,
	}
	if ref.MaxInFlight > 0 {
		w.maxInFlight = int64(ref.MaxInFlight)
	}
	if after := cmp.Or(ref.Retry.HedgeAfter, ref.Timeout/2); len(ref.SocketPaths) > 1 && w.attempts > 1 && after < ref.Timeout {
		w.hedgeAfter = after
	}
	w.maxQueued, w.patience = int64(ref.MaxQueued), min(cmp.Or(ref.QueueTimeout, ref.Timeout*3/4), ref.Timeout)
	w.ratio = ratioOf(ref.RouteShare)
	w.loads.Store(&[]*chainLoad{{}})
	w.suspectAfter = cmp.Or(w.hedgeAfter, ref.Timeout) / 2
	w.queuedCalls = set.GetOrCreateCounter(telemetry.Series(callsQueued, "worker", ref.Name))
	for why := range w.refused {
		w.refused[why] = set.GetOrCreateCounter(telemetry.Series(queueRefusals, "worker", ref.Name, "reason", queueRefusal(why).String()))
	}
	for why := range w.retries {
		w.retries[why] = set.GetOrCreateCounter(telemetry.Series(callRetries, "worker", ref.Name, "reason", reason(why).String()))
	}
	w.targets.Store(&[]target{})
	// Get or create: the worker may take the place of another one of its name.
	w.unmatched = set.GetOrCreateCounter(telemetry.Series(unmatchedResults, "worker", ref.Name))
	w.batches = newBatchMeters(set, ref.Name)
	return w
}

// Name implements route.Evaluator.
func (w *Worker) Name() string { return w.name }

// Available implements route.Evaluator. It is false too while the breakers of all replicas keep calls from them.
func (w *Worker) Available() bool {
	// Fast path.
	if !w.available.Load() || w.tripped.Load() == 0 {
		return w.available.Load()
	}
	now := w.now()
	for _, t := range *w.targets.Load() {
		if t.session.replica.breaker.admits(now) {
			return true
		}
	}
	return false
}

// Evaluate implements route.Evaluator.
func (w *Worker) Evaluate(c *route.Call) {
	if w.local != nil {
		w.begin(c, 0)
		if w.queue.waits(c) {
			w.enqueue(c, nil)
		} else if err := w.evaluateLocal(c); err != nil {
			w.enqueue(c, err)
		}
		return
	}
	now := w.now()
	w.begin(c, now)
	if w.queue.waits(c) {
		w.enqueue(c, nil)
		return
	}
	switch err := w.place(c, now, nil); err {
	case nil:
	case route.ErrUnavailable:
		c.Progress.Attempts = 1
		w.settle(c, err, becauseLost)
	case errTooLarge:
		c.Done.Complete(c, nil, route.ErrOverloaded)
	default:
		w.enqueue(c, err)
	}
}

// EvaluateAll implements route.BatchEvaluator. One connection takes all calls, as long as it can: what leaves together comes back together, which saves both sides
// system calls.
func (w *Worker) EvaluateAll(calls []*route.Call) {
	for len(calls) > 1 && w.local == nil {
		if calls = calls[w.placeAll(calls):]; len(calls) > 0 {
			w.Evaluate(calls[0]) // The first one that did not fit: another connection has room for it, or it waits.
			calls = calls[1:]
		}
	}
	for _, c := range calls {
		w.Evaluate(c)
	}
}

// placeAll has the best replica take as many of the calls as it can, from the first on, and returns how many.
func (w *Worker) placeAll(calls []*route.Call) int {
	now := w.now()
	for _, c := range calls {
		w.begin(c, now)
	}
	if w.queue.waits(calls[0]) {
		return 0
	}
	best, room, err := w.choose(*w.targets.Load(), calls[0], now)
	if err != nil {
		return 0
	}
	n := min(room.replica, room.worker, int64(len(calls)))
	if best.session.replica.breaker.state.Load() != breakerClosed {
		n = 1 // It is a trial.
	}
	c := best.pick(isLong(calls[0]))
	taken := c.submitAll(best.session, calls[:n], now, room.worker)
	c.flush()
	return taken
}

// begin gives a call the worker's timeout.
func (w *Worker) begin(c *route.Call, now time.Duration) {
	c.Progress = route.Progress{Deadline: now + w.timeout}
	if c.Message.TimeoutUs == 0 {
		c.Message.TimeoutUs = uint64(w.timeout.Microseconds())
	}
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
