package h2

import (
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/policy-engine/policy-engine/fastpath/socket"
)

// StatusReceiver takes what happens on a stream that we opened.
type StatusReceiver interface {
	Receiver
	// Status is called when the peer has ended the call; code 0 is OK. It takes the place of HalfClose and is the last call; s must not be used
	// again. Locking is as in Receiver.
	Status(s *Stream, code uint32, message string)
}

// Client owns one connection to a gRPC server.
type Client struct {
	conn  *Conn
	cfg   Config
	start time.Time
	after func()
	done  chan struct{}
}

// NewClient speaks HTTP/2 on nc, which it owns from then on. after is called without the lock when all frames of one read were handled.
func NewClient(nc net.Conn, cfg Config, after func()) *Client {
	cl := &Client{cfg: cfg, start: time.Now(), after: after, done: make(chan struct{})}
	cl.cfg.setDefaults()
	c := newConn(cl, &cl.cfg, nc)
	c.client, c.nextID, c.prefaceSeen = true, 1, true
	c.plain = socket.New(nc)
	cl.conn = c
	c.mu.Lock()
	c.out = append(c.out, preface...)
	c.sendSettings()
	c.flush()
	c.mu.Unlock()
	go c.serve()
	go cl.watch()
	return cl
}

// watch sends PINGs when the server is silent, and closes the connection when it stays so.
func (cl *Client) watch() {
	tick := time.NewTicker(cl.cfg.idleTick())
	defer tick.Stop()
	for {
		select {
		case <-cl.done:
			return
		case <-tick.C:
			cl.conn.checkIdle(cl.now())
		}
	}
}

// Conn returns the connection, for its lock and Flush.
func (cl *Client) Conn() *Conn { return cl.conn }

// Done is closed when the connection has ended and every receiver was told.
func (cl *Client) Done() <-chan struct{} { return cl.done }

// Abort ends the connection at once; Done tells when every receiver was told. It may be called from any of them.
func (cl *Client) Abort() { cl.conn.nc.Close() }

// Close ends the connection at once and waits until every receiver was told.
func (cl *Client) Close() {
	cl.conn.socket.Close()
	<-cl.done
}

// Open starts a call. The connection is locked. It returns nil when the connection takes no more streams, for now or for ever.
func (cl *Client) Open(path string, r StatusReceiver) *Stream {
	c := cl.conn
	if c.closing || c.peerGone || c.nextID > maxStreamID-2 || len(c.streams) >= int(c.peerMaxStreams) || len(path) > maxPath {
		return nil
	}
	id := c.nextID
	c.nextID += 2
	c.lastID = id
	s := c.newStream(id)
	s.receiver = r
	s.headersSent = true
	b := append(c.scratch[:0], 0x83, 0x86) // :method POST, :scheme http
	b = appendLiteral(append(b, 0x04), path)
	b = appendLiteral(append(b, 0x01), "localhost")
	b = appendLiteral(append(b, 0x0f, 0x10), "application/grpc")
	b = appendLiteral(appendLiteral(append(b, 0x00), "te"), "trailers")
	c.scratch = b
	c.headers(id, flagEndHeaders, b)
	return s
}

// maxPath keeps the headers of a call within one frame, in bytes.
const maxPath = 8 << 10

// appendLiteral appends a string as HPACK does without Huffman coding (RFC 7541 section 5.2).
func appendLiteral(dst []byte, s string) []byte {
	return append(appendHpackInt(dst, 7, 0, uint64(len(s))), s...)
}

func (cl *Client) open(*Stream, *Request) Receiver { return nil }
func (cl *Client) afterRead(*Conn)                 { cl.after() }
func (cl *Client) now() int64                      { return int64(time.Since(cl.start)) }
func (cl *Client) run(reads func())                { go reads() }
func (cl *Client) ended(*Conn)                     { close(cl.done) }

// Cancel resets a stream that we opened. Its receiver is not told.
func (s *Stream) Cancel() {
	if s.conn == nil {
		return
	}
	s.receiver = nil
	c := s.conn
	c.out = appendRSTStream(c.out, s.id, Cancel)
	c.resets.add(s.id)
	c.remove(s)
}

// refused ends the streams that the server has not taken: those after the last one that its GOAWAY names (RFC 9113 section 6.8).
func (c *Conn) refused(last uint32) {
	for id, s := range c.streams {
		if id > last {
			s.status(14, "the server goes away and has not taken the call") // UNAVAILABLE
		}
	}
	c.closeIfDone()
}

// response takes a header section of the server: the response's, or its trailers. s is nil for a stream that is gone.
func (c *Conn) response(s *Stream, r *Request, endStream bool) {
	if s == nil {
		c.budget.control++
		return
	}
	switch {
	case r.malformed != "" || r.tooLarge || r.seen&^seenStatus != 0 || s.responded != (r.seen == 0):
		s.malformed("malformed response headers")
	case !s.responded && r.status != "200":
		if len(r.status) == 3 && r.status[0] == '1' && !endStream {
			c.budget.control++ // Informational.
			return
		}
		s.status(14, "HTTP status "+strconv.Quote(r.status)) // UNAVAILABLE
	case endStream:
		s.statusFrom(r)
	case s.responded:
		s.malformed("second header section without the end of the stream")
	default:
		if ct, n := r.Header("content-type"); n != 1 || !isGRPCType(ct) {
			s.status(14, "the answer is not gRPC")
			return
		}
		s.responded = true
		s.contentLength = r.contentLength
	}
}

// statusFrom ends the call with the status of the trailers. Whatever is not clearly OK is an error.
func (s *Stream) statusFrom(r *Request) {
	value, n := r.Header("grpc-status")
	code, err := strconv.ParseUint(value, 10, 32)
	switch {
	case n != 1 || err != nil || len(value) > 1 && value[0] == '0':
		s.status(13, "no valid grpc-status in the trailers")
		return
	case code == 0 && len(s.message) > 0:
		s.status(13, "the stream ended within a message")
		return
	case code == 0 && s.responded && s.contentLength >= 0 && s.received != s.contentLength:
		s.malformed("the answer does not have its content-length")
		return
	}
	message, _ := r.Header("grpc-message")
	if decoded, err := url.PathUnescape(message); err == nil {
		message = decoded
	}
	s.status(uint32(code), message)
}

// malformed ends a stream whose response is no HTTP (RFC 9113 section 8.1.1).
func (s *Stream) malformed(message string) {
	s.endCall(13, message, ProtocolError) // INTERNAL
}

// status ends a stream that we opened.
func (s *Stream) status(code uint32, message string) { s.endCall(code, message, Cancel) }

func (s *Stream) endCall(code uint32, message string, reset ErrCode) {
	c, id := s.conn, s.id
	if s.state != stateHalfClosedLocal || reset != Cancel {
		c.out = appendRSTStream(c.out, id, reset)
		c.resets.add(id)
	}
	s.ended(code, message)
	if s.id == id {
		c.remove(s)
	}
}
