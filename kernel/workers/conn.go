package workers

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/codec"
	"github.com/policy-engine/policy-engine/kernel/route"
)

const (
	// maxInFlight is how many calls may be under way on a connection; a power of two, see slot.
	maxInFlight = 1 << inFlightBits
	// inFlightBits is how many bits of a call's id are the slot's index.
	inFlightBits = 10
	// maxBatch is the most that a batch of calls has, in bytes, unless one call alone is longer. maxWaiting is how many bytes of calls may wait to be sent.
	maxBatch   = 1 << 20
	maxWaiting = 16 << 20
	// maxCall is the longest call: with its frame it stays below the 4 MiB that gRPC servers take by default.
	maxCall = 4<<20 - 64
	// maxKept is the largest buffer that is kept for the next batch.
	maxKept = 256 << 10
	// none ends the lists of slots.
	none = -1
)

// Why a call was not taken, other than route.ErrOverloaded.
var (
	errConnClosed = errors.New("connection closed")
	// errTooLarge: no connection will ever take it.
	errTooLarge = errors.New("call too large")
)

// stream is what a connection needs of a gRPC stream.
type stream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

// conn is one Execute stream: calls go out in batches, results come back in any order. A call is in a slot from submit until somebody takes it out; whoever
// does so completes it, so each call completes once.
type conn struct {
	stream   stream
	timeout  time.Duration
	epoch    time.Time
	inFlight atomic.Int32
	// long is how many of them are long.
	long atomic.Int32
	// received counts batches of results.
	received atomic.Uint64
	// lean sends and reads in place of stream, if it is not nil.
	lean *lean
	// afterBatch is called when several calls were completed; it may be nil.
	afterBatch func()
	// unmatched is called for each result without a call: late, repeated or invented.
	unmatched func()
	// batches measures them; it may be nil.
	batches *batchMeters
	// session is that of the connection, worker and breaker are its replica's; nil in tests of a connection alone.
	session *session
	worker  *Worker
	breaker *breaker
	// draining is called when the replica says that it is about to stop. It may be nil.
	draining func()
	// silent is true if nothing has come for long though calls are under way.
	silent atomic.Bool
	// dead is true if the replica has not answered a health check either: its calls go to another one at once.
	dead atomic.Bool

	mu       sync.Mutex
	filled   sync.Cond // there is something in pending, or the connection is closed
	spare    []byte    // for the next pending; of lean
	pending  []byte    // an encoded CallBatch that the writer has not taken yet
	full     []batch   // what the writer takes before pending; not of lean, which writes it
	gathered int       // calls in pending, and those that lean has written
	waiting  int       // bytes of full, or that lean has written and not flushed
	closed   bool
	slots    [maxInFlight]slot
	free     []int32
	sequence uint64
	// All calls have the same timeout, so a list in the order of submission is in the order of deadlines, and one timer for its head is enough. It is
	// armed only when it fires or when the list was empty: about once per timeout, not once per call.
	oldest, newest int32
	timer          *time.Timer
	armed          bool
}

func newConn(s stream, timeout time.Duration, unmatched func()) *conn {
	c := &conn{stream: s, timeout: timeout, epoch: time.Now(), unmatched: unmatched, oldest: none, newest: none}
	c.filled.L = &c.mu
	c.free = make([]int32, maxInFlight)
	for i := range c.free {
		c.free[i] = int32(maxInFlight - 1 - i)
	}
	return c
}

// submit takes a call, or says why not: errConnClosed, errTooLarge or route.ErrOverloaded. now is since epoch; h is not nil if another replica has the call too. It encodes the message into the pending
// batch. It doesn't allocate once the buffers have grown. When it returns nil the call may be completed already.
func (c *conn) submit(call *route.Call, now time.Duration, h *hedge) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.accept(call, now, h)
	if err == nil && c.lean == nil {
		c.filled.Signal()
	}
	return err
}

// submitAll takes calls as submit does, until one can't be taken, is of a generation that the session does not hold, or of a chain that
// has its share. room is how many more calls the worker takes. It returns how many it took.
func (c *conn) submitAll(s *session, calls []*route.Call, now time.Duration, room int64) (taken int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var held uint64
	for _, call := range calls {
		if isLong(call) != isLong(calls[0]) {
			break // It may be for another connection.
		}
		if g := call.Message.Generation; g != held || taken == 0 {
			if !s.holds(g) {
				break
			}
			held = g
		}
		if w := c.worker; w != nil && (!w.fair(call.Message.Chain, room-int64(taken)) || w.queue.waits(call)) || c.accept(call, now, nil) != nil {
			break
		}
		taken++
	}
	if taken > 0 && c.lean == nil {
		c.filled.Signal()
	}
	return taken
}

// accept is submit with mu held.
func (c *conn) accept(call *route.Call, now time.Duration, h *hedge) error {
	if c.closed {
		return errConnClosed
	}
	if len(c.free) == 0 {
		return route.ErrOverloaded
	}
	index := c.free[len(c.free)-1]
	id := (c.sequence+1)<<inFlightBits | uint64(index)
	call.Message.Id = id
	c.budget(call, now)
	if err := c.encode(&call.Message); err != nil {
		return err
	}
	c.gathered++
	c.sequence++
	c.free = c.free[:len(c.free)-1]
	call.Progress.Attempts++
	if c.session != nil {
		call.Progress.Tried |= c.session.replica.bit
	}
	if h != nil {
		h.live++
	}
	var load *chainLoad
	if c.worker != nil {
		load = c.worker.load(call.Message.Chain)
		load.inFlight.Add(1)
	}
	c.enqueue(index, slot{call: call, id: id, deadline: call.Progress.Deadline, sent: now, heard: c.received.Load(), hedge: h, load: load, long: isLong(call)})
	c.inFlight.Add(1)
	return nil
}

// encode puts the call where the next flush takes it from. mu is held.
func (c *conn) encode(m *workerv1.Call) error {
	if c.lean != nil && len(m.Body) >= leastBody {
		return c.lean.encode(m)
	}
	size := m.SizeVT()
	if size > maxCall {
		return errTooLarge
	}
	if !c.fits(size) {
		return route.ErrOverloaded
	}
	if len(c.pending) > 0 && len(c.pending)+size > maxBatch {
		c.finishBatch()
	}
	pending, err := appendCall(c.pending, m, size)
	if err == nil {
		c.pending = pending
	}
	return err
}

// fits reports whether a call of that size may wait to be sent. mu is held.
func (c *conn) fits(size int) bool {
	waiting := len(c.pending) + c.waiting
	return waiting == 0 || waiting+size <= maxWaiting
}

// batch is an encoded CallBatch, and how many calls it has.
type batch struct {
	bytes []byte
	calls int
}

// finishBatch ends the pending batch, which is full, so that another one begins. mu is held.
func (c *conn) finishBatch() {
	c.waiting += len(c.pending)
	if c.lean != nil {
		c.lean.write(c.pending, nil)
		c.pending = c.pending[:0]
		return
	}
	c.full = append(c.full, batch{c.pending, c.gathered})
	c.pending, c.gathered = nil, 0
}

// budget tells the worker how long the call may take: a little less than we wait, so that a policy that is too slow ends as its own failure and not as that of the worker.
func (c *conn) budget(call *route.Call, now time.Duration) {
	left := call.Progress.Deadline - now - min(c.timeout/16, maxMargin)
	us := uint64(max(left.Microseconds(), 1))
	if t := &call.Message.TimeoutUs; *t == 0 || us < *t {
		*t = us
	}
}

// maxMargin is the most that the worker's time for a call is shorter than ours: what two processes on a busy machine need for the way back.
const maxMargin = 20 * time.Millisecond

// appendCall appends the call, of that size, as an element of CallBatch.calls: batches are concatenated elements.
func appendCall(dst []byte, m *workerv1.Call, size int) ([]byte, error) {
	start := len(dst)
	dst = slices.Grow(dst, size+1+binary.MaxVarintLen32)
	dst = append(dst, 1<<3|2)
	dst = binary.AppendUvarint(dst, uint64(size))
	body := len(dst)
	dst = dst[:body+size]
	if _, err := m.MarshalToSizedBufferVT(dst[body:]); err != nil {
		return dst[:start], err
	}
	return dst, nil
}

// completed is called after calls were completed together, without results.
func (c *conn) completed(n int) {
	c.worker.pump()
	if n > 0 && c.afterBatch != nil {
		c.afterBatch()
	}
}

// close refuses new calls; those under way go to another replica, or are completed with err. Only the first close counts.
func (c *conn) close(err error) {
	var lost []late
	if c.session != nil {
		c.session.leaving.Store(true)
	}
	c.mu.Lock()
	c.closed = true
	for c.oldest != none {
		h := c.slots[c.oldest].hedge
		lost = append(lost, late{call: c.remove(c.oldest), hedge: h})
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.pending, c.full = nil, nil
	c.filled.Broadcast()
	c.mu.Unlock()
	why := becauseLost
	if errors.Is(err, route.ErrIllegalResult) {
		why = becauseIllegal
	}
	completed := 0
	for _, l := range lost {
		if l.hedge.ends(false) {
			c.worker.settle(l.call, err, why)
			completed++
		}
	}
	c.completed(completed)
}

// write sends batches until the connection is closed or broken; the reader learns why. What came while a batch was being sent is the next batch: under load
// they grow, without load nothing waits.
func (c *conn) write() {
	var batch codec.Frame
	for {
		c.mu.Lock()
		for len(c.pending)+len(c.full) == 0 && !c.closed {
			c.filled.Wait()
		}
		if c.closed {
			c.mu.Unlock()
			return
		}
		var calls int
		if len(c.full) > 0 {
			batch.B, calls = c.full[0].bytes, c.full[0].calls
			c.full = slices.Delete(c.full, 0, 1)
			c.waiting -= len(batch.B)
		} else {
			batch.B, c.pending = c.pending, batch.B[:0]
			calls, c.gathered = c.gathered, 0
		}
		c.mu.Unlock()
		c.batches.sent(calls)
		if err := c.stream.SendMsg(&batch); err != nil {
			return
		}
		if cap(batch.B) > maxKept {
			batch.B = nil
		}
	}
}

// run drives the stream until it ends, and says why. cancel ends the stream. All calls are completed, and all goroutines gone, when it returns.
func (c *conn) run(cancel func()) error {
	var writer sync.WaitGroup
	writer.Go(c.write)
	err := c.read()
	if errors.Is(err, route.ErrIllegalResult) {
		c.close(route.ErrIllegalResult)
	} else {
		c.close(route.ErrUnavailable)
	}
	cancel() // Frees a writer that waits for flow control.
	writer.Wait()
	return err
}
