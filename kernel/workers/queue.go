package workers

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/policy-engine/policy-engine/kernel/route"
)

// queue has the calls for which a worker has no room yet, in a line for each chain. The lines take turns, each is first in, first out.
// What waits too long is refused, and so is what comes when the queue, or the chain's share of it, is full. While it is empty, a call
// costs one atomic load.
type queue struct {
	// size counts the calls in the lines, and the one that a pump has in hand.
	size atomic.Int32
	// pumps counts the requests for a pump; whoever makes the first one pumps for all.
	pumps atomic.Int32

	mu     sync.Mutex
	lines  map[lineKey]*line
	ring   []*line // of lines, in the order of their turns
	next   int     // whose turn it is
	timer  *time.Timer
	armed  bool
	closed bool
}

type lineKey struct {
	generation uint64
	chain      uint32
}

// line has the calls of a chain.
type line struct {
	key   lineKey
	calls []queued
	// err is what there was no room for last: route.ErrOverloaded or route.ErrRouteOverloaded.
	err error
	// busy is true while a pump has its first call in hand, which nobody else may take out.
	busy bool
}

// free returns the index of the first call that may be taken out.
func (l *line) free() int {
	if l.busy {
		return 1
	}
	return 0
}

// queued is a call that waits. Times are on the worker's clock.
type queued struct {
	call        *route.Call
	since, till time.Duration
}

// lineTries is how many lines a pump asks in vain before it ends.
const lineTries = 64

// hasNoRoom reports whether an error is one that time may mend.
func hasNoRoom(err error) bool {
	return errors.Is(err, route.ErrOverloaded) || errors.Is(err, route.ErrRouteOverloaded)
}

func keyOf(c *route.Call) lineKey { return lineKey{c.Message.Generation, c.Message.Chain} }

// waits reports whether calls of the same chain wait: they come first.
func (q *queue) waits(c *route.Call) bool {
	// Fast path.
	if q.size.Load() == 0 {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lines[keyOf(c)] != nil
}

// enqueue has a call wait for which there is no room, or refuses it. err says what there was no room for; nil means that calls of its
// chain wait already. The call is not the caller's any more.
func (w *Worker) enqueue(c *route.Call, err error) {
	now := w.now()
	if ok, why := w.add(queued{call: c, since: now, till: now + w.patience}, err); !ok {
		w.refused[queueFull].Inc()
		c.Done.Complete(c, nil, why)
		return
	}
	w.queuedCalls.Inc()
	w.pump() // What made room may have come before the call was in the queue.
}

// add puts a call at the end of its line. If there is no place, it says why not.
func (w *Worker) add(e queued, err error) (ok bool, why error) {
	q := &w.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	free := w.maxQueued - int64(q.size.Load())
	key := keyOf(e.call)
	l := q.lines[key]
	switch {
	case err != nil:
	case l != nil:
		err = l.err
	default: // They have gone on meanwhile.
		err = route.ErrOverloaded
	}
	if q.closed {
		return false, route.ErrUnavailable
	}
	if free <= 0 {
		return false, err
	}
	if l == nil {
		l = &line{key: key, err: err}
		if q.lines == nil {
			q.lines = make(map[lineKey]*line)
		}
		q.lines[key] = l
		q.ring = append(q.ring, l)
	} else if int64(len(l.calls)) >= w.share(free) {
		return false, route.ErrRouteOverloaded
	}
	l.calls = append(l.calls, e)
	q.size.Add(1)
	if !q.armed {
		q.arm(w, e.till-e.since)
	}
	return true, nil
}

// arm has the calls refused whose time is over. mu is held.
func (q *queue) arm(w *Worker, after time.Duration) {
	q.armed = true
	if q.timer == nil {
		q.timer = time.AfterFunc(after, w.refuseLate)
	} else {
		q.timer.Reset(after)
	}
}

// drop takes a line without calls out. mu is held.
func (q *queue) drop(l *line) {
	if len(l.calls) > 0 {
		return
	}
	delete(q.lines, l.key)
	i := slices.Index(q.ring, l)
	q.ring = slices.Delete(q.ring, i, i+1)
	if q.next > i {
		q.next--
	}
}

// pump starts the calls that there is room for now. It is called whenever calls have ended.
func (w *Worker) pump() {
	// Fast path.
	if w == nil || w.queue.size.Load() == 0 {
		return
	}
	if w.queue.pumps.Add(1) > 1 {
		return // Another goroutine pumps, and looks again.
	}
	for {
		n := w.queue.pumps.Load()
		w.round()
		if w.queue.pumps.CompareAndSwap(n, 0) {
			return
		}
	}
}

// round starts calls, a line after the other, until there is no room.
func (w *Worker) round() {
	q := &w.queue
	var dirty *conn
	var lost []*route.Call
	inVain, started := 0, false
	for {
		q.mu.Lock()
		if inVain >= min(len(q.ring), lineTries) {
			q.mu.Unlock()
			break
		}
		q.next %= len(q.ring)
		l := q.ring[q.next]
		e := l.calls[0]
		l.busy = true
		q.mu.Unlock()

		c, err := w.restart(e)
		if c != nil && c != dirty {
			if dirty != nil {
				dirty.flush()
			}
			dirty = c
		}

		q.mu.Lock()
		l.busy = false
		q.next++
		if hasNoRoom(err) && !q.closed {
			l.err = err
			inVain++
		} else {
			l.calls[0] = queued{}
			l.calls = l.calls[1:]
			q.size.Add(-1)
			inVain, started = 0, true
			q.drop(l)
			if err != nil {
				lost = append(lost, e.call)
			}
		}
		q.mu.Unlock()
		if err == route.ErrOverloaded {
			break // There is room for nobody.
		}
	}
	if dirty != nil {
		dirty.flush()
	}
	for _, c := range lost {
		c.Progress.Attempts = 1
		w.settle(c, route.ErrUnavailable, becauseLost)
	}
	if len(lost) > 0 || started && w.local != nil {
		w.afterBatch()
	}
}

// restart starts a call that has waited, and returns the connection to flush.
func (w *Worker) restart(e queued) (*conn, error) {
	now := w.now()
	if w.local == nil {
		return w.placeQuietly(e.call, now, nil)
	}
	m := &e.call.Message
	before := m.TimeoutUs
	m.TimeoutUs = uint64(max(1, int64(before)-(now-e.since).Microseconds()))
	err := w.evaluateLocal(e.call)
	if err != nil { // The call is still ours.
		m.TimeoutUs = before
	}
	return nil, err
}

// refuseLate refuses the calls that have waited too long, and sets the timer for the next ones.
func (w *Worker) refuseLate() {
	q := &w.queue
	now := w.now()
	var late []*route.Call
	var why []error
	q.mu.Lock()
	q.armed = false
	next := time.Duration(-1)
	for _, l := range slices.Clone(q.ring) {
		first := l.free()
		n := first
		for n < len(l.calls) && l.calls[n].till <= now {
			n++
		}
		for _, e := range l.calls[first:n] {
			late, why = append(late, e.call), append(why, l.err)
		}
		l.calls = slices.Delete(l.calls, first, n)
		if len(l.calls) > 0 {
			till := max(l.calls[0].till, now+time.Millisecond) // The one that a pump has in hand may be late too.
			if next < 0 || till < next {
				next = till
			}
		}
		q.drop(l)
	}
	q.size.Add(-int32(len(late)))
	if next >= 0 && !q.closed {
		q.arm(w, max(next-now, 0))
	}
	q.mu.Unlock()
	for i, c := range late {
		w.refused[queueTimeout].Inc()
		c.Done.Complete(c, nil, why[i])
	}
	if len(late) > 0 {
		w.afterBatch()
	}
}

// closeQueue refuses what waits and what comes. The worker has ended.
func (w *Worker) closeQueue() {
	q := &w.queue
	q.mu.Lock()
	q.closed = true
	var left []queued
	for _, l := range slices.Clone(q.ring) {
		first := l.free()
		left = append(left, l.calls[first:]...)
		l.calls = l.calls[:first]
		q.drop(l)
	}
	q.size.Add(-int32(len(left)))
	if q.timer != nil {
		q.timer.Stop()
	}
	q.mu.Unlock()
	for _, e := range left {
		e.call.Done.Complete(e.call, nil, route.ErrUnavailable)
	}
	if len(left) > 0 {
		w.afterBatch()
	}
}

// queueRefusal is why a call that there was no room for was refused. Its String is a metric label.
type queueRefusal uint8

const (
	// queueFull: the queue, or the chain's share of it, is full.
	queueFull queueRefusal = iota
	// queueTimeout: it has waited for the worker's queue_timeout.
	queueTimeout
	numQueueRefusals
)

func (r queueRefusal) String() string { return [...]string{"full", "timeout"}[r] }
