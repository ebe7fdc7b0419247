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
	call       *route.Call // nil: free
	id         uint64
	deadline   time.Duration // since epoch
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

// submit takes a call, or says why not: errConnClosed or route.ErrOverloaded. It encodes the message into the pending batch and keeps nothing of it. It
// doesn't allocate once the buffers have grown. When it returns nil the call may be completed already.
func (c *conn) submit(call *route.Call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.accept(call, time.Since(c.epoch)+c.timeout)
	if err == nil && c.lean == nil {
		c.filled.Signal()
	}
	return err
}

// submitAll takes calls as submit does, until one can't be taken or is of a generation that the session does not hold. It returns how many it took.
func (c *conn) submitAll(s *session, calls []*route.Call) (taken int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	deadline := time.Since(c.epoch) + c.timeout
	var held uint64
	for _, call := range calls {
		if g := call.Message.Generation; g != held || taken == 0 {
			if !s.holds(g) {
				break
			}
			held = g
		}
		if c.accept(call, deadline) != nil {
			break
		}
		taken++
	}
	if taken > 0 && c.lean == nil {
		c.filled.Signal()
	}
	return taken
}

// accept is submit with mu held. The deadline is since epoch.
func (c *conn) accept(call *route.Call, deadline time.Duration) error {
	if c.closed {
		return errConnClosed
	}
	if len(c.free) == 0 {
		return route.ErrOverloaded
	}
	index := c.free[len(c.free)-1]
	id := (c.sequence+1)<<inFlightBits | uint64(index)
	call.Message.Id = id
	pending, err := appendCall(c.pending, &call.Message)
	if err != nil {
		return err
	}
	c.pending = pending
	c.gathered++
	c.sequence++
	c.free = c.free[:len(c.free)-1]
	c.enqueue(index, slot{call: call, id: id, deadline: deadline})
	c.inFlight.Add(1)
	return nil
}

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

// enqueue puts a call at the end of the list. mu is held.
func (c *conn) enqueue(index int32, s slot) {
	s.prev, s.next = c.newest, none
	if c.newest == none {
		c.oldest = index
	} else {
		c.slots[c.newest].next = index
	}
	c.newest = index
	c.slots[index] = s
	if c.armed {
		return
	}
	c.armed = true
	if c.timer == nil {
		c.timer = time.AfterFunc(c.timeout, c.expire)
	} else {
		c.timer.Reset(c.timeout)
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

// take takes the call with this id out; nil if there is none (any more).
func (c *conn) take(id uint64) *route.Call {
	index := int32(id & (maxInFlight - 1))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.slots[index].call == nil || c.slots[index].id != id {
		return nil
	}
	return c.remove(index)
}

// expire completes the calls whose time is over, and sets the timer for the next one.
func (c *conn) expire() {
	var late []*route.Call
	c.mu.Lock()
	now := time.Since(c.epoch)
	for c.oldest != none && c.slots[c.oldest].deadline <= now {
		late = append(late, c.remove(c.oldest))
	}
	c.armed = c.oldest != none
	if c.armed {
		c.timer.Reset(c.slots[c.oldest].deadline - now)
	}
	c.mu.Unlock()
	for _, call := range late {
		call.Done.Complete(call, nil, route.ErrTimeout)
	}
	c.completed(len(late))
}

// completed is called after calls were completed together, without results.
func (c *conn) completed(n int) {
	if n > 0 && c.afterBatch != nil {
		c.afterBatch()
	}
}

// close refuses new calls and completes those under way with err. Only the first close counts.
func (c *conn) close(err error) {
	var lost []*route.Call
	c.mu.Lock()
	c.closed = true
	for c.oldest != none {
		lost = append(lost, c.remove(c.oldest))
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.pending = nil
	c.filled.Broadcast()
	c.mu.Unlock()
	for _, call := range lost {
		call.Done.Complete(call, nil, err)
	}
	c.completed(len(lost))
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
		c.received.Add(1)
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
		if call := c.take(r.Id); call != nil {
			results++
			call.Done.Complete(call, r, nil)
		} else {
			c.unmatched()
		}
	}
	return nil
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
