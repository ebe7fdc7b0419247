package workers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/codec"
	"github.com/policy-engine/policy-engine/kernel/route"
)

const (
	// maxInFlight is how many calls may be under way on a connection; a power of two, see slot.
	maxInFlight = 1 << inFlightBits
	// inFlightBits is how many bits of a call's id are the slot's index.
	inFlightBits = 10
	// maxBatch is how many bytes of calls may wait to be sent, unless one call alone is longer.
	maxBatch = 1 << 20
	// maxCall is the longest call: with its frame it stays below the 4 MiB that gRPC servers take by default.
	maxCall = 4<<20 - 64
	// maxKept is the largest buffer that is kept for the next batch.
	maxKept = 256 << 10
	// none ends the lists of slots.
	none = -1
)

// errConnClosed says that a call was not taken.
var errConnClosed = errors.New("connection closed")

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

	mu       sync.Mutex
	filled   sync.Cond // there is something in pending, or the connection is closed
	spare    []byte    // for the next pending; of lean
	pending  []byte    // an encoded CallBatch that the writer has not taken yet
	gathered int       // calls in pending
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

func newConn(s stream, timeout time.Duration, unmatched func()) *conn {
	c := &conn{stream: s, timeout: timeout, epoch: time.Now(), unmatched: unmatched, oldest: none, newest: none}
	c.filled.L = &c.mu
	c.free = make([]int32, maxInFlight)
	for i := range c.free {
		c.free[i] = int32(maxInFlight - 1 - i)
	}
	return c
}

// submit takes a call, or says why not: errConnClosed or route.ErrOverloaded. now is since epoch; h is not nil if another replica has the call too. It encodes the message into the pending
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

// submitAll takes calls as submit does, until one can't be taken or is of a generation that the session does not hold. It returns how many it took.
func (c *conn) submitAll(s *session, calls []*route.Call, now time.Duration) (taken int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var held uint64
	for _, call := range calls {
		if g := call.Message.Generation; g != held || taken == 0 {
			if !s.holds(g) {
				break
			}
			held = g
		}
		if c.accept(call, now, nil) != nil {
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
	pending, err := appendCall(c.pending, &call.Message)
	if err != nil {
		return err
	}
	c.pending = pending
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
	c.enqueue(index, slot{call: call, id: id, deadline: call.Progress.Deadline, sent: now, heard: c.received.Load(), hedge: h})
	c.inFlight.Add(1)
	return nil
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

// appendCall appends the call as an element of CallBatch.calls: batches are concatenated elements.
func appendCall(dst []byte, m *workerv1.Call) ([]byte, error) {
	size := m.SizeVT()
	if size > maxCall || len(dst) > 0 && len(dst)+size > maxBatch {
		return dst, route.ErrOverloaded
	}
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
	s := c.slots[index]
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
	c.slots[index] = slot{}
	c.free = append(c.free, index)
	c.inFlight.Add(-1)
	return s.call
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

// completed is called after calls were completed together, without results.
func (c *conn) completed(n int) {
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
	c.pending = nil
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
		for len(c.pending) == 0 && !c.closed {
			c.filled.Wait()
		}
		if c.closed {
			c.mu.Unlock()
			return
		}
		batch.B, c.pending = c.pending, batch.B[:0]
		calls := c.gathered
		c.gathered = 0
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

// read completes calls with their results until the stream ends.
func (c *conn) read() error {
	var frame codec.Frame
	var result workerv1.Result
	for {
		if err := c.stream.RecvMsg(&frame); err != nil {
			return err
		}
		c.hear()
		if err := c.complete(&result, frame.B); err != nil {
			return fmt.Errorf("%w: %w", route.ErrIllegalResult, err)
		}
		if c.afterBatch != nil {
			c.afterBatch()
		}
		if cap(frame.B) > maxKept {
			frame, result = codec.Frame{}, workerv1.Result{} // A reset result keeps a capacity that aliases the frame.
		}
	}
}

// complete completes the calls of an encoded ResultBatch. It decodes one result at a time, so that memory doesn't depend on how many a worker invents. The
// result aliases the batch, which is why it is valid only during Complete.
func (c *conn) complete(r *workerv1.Result, batch []byte) error {
	results := 0
	defer func() { c.batches.received(results) }()
	for len(batch) > 0 {
		field, wire, n := protowire.ConsumeTag(batch)
		if n < 0 {
			return protowire.ParseError(n)
		}
		batch = batch[n:]
		if field == 2 && wire == protowire.VarintType && c.draining != nil {
			if v, _ := protowire.ConsumeVarint(batch); v != 0 {
				c.draining()
			}
		}
		if field != 1 || wire != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(field, wire, batch); n < 0 {
				return protowire.ParseError(n)
			}
			batch = batch[n:]
			continue
		}
		encoded, n := protowire.ConsumeBytes(batch)
		if n < 0 {
			return protowire.ParseError(n)
		}
		batch = batch[n:]
		r.ResetVT()
		if err := r.UnmarshalVTUnsafe(encoded); err != nil {
			return err
		}
		if call, h := c.take(r.Id); call != nil {
			results++
			c.outcome(call, h, r)
		} else {
			c.unmatched()
		}
	}
	return nil
}

// outcome takes the result of an attempt.
func (c *conn) outcome(call *route.Call, h *hedge, r *workerv1.Result) {
	why, refused := refused(r)
	if h == nil && c.breaker != nil {
		c.breaker.success()
	}
	if h.ends(!refused) && !(refused && c.worker.again(call, why)) {
		call.Done.Complete(call, r, nil)
	}
}

// hear notes that the replica has said something.
func (c *conn) hear() {
	c.received.Add(1)
	if c.silent.Load() {
		c.silent.Store(false)
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
