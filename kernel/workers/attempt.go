package workers

import (
	"math/rand/v2"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// leastBudget is how much of a call's time has to be left for another attempt.
const leastBudget = time.Millisecond

// maxHedges is how many calls of a worker may be with two replicas at a time: when all of them are slow, their load must not double.
const maxHedges = 256

// reason is why a call has a further attempt. Its String is a metric label.
type reason uint8

const (
	// becauseLost: the connection has ended with the call under way, or before it took it.
	becauseLost reason = iota
	// becauseIllegal: the connection brought something that is no result.
	becauseIllegal
	// becauseOverloaded, becauseDraining and becauseGeneration: the replica did not run the chain, and said why.
	becauseOverloaded
	becauseDraining
	becauseGeneration
	// becauseSlow: there is no answer yet; the call is with two replicas.
	becauseSlow
	numReasons
)

func (r reason) String() string {
	return [...]string{"lost", "illegal", "overloaded", "draining", "generation", "slow"}[r]
}

// refused tells whether a result says that the chain did not run, so that another replica may run it.
func refused(r *workerv1.Result) (reason, bool) {
	// Fast path.
	if r.Outcome != workerv1.Result_OUTCOME_FAILED {
		return 0, false
	}
	switch r.Failure {
	case workerv1.Result_FAILURE_OVERLOADED:
		return becauseOverloaded, true
	case workerv1.Result_FAILURE_DRAINING:
		return becauseDraining, true
	case workerv1.Result_FAILURE_UNKNOWN_GENERATION:
		return becauseGeneration, true
	}
	return 0, false
}

// place has a replica take the call: the best one, or any other that can. h is not nil if another replica has it too. When the error is nil, the call is not the caller's any more.
func (w *Worker) place(c *route.Call, now time.Duration, h *hedge) error {
	on, err := w.placeQuietly(c, now, h)
	if err == nil {
		on.flush()
	}
	return err
}

// placeQuietly is place without the flush of the connection that took the call.
func (w *Worker) placeQuietly(c *route.Call, now time.Duration, h *hedge) (*conn, error) {
	targets := *w.targets.Load()
	best, _, err := w.choose(targets, c, now)
	if err != nil {
		return nil, err
	}
	// Fast path: it takes the call.
	long := isLong(c)
	first := best.pick(long)
	if err = first.submit(c, now, h); err == nil {
		return first, nil
	}
	if err == errTooLarge {
		return nil, err
	}
	// Slow path: it is full, or was closed just now; any other will do.
	overloaded := err == route.ErrOverloaded
	for i := range targets {
		if !targets[i].takes(c, now) {
			continue
		}
		for j, other := range targets[i].conns {
			if other == first || long && !targets[i].carries(j, long) {
				continue
			}
			if err = other.submit(c, now, h); err == nil {
				return other, nil
			}
			overloaded = overloaded || err == route.ErrOverloaded
		}
	}
	if overloaded {
		return nil, route.ErrOverloaded
	}
	return nil, route.ErrUnavailable
}

// settle takes a call that came to nothing: another replica gets it, at once if there is one, else after a while; or it is completed with err.
func (w *Worker) settle(c *route.Call, err error, why reason) {
	if w.again(c, why) {
		return
	}
	p := &c.Progress
	if w == nil || int(p.Attempts) >= w.attempts || w.stopped() {
		c.Done.Complete(c, nil, err)
		return
	}
	wait := w.ref.Retry.Backoff << min(p.Attempts, 8)
	wait = wait/2 + rand.N(wait/2+1) // Jitter keeps calls that were lost together from coming back together.
	if p.Deadline-w.now()-wait < leastBudget {
		c.Done.Complete(c, nil, err)
		return
	}
	p.Tried = 0
	w.waiting.Go(func() { w.later(c, wait, err, why) })
}

// again gives a call that came to nothing to another replica, if there is one now. It reports whether it did: then the call is not the caller's any more.
func (w *Worker) again(c *route.Call, why reason) bool {
	p := &c.Progress
	if w == nil || int(p.Attempts) >= w.attempts || w.stopped() {
		return false
	}
	now := w.now()
	if p.Deadline-now < leastBudget || w.place(c, now, nil) != nil {
		return false
	}
	w.retries[why].Inc()
	return true
}

// later makes the next attempt after a while.
func (w *Worker) later(c *route.Call, wait time.Duration, err error, why reason) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.ended:
	}
	if w.place(c, w.now(), nil) == nil {
		w.retries[why].Inc()
	} else {
		c.Done.Complete(c, nil, err)
	}
	w.afterBatch()
}

// stopped reports whether the worker's connections are being ended because nobody needs it any more.
func (w *Worker) stopped() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}

func (w *Worker) now() time.Duration { return time.Since(w.epoch) }
