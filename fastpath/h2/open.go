package h2

import "golang.org/x/net/http2/hpack"

// headerTableSize is the dynamic table that we offer (RFC 7541 section 4.2): the default.
const headerTableSize = 4096

func (c *Conn) onHeaders(h frameHeader, p []byte) error {
	if h.streamID == 0 || h.streamID%2 == 0 {
		return connErr(ProtocolError, "HEADERS on stream 0 or an even one")
	}
	fragment, ok := unpad(h, p)
	if !ok {
		return connErr(ProtocolError, "padding larger than the payload")
	}
	selfDependent := false
	if h.has(flagPriority) {
		if len(fragment) < 5 {
			return connErr(FrameSizeError, "HEADERS with a short priority")
		}
		dependency := (uint32(fragment[0])<<24 | uint32(fragment[1])<<16 | uint32(fragment[2])<<8 | uint32(fragment[3])) & streamIDMask
		selfDependent = dependency == h.streamID
		fragment = fragment[5:]
	}
	if c.client {
		if h.streamID >= c.nextID {
			return connErr(ProtocolError, "HEADERS on an idle stream")
		}
	} else if h.streamID <= c.lastID {
		// Trailers, or a stream that is closed: an error of the connection, unless they were on their way when we reset the stream.
		if s := c.streams[h.streamID]; s == nil && !c.resets.has(h.streamID) || s != nil && s.state == stateHalfClosedRemote {
			return connErr(StreamClosed, "HEADERS on a closed stream")
		}
	} else if selfDependent {
		c.lastID = h.streamID
		c.refuse(h.streamID, ProtocolError)
	}
	if !h.has(flagEndHeaders) {
		c.blockID, c.blockFlags, c.blockCount = h.streamID, h.flags, 0
		c.block = append(c.block[:0], fragment...)
		return nil
	}
	return c.headerBlock(h.streamID, h.has(flagEndStream), fragment)
}

func (c *Conn) onContinuation(h frameHeader, p []byte) error {
	if c.blockID == 0 {
		return connErr(ProtocolError, "CONTINUATION without HEADERS")
	}
	// Compressed, a block is hardly larger than its list; many tiny frames are an attack (CVE-2024-27316 and its kin).
	c.blockCount++
	if len(c.block)+len(p) > int(c.cfg.MaxHeaderListSize) || c.blockCount > maxContinuations {
		return flood("header block too large", ReasonHeaders)
	}
	c.block = append(c.block, p...)
	if !h.has(flagEndHeaders) {
		return nil
	}
	id, endStream := c.blockID, c.blockFlags&flagEndStream != 0
	c.blockID = 0
	return c.headerBlock(id, endStream, c.block)
}

const maxContinuations = 32

// decode runs a header block through HPACK into c.request.
func (c *Conn) decode(block []byte) error {
	if _, err := c.decoder.Write(block); err != nil {
		return connErr(CompressionError, "HPACK")
	}
	if err := c.decoder.Close(); err != nil {
		return connErr(CompressionError, "HPACK block truncated")
	}
	return nil
}

func (c *Conn) emit(f hpack.HeaderField) { c.request.add(f, c.cfg.MaxHeaderListSize) }

// section decodes a whole header section. The request is valid until the next one.
func (c *Conn) section(block []byte) (*Request, error) {
	if r := c.memo.get(block); r != nil {
		return r, nil
	}
	c.request.reset()
	if err := c.decode(block); err != nil {
		return nil, err
	}
	c.memo.decoded(block, &c.request)
	return &c.request, nil
}

// headerBlock takes a whole header section: of a new request, or trailers.
func (c *Conn) headerBlock(id uint32, endStream bool, block []byte) error {
	r, err := c.section(block)
	if err != nil {
		return err
	}
	if c.client {
		c.response(c.streams[id], r, endStream)
		return nil
	}
	if s := c.streams[id]; s != nil {
		c.trailers(s, r, endStream)
		return nil
	}
	if id <= c.lastID {
		c.budget.control++ // The block of a stream that we have reset: it only had to go through HPACK.
		return nil
	}
	c.lastID = id
	switch {
	case c.goneAway:
		c.out = appendRSTStream(c.out, id, RefusedStream) // Not the peer's fault: our GOAWAY was on its way.
		c.resets.add(id)
	case len(c.streams) >= int(c.cfg.MaxConcurrentStreams):
		c.refuse(id, RefusedStream)
	case r.malformed != "", !r.tooLarge && r.check() != "", endStream && r.contentLength > 0:
		c.refuse(id, ProtocolError)
	default:
		c.open(id, r, endStream)
	}
	return nil
}

// trailers ends the peer's side. gRPC has no use for request trailers, but they are legal.
func (c *Conn) trailers(s *Stream, r *Request, endStream bool) {
	if !endStream || r.checkTrailers() != "" || r.tooLarge ||
		s.contentLength >= 0 && s.received != s.contentLength {
		c.resetStream(s, ProtocolError)
		return
	}
	c.endRemote(s)
}

// open makes the stream and lets the handler decide on it.
func (c *Conn) open(id uint32, r *Request, endStream bool) {
	c.opened = true
	s := c.newStream(id)
	s.contentLength = r.contentLength
	switch {
	case r.tooLarge:
		c.budget.useless++
		s.Fail(8, "request headers larger than the limit") // RESOURCE_EXHAUSTED
	case c.tight || !c.affords(0):
		c.exhausted()
		s.Fail(8, noMemory) // RESOURCE_EXHAUSTED
	case !r.isGRPC():
		s.head = r.Method == "HEAD" // Answered when the request has ended.
	default:
		s.opened(r)
	}
	if endStream && s.id == id {
		c.endRemote(s)
	}
}
