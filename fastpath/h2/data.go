package h2

func (c *Conn) onData(h frameHeader, p []byte) error {
	if h.streamID == 0 {
		return connErr(ProtocolError, "DATA on stream 0")
	}
	// The whole payload counts, padding too (RFC 9113 section 6.9.1).
	size := uint32(len(p))
	if c.recvWindow -= int64(size); c.recvWindow < 0 {
		return connErr(FlowControlError, "connection window exceeded")
	}
	if c.unacked += size; c.unacked > 0 && c.unacked >= c.cfg.ConnWindow/2 {
		c.out = appendWindowUpdate(c.out, 0, c.unacked)
		c.recvWindow += int64(c.unacked)
		c.unacked = 0
	}
	data, ok := unpad(h, p)
	if !ok {
		return connErr(ProtocolError, "padding larger than the payload")
	}
	if len(data) == 0 && !h.has(flagEndStream) {
		c.budget.control++ // CVE-2019-9518: empty frames.
	}
	s := c.streams[h.streamID]
	if s == nil {
		return c.unknownStream(h.streamID)
	}
	if code := s.account(size, len(data), h.has(flagEndStream)); code != NoError {
		c.resetStream(s, code)
		return nil
	}
	s.data(data)
	if s.id != h.streamID { // The receiver finished it, and it is gone.
		return nil
	}
	if h.has(flagEndStream) {
		c.endRemote(s)
		return nil
	}
	s.acknowledge()
	return nil
}

// account checks a DATA frame against the stream's state, window and announced length.
func (s *Stream) account(size uint32, length int, end bool) ErrCode {
	if s.state == stateHalfClosedRemote {
		return StreamClosed
	}
	if s.recvWindow -= int64(size); s.recvWindow < 0 {
		return FlowControlError
	}
	if s.conn.client && !s.responded {
		return ProtocolError
	}
	s.received += int64(length)
	if s.contentLength >= 0 && (s.received > s.contentLength || end && s.received != s.contentLength) {
		return ProtocolError
	}
	return NoError
}

// acknowledge opens the stream's window again, as long as somebody takes what comes and there is room for it.
func (s *Stream) acknowledge() {
	c := s.conn
	switch {
	case s.receiver == nil:
		if !s.answered && s.received > maxForeignBody {
			s.notGRPC()
		}
		return
	case s.paused || c.unadmitted.has(s):
		return
	}
	window := int64(c.cfg.StreamWindow)
	need := s.unreserved()
	// Fast path: the window is wide open, and no long message under way.
	if need == 0 && s.recvWindow > window/2 {
		return
	}
	if !c.admits(need) {
		c.unadmitted.add(s)
		return
	}
	s.reserved += need
	c.reserved += need
	if s.reserved > 0 {
		window = min(window+int64(s.reserved-len(s.message)), maxWindow)
	}
	if more := window - s.recvWindow; more > 0 && (need > 0 || more >= int64(c.cfg.StreamWindow)/2) {
		c.out = appendWindowUpdate(c.out, s.id, uint32(more))
		s.recvWindow += more
	}
}

// maxForeignBody is how many bytes of a request that is not gRPC come before it is answered without waiting for its end.
const maxForeignBody = 32 << 10

// endRemote is called when the peer has ended its side of the stream.
func (c *Conn) endRemote(s *Stream) {
	if s.state == stateHalfClosedLocal && !c.client {
		c.remove(s)
		return
	}
	if c.client {
		s.status(13, "the stream ended without a status") // INTERNAL
		return
	}
	s.state = stateHalfClosedRemote
	switch {
	case s.closedLocally(): // Our answer waits for a window.
	case s.receiver == nil:
		s.notGRPC()
	case len(s.message) > 0:
		s.abort(13, "the stream ended within a message") // INTERNAL
	default:
		s.halfClose()
	}
}

// idle reports whether no stream of that identifier was ever opened.
func (c *Conn) idle(id uint32) bool { return id > c.lastID || id%2 == 0 }

// unknownStream judges DATA for a stream that is not open (RFC 9113 section 5.1): idle is an error of the connection, closed one of the stream. What was on its
// way when we reset the stream is no error.
func (c *Conn) unknownStream(id uint32) error {
	if c.idle(id) {
		return connErr(ProtocolError, "frame on an idle stream")
	}
	c.budget.late()
	if !c.resets.has(id) {
		c.out = appendRSTStream(c.out, id, StreamClosed)
	}
	return nil
}

// resetStream ends a stream with RST_STREAM and tells its receiver.
func (c *Conn) resetStream(s *Stream, code ErrCode) {
	c.refuse(s.id, code)
	c.drop(s)
}

// refuse resets a stream that broke a rule.
func (c *Conn) refuse(id uint32, code ErrCode) {
	c.out = appendRSTStream(c.out, id, code)
	c.resets.add(id)
	if !c.client {
		c.budget.useless++
	}
}

// drop forgets a stream and tells its receiver.
func (c *Conn) drop(s *Stream) {
	id := s.id
	s.lost()
	if s.id == id {
		c.remove(s)
	}
}

// reap resets the streams whose answers are not read. It is not done where the answer is sent, because the receiver would hear of it within its own call.
func (c *Conn) reap() {
	for len(c.doomed) > 0 {
		n := len(c.doomed) - 1
		s := c.streams[c.doomed[n]]
		c.doomed = c.doomed[:n]
		if s != nil {
			c.resetStream(s, EnhanceYourCalm)
		}
	}
}

func (c *Conn) newStream(id uint32) *Stream {
	var s *Stream
	if n := len(c.free); n > 0 {
		s, c.free = c.free[n-1], c.free[:n-1]
	} else {
		s = &Stream{}
	}
	s.conn, s.id = c, id
	s.sendWindow = c.peerInitialWindow
	s.recvWindow = int64(c.cfg.StreamWindow)
	if !c.settingsAcked {
		s.recvWindow = max(s.recvWindow, defaultWindow) // The peer may not know better yet.
	}
	s.maxMessage = c.cfg.MaxMessageSize
	s.contentLength = -1
	c.streams[id] = s
	c.active++
	return s
}

// remove takes a closed stream out; it may be used for another one.
func (c *Conn) remove(s *Stream) {
	delete(c.streams, s.id)
	if s.state == stateOpen || s.state == stateHalfClosedRemote {
		c.active--
	}
	s.reset()
	if len(c.free) < maxFreeStreams {
		c.free = append(c.free, s)
	} else {
		c.held -= cap(s.message)
	}
	c.closeIfDone()
}

// maxFreeStreams is how many unused streams a connection keeps.
const maxFreeStreams = 256

func (c *Conn) resetAll() {
	for _, s := range c.streams {
		if s.lost(); s.conn != nil {
			s.reset()
		}
	}
	clear(c.streams)
	c.active, c.free = 0, nil
}
