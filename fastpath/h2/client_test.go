package h2

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// outcomes writes down what the receivers of a client's calls are told.
type outcomes struct {
	mu     sync.Mutex
	events []string
	on     func(s *Stream, event string)
}

func (o *outcomes) add(s *Stream, e string) {
	o.mu.Lock()
	o.events = append(o.events, e)
	o.mu.Unlock()
	if o.on != nil {
		o.on(s, e)
	}
}
func (o *outcomes) Message(s *Stream, msg []byte) { o.add(s, "message "+string(msg)) }
func (o *outcomes) HalfClose(s *Stream)           { o.add(s, "half-close") }
func (o *outcomes) Reset(s *Stream)               { o.add(s, "reset") }
func (o *outcomes) Status(s *Stream, code uint32, message string) {
	o.add(s, fmt.Sprintf("status %d %s", code, message))
}

func (o *outcomes) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.events, ", ")
}

// clientOf makes a client and the server side of its connection, past the preface.
func clientOf(t testing.TB, cfg Config) (*Client, *peer) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	cl := NewClient(nc, cfg, func() {})
	t.Cleanup(cl.Close)
	sc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	p := peerOn(t, sc)
	got := make([]byte, len(preface))
	if _, err := io.ReadFull(sc, got); err != nil || string(got) != preface {
		t.Fatalf("preface %q: %v", got, err)
	}
	return cl, p
}

func (cl *Client) call(t testing.TB, o *outcomes, msg string) {
	t.Helper()
	c := cl.Conn()
	c.Lock()
	s := cl.Open("/test/Echo", o)
	if s == nil {
		t.Error("the connection takes no call")
	} else if msg != "" {
		s.Send([]byte(msg))
	}
	c.Unlock()
	c.Flush()
}

// TestClientAgainstServer: our two sides understand each other.
func TestClientAgainstServer(t *testing.T) {
	noLeaks(t)
	addr, _ := startServer(t, Config{}, echoHandler{})
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	cl := NewClient(nc, Config{HandshakeTimeout: 30 * time.Millisecond, IdlePing: 40 * time.Millisecond}, func() {})
	defer cl.Close()
	// Longer than the deadline of the handshake, and idle.
	start := cl.now()
	eventually(t, "time passes", func() bool { return cl.now()-start > int64(200*time.Millisecond) })
	big := strings.Repeat("b", 300_000)
	o := &outcomes{}
	cl.call(t, o, big)
	eventually(t, "echo", func() bool { return strings.Contains(o.String(), "message "+big) })
	o.mu.Lock()
	o.events = nil
	o.mu.Unlock()
	c := cl.Conn()
	c.Lock()
	c.Stream(1).Finish([]byte("last"))
	checkInvariants(t, c)
	c.Unlock()
	c.Flush()
	eventually(t, "the end", func() bool { return o.String() == "message last, status 0 " })
	failed := &outcomes{}
	c.Lock()
	cl.Open("/test/Fail", failed).Send([]byte("ü%"))
	c.Unlock()
	c.Flush()
	eventually(t, "failure", func() bool { return failed.String() == "status 9 no: ü% ü%" })
	c.Lock()
	defer c.Unlock()
	checkInvariants(t, c)
	if len(c.streams) != 0 {
		t.Errorf("%d streams left", len(c.streams))
	}
}

// TestClientAgainstBrokenServer: whatever a server does, no call ends with OK that did not, and every receiver hears of the end exactly once.
func TestClientAgainstBrokenServer(t *testing.T) {
	noLeaks(t)
	headers := func(p *peer, end bool, fields ...string) {
		p.must(p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(fields...), EndHeaders: true, EndStream: end}))
	}
	ok := func(p *peer, more ...string) {
		headers(p, false, append([]string{":status", "200", "content-type", "application/grpc"}, more...)...)
	}
	for _, tc := range []struct {
		name string
		send func(p *peer)
		want string
		ends bool // the connection
	}{
		{"an answer", func(p *peer) { ok(p); p.data(1, false, message("a")); headers(p, true, "grpc-status", "0") }, "message a, status 0 ", false},
		{"trailers only", func(p *peer) {
			headers(p, true, ":status", "200", "content-type", "application/grpc", "grpc-status", "5", "grpc-message", "no%21")
		}, "status 5 no!", false},
		{"100 before the answer", func(p *peer) { headers(p, false, ":status", "100"); ok(p); headers(p, true, "grpc-status", "0") }, "status 0 ", false},
		{"100 at the end", func(p *peer) { headers(p, true, ":status", "100") }, `status 14 HTTP status "100"`, false},
		{"no grpc-status", func(p *peer) { ok(p); headers(p, true, "x", "y") }, "status 13 no valid grpc-status in the trailers", false},
		{"two grpc-status", func(p *peer) { ok(p); headers(p, true, "grpc-status", "0", "grpc-status", "0") }, "status 13 no valid grpc-status in the trailers", false},
		{"malformed grpc-status", func(p *peer) { ok(p); headers(p, true, "grpc-status", "00") }, "status 13 no valid grpc-status in the trailers", false},
		{"empty grpc-status", func(p *peer) { ok(p); headers(p, true, "grpc-status", "") }, "status 13 no valid grpc-status in the trailers", false},
		{"end by DATA", func(p *peer) { ok(p); p.data(1, true, message("a")) }, "message a, status 13 the stream ended without a status", false},
		{"truncated message", func(p *peer) { ok(p); p.data(1, false, message("abc")[:6]); headers(p, true, "grpc-status", "0") }, "status 13 the stream ended within a message", false},
		{"wrong content-length", func(p *peer) {
			ok(p, "content-length", "99")
			p.data(1, false, message("abc"))
			headers(p, true, "grpc-status", "0")
		}, "message abc, status 13 the answer does not have its content-length", false},
		{"compressed message", func(p *peer) { ok(p); p.data(1, false, []byte{1, 0, 0, 0, 0}); p.ping() }, "reset", false},
		{"HTTP status 503", func(p *peer) { headers(p, true, ":status", "503", "grpc-status", "0") }, `status 14 HTTP status "503"`, false},
		{"no HTTP status", func(p *peer) { headers(p, true, "grpc-status", "0") }, "status 13 malformed response headers", false},
		{"a web page", func(p *peer) { headers(p, false, ":status", "200", "content-type", "text/html"); p.ping() }, "status 14 the answer is not gRPC", false},
		{"pseudo-header in trailers", func(p *peer) { ok(p); headers(p, true, ":status", "200", "grpc-status", "0") }, "status 13 malformed response headers", false},
		{"request pseudo-header", func(p *peer) { headers(p, true, ":status", "200", ":path", "/", "grpc-status", "0") }, "status 13 malformed response headers", false},
		{"headers thrice", func(p *peer) { ok(p); headers(p, false, "x", "y") }, "status 13 second header section without the end of the stream", false},
		{"DATA before headers", func(p *peer) { p.data(1, false, message("a")) }, "reset", false},
		{"reset", func(p *peer) { p.must(p.fr.WriteRSTStream(1, http2.ErrCodeRefusedStream)) }, "reset", false},
		{"reset after an answer", func(p *peer) {
			ok(p)
			p.data(1, false, message("a"))
			p.must(p.fr.WriteRSTStream(1, http2.ErrCodeNo))
		}, "message a, reset", false},
		{"GOAWAY that has not taken it", func(p *peer) { p.must(p.fr.WriteGoAway(0, http2.ErrCodeNo, nil)) }, "status 14 the server goes away and has not taken the call", true},
		{"GOAWAY that has taken it", func(p *peer) {
			p.must(p.fr.WriteGoAway(1, http2.ErrCodeNo, nil))
			ok(p)
			headers(p, true, "grpc-status", "0")
		}, "status 0 ", true},
		{"garbage", func(p *peer) { p.write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }, "reset", true},
		{"PUSH_PROMISE", func(p *peer) { p.write(rawFrame(framePushPromise, flagEndHeaders, 1, make([]byte, 4))) }, "reset", true},
		{"headers of a stream that is not ours", func(p *peer) {
			p.must(p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: p.block(":status", "200"), EndHeaders: true}))
		}, "reset", true},
		{"end of the connection", func(p *peer) { p.nc.Close() }, "reset", true},
		{"1xx for ever", func(p *peer) {
			b := repeat(20_000, rawFrame(frameHeaders, flagEndHeaders, 1, []byte{0x08, 3, '1', '0', '3'}))
			go func() { _, _ = p.nc.Write(b) }()
		}, "reset", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cl, p := clientOf(t, Config{})
			p.must(p.fr.WriteSettings())
			o := &outcomes{}
			cl.call(t, o, "q")
			p.until("the call", func(f http2.Frame) bool { return f.Header().Type == http2.FrameData })
			tc.send(p)
			eventually(t, tc.want, func() bool { return o.String() == tc.want })
			if tc.ends {
				<-cl.Done()
			} else {
				p.ping()
			}
			cl.Close()
			if got := o.String(); got != tc.want {
				t.Errorf("events: %s", got)
			}
			c := cl.Conn()
			c.Lock()
			defer c.Unlock()
			if cl.Open("/x", o) != nil {
				t.Error("a connection that has ended takes calls")
			}
		})
	}
}

// TestClientSilentServer: a server that says nothing at all, or nothing any more, loses the client.
func TestClientSilentServer(t *testing.T) {
	for _, settings := range []bool{false, true} {
		t.Run(fmt.Sprint("settings ", settings), func(t *testing.T) {
			cl, p := clientOf(t, Config{HandshakeTimeout: 40 * time.Millisecond, IdlePing: 40 * time.Millisecond})
			if settings {
				p.must(p.fr.WriteSettings())
			}
			o := &outcomes{}
			cl.call(t, o, "q")
			<-cl.Done()
			if o.String() != "reset" {
				t.Errorf("events: %v", o)
			}
		})
	}
}

// TestClientStreams: the server's limit is kept, and a call that is cancelled and followed by another one within its own answer confuses nothing.
func TestClientStreams(t *testing.T) {
	cl, p := clientOf(t, Config{})
	p.must(p.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2}))
	p.ping()
	second := &outcomes{}
	first := &outcomes{on: func(s *Stream, e string) {
		if e == "message a" {
			s.Cancel()
			if cl.Open("/test/Second", second) == nil {
				t.Error("no second call")
			}
		}
	}}
	cl.call(t, first, "q")
	p.must(p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(":status", "200", "content-type", "application/grpc"), EndHeaders: true}))
	p.data(1, false, append(append(message("a"), message("b")...), message("c")[:6]...)) // The rest is nobody's.
	p.data(1, true, message("late"))
	p.ping()
	if first.String() != "message a" || second.String() != "" {
		t.Errorf("first: %v; second: %v", first, second)
	}
	c := cl.Conn()
	c.Lock()
	checkInvariants(t, c)
	if s := c.Stream(3); s == nil || len(s.message) != 0 || cl.Open("/test/Third", first) == nil || cl.Open("/test/Fourth", first) != nil {
		t.Error("want the second stream unharmed, a third one, and no fourth")
	}
	c.Unlock()
}
