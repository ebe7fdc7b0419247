package h2

// Buffer is memory for one gRPC message. The zero value is empty.
type Buffer struct {
	b []byte // the message with its prefix
}

// maxTaken is how large a buffer may be, in bytes, that is handed over with a short message in it.
const maxTaken = 128 << 10

// Bytes returns the message; nil if there is none.
func (b *Buffer) Bytes() []byte { return b.b[min(prefixLen, len(b.b)):] }

// Cap is how much memory it is, in bytes.
func (b *Buffer) Cap() int { return cap(b.b) }

// Set copies a message into it.
func (b *Buffer) Set(msg []byte) {
	b.b = append(append(b.b[:0], make([]byte, prefixLen)...), msg...)
}

// Free gives the memory back to all connections, if it is much; nobody may need the message any more.
func (b *Buffer) Free() {
	if cap(b.b) > minShared {
		putMessageBuffer(b.b)
		b.b = nil
	}
	b.b = b.b[:0]
}

// Take hands the memory of the message that is being delivered over to the receiver, in exchange for that of b, whose message nobody may need any more. It is for Receiver.Message
// alone, and spares the copy of a long message. It reports false, and does nothing, where the message is not in a buffer of its own, or one that is much larger than the message.
func (s *Stream) Take(b *Buffer) bool {
	// Fast path: the message came within a frame.
	if !s.collected || cap(s.message) > max(maxTaken, 2*len(s.message)+messageOverhead) {
		return false
	}
	c := s.conn
	s.collected = false
	c.held += cap(b.b) - cap(s.message)
	s.message, b.b = b.b[:0], s.message
	if c.held > c.cfg.MaxReceiveBuffer || cap(s.message) > int(c.cfg.StreamWindow) {
		c.held -= cap(s.message)
		putMessageBuffer(s.message)
		s.message = nil
	}
	return true
}
