package h2

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
)

// patience bounds every wait of the tests.
const patience = 15 * time.Second

// noLeaks checks at the very end of a test that its goroutines are gone.
func noLeaks(t testing.TB) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// peer is a client that sends whatever a test wants.
type peer struct {
	t   testing.TB
	nc  net.Conn
	fr  *http2.Framer
	enc *hpack.Encoder
	buf bytes.Buffer
	dec *hpack.Decoder
}

// newPeer connects, sends the preface and settings, and leaves what the server answers unread.
func newPeer(t testing.TB, addr string, settings ...http2.Setting) *peer {
	t.Helper()
	p := rawPeer(t, addr)
	p.write([]byte(preface))
	p.must(p.fr.WriteSettings(settings...))
	return p
}

// rawPeer only connects.
func rawPeer(t testing.TB, addr string) *peer {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return peerOn(t, nc)
}

func peerOn(t testing.TB, nc net.Conn) *peer {
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, nc: nc, fr: http2.NewFramer(nc, nc)}
	p.fr.AllowIllegalWrites, p.fr.AllowIllegalReads = true, true
	p.enc = hpack.NewEncoder(&p.buf)
	p.dec = hpack.NewDecoder(4096, nil)
	return p
}

func (p *peer) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) write(b []byte) {
	p.t.Helper()
	_, err := p.nc.Write(b)
	p.must(err)
}

func (p *peer) block(fields ...string) []byte {
	p.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(p.buf.Bytes())
}

// call returns the header block of a gRPC call.
func (p *peer) call(path string, more ...string) []byte {
	return p.block(append([]string{
		":method", "POST", ":scheme", "http", ":path", path, ":authority", "test",
		"content-type", "application/grpc", "te", "trailers",
	}, more...)...)
}

// open sends the headers of a call.
func (p *peer) open(id uint32, path string, more ...string) {
	p.t.Helper()
	p.must(p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.call(path, more...), EndHeaders: true}))
}

// message returns a gRPC message with its prefix.
func message(msg string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg))), msg...)
}

func (p *peer) data(id uint32, end bool, b []byte) {
	p.t.Helper()
	p.must(p.fr.WriteData(id, end, b))
}

// until reads frames until match accepts one.
func (p *peer) until(what string, match func(http2.Frame) bool) {
	p.t.Helper()
	for {
		f, err := p.fr.ReadFrame()
		if err != nil {
			p.t.Fatalf("waiting for %s: %v", what, err)
		}
		if match(f) {
			return
		}
	}
}

// goAway reads until the connection ends, and returns the code of the last GOAWAY.
func (p *peer) goAway() (code http2.ErrCode, seen bool) {
	for {
		f, err := p.fr.ReadFrame()
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				p.t.Error("the connection was not ended")
			}
			return code, seen
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			code, seen = g.ErrCode, true
		}
	}
}

// ping waits until everything sent before has been handled.
func (p *peer) ping() {
	p.t.Helper()
	p.must(p.fr.WritePing(false, [8]byte{'s', 'y', 'n', 'c'}))
	p.until("PING answer", func(f http2.Frame) bool {
		g, ok := f.(*http2.PingFrame)
		return ok && g.IsAck() && g.Data == [8]byte{'s', 'y', 'n', 'c'}
	})
}

// outcome is what became of a stream.
type outcome struct {
	fields map[string]string
	data   []byte
	rst    http2.ErrCode
	reset  bool
}

// outcome reads until the stream has ended.
func (p *peer) outcome(id uint32) outcome {
	p.t.Helper()
	o := outcome{fields: map[string]string{}}
	p.until("end of stream", func(f http2.Frame) bool {
		switch f := f.(type) {
		case *http2.HeadersFrame:
			fields, err := p.dec.DecodeFull(f.HeaderBlockFragment())
			p.must(err)
			if f.StreamID != id {
				return false
			}
			for _, hf := range fields {
				o.fields[hf.Name] = hf.Value
			}
			return f.StreamEnded()
		case *http2.DataFrame:
			if f.StreamID == id {
				o.data = append(o.data, f.Data()...)
				return f.StreamEnded()
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				o.rst, o.reset = f.ErrCode, true
				return true
			}
		}
		return false
	})
	return o
}

// honest checks that another connection is served.
func honest(t testing.TB, cc *grpc.ClientConn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := echoOnce(ctx, cc, []byte("honest")); err != nil {
		t.Error("the other connection:", err)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
	}
}

// only returns the server's only connection.
func only(t testing.TB, s *Server) *Conn {
	t.Helper()
	var c *Conn
	eventually(t, "one connection", func() bool {
		conns := s.connections()
		if len(conns) == 1 {
			c = conns[0]
		}
		return c != nil
	})
	return c
}

// checkInvariants checks the connection's sums. It is locked.
func checkInvariants(t testing.TB, c *Conn) {
	t.Helper()
	active, held, pending, waits, reserved, unadmitted := 0, 0, 0, 0, 0, 0
	for id, s := range c.streams {
		if s.id != id || s.conn != c || s.state == stateClosed {
			t.Fatalf("stream %d: id %d, state %d", id, s.id, s.state)
		}
		if s.state != stateHalfClosedLocal {
			active++
		}
		held += cap(s.message)
		pending += len(s.pending) - s.sent
		reserved += s.reserved
		if c.waiting.has(s) {
			waits++
		}
		if c.unadmitted.has(s) {
			unadmitted++
		}
	}
	for _, s := range c.free {
		if s.conn != nil || s.id != 0 || s.receiver != nil || s.links != [waitKinds]link{} || s.reserved != 0 {
			t.Fatalf("free stream is in use: %+v", s)
		}
		held += cap(s.message)
	}
	for s := c.unadmitted.first; s != nil; s = s.links[toReceive].after {
		if unadmitted--; !c.unadmitted.has(s) || c.streams[s.id] != s || s.reserved != 0 {
			t.Fatalf("stream %d waits for its window: %v, reserved %d", s.id, c.unadmitted.has(s), s.reserved)
		}
	}
	if reserved != c.reserved || unadmitted != 0 {
		t.Fatalf("reserved %d, is %d; unadmitted differs by %d", c.reserved, reserved, unadmitted)
	}
	for s := c.waiting.first; s != nil; s = s.links[toSend].after {
		if waits--; !c.waiting.has(s) || !s.hasPending() || c.streams[s.id] != s {
			t.Fatalf("stream %d waits: %v, pending %d", s.id, c.waiting.has(s), len(s.pending)-s.sent)
		}
	}
	if active != c.active || held != c.held || pending != c.pending || waits != 0 {
		t.Fatalf("active %d, is %d; held %d, is %d; pending %d, is %d; waiting differs by %d", c.active, active, c.held, held, c.pending, pending, waits)
	}
	if len(c.streams) > int(c.cfg.MaxConcurrentStreams) || c.held > c.cfg.MaxReceiveBuffer || c.pending > c.cfg.MaxSendBuffer+64 {
		t.Fatalf("over a limit: %d streams, %d bytes held, %d pending", len(c.streams), c.held, c.pending)
	}
}
