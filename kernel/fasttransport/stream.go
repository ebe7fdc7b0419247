package fasttransport

import (
	"runtime/debug"

	"google.golang.org/grpc/codes"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/h2"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// stream is one ext_proc stream. The lock of its connection guards it.
type stream struct {
	server  *Server
	machine extproc.Driven
	conn    *h2.Conn
	id      uint32

	// outstanding is true from a KindCall effect to its Complete.
	outstanding bool
	// gone is true when the HTTP/2 stream has ended or was answered; the machine is closed as soon as no call is outstanding.
	gone bool
	// broken is true after a panic: the machine is not used again.
	broken bool
	// lent has the message that the machine was lent, until it has been answered. inHand is how many bytes the message under way has, lent or not.
	lent   h2.Buffer
	inHand int
	// queue holds messages that came while a call was outstanding.
	queue      queue
	halfClosed bool
	// paused: the queue is long, and the peer is kept from sending more.
	paused bool
	// next is the call that the last effect asked for.
	next extproc.Effect
}

// process begins a stream.
func (s *Server) process(hs *h2.Stream, r *h2.Request) h2.Receiver {
	name, n := r.Header(routeKey)
	if n > 1 {
		hs.Fail(uint32(codes.InvalidArgument), "more than one "+routeKey)
		return nil
	}
	st := s.streams.Get().(*stream)
	st.conn, st.id = hs.Conn(), hs.ID()
	s.open.Add(1)
	if e := st.open(name); e.Kind != extproc.KindWait {
		st.apply(hs, e)
		return nil
	}
	return st
}

// Message implements h2.Receiver.
func (st *stream) Message(hs *h2.Stream, msg []byte) {
	if st.outstanding {
		// Slow path: it waits for the outcome of the call.
		if !st.queue.add(st.server.bodies, hs, msg) {
			st.apply(hs, extproc.Effect{Kind: extproc.KindFail, Code: codes.ResourceExhausted, Message: "too many messages ahead of an answer"})
			return
		}
		st.conn.Occupy(len(msg))
		if !st.paused && st.queue.cost() > pausedAt {
			st.paused = true
			hs.Pause()
		}
		return
	}
	e := extproc.Effect{}
	if hs.Take(&st.lent) {
		e = st.lend()
	} else {
		e = st.message(msg)
	}
	if !st.apply(hs, e) {
		return
	}
	if !st.outstanding {
		st.lent.Free()
		return
	}
	st.inHand = len(msg)
	st.conn.Occupy(len(msg))
	st.start()
}

// HalfClose implements h2.Receiver.
func (st *stream) HalfClose(hs *h2.Stream) {
	if st.outstanding {
		st.halfClosed = true
		return
	}
	if st.apply(hs, st.halfClose()) {
		st.start()
	}
}

// Reset implements h2.Receiver.
func (st *stream) Reset(*h2.Stream) { st.leave() }

// start leaves the call that the last effect asked for to AfterRead. It runs on the connection's own goroutine.
func (st *stream) start() {
	if st.next.Kind != extproc.KindCall {
		return
	}
	st.server.attached(st.conn).batch.add(st.next)
	st.next = extproc.Effect{}
}

// apply does what the machine wants; a call is left in st.next. When it returns false the stream is decided, and st may be another's already.
func (st *stream) apply(hs *h2.Stream, e extproc.Effect) (goesOn bool) {
	for e.Kind == extproc.KindAnswer && e.More {
		hs.SendParts(e.Answer, e.Tail)
		e = st.following()
	}
	switch e.Kind {
	case extproc.KindWait:
		return true
	case extproc.KindCall:
		e.Call.Done = st
		st.outstanding = true
		st.next = e
		return true
	case extproc.KindAnswer:
		hs.SendParts(e.Answer, e.Tail)
		return true
	case extproc.KindFinish:
		hs.FinishParts(e.Answer, e.Tail)
	case extproc.KindFail:
		if e.Code == codes.OK {
			e.Code, e.Message = codes.Internal, "a failure without a code"
		}
		hs.Fail(uint32(e.Code), e.Message)
	default:
		hs.Fail(uint32(codes.Internal), "unknown effect")
	}
	if st.outstanding {
		st.leave() // The machine still waits: it has to hear that the stream is gone.
		return false
	}
	st.end()
	st.recycle()
	return false
}

// Complete implements route.Completer. The answer, or the next call, leaves with Server.AfterBatch.
func (st *stream) Complete(c *route.Call, r *workerv1.Result, err error) {
	conn, server := st.conn, st.server
	conn.Lock()
	e := st.complete(c, r, err)
	st.outstanding = false
	hs := conn.Stream(st.id)
	if st.gone || hs == nil {
		st.leave()
		conn.Unlock()
		server.later(conn, extproc.Effect{}) // What it had in hand makes room.
		return
	}
	var next extproc.Effect
	if st.apply(hs, e) && st.dequeue(hs) {
		next, st.next = st.next, next
	}
	conn.Unlock()
	answered := conn
	if e.Kind == extproc.KindCall {
		answered = nil
	}
	server.later(answered, next)
}

// dequeue delivers the messages that came meanwhile, until one leads to a call (true) or to the end of the stream (false).
func (st *stream) dequeue(hs *h2.Stream) (goesOn bool) {
	for !st.outstanding {
		st.done()
		msg, lent, ok := st.queue.next(st.server.bodies, &st.lent)
		if !ok {
			break
		}
		e := extproc.Effect{}
		if lent {
			msg = st.lent.Bytes()
			e = st.lend()
		} else {
			e = st.message(msg)
		}
		st.inHand = len(msg)
		if !st.apply(hs, e) {
			return false
		}
	}
	if st.paused && st.queue.cost() <= pausedAt/2 {
		st.paused = false
		hs.Resume()
	}
	if st.halfClosed && !st.outstanding {
		st.halfClosed = false
		return st.apply(hs, st.halfClose())
	}
	return true
}

// done notes that the message under way has been answered.
func (st *stream) done() {
	st.conn.Occupy(-st.inHand)
	st.inHand = 0
	st.lent.Free()
}

// leave is called when nothing can be sent any more. The last one who touches st recycles it.
func (st *stream) leave() {
	if !st.gone {
		st.end()
		st.abort()
	}
	if !st.outstanding {
		st.recycle()
	}
}

// end notes that nothing more will be sent.
func (st *stream) end() {
	st.gone = true
	st.conn.Occupy(-st.queue.size())
	st.queue.drop(st.server.bodies)
	st.server.open.Add(-1)
}

// recycle closes the machine and puts the stream back, unless it is broken.
func (st *stream) recycle() {
	st.close()
	st.done()
	s := st.server
	if st.broken {
		return
	}
	*st = stream{server: s, machine: st.machine, queue: st.queue, lent: st.lent}
	s.streams.Put(st)
}

func (st *stream) open(name string) (e extproc.Effect) {
	defer st.caught(&e)
	st.machine.Open(name, st.server.now())
	return extproc.Effect{}
}

func (st *stream) message(msg []byte) (e extproc.Effect) {
	defer st.caught(&e)
	return st.machine.Message(msg, st.server.now())
}

func (st *stream) lend() (e extproc.Effect) {
	defer st.caught(&e)
	return st.machine.Lend(st.lent.Bytes(), st.server.now())
}

func (st *stream) following() (e extproc.Effect) {
	defer st.caught(&e)
	return st.machine.Next(st.server.now())
}

func (st *stream) halfClose() (e extproc.Effect) {
	defer st.caught(&e)
	e = st.machine.HalfClose(st.server.now())
	if e.Kind == extproc.KindWait || e.Kind == extproc.KindAnswer {
		e = extproc.Effect{Kind: extproc.KindFail, Code: codes.Internal, Message: "the stream was half-closed before it was decided"}
	}
	return e
}

// drain ends the wait for a call at the end of the drain time.
func (st *stream) drain() (e extproc.Effect) {
	defer st.caught(&e)
	e = st.machine.Drain(st.server.now())
	switch e.Kind {
	case extproc.KindFinish, extproc.KindFail:
	case extproc.KindAnswer: // There is nobody to go on.
		e.Kind = extproc.KindFinish
	default:
		e = extproc.Effect{Kind: extproc.KindFail, Code: codes.Unavailable, Message: "the kernel is going away"}
	}
	return e
}

func (st *stream) complete(c *route.Call, r *workerv1.Result, err error) (e extproc.Effect) {
	defer st.caught(&e)
	return st.machine.Complete(c, r, err, st.server.now())
}

func (st *stream) abort() {
	var e extproc.Effect
	defer st.caught(&e)
	if !st.broken {
		st.machine.Abort(st.server.now())
	}
}

func (st *stream) close() {
	var e extproc.Effect
	defer st.caught(&e)
	st.machine.Close()
}

// caught turns a panic of the machine into a failure of its stream.
func (st *stream) caught(e *extproc.Effect) {
	v := recover()
	if v == nil {
		return
	}
	st.broken = true
	*e = extproc.Effect{Kind: extproc.KindFail, Code: codes.Internal, Message: "internal error"}
	st.server.panicking(v, debug.Stack())
}
