package workers

import (
	"sync/atomic"
	"time"

	"github.com/policy-engine/policy-engine/kernel/route"
)

// target is a healthy replica.
type target struct {
	session *session
	conns   []*conn
}

// enough is how many calls a connection has under way before the next one of its replica is used. Few connections make large batches; several let a replica use more than one
// processor.
const enough = 64

// silence is what a connection costs that has not said anything for long though calls are under way: whoever else can takes the call.
const silence = 1 << 20

// choose finds the replica that takes a call now: of those that hold its generation, have not had it yet, and are not kept from calls by their breakers, the one with the fewest calls
// under way. If there is none, the error is route.ErrOverloaded, route.ErrRouteOverloaded or route.ErrUnavailable. It doesn't allocate.
func (w *Worker) choose(targets []target, c *route.Call, now time.Duration) (best *target, left room, err error) {
	start := int(w.next.Add(1))      // Among equals they take turns.
	again := c.Progress.Attempts > 0 // One that was taken before has the right of way.
	var total, least int64
	full := false
	for i := range targets {
		t := &targets[(start+i)%len(targets)]
		calls, silent := t.underWay()
		total += int64(calls)
		if !t.open(now) {
			continue
		}
		free := max(0, t.session.capacity-int64(calls))
		left.worker += free
		if !t.takes(c, now) {
			continue
		}
		if free == 0 && !again {
			full = true
			continue
		}
		cost := t.session.share.cost(int64(calls), now)
		if silent {
			cost += silence
		}
		if best == nil || cost < least {
			best, least, left.replica = t, cost, free
		}
	}
	left.worker = min(left.worker, w.maxInFlight-total)
	switch {
	case total >= w.maxInFlight && !again, best == nil && full:
		return nil, left, route.ErrOverloaded
	case best == nil:
		return nil, left, route.ErrUnavailable
	case !again && !w.fair(c.Message.Chain, left.worker):
		return nil, left, route.ErrRouteOverloaded
	case best.session.replica.breaker.admit(now):
		return best, left, nil
	default: // Another call is the trial.
		return w.choose(targets, c, now)
	}
}

// room is how many more calls fit.
type room struct {
	// worker is of all replicas that take calls, replica of the one chosen.
	worker, replica int64
}

// open reports whether the replica takes calls at all.
func (t *target) open(now time.Duration) bool {
	s := t.session
	return !s.leaving.Load() && s.replica.breaker.admits(now)
}

// takes reports whether the replica is one for the call.
func (t *target) takes(c *route.Call, now time.Duration) bool {
	s := t.session
	return c.Progress.Tried&s.replica.bit == 0 && s.holds(c.Message.Generation) && t.open(now)
}

// underWay is how many calls the replica has, and whether one of its connections is silent.
func (t *target) underWay() (calls int32, silent bool) {
	for _, c := range t.conns {
		calls += c.inFlight.Load()
		silent = silent || c.silent.Load()
	}
	return calls, silent
}

// longBody is from which size of its body on, in bytes, a call is long: it keeps to the last connection of a replica, and
// short calls to the others meanwhile. On the same connection, short calls would wait until the bodies before them have
// been sent.
const longBody = 64 << 10

// isLong reports whether a call is long.
func isLong(c *route.Call) bool { return len(c.Message.Body) >= longBody }

// carries reports whether a connection at that place is one for the call, as long as others have room.
func (t *target) carries(i int, long bool) bool {
	last := i == len(t.conns)-1
	return long && last || !long && (!last || t.conns[i].long.Load() == 0) || len(t.conns) == 1
}

// pick chooses a connection for a call: the first with fewer than enough calls in flight, or the one with the fewest; a
// silent one only if all are. A long call gets the last one unless it is silent.
func (t *target) pick(long bool) *conn {
	best := t.conns[0]
	fewest := int32(silence)
	if last := t.conns[len(t.conns)-1]; long && !last.silent.Load() {
		return last
	}
	for i, c := range t.conns {
		n := c.inFlight.Load()
		if c.silent.Load() || !t.carries(i, long) && fewest < silence {
			continue
		}
		if n < enough {
			return c
		}
		if n < fewest {
			best, fewest = c, n
		}
	}
	return best
}

// share is how much of its part of the calls a replica gets: one that has come back begins with little and has all after the worker's slow start.
type share struct {
	slowStart time.Duration
	// since is when it came back; 0 if it has its whole part.
	since atomic.Int64
}

// begin begins a slow start.
func (s *share) begin(now time.Duration) {
	if s.slowStart > 0 {
		s.since.Store(max(int64(now), 1))
	}
}

// cost is what the calls under way weigh when replicas are compared.
func (s *share) cost(calls int64, now time.Duration) int64 {
	since := s.since.Load()
	// Fast path.
	if since == 0 {
		return calls
	}
	age := now - time.Duration(since)
	if age >= s.slowStart {
		s.since.CompareAndSwap(since, 0)
		return calls
	}
	// With a 64th of the time gone it has a 64th of the calls; never less.
	return (calls + 1) * 64 / max(1, int64(64*age/s.slowStart))
}
