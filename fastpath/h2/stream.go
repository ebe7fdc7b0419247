package h2

import (
	"encoding/binary"
)

// Receiver takes what happens on one stream. Its methods run with the connection locked; they must not block and must not call Lock or Flush. A panic ends the stream with
// INTERNAL.
type Receiver interface {
	// Message is called for each gRPC message, whole. msg is valid only during the call, unless Stream.Take hands it over.
	Message(s *Stream, msg []byte)
	// HalfClose is called when the peer has sent its last message.
	HalfClose(s *Stream)
	// Reset is called when the stream is gone before the receiver finished it: reset by the peer or by a rule, or the connection was lost. It is the last call, and
	// never comes from within a method of the stream. Nothing can be sent any more, and s must not be used again.
	Reset(s *Stream)
}

// Stream is one HTTP/2 stream of a connection. Its methods may be called only with the connection locked. It goes back to a pool when both sides have
// closed it: who keeps a reference to a stream between locks keeps the Conn and the ID, and asks Conn.Stream again.
type Stream struct {
	conn *Conn
	// id is 0 after the stream was removed; while a receiver of a client runs, the stream may have become another one, of another id.
	id       uint32
	receiver Receiver // nil when nobody has to hear of the stream any more
	state    streamState

	sendWindow int64
	// recvWindow is what the peer may still send.
	recvWindow int64
	paused     bool // the window is not opened

	maxMessage    int
	contentLength int64 // -1: none announced
	received      int64

	message []byte // a gRPC message that spans frames, with its prefix
	// collected: message is whole, and being delivered.
	collected bool
	// reserved is what Conn.reserved has for the message, in bytes; 0 if it needs nothing, or has nothing so far.
	reserved int

	pending []byte // DATA payload that waits for a window, from sent on
	sent    int
	trailer []byte // encoded trailers that wait for pending to drain

	links [waitKinds]link

	head        bool // a HEAD request
	headersSent bool
	responded   bool // the response headers of a stream that we opened have arrived
	answered    bool
	trailersOut bool // pending ends with trailer
	dataEnds    bool // pending ends the stream itself, without trailers
	doomed      bool // it will be reset at the next flush
}

type streamState uint8

const (
	stateOpen streamState = iota
	stateHalfClosedRemote
	stateHalfClosedLocal
	stateClosed
)

// ID returns the stream's identifier, which no other stream of the connection ever has.
func (s *Stream) ID() uint32 { return s.id }

// Conn returns the stream's connection.
func (s *Stream) Conn() *Conn { return s.conn }

// SetMaxMessage changes how long a message of the stream may be, in bytes; Config.MaxMessageSize is the default.
func (s *Stream) SetMaxMessage(n int) { s.maxMessage = n }

// Pause stops opening the stream's window: the peer may send what is left of it, Config.StreamWindow bytes and what a message under way is longer, and no more until Resume. Such a message
// may need more than what is left: who pauses must resume without waiting for another one.
func (s *Stream) Pause() { s.paused = true }

// Resume opens the window again. Who calls it sees to the next Flush.
func (s *Stream) Resume() {
	s.paused = false
	if s.conn != nil && s.state == stateOpen {
		s.acknowledge()
	}
}

// reset makes the stream ready for its next use.
func (s *Stream) reset() {
	c := s.conn
	c.waiting.remove(s)
	c.unadmitted.remove(s)
	s.release()
	c.pending -= len(s.pending) - s.sent
	message, pending := s.message[:0], s.pending[:0]
	if cap(message) > maxPooledBuffer {
		c.held -= cap(message)
		putMessageBuffer(message)
		message = nil
	}
	if cap(pending) > maxPooledBuffer {
		pending = nil
	}
	*s = Stream{message: message, pending: pending}
}

// Send sends one gRPC message. It copies msg.
func (s *Stream) Send(msg []byte) { s.SendParts(msg, nil) }

// SendParts sends one gRPC message, which is head and then tail. It copies both.
func (s *Stream) SendParts(head, tail []byte) {
	if s.closedLocally() {
		return
	}
	s.answered = true
	s.sendHeaders()
	s.sendMessage(head, tail)
}

// Finish sends one gRPC message, unless msg is nil, and closes the stream with status OK; on a stream that we opened it closes only our side. It copies msg.
func (s *Stream) Finish(msg []byte) { s.FinishParts(msg, nil) }

// FinishParts is Finish with a message that is head and then tail. It copies both.
func (s *Stream) FinishParts(head, tail []byte) {
	if s.closedLocally() {
		s.finished()
		return
	}
	s.answered = true
	s.sendHeaders()
	if head != nil {
		s.sendMessage(head, tail)
	}
	if s.conn.client {
		s.dataEnds = true
	} else {
		s.trailersOut, s.trailer = true, hpackStatusOK
		s.receiver = nil
	}
	s.drain()
}

// Fail closes the stream with a gRPC status other than OK. A stream that we opened is cancelled.
func (s *Stream) Fail(code uint32, message string) {
	if s.closedLocally() {
		s.finished()
		return
	}
	c := s.conn
	if c.client {
		s.Cancel()
		return
	}
	if code == 0 || code > maxStatus {
		code = 2 // Unknown: a failure never reads as OK.
	}
	if statusSize+len(message)*3 > int(c.peerMaxHeaderList) {
		message = "" // RFC 9113 section 6.5.2, SETTINGS_MAX_HEADER_LIST_SIZE
	}
	s.answered = true
	s.receiver = nil
	if s.headersSent {
		s.trailersOut, s.trailer = true, appendStatus(nil, code, message)
		s.drain()
		return
	}
	// Trailers-only (gRPC over HTTP/2, Responses).
	c.scratch = appendStatus(append(c.scratch[:0], hpackResponse...), code, message)
	s.headersSent = true
	c.headers(s.id, flagEndHeaders|flagEndStream, c.scratch)
	s.closeLocal()
}

const (
	// maxStatus is the highest gRPC status code, UNAUTHENTICATED.
	maxStatus = 16
	// statusSize bounds the size of a status without its message, as SETTINGS_MAX_HEADER_LIST_SIZE counts it.
	statusSize = 256
)

// finished is called when the receiver ends a stream that will be reset at the next flush: it is done with it, and may serve another one when the reset comes.
func (s *Stream) finished() {
	if s.doomed && !s.conn.client {
		s.receiver = nil
	}
}

func (s *Stream) closedLocally() bool {
	return s.conn == nil || s.state >= stateHalfClosedLocal || s.trailersOut || s.dataEnds || s.doomed
}

// headers appends a header block that fits into one frame.
func (c *Conn) headers(id uint32, flags byte, block []byte) {
	c.budget.answers++
	if !c.shrinkTable {
		c.out = appendFrameHeader(c.out, len(block), frameHeaders, flags, id)
		c.out = append(c.out, block...)
		return
	}
	c.shrinkTable = false
	c.out = appendFrameHeader(c.out, 1+len(block), frameHeaders, flags, id)
	c.out = append(c.out, 0x20) // Dynamic table size 0 (RFC 7541 section 6.3).
	c.out = append(c.out, block...)
}

func (s *Stream) sendHeaders() {
	if !s.headersSent {
		s.headersSent = true
		s.conn.headers(s.id, flagEndHeaders, hpackResponse)
	}
}

// sendMessage sends a message, which is msg and then tail, with its gRPC prefix, as far as the windows allow; the rest waits.
func (s *Stream) sendMessage(msg, tail []byte) {
	c := s.conn
	c.served = true
	length := len(msg) + len(tail)
	size := prefixLen + length
	// Fast path: it fits into both windows.
	if !s.hasPending() && int64(size) <= s.sendWindow && int64(size) <= c.sendWindow {
		s.sendWindow -= int64(size)
		c.sendWindow -= int64(size)
		most := int(c.peerMaxFrame)
		if size > most {
			c.grow(size + (size/most+1)*frameHeaderLen) // Once, and not with each frame.
		}
		n := min(length, most-prefixLen)
		c.budget.answers++
		c.out = appendFrameHeader(c.out, prefixLen+n, frameData, 0, s.id)
		c.out = appendPrefix(c.out, length)
		c.out, msg, tail = appendParts(c.out, msg, tail, n)
		for len(msg)+len(tail) > 0 {
			n = min(len(msg)+len(tail), most)
			c.budget.answers++
			c.out = appendFrameHeader(c.out, n, frameData, 0, s.id)
			c.out, msg, tail = appendParts(c.out, msg, tail, n)
		}
		c.checkOut()
		return
	}
	// Slow path.
	if c.pending+size > c.cfg.MaxSendBuffer {
		s.doomed = true // The peer asks and does not read.
		c.doomed = append(c.doomed, s.id)
		return
	}
	if s.sent > len(s.pending)/2 {
		s.pending, s.sent = s.pending[:copy(s.pending, s.pending[s.sent:])], 0
	}
	c.pending += size
	s.pending = append(append(appendPrefix(s.pending, length), msg...), tail...)
	s.drain()
}

// appendParts appends the first n bytes of a and then b, and returns what is left of them.
func appendParts(dst, a, b []byte, n int) (_, restA, restB []byte) {
	ofA := min(n, len(a))
	dst = append(dst, a[:ofA]...)
	ofB := n - ofA
	return append(dst, b[:ofB]...), a[ofA:], b[ofB:]
}

// appendPrefix appends the prefix of a message that is not compressed.
func appendPrefix(dst []byte, n int) []byte {
	return binary.BigEndian.AppendUint32(append(dst, 0), uint32(n))
}

func (s *Stream) hasPending() bool { return s.sent < len(s.pending) }

// drain sends what the windows allow of the pending data, then the end of the stream if there is one.
func (s *Stream) drain() {
	c := s.conn
	if s.doomed {
		return
	}
	ended := false
	for s.hasPending() {
		n := int(min(int64(len(s.pending)-s.sent), int64(c.peerMaxFrame), s.sendWindow, c.sendWindow))
		if n <= 0 {
			break
		}
		flags := byte(0)
		if s.dataEnds && s.sent+n == len(s.pending) {
			flags, ended = flagEndStream, true
		}
		c.budget.answers++
		c.grow(frameHeaderLen + n)
		c.out = appendFrameHeader(c.out, n, frameData, flags, s.id)
		c.out = append(c.out, s.pending[s.sent:s.sent+n]...)
		s.sendWindow -= int64(n)
		c.sendWindow -= int64(n)
		c.pending -= n
		s.sent += n
	}
	c.checkOut()
	if s.hasPending() {
		if s.sendWindow > 0 {
			c.waiting.add(s)
		}
		return
	}
	if s.pending, s.sent = s.pending[:0], 0; cap(s.pending) > maxPooledBuffer {
		s.pending = nil
	}
	switch {
	case s.trailersOut:
		c.headers(s.id, flagEndHeaders|flagEndStream, s.trailer)
		s.closeLocal()
	case s.dataEnds:
		if !ended {
			c.out = appendFrameHeader(c.out, 0, frameData, flagEndStream, s.id)
		}
		s.closeLocal()
	}
}

// closeLocal is called when END_STREAM has been written.
func (s *Stream) closeLocal() {
	c := s.conn
	c.budget.useful++
	c.active--
	if s.state == stateHalfClosedRemote {
		s.state = stateClosed
		c.remove(s)
		return
	}
	s.state = stateHalfClosedLocal
	if !c.client {
		s.release()
		s.discard()
		c.keepFinished(s)
	}
	c.closeIfDone()
}

// discard gives the memory of an unfinished message back, of which nothing will be delivered any more.
func (s *Stream) discard() {
	if !s.collected && cap(s.message) > maxPooledBuffer {
		s.conn.held -= cap(s.message)
		putMessageBuffer(s.message)
		s.message = nil
	}
}

// notGRPC answers a request that is not gRPC: 415 with a short body.
func (s *Stream) notGRPC() {
	c := s.conn
	s.headersSent, s.answered = true, true
	if s.head {
		c.headers(s.id, flagEndHeaders|flagEndStream, hpackNotGRPC)
		s.closeLocal()
		return
	}
	c.headers(s.id, flagEndHeaders, hpackNotGRPC)
	c.pending += len(notGRPCBody)
	s.pending = append(s.pending, notGRPCBody...)
	s.dataEnds = true
	s.drain()
}
