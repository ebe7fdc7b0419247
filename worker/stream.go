package worker

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/h2"
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
	batch workerv1.CallBatch
	out   []byte
	free  []h2.Buffer
}

// queued is an encoded CallBatch.
type queued struct {
	batch    h2.Buffer
	received time.Time
}

// batches are the streams of a connection that have something queued.
type batches struct{ streams []*stream }

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

// runQueued runs what has arrived, without the connection's lock.
func (s *stream) runQueued() {
	for {
		s.conn.Lock()
		s.running = false
		if s.gone || len(s.queue) == 0 {
			s.finish()
			s.conn.Unlock()
			return
		}
		q := s.queue[0]
		s.queue = append(s.queue[:0], s.queue[1:]...)
		s.running = true
		s.batches++
		s.conn.Unlock()
		s.batch.ResetVT()
		if err := s.batch.UnmarshalVTUnsafe(q.batch.Bytes()); err != nil {
			s.fail(codes.InvalidArgument, "decode batch of calls: "+err.Error())
			return
		}
		if s.runBatch(q.received) && len(s.free) < 4 && q.batch.Cap() <= maxKept {
			s.free = append(s.free, q.batch)
		}
	}
}

// runBatch runs the calls of a batch, and sends the results of those that did not wait. It reports whether the batch's bytes are free again.
func (s *stream) runBatch(received time.Time) (free bool) {
	free = true
	core := s.server.service.core
	for _, call := range s.batch.Calls {
		e, why := core.start(call, received)
		switch {
		case e == nil:
			s.out = appendResult(s.out, why.result(call))
		case e.run.Inline(s.ctx):
			s.out = appendResult(s.out, e.result())
			e.Release()
		default:
			free = false // The bytes belong to the calls that wait now, and end with them.
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
	return free
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
