package h2

import "encoding/binary"

// The calls of a receiver. A panic of one ends its stream with INTERNAL, and nothing else.

func (s *Stream) deliver(msg []byte) {
	defer s.caught(s.conn, s.id)
	s.receiver.Message(s, msg)
}

func (s *Stream) halfClose() {
	defer s.caught(s.conn, s.id)
	s.receiver.HalfClose(s)
}

// opened asks the owner who takes the stream.
func (s *Stream) opened(r *Request) {
	id := s.id
	defer s.caught(s.conn, id)
	receiver := s.conn.owner.open(s, r)
	switch {
	case s.id != id || s.closedLocally(): // It was answered already.
	case receiver == nil && !s.headersSent:
		s.Fail(12, "unknown method") // UNIMPLEMENTED
	case receiver == nil:
		s.Fail(13, "nobody ends the call") // INTERNAL
	default:
		s.receiver = receiver
	}
}

// lost tells the receiver, once, that the stream is gone.
func (s *Stream) lost() {
	r := s.receiver
	if r == nil {
		return
	}
	s.receiver = nil
	defer s.conn.recovered() // The stream is gone in any case.
	r.Reset(s)
}

// ended tells the receiver of a stream that we opened its status.
func (s *Stream) ended(code uint32, message string) {
	r, ok := s.receiver.(StatusReceiver)
	if !ok {
		return
	}
	s.receiver = nil
	defer s.conn.recovered()
	r.Status(s, code, message)
}

// recovered reports a panic of a receiver that was told of the end.
func (c *Conn) recovered() {
	if v := recover(); v != nil {
		c.panicked(v)
	}
}

// caught turns a panic of a receiver into a failure of its stream.
func (s *Stream) caught(c *Conn, id uint32) {
	v := recover()
	if v == nil {
		return
	}
	c.panicked(v)
	if s.id == id {
		s.abort(13, "internal error") // INTERNAL
	}
}

// abort ends the call because of what the peer sent or the receiver did: the receiver is told that the stream is gone, the peer gets the status.
func (s *Stream) abort(code uint32, message string) {
	id := s.id
	s.lost()
	if s.id == id {
		s.Fail(code, message)
	}
}

// data takes the payload of a DATA frame, without its padding: it cuts it into gRPC messages.
func (s *Stream) data(p []byte) {
	if s.conn.tight && s.receiver != nil && len(p) > 0 {
		s.conn.exhausted()
		s.abort(8, noMemory) // RESOURCE_EXHAUSTED
		return
	}
	for id := s.id; len(p) > 0 && s.id == id && s.receiver != nil; {
		if len(s.message) == 0 && len(p) >= prefixLen {
			// Fast path: a whole message within the frame.
			if n := int(binary.BigEndian.Uint32(p[1:])); n <= s.maxMessage && len(p)-prefixLen >= n {
				if !s.checkFlag(p[0]) {
					return
				}
				msg := p[prefixLen : prefixLen+n : prefixLen+n]
				p = p[prefixLen+n:]
				s.deliver(msg)
				continue
			}
		}
		// Slow path: the message spans frames.
		var whole bool
		if p, whole = s.collect(p); !whole {
			return
		}
		s.collected = true
		s.release()
		s.deliver(s.message[prefixLen:])
		if s.id == id {
			s.collected = false
			s.dropMessage()
		}
	}
}

// prefixLen is the length of a message's prefix: a flag and the length of the message (gRPC over HTTP/2, Length-Prefixed-Message).
const prefixLen = 5

// collect moves bytes of p to s.message until it holds a message; it returns the rest of p.
func (s *Stream) collect(p []byte) (rest []byte, whole bool) {
	if missing := prefixLen - len(s.message); missing > 0 {
		n := min(missing, len(p))
		if !s.room(n, prefixLen) {
			return nil, false
		}
		s.message = append(s.message, p[:n]...)
		if p = p[n:]; len(s.message) < prefixLen {
			return nil, false
		}
		if !s.checkFlag(s.message[0]) {
			return nil, false
		}
	}
	length := int64(binary.BigEndian.Uint32(s.message[1:]))
	if length > int64(s.maxMessage) {
		s.abort(8, "message larger than the limit") // RESOURCE_EXHAUSTED
		return nil, false
	}
	size := int(length) + prefixLen
	n := min(size-len(s.message), len(p))
	if !s.room(n, size) {
		return nil, false
	}
	s.message = append(s.message, p[:n]...)
	return p[n:], len(s.message) == size
}

// room makes room for n more bytes of a message of that size. Memory follows what has arrived, or was asked for, not what the prefix promises, and all streams of
// the connection share Config.MaxReceiveBuffer.
func (s *Stream) room(n, size int) bool {
	need := len(s.message) + n
	if need <= cap(s.message) {
		return true
	}
	c := s.conn
	limit := size
	if s.reserved == 0 {
		limit = min(size, int(c.cfg.StreamWindow))
	}
	capacity := max(min(max(2*cap(s.message), minMessageBuffer), limit), need)
	if s.reserved > 0 && size <= maxMessageBuffer {
		capacity = size
	}
	if capacity > minShared && capacity <= maxMessageBuffer {
		capacity = messageCapacity(capacity)
	}
	more := capacity - cap(s.message)
	if c.held+more > c.cfg.MaxReceiveBuffer {
		s.abort(8, "too many unfinished messages on the connection") // RESOURCE_EXHAUSTED
		return false
	}
	if !c.affords(more) {
		c.exhausted()
		s.abort(8, noMemory) // RESOURCE_EXHAUSTED
		return false
	}
	c.held += more
	s.message = append(getMessageBuffer(capacity), s.message...)
	return true
}

const (
	// minMessageBuffer is the smallest buffer for a message that spans frames, in bytes.
	minMessageBuffer = 512
	// maxPooledBuffer is the largest buffer that a stream keeps for its next use, in bytes.
	maxPooledBuffer = 8 << 10
)

// dropMessage forgets a message that was delivered. A stream keeps its buffer for the next one as long as the connection holds little.
func (s *Stream) dropMessage() {
	if c := s.conn; cap(s.message) > maxPooledBuffer && (c.held > c.cfg.MaxReceiveBuffer/4 || cap(s.message) > int(c.cfg.StreamWindow)) {
		c.held -= cap(s.message)
		putMessageBuffer(s.message)
		s.message = nil
		return
	}
	s.message = s.message[:0]
}

// checkFlag refuses compressed messages: no encoding was negotiated.
func (s *Stream) checkFlag(flag byte) bool {
	switch flag {
	case 0:
		return true
	case 1:
		s.abort(12, "compressed message; no grpc-encoding is supported") // UNIMPLEMENTED
	default:
		s.abort(13, "malformed gRPC message prefix") // INTERNAL
	}
	return false
}
