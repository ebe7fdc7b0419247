package worker

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/h2"
	"github.com/policy-engine/policy-engine/fastpath/lane"
)

const (
	// maxResultBatch is about how many bytes of results go into one message.
	maxResultBatch = 1 << 20
	// maxKept is the largest buffer that a stream keeps for the next batch, in bytes.
	maxKept = 1 << 20
)

// stream is one Execute stream. The goroutine that reads its connection runs all calls that don't wait, one after the other, and sends their results together; a
// call that waits has a goroutine, and sends its result itself.
type stream struct {
	server *server
	conn   *h2.Conn
	id     uint32
	ctx    context.Context // of the calls that wait
	cancel context.CancelFunc

	// The connection's lock guards these.
	queue      []queued // batches that have arrived and not run
	waiting    int      // calls that wait
	running    bool     // a batch has left the queue, and its results are not sent
	batches    uint64   // that have left the queue
	halfClosed bool
	gone       bool

	// Only the goroutine that reads the connection uses these.
	batch    workerv1.CallBatch
	begun    int       // calls of the batch that were begun
	bytes    h2.Buffer // of the batch
	received time.Time
	aliased  bool // bytes belongs to calls that go on after the batch
	resumes  bool // the batch was begun by another goroutine
	out      []byte
	free     []h2.Buffer
}

// queued is an encoded CallBatch.
type queued struct {
	batch    h2.Buffer
	received time.Time
}

// batches are the streams of a connection that have something queued.
type batches struct {
	streams []*stream // guarded by the connection's lock while it is read; else the goroutine's that reads
	// The goroutine that reads the connection uses these.
	lane    *lane.Lane // that goroutine; nil at first
	running *stream    // whose batch runs
}

// TakeOver implements lane.Owner: another goroutine runs the rest of the batch, and reads on.
func (b *batches) TakeOver(*lane.Lane) {
	s := b.running
	s.aliased, s.resumes = true, true
	s.conn.Lock()
	s.waiting++
	s.conn.Unlock()
	b.lane = s.server.lanes.Lane(b)
	s.conn.HandOver()
}

func (s *server) openStream(hs *h2.Stream) h2.Receiver {
	st := &stream{server: s, conn: hs.Conn(), id: hs.ID()}
	st.ctx, st.cancel = context.WithCancel(s.ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		hs.Fail(uint32(codes.Unavailable), "the worker stops")
		return nil
	}
	s.streams[st] = struct{}{}
	if s.leaving {
		hs.Send(leavingNotice)
	}
	return st
}

// Message implements h2.Receiver.
func (s *stream) Message(hs *h2.Stream, msg []byte) {
	var buf h2.Buffer
	if n := len(s.free); n > 0 {
		buf, s.free = s.free[n-1], s.free[:n-1]
	}
	if !hs.Take(&buf) {
		buf.Set(msg)
	}
	s.queue = append(s.queue, queued{buf, s.server.service.core.settings.Now()})
	s.ready()
}

// HalfClose implements h2.Receiver.
func (s *stream) HalfClose(*h2.Stream) {
	s.halfClosed = true
	s.ready()
}

// Reset implements h2.Receiver.
func (s *stream) Reset(*h2.Stream) { s.leave() }

// ready has runQueued called when the read is over.
func (s *stream) ready() {
	ready, _ := s.conn.Attachment.(*batches)
	if ready == nil {
		ready = &batches{}
		s.conn.Attachment = ready
	}
	if !slices.Contains(ready.streams, s) {
		ready.streams = append(ready.streams, s)
	}
}

// runQueued runs what has arrived, without the connection's lock. It returns false if a call was moved aside, and another goroutine runs the rest.
func (s *stream) runQueued(l *lane.Lane) (mine bool) {
	if s.resumes {
		s.resumes = false
		s.flush()
		s.conn.Flush()
		if !s.runBatch(l) {
			return false
		}
	}
	for {
		s.conn.Lock()
		s.running = false
		if s.gone || len(s.queue) == 0 {
			s.finish()
			s.conn.Unlock()
			return true
		}
		q := s.queue[0]
		s.queue = append(s.queue[:0], s.queue[1:]...)
		s.running = true
		s.batches++
		s.conn.Unlock()
		s.batch.ResetVT()
		s.begun, s.bytes, s.received, s.aliased = 0, q.batch, q.received, false
		if err := s.batch.UnmarshalVTUnsafe(q.batch.Bytes()); err != nil {
			s.fail(codes.InvalidArgument, "decode batch of calls: "+err.Error())
			return true
		}
		if !s.runBatch(l) {
			return false
		}
	}
}

// runBatch runs the calls of a batch that were not begun, and sends the results of those that did not wait. It returns false if a call was moved aside, and another goroutine runs the
// rest.
func (s *stream) runBatch(l *lane.Lane) (mine bool) {
	core := s.server.service.core
	for s.begun < len(s.batch.Calls) {
		call := s.batch.Calls[s.begun]
		s.begun++
		e, why := core.start(call, s.received)
		switch {
		case e == nil:
			s.out = appendResult(s.out, why.result(call))
		case s.inline(e, l):
			s.out = appendResult(s.out, e.result())
			e.Release()
		case l.Moved():
			return false
		default:
			s.aliased = true // The bytes belong to the calls that wait now, and end with them.
			s.conn.Lock()
			s.waiting++
			s.conn.Unlock()
			go s.wait(e)
		}
		if len(s.out) >= maxResultBatch {
			s.flush()
		}
	}
	s.flush()
	if !s.aliased && len(s.free) < 4 && s.bytes.Cap() <= maxKept {
		s.free = append(s.free, s.bytes)
	}
	s.bytes = h2.Buffer{}
	return true
}

// inline runs a call until it has a result (true), or waits or was moved aside. One that was moved aside has sent its result itself when inline returns: this goroutine has nothing else
// left to do.
func (s *stream) inline(e *execution, l *lane.Lane) (ended bool) {
	returned := false
	defer func() {
		if !l.Moved() {
			return
		}
		ended = false
		l.Close()
		if returned {
			s.wait(e)
			return
		}
		e.run.Quit() // The policy has ended the goroutine.
		go s.wait(e)
	}()
	e.run.On(l)
	ended = e.run.Inline(l.Context(s.ctx))
	returned = true
	return ended
}

// flush sends the results that have gathered; they leave when the read is over.
func (s *stream) flush() {
	if len(s.out) == 0 {
		return
	}
	s.conn.Lock()
	if hs := s.conn.Stream(s.id); hs != nil && !s.gone {
		hs.Send(s.out)
	}
	s.conn.Unlock()
	if s.out = s.out[:0]; cap(s.out) > 2*maxKept {
		s.out = nil
	}
}

// wait runs the rest of a call.
func (s *stream) wait(e *execution) {
	e.run.Wait(s.ctx)
	result := appendResult(nil, e.result())
	e.Release()
	s.conn.Lock()
	s.waiting--
	if hs := s.conn.Stream(s.id); hs != nil && !s.gone {
		hs.Send(result)
		s.finish()
	}
	s.conn.Unlock()
	s.conn.Flush()
}

// finish ends the stream when the client wants no more and has all results. The connection is locked.
func (s *stream) finish() {
	if !s.halfClosed || s.gone || s.running || s.waiting > 0 || len(s.queue) > 0 {
		return
	}
	if hs := s.conn.Stream(s.id); hs != nil {
		hs.Finish(nil)
	}
	s.leave()
}

// fail ends the stream with an error.
func (s *stream) fail(code codes.Code, message string) {
	s.conn.Lock()
	defer s.conn.Unlock()
	if hs := s.conn.Stream(s.id); hs != nil && !s.gone {
		hs.Fail(uint32(code), message)
	}
	s.leave()
}

// stop ends the stream because the worker stops: no call is in flight any more.
func (s *stream) stop() {
	s.fail(codes.Unavailable, "the worker stops")
	s.conn.Flush()
}

// leave forgets the stream. The connection is locked.
func (s *stream) leave() {
	if s.gone {
		return
	}
	s.gone = true
	s.cancel()
	s.server.mu.Lock()
	delete(s.server.streams, s)
	s.server.mu.Unlock()
}

// appendResult appends an element of ResultBatch.results: batches are concatenated elements.
func appendResult(dst []byte, r *workerv1.Result) []byte {
	before, size := len(dst), r.SizeVT()
	dst = protowire.AppendTag(dst, 1, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(size))
	start := len(dst)
	dst = slices.Grow(dst, size)[:start+size]
	if _, err := r.MarshalToSizedBufferVT(dst[start:]); err != nil {
		return dst[:before] // Not to be expected. Without a result the kernel's timeout decides, and denies.
	}
	return dst
}
