package worker

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/codec"
)

const (
	// maxResultBatch is about how many bytes of results go into one message.
	maxResultBatch = 1 << 20
	// maxKept is the largest buffer that a stream keeps for the next batch, in bytes.
	maxKept = 1 << 20
)

// stream is one Execute stream. Its reader runs all calls that don't wait, one after the other, and sends their results; the writer sends
// the results of those that waited.
type stream struct {
	core     *core
	maxBatch int
	grpc     grpc.ServerStream
	ctx      context.Context // of the calls that wait

	in      codec.Frame
	batch   workerv1.CallBatch // aliases in
	waiting sync.WaitGroup     // for calls that wait

	sending sync.Mutex // guards SendMsg, which is not for concurrent use
	closed  bool       // guarded by sending: the handler has returned

	mu      sync.Mutex // guards pending
	pending []byte
	wake    chan struct{}
}

// serve runs the stream until the client ends it or stopped is closed.
func serveStream(c *core, s grpc.ServerStream, maxBatch int, stopped <-chan struct{}) error {
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	st := &stream{core: c, maxBatch: maxBatch, grpc: s, ctx: ctx, wake: make(chan struct{}, 1)}
	written, quit := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(written)
		st.write(quit)
	}()
	read := make(chan error, 1)
	go func() { read <- st.read() }()

	var err error
	select {
	case err = <-read:
		if err == nil {
			st.waiting.Wait() // The client wants no more, but it wants these.
		}
	case <-stopped:
		// All results are pending already. The reader ends when the handler has returned: that ends RecvMsg.
		err = status.Error(codes.Unavailable, "the worker stops")
	}
	cancel()
	close(quit)
	<-written
	st.sending.Lock()
	st.closed = true
	st.sending.Unlock()
	return err
}

// read runs batches of calls until the client half-closes (nil) or the stream ends.
func (s *stream) read() error {
	var out codec.Frame
	for {
		if err := s.grpc.RecvMsg(&s.in); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if len(s.in.B) > s.maxBatch {
			return status.Errorf(codes.ResourceExhausted, "batch of %d bytes; legal are %d", len(s.in.B), s.maxBatch)
		}
		s.batch.ResetVT()
		if err := s.batch.UnmarshalVTUnsafe(s.in.B); err != nil {
			return status.Errorf(codes.InvalidArgument, "decode batch of calls: %v", err)
		}
		if err := s.runBatch(&out); err != nil {
			return err
		}
		if cap(s.in.B) > maxKept {
			s.in.B = nil
		}
		if cap(out.B) > 2*maxKept {
			out.B = nil
		}
	}
}

// runBatch runs the calls of a batch, and sends the results of those that did not wait.
func (s *stream) runBatch(out *codec.Frame) error {
	received := s.core.settings.Now()
	aliased := false
	for _, call := range s.batch.Calls {
		e, why := s.core.start(call, received)
		switch {
		case e == nil:
			out.B = appendResult(out.B, why.result(call))
		case e.run.Inline(s.ctx):
			out.B = appendResult(out.B, e.result())
			e.Release()
		default:
			aliased = true
			s.waiting.Add(1)
			go s.wait(e)
		}
		if len(out.B) >= maxResultBatch {
			if err := s.send(out); err != nil {
				return err
			}
		}
	}
	if aliased {
		s.in.B = nil // It belongs to the calls that wait now, and ends with them.
	}
	return s.send(out)
}

// wait runs the rest of a call.
func (s *stream) wait(e *execution) {
	defer s.waiting.Done()
	e.run.Wait(s.ctx)
	s.mu.Lock()
	s.pending = appendResult(s.pending, e.result())
	s.mu.Unlock()
	e.Release()
	select {
	case s.wake <- struct{}{}:
	default: // The writer is awake already.
	}
}

// write sends what is pending until quit is closed, and once more after that.
func (s *stream) write(quit <-chan struct{}) {
	var out codec.Frame
	for more := true; more; {
		select {
		case <-s.wake:
		case <-quit:
			more = false
		}
		s.mu.Lock()
		s.pending, out.B = out.B[:0], s.pending
		s.mu.Unlock()
		if s.send(&out) != nil {
			return // The reader learns of it too.
		}
		if cap(out.B) > maxKept {
			out.B = nil
		}
	}
}

// send sends results, if there are any, and empties out.
func (s *stream) send(out *codec.Frame) error {
	if len(out.B) == 0 {
		return nil
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	if s.closed {
		return context.Canceled
	}
	err := s.grpc.SendMsg(out)
	out.B = out.B[:0]
	return err
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
