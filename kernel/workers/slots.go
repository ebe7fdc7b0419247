package workers

import (
	"time"

	"github.com/policy-engine/policy-engine/kernel/route"
)

// slot holds a call under way. Its id is sequence<<inFlightBits | index.
type slot struct {
	call     *route.Call // nil: free
	id       uint64
	deadline time.Duration // since epoch
	sent     time.Duration // since epoch
	heard    uint64        // conn.received when it was sent
	// hedge is not nil if another replica has the call too.
	hedge      *hedge
	prev, next int32
}

// enqueue puts a call into the list. mu is held.
func (c *conn) enqueue(index int32, s slot) {
	// Fast path: its deadline is the latest. Only a further attempt of a call has less time left than those before it.
	s.prev, s.next = c.newest, none
	for s.prev != none && c.slots[s.prev].deadline > s.deadline {
		s.prev, s.next = c.slots[s.prev].prev, s.prev
	}
	if s.prev == none {
		c.oldest = index
	} else {
		c.slots[s.prev].next = index
	}
	if s.next == none {
		c.newest = index
	} else {
		c.slots[s.next].prev = index
	}
	c.slots[index] = s
	if !c.armed {
		c.arm(c.patience(s.deadline - s.sent))
	}
}

// patience is when a call that was sent now needs to be looked at: at its deadline, or when another replica is to get it too.
func (c *conn) patience(left time.Duration) time.Duration {
	if w := c.worker; w != nil && w.hedgeAfter > 0 {
		return min(left, w.hedgeAfter)
	}
	return left
}

// arm has expire called after a while. mu is held.
func (c *conn) arm(after time.Duration) {
	c.armed = true
	if c.timer == nil {
		c.timer = time.AfterFunc(after, c.expire)
	} else {
		c.timer.Reset(after)
	}
}

// remove frees a slot and returns its call. mu is held.
func (c *conn) remove(index int32) *route.Call {
	s := &c.slots[index]
	if s.prev == none {
		c.oldest = s.next
	} else {
		c.slots[s.prev].next = s.next
	}
	if s.next == none {
		c.newest = s.prev
	} else {
		c.slots[s.next].prev = s.prev
	}
	call := s.call
	s.call, s.hedge = nil, nil // What else is there counts only with a call.
	c.free = append(c.free, index)
	c.inFlight.Add(-1)
	return call
}

// take takes the call with this id out; nil if there is none (any more). With a hedge, it is the caller's only if that says so.
func (c *conn) take(id uint64) (*route.Call, *hedge) {
	index := int32(id & (maxInFlight - 1))
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.slots[index]
	if s.call == nil || s.id != id {
		return nil, nil
	}
	h := s.hedge
	return c.remove(index), h
}

// expire completes the calls whose time is over, has another replica get those that are late, and sets the timer for the next one.
func (c *conn) expire() {
	var over []late
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	now := time.Since(c.epoch)
	for c.oldest != none && c.slots[c.oldest].deadline <= now {
		h := c.slots[c.oldest].hedge
		over = append(over, late{call: c.remove(c.oldest), hedge: h})
	}
	slow, next := c.overdue(now)
	c.armed = false
	if c.oldest != none {
		if deadline := c.slots[c.oldest].deadline; next == 0 || deadline < next {
			next = deadline
		}
		c.arm(next - now)
	}
	c.mu.Unlock()
	c.hedge(slow, now)
	completed := 0
	for _, l := range over {
		if l.hedge == nil && c.breaker != nil {
			c.breaker.failure(now) // That a hedged call is late was noted before.
		}
		if l.hedge.ends(false) {
			l.call.Done.Complete(l.call, nil, route.ErrTimeout)
			completed++
		}
	}
	c.completed(completed)
}
