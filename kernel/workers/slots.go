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
	hedge *hedge
	// load counts the call for its chain; it may be nil.
	load       *chainLoad
	long       bool
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
	if s.long {
		c.long.Add(1)
	}
	if !c.armed {
		c.arm(c.patience(s.deadline - s.sent))
	}
}

// patience is when a call that was sent now needs to be looked at: at its deadline, or when the replica is asked for its health.
func (c *conn) patience(left time.Duration) time.Duration {
	if w := c.worker; w != nil {
		return min(left, w.suspectAfter)
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
	if s.load != nil {
		s.load.inFlight.Add(-1)
	}
	if s.long {
		c.long.Add(-1)
	}
	s.call, s.hedge, s.load = nil, nil, nil // What else is there counts only with a call.
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
		s := &c.slots[c.oldest]
		over = append(over, late{hedge: s.hedge, alive: c.alive(s)})
		over[len(over)-1].call = c.remove(c.oldest)
	}
	slow, next := c.overdue(now)
	c.armed = false
	if c.oldest != none {
		s := &c.slots[c.oldest]
		if next == 0 || s.deadline < next {
			next = s.deadline
		}
		if due := c.suspect(now); due > 0 {
			next = min(next, due)
		}
		c.arm(next - now)
	}
	c.mu.Unlock()
	c.hedge(slow, now)
	completed := 0
	for _, l := range over {
		switch {
		case l.hedge != nil || c.breaker == nil: // That a hedged call is late was noted before.
		case l.alive:
			c.breaker.success() // A policy is slow, not the replica.
		default:
			c.breaker.failure(now)
		}
		if l.hedge.ends(false) {
			l.call.Done.Complete(l.call, nil, route.ErrTimeout)
			completed++
		}
	}
	c.completed(completed)
}

// suspect has the replica's health checked if it has not said anything since it got a call that takes long, and says when to look again;
// 0 means never. mu is held.
func (c *conn) suspect(now time.Duration) (next time.Duration) {
	w := c.worker
	if w == nil {
		return 0
	}
	next = now + w.suspectAfter
	silent := false
	for i := c.oldest; i != none; i = c.slots[i].next {
		s := &c.slots[i]
		if due := s.sent + w.suspectAfter; due > now {
			next = max(due, now+w.suspectAfter/4) // Not for each call.
			break
		}
		silent = silent || !c.alive(s)
	}
	if silent {
		c.session.ask()
	}
	return next
}

// alive reports whether the replica has said anything since the call was sent: a result on this connection, or an answer to a health
// check. Then the call is late because of what its policies do.
func (c *conn) alive(s *slot) bool {
	return s.heard != c.received.Load() || c.session != nil && c.session.answered.Load() >= int64(s.sent)
}
