package h2

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
)

// recorder is a handler that writes down what its receivers are told, and checks that nothing comes after the end.
type recorder struct {
	mu       sync.Mutex
	calls    []string
	mistakes []string
	act      func(s *Stream, event string) // what to do; nil: echo
}

type recorded struct {
	r    *recorder
	over bool
	busy bool
}

func (r *recorder) Open(*Stream, *Request) Receiver { return &recorded{r: r} }
func (r *recorder) AfterRead(*Conn)                 {}

func (rc *recorded) event(s *Stream, e string) {
	r := rc.r
	r.mu.Lock()
	if rc.over || rc.busy {
		r.mistakes = append(r.mistakes, fmt.Sprintf("%s; over %v, within a call %v", e, rc.over, rc.busy))
	}
	r.calls = append(r.calls, e)
	r.mu.Unlock()
	rc.busy = true
	defer func() { rc.busy = false }()
	switch {
	case strings.HasPrefix(e, "reset"):
		rc.over = true
	case r.act != nil:
		r.act(s, e)
	case strings.HasPrefix(e, "message"):
		s.Send([]byte(e[len("message "):]))
	default:
		s.Finish(nil)
		rc.over = true
	}
}

func (rc *recorded) Message(s *Stream, msg []byte) { rc.event(s, "message "+string(msg)) }
func (rc *recorded) HalfClose(s *Stream)           { rc.event(s, "half-close") }
func (rc *recorded) Reset(s *Stream)               { rc.event(s, "reset") }

func (r *recorder) events() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(append(r.mistakes, r.calls...), ", ")
}

// TestReceiverCalls is about what a receiver is told, and what the peer sees.
func TestReceiverCalls(t *testing.T) {
	two := string(message("a")) + string(message("bc"))
	for _, tc := range []struct {
		name   string
		cfg    Config
		act    func(s *Stream, e string)
		send   func(p *peer)
		events string
		status string
		rst    http2.ErrCode
	}{
		{name: "two messages in a frame", send: func(p *peer) { p.data(1, true, []byte(two)) }, events: "message a, message bc, half-close", status: "0"},
		{name: "empty message", send: func(p *peer) { p.data(1, true, message("")) }, events: "message , half-close", status: "0"},
		{name: "padding", send: func(p *peer) {
			p.must(p.fr.WriteDataPadded(1, false, []byte(two[:3]), make([]byte, 255)))
			p.must(p.fr.WriteDataPadded(1, true, []byte(two[3:]), []byte{}))
		}, events: "message a, message bc, half-close", status: "0"},
		{name: "trailers of the request", send: func(p *peer) {
			p.data(1, false, message("a"))
			p.must(p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block("x", "y"), EndHeaders: true, EndStream: true}))
		}, events: "message a, half-close", status: "0"},
		{name: "trailers with a pseudo-header", send: func(p *peer) {
			p.must(p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(":path", "/"), EndHeaders: true, EndStream: true}))
		}, events: "reset", rst: http2.ErrCodeProtocol},
		{name: "second headers without the end", send: func(p *peer) {
			p.must(p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block("x", "y"), EndHeaders: true}))
		}, events: "reset", rst: http2.ErrCodeProtocol},
		{name: "compressed flag", send: func(p *peer) { p.data(1, true, []byte{1, 0, 0, 0, 1, 'x'}) }, events: "reset", status: "12"},
		{name: "compressed flag, split", send: func(p *peer) { p.data(1, false, []byte{1}); p.data(1, true, []byte{0, 0, 0, 1, 'x'}) }, events: "reset", status: "12"},
		{name: "malformed flag", send: func(p *peer) { p.data(1, true, []byte{2, 0, 0, 0, 1, 'x'}) }, events: "reset", status: "13"},
		{name: "message too long", cfg: Config{MaxMessageSize: 4}, send: func(p *peer) { p.data(1, true, message("12345")) }, events: "reset", status: "8"},
		{name: "message as long as allowed", cfg: Config{MaxMessageSize: 4}, send: func(p *peer) { p.data(1, true, message("1234")) }, events: "message 1234, half-close", status: "0"},
		{name: "longest length", send: func(p *peer) { p.data(1, false, []byte{0, 0xff, 0xff, 0xff, 0xff}) }, events: "reset", status: "8"},
		{name: "end within a message", send: func(p *peer) { p.data(1, true, []byte(two)[:8]) }, events: "message a, reset", status: "13"},
		{name: "end within a prefix", send: func(p *peer) { p.data(1, true, []byte{0, 0}) }, events: "reset", status: "13"},
		{
			name: "finish in the first message", act: func(s *Stream, _ string) { s.Finish([]byte("done")); s.Send(nil); s.Fail(1, ""); s.Finish(nil) },
			send: func(p *peer) { p.data(1, true, []byte(two)) }, events: "message a", status: "0",
		},
		{
			name: "failure in the first message", act: func(s *Stream, _ string) { s.Fail(7, "no"); s.Finish(nil) },
			send: func(p *peer) { p.data(1, false, []byte(two)) }, events: "message a", status: "7",
		},
		{
			name: "failure after an answer", act: func(s *Stream, _ string) { s.Send([]byte("x")); s.Fail(7, "no") },
			send: func(p *peer) { p.data(1, false, []byte(two)) }, events: "message a", status: "7",
		},
		{name: "failure with OK", act: func(s *Stream, _ string) { s.Fail(0, "no") }, send: func(p *peer) { p.data(1, false, message("a")) }, events: "message a", status: "2"},
		{name: "failure with an unknown code", act: func(s *Stream, _ string) { s.Fail(100, "no") }, send: func(p *peer) { p.data(1, false, message("a")) }, events: "message a", status: "2"},
		{
			name: "finish that waits for a window, then a reset", act: func(s *Stream, _ string) { s.Finish(make([]byte, 1<<20)) },
			send: func(p *peer) {
				p.data(1, false, []byte(two))
				p.data(1, false, message("late"))
				p.must(p.fr.WriteRSTStream(1, http2.ErrCodeCancel))
				p.ping()
				p.open(3, "/test/Any")
				p.must(p.fr.WriteRSTStream(1, http2.ErrCodeCancel))
				p.must(p.fr.WriteRSTStream(3, http2.ErrCodeCancel))
			}, events: "message a, reset",
		}, // The reset is the third stream's.
		{
			name: "answer over the limit", cfg: Config{MaxSendBuffer: 100_000}, act: func(s *Stream, _ string) { s.Send(make([]byte, 1<<20)); s.Send(nil) },
			send: func(p *peer) { p.data(1, false, message("a")) }, events: "message a, reset", rst: http2.ErrCodeEnhanceYourCalm,
		},
		{
			name: "finish over the limit", cfg: Config{MaxSendBuffer: 100_000}, act: func(s *Stream, _ string) { s.Finish(make([]byte, 1<<20)) },
			send: func(p *peer) { p.data(1, false, message("a")) }, events: "message a", rst: http2.ErrCodeEnhanceYourCalm,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rec := &recorder{act: tc.act}
			addr, srv := startServer(t, tc.cfg, rec)
			p := newPeer(t, addr)
			p.open(1, "/test/Any")
			tc.send(p)
			if tc.status != "" || tc.rst != 0 {
				if o := p.outcome(1); o.fields["grpc-status"] != tc.status || o.rst != tc.rst {
					t.Errorf("outcome %v; want status %q, reset %v", o, tc.status, tc.rst)
				}
			}
			p.ping()
			if got := rec.events(); got != tc.events {
				t.Errorf("events: %s; want %s", got, tc.events)
			}
			c := only(t, srv)
			c.Lock()
			checkInvariants(t, c)
			c.Unlock()
		})
	}
}

// TestSplitAnywhere: the frames that carry a message may be cut at every byte.
func TestSplitAnywhere(t *testing.T) {
	rec := &recorder{}
	addr, _ := startServer(t, Config{}, rec)
	p := newPeer(t, addr)
	all := append(message("hello"), message("world!")...)
	id := uint32(1)
	for cut := range len(all) + 1 {
		p.open(id, "/test/Any")
		p.data(id, false, all[:cut])
		p.data(id, true, all[cut:])
		if o := p.outcome(id); string(o.data) != string(all) || o.fields["grpc-status"] != "0" {
			t.Errorf("cut at %d: %v", cut, o)
		}
		id += 2
	}
	p.open(id, "/test/Any")
	for i := range all {
		p.data(id, i == len(all)-1, all[i:i+1])
	}
	if o := p.outcome(id); string(o.data) != string(all) {
		t.Errorf("byte by byte: %v", o)
	}
}

// TestContentLength: the length that a request announces has to be the length of its DATA.
func TestContentLength(t *testing.T) {
	body := message("four") // Nine bytes.
	for _, tc := range []struct {
		name, length string
		parts        []int
		ok           bool
	}{
		{"right", "9", []int{9}, true},
		{"right, in parts", "9", []int{3, 6}, true},
		{"too short", "10", []int{9}, false},
		{"too long", "8", []int{9}, false},
		{"too long before the end", "2", []int{5, 4}, false},
		{"negative", "-9", []int{9}, false},
		{"with a sign", "+9", []int{9}, false},
		{"a list", "9, 9", []int{9}, false},
		{"too large for a number", "99999999999999999999", []int{9}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr, _ := startServer(t, Config{}, echoHandler{})
			p := newPeer(t, addr)
			p.open(1, "/test/Echo", "content-length", tc.length)
			for i, rest := 0, body; i < len(tc.parts); i++ {
				p.data(1, i == len(tc.parts)-1, rest[:tc.parts[i]])
				rest = rest[tc.parts[i]:]
			}
			if o := p.outcome(1); tc.ok != (o.fields["grpc-status"] == "0") || tc.ok == o.reset {
				t.Errorf("outcome %v", o)
			}
		})
	}
}

// TestPeerSettings: what the peer says about header blocks is kept.
func TestPeerSettings(t *testing.T) {
	addr, _ := startServer(t, Config{}, echoHandler{})
	t.Run("small header list", func(t *testing.T) {
		p := newPeer(t, addr, http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: 300})
		p.open(1, "/test/Fail")
		p.data(1, true, message(strings.Repeat("m", 200)))
		if o := p.outcome(1); o.fields["grpc-status"] != "9" || o.fields["grpc-message"] != "" {
			t.Errorf("outcome %v; want no message", o)
		}
	})
	t.Run("no dynamic table", func(t *testing.T) {
		p := newPeer(t, addr, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
		for id := uint32(1); id <= 3; id += 2 {
			p.open(id, "/test/Echo")
			p.data(id, true, nil)
			p.until("headers", func(f http2.Frame) bool {
				h, ok := f.(*http2.HeadersFrame)
				if ok && (h.HeaderBlockFragment()[0] == 0x20) != (id == 1) {
					t.Errorf("stream %d: block %x; RFC 7541 section 4.2 wants a size update in the first one", id, h.HeaderBlockFragment())
				}
				return ok
			})
			p.until("end", func(f http2.Frame) bool { h, ok := f.(*http2.HeadersFrame); return ok && h.StreamEnded() })
		}
	})
}

// TestForeignRequests: what is not gRPC is answered with 415.
func TestForeignRequests(t *testing.T) {
	addr, _ := startServer(t, Config{}, echoHandler{})
	for _, tc := range []struct {
		name, method string
		body         int
		end          bool
		want         string
	}{
		{"GET", "GET", 0, true, notGRPCBody},
		{"HEAD", "HEAD", 0, true, ""},
		{"POST", "POST", 100, true, notGRPCBody},
		{"POST without an end", "POST", 64 << 10, false, notGRPCBody},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPeer(t, addr)
			p.must(p.fr.WriteHeaders(http2.HeadersFrameParam{
				StreamID: 1, EndHeaders: true, EndStream: tc.end && tc.body == 0,
				BlockFragment: p.block(":method", tc.method, ":scheme", "http", ":path", "/", ":authority", "x"),
			}))
			for left := tc.body; left > 0; left -= min(left, 8<<10) {
				p.data(1, tc.end && left <= 8<<10, make([]byte, min(left, 8<<10)))
			}
			if o := p.outcome(1); o.fields[":status"] != "415" || string(o.data) != tc.want {
				t.Errorf("outcome %v", o)
			}
		})
	}
}
