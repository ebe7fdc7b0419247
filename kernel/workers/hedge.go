package workers

import (
	"sync"
	"time"

	"github.com/policy-engine/policy-engine/kernel/route"
)

// hedge is a call that is with two replicas, because the first one takes its time: the first answer counts, and of the other nothing remains. While mu is held, nobody can
// complete the call.
type hedge struct {
	worker *Worker
	// load counts the hedge for its chain, if the replica is not silent.
	load *chainLoad

	mu   sync.Mutex
	live int // attempts under way
	done bool
}

// ends ends an attempt. It reports whether the call is the caller's now: the attempt brought an answer, and none was there, or it was the last one.
func (h *hedge) ends(answered bool) bool {
	// Fast path: the call is with one replica.
	if h == nil {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.live--
	if h.done || !answered && h.live > 0 {
		return false
	}
	h.done = true
	h.uncount()
	return true
}

// uncount ends the counts of a hedge.
func (h *hedge) uncount() {
	h.worker.hedges.Add(-1)
	if h.load != nil {
		h.load.hedges.Add(-1)
	}
}

// hedgeShare is how many calls of a chain may be with two replicas while the first one is not silent: the policies are slow, and would
// be so a second time.
func (l *chainLoad) hedgeShare() int32 { return max(1, l.inFlight.Load()/8) }

// late is a call that may be given to another replica. Its hedge is locked.
type late struct {
	call  *route.Call
	hedge *hedge
	index int32 // of its slot
	alive bool  // the replica has said something since it got the call
}

// hedge gives calls to another replica each, which keep their place with this one. now is since epoch.
func (c *conn) hedge(calls []late, now time.Duration) {
	for _, l := range calls {
		if c.worker.place(l.call, now, l.hedge) == nil {
			if !l.alive {
				c.breaker.failure(now)
			}
			c.worker.retries[becauseSlow].Inc()
		} else {
			c.unhedge(l, now)
		}
		l.hedge.mu.Unlock()
	}
}

// hedgeAgain is after how long a late call is looked at again for which there was no other replica.
const hedgeAgain = 10 * time.Millisecond

// unhedge takes a hedge back that has come to nothing, unless the call has an outcome already. The hedge is locked.
func (c *conn) unhedge(l late, now time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := &c.slots[l.index]; s.hedge == l.hedge {
		s.hedge = nil
		l.hedge.uncount()
		c.arm(min(hedgeAgain, max(s.deadline-now, 0)))
	}
}

// overdue takes note of the calls that another replica is to get too, and says when to look for more; 0 means never. mu is held. The hedges that it makes are locked: whoever
// completes the call waits until its bytes have been copied.
func (c *conn) overdue(now time.Duration) (calls []late, next time.Duration) {
	w := c.worker
	if w == nil || w.hedgeAfter == 0 {
		return nil, 0
	}
	received := c.received.Load()
	dead := c.dead.Load()
	for i := c.oldest; i != none; i = c.slots[i].next {
		s := &c.slots[i]
		if s.sent+w.hedgeAfter <= now && s.heard == received {
			// Nothing at all has come for so long: what was sent after it waits in vain too.
			c.silent.Store(true)
			if !c.alive(s) {
				dead = true
				c.dead.Store(true)
			}
		}
	}
	for i := c.oldest; i != none; i = c.slots[i].next {
		s := &c.slots[i]
		due := s.sent + w.hedgeAfter
		if s.hedge != nil || int(s.call.Progress.Attempts) >= w.attempts {
			continue
		}
		alive := c.alive(s)
		switch {
		case due > now && (!dead || alive):
		case alive && s.load.hedges.Load() >= s.load.hedgeShare():
			due = now + hedgeAgain
		case w.hedges.Add(1) > maxHedges:
			w.hedges.Add(-1)
			due = now + leastBudget
		default:
			h := &hedge{worker: w, live: 1}
			if alive {
				h.load = s.load
				h.load.hedges.Add(1)
			}
			h.mu.Lock()
			s.hedge = h
			calls = append(calls, late{s.call, h, i, alive})
			continue
		}
		if next == 0 || due < next {
			next = due
		}
	}
	return calls, next
}
