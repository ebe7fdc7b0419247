package grpctransport

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"sync"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/codec"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// routeKey names the route in the gRPC initial metadata, which only Envoy's configuration sets.
const routeKey = "x-policy-route"

// stream is one ext_proc stream. Two goroutines touch it: its handler, and whoever completes its call. mu serialises what they do to the machine.
type stream struct {
	server *Server
	in     codec.Frame
	out    codec.Parts
	use    use
	// completed wakes the handler: effect is ready.
	completed chan struct{}

	mu      sync.Mutex
	machine extproc.Driven
	// outstanding is true from a KindCall effect to its Complete.
	outstanding bool
	// abandoned is true when the handler has ended while a call was outstanding: Complete is the last one, and cleans up.
	abandoned bool
	// broken is true after a panic: the machine is not used again.
	broken bool
	// over is true when the machine has decided: it need not hear that the stream is gone.
	over bool
	// effect is what the handler shall do after Complete.
	effect extproc.Effect
}

// streamPool lends streams with their machines. A stream that is put back has no call outstanding.
type streamPool struct{ pool sync.Pool }

func (p *streamPool) get() *stream  { return p.pool.Get().(*stream) }
func (p *streamPool) put(s *stream) { p.pool.Put(s) }

func newStream(s *Server, m extproc.Driven) *stream {
	return &stream{server: s, machine: m, completed: make(chan struct{}, 1)}
}

// process handles one stream.
func (s *Server) process(_ any, gs grpc.ServerStream) error {
	routes := metadata.ValueFromIncomingContext(gs.Context(), routeKey)
	if len(routes) > 1 {
		return status.Errorf(codes.InvalidArgument, "%d values of %s; one is legal", len(routes), routeKey)
	}
	name := ""
	if len(routes) == 1 {
		name = routes[0]
	}
	s.open.Add(1)
	defer s.open.Add(-1)
	st := s.streams.get()
	st.use = begin(connOf(gs.Context()))
	defer st.end()
	if err := st.start(name); err != nil {
		return err
	}
	return st.run(gs)
}

// run alternates between receiving a message and doing what the machine wants, until the stream is decided, broken or over.
func (st *stream) run(gs grpc.ServerStream) error {
	for {
		err := gs.RecvMsg(&st.in)
		halfClosed := errors.Is(err, io.EOF)
		if err != nil && !halfClosed {
			return err // The peer is gone; end aborts the machine.
		}
		var e extproc.Effect
		if halfClosed {
			e = st.halfClose()
		} else {
			e = st.message()
		}
		if over, err := st.perform(gs, e); over {
			return err
		}
		st.use.done(len(st.in.B))
		if halfClosed {
			return status.Error(codes.Internal, "the stream was half-closed before it was decided")
		}
	}
}

// perform does what the machine wants until it wants the next message. over says that the stream has ended, with err or else with OK.
func (st *stream) perform(gs grpc.ServerStream, e extproc.Effect) (over bool, err error) {
	for e.Kind == extproc.KindCall {
		e.Call.Done = st
		e.Worker.Evaluate(e.Call)
		select {
		case <-st.completed:
			st.mu.Lock()
			e = st.effect
			st.mu.Unlock()
		case <-gs.Context().Done():
			return true, status.FromContextError(gs.Context().Err()).Err()
		case <-st.server.overdue:
			e = st.drain()
		}
	}
	for e.Kind == extproc.KindAnswer && e.More {
		if err := st.send(gs, e); err != nil {
			return true, err
		}
		e = st.following()
	}
	switch e.Kind {
	case extproc.KindWait:
		return false, nil
	case extproc.KindAnswer:
		if err := st.send(gs, e); err != nil {
			return true, err
		}
		return false, nil
	case extproc.KindFinish:
		st.over = true
		if len(e.Answer) > 0 {
			if err := st.send(gs, e); err != nil {
				return true, err
			}
		}
		return true, nil
	case extproc.KindFail:
		st.over = true
		if e.Code == codes.OK {
			return true, status.Error(codes.Internal, "a failure without a code")
		}
		return true, status.Error(e.Code, e.Message)
	default:
		return true, status.Error(codes.Internal, fmt.Sprintf("unknown effect %d", e.Kind))
	}
}

// send writes an answer; the codec copies it.
func (st *stream) send(gs grpc.ServerStream, e extproc.Effect) error {
	st.out = codec.Parts{Head: e.Answer, Tail: e.Tail}
	err := gs.SendMsg(&st.out)
	st.use.answered()
	st.out = codec.Parts{}
	return err
}

// start opens the machine.
func (st *stream) start(name string) (err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	var e extproc.Effect
	defer func() {
		if e.Kind == extproc.KindFail {
			err = status.Error(e.Code, e.Message)
		}
	}()
	defer st.caught(&e)
	st.machine.Open(name, st.server.now())
	return nil
}

func (st *stream) message() (e extproc.Effect) {
	st.mu.Lock()
	defer st.mu.Unlock()
	defer st.caught(&e)
	e = st.machine.Message(st.in.B, st.server.now())
	st.outstanding = e.Kind == extproc.KindCall
	return e
}

func (st *stream) following() (e extproc.Effect) {
	st.mu.Lock()
	defer st.mu.Unlock()
	defer st.caught(&e)
	return st.machine.Next(st.server.now())
}

func (st *stream) halfClose() (e extproc.Effect) {
	st.mu.Lock()
	defer st.mu.Unlock()
	defer st.caught(&e)
	e = st.machine.HalfClose(st.server.now())
	st.outstanding = e.Kind == extproc.KindCall
	return e
}

// drain ends the wait for a call. The call may complete at any moment after it, so the answer is copied and the machine aborted at once.
func (st *stream) drain() (e extproc.Effect) {
	st.mu.Lock()
	defer st.mu.Unlock()
	defer st.caught(&e)
	if !st.outstanding { // It was completed just now.
		<-st.completed
		return st.effect
	}
	e = st.machine.Drain(st.server.now())
	e.Answer, e.Tail = slices.Concat(e.Answer, e.Tail), nil
	st.machine.Abort(st.server.now())
	switch e.Kind {
	case extproc.KindFinish, extproc.KindFail:
		return e
	case extproc.KindAnswer: // There is nobody to go on.
		return extproc.Effect{Kind: extproc.KindFinish, Answer: e.Answer}
	default:
		return extproc.Effect{Kind: extproc.KindFail, Code: codes.Unavailable, Message: "the kernel is going away"}
	}
}

// Complete implements route.Completer. It runs on the goroutine that reads a worker's results, and starts the next call right there.
func (st *stream) Complete(c *route.Call, r *workerv1.Result, err error) {
	st.mu.Lock()
	st.complete(c, r, err)
	e := st.effect
	switch {
	case st.abandoned: // The handler has ended: nobody else has a hold on the stream.
		st.mu.Unlock()
		st.recycle()
	case e.Kind == extproc.KindCall:
		st.outstanding = true
		st.mu.Unlock()
		e.Call.Done = st
		e.Worker.Evaluate(e.Call)
	default:
		// There is room: one call is outstanding at a time. It must be sent with mu held: afterwards the handler may be gone, and the stream another's.
		st.completed <- struct{}{}
		st.mu.Unlock()
	}
}

// complete gives the outcome to the machine. mu is held.
func (st *stream) complete(c *route.Call, r *workerv1.Result, err error) {
	defer st.caught(&st.effect)
	st.outstanding = false
	st.effect = st.machine.Complete(c, r, err, st.server.now())
}

// caught turns a panic of the machine into a failure of its stream. It is deferred, with mu held.
func (st *stream) caught(e *extproc.Effect) {
	v := recover()
	if v == nil {
		return
	}
	st.broken = true
	*e = extproc.Effect{Kind: extproc.KindFail, Code: codes.Internal, Message: "internal error"}
	st.server.log.Error("panic in the state machine of a stream", zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
	if st.server.panicked != nil {
		st.server.panicked()
	}
}

// end is the handler's farewell.
func (st *stream) end() {
	st.use.end()
	st.mu.Lock()
	if !st.over {
		st.abort()
	}
	if st.outstanding {
		st.abandoned = true // Complete recycles.
		st.mu.Unlock()
		return
	}
	st.mu.Unlock()
	st.recycle()
}

// abort tells the machine that nothing can be sent any more. mu is held.
func (st *stream) abort() {
	var e extproc.Effect
	defer st.caught(&e)
	if !st.broken {
		st.machine.Abort(st.server.now())
	}
}

// recycle closes the machine and puts the stream back, unless it is broken. Nobody else has a hold on it.
func (st *stream) recycle() {
	st.mu.Lock()
	st.release()
	broken := st.broken
	st.outstanding, st.abandoned, st.over, st.effect = false, false, false, extproc.Effect{}
	select {
	case <-st.completed:
	default:
	}
	if cap(st.in.B) > maxKept {
		st.in.B = nil
	}
	st.mu.Unlock()
	if !broken {
		st.server.streams.put(st)
	}
}

// maxKept is the largest receive buffer that a stream keeps.
const maxKept = 64 << 10

// release frees what the machine holds, the route table above all; also after a panic, so that its generation can be retired. mu is held.
func (st *stream) release() {
	var e extproc.Effect
	defer st.caught(&e)
	st.machine.Close()
}
