package h2

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// silent takes calls and never answers.
type silent struct{ echoHandler }

func (h silent) Open(s *Stream, r *Request) Receiver {
	if r.Path == "/test/Silent" {
		return mute{}
	}
	return h.echoHandler.Open(s, r)
}

type mute struct{}

func (mute) Message(*Stream, []byte) {}
func (mute) HalfClose(*Stream)       {}
func (mute) Reset(*Stream)           {}

func repeat(n int, frame []byte) []byte { return bytes.Repeat(frame, n) }

func rawFrame(typ, flags byte, id uint32, payload []byte) []byte {
	return append(appendFrameHeader(nil, len(payload), typ, flags, id), payload...)
}

// TestAttacksEndTheirConnection: each of them gets GOAWAY, and an honest client on another connection notices nothing.
func TestAttacksEndTheirConnection(t *testing.T) {
	noLeaks(t)
	const n = 20_000 // More than the budget even when a second begins in between.
	for _, tc := range []struct {
		name string
		code ErrCode
		send func(p *peer) []byte
	}{
		{"rapid reset", EnhanceYourCalm, func(p *peer) (b []byte) {
			for id := uint32(1); id < n; id += 2 {
				b = append(b, rawFrame(frameHeaders, flagEndHeaders, id, p.call("/test/Silent"))...)
				b = appendRSTStream(b, id, Cancel)
			}
			return b
		}},
		{"malformed requests", EnhanceYourCalm, func(p *peer) (b []byte) {
			for id := uint32(1); id < n; id += 2 {
				b = append(b, rawFrame(frameHeaders, flagEndHeaders|flagEndStream, id, p.block(":method", "GET"))...)
			}
			return b
		}},
		{"streams reset by a wrong WINDOW_UPDATE", EnhanceYourCalm, func(p *peer) (b []byte) {
			for id := uint32(1); id < n; id += 2 { // CVE-2025-8671: the server is made to reset.
				b = append(b, rawFrame(frameHeaders, flagEndHeaders, id, p.call("/test/Silent"))...)
				b = appendWindowUpdate(b, id, 0)
			}
			return b
		}},
		{"CONTINUATION of a byte", EnhanceYourCalm, func(p *peer) []byte {
			return append(rawFrame(frameHeaders, 0, 1, nil), repeat(n, rawFrame(frameContinuation, 0, 1, []byte{0x83}))...)
		}},
		{"CONTINUATION, empty", EnhanceYourCalm, func(p *peer) []byte {
			return append(rawFrame(frameHeaders, 0, 1, nil), repeat(n, rawFrame(frameContinuation, 0, 1, nil))...)
		}},
		{"CONTINUATION, large", EnhanceYourCalm, func(p *peer) []byte {
			return append(rawFrame(frameHeaders, 0, 1, nil), repeat(64, rawFrame(frameContinuation, 0, 1, make([]byte, maxFrameSize)))...)
		}},
		{"SETTINGS", EnhanceYourCalm, func(p *peer) []byte { return repeat(n, rawFrame(frameSettings, 0, 0, nil)) }},
		{"SETTINGS, long", EnhanceYourCalm, func(p *peer) []byte {
			return repeat(200, rawFrame(frameSettings, 0, 0, repeat(2730, appendSetting(nil, settingInitialWindowSize, 1<<20))))
		}},
		{"SETTINGS acknowledgements", EnhanceYourCalm, func(p *peer) []byte { return repeat(n, rawFrame(frameSettings, flagAck, 0, nil)) }},
		{"PING", EnhanceYourCalm, func(p *peer) []byte { return repeat(n, appendPing(nil, 0, "12345678")) }},
		{"PING answers", EnhanceYourCalm, func(p *peer) []byte { return repeat(n, appendPing(nil, flagAck, "12345678")) }},
		{"PRIORITY", EnhanceYourCalm, func(p *peer) []byte { return repeat(n, rawFrame(framePriority, 0, 3, make([]byte, 5))) }},
		{"GOAWAY", EnhanceYourCalm, func(p *peer) []byte { return repeat(n, appendGoAway(nil, 0, NoError, "")) }},
		{"unknown frames", EnhanceYourCalm, func(p *peer) []byte { return repeat(n, rawFrame(0xbe, 0, 0, nil)) }},
		{"empty DATA", EnhanceYourCalm, func(p *peer) []byte {
			return append(rawFrame(frameHeaders, flagEndHeaders, 1, p.call("/test/Silent")), repeat(n, rawFrame(frameData, 0, 1, nil))...)
		}},
		{"padding only DATA", EnhanceYourCalm, func(p *peer) []byte {
			return append(rawFrame(frameHeaders, flagEndHeaders, 1, p.call("/test/Silent")), repeat(n, rawFrame(frameData, flagPadded, 1, []byte{0}))...)
		}},
		{"DATA on a closed stream", EnhanceYourCalm, func(p *peer) []byte {
			b := rawFrame(frameHeaders, flagEndHeaders, 1, p.call("/test/Silent"))
			return append(appendRSTStream(b, 1, Cancel), repeat(n, rawFrame(frameData, 0, 1, []byte("x")))...)
		}},
		{"RST_STREAM on a closed stream", EnhanceYourCalm, func(p *peer) []byte {
			b := rawFrame(frameHeaders, flagEndHeaders, 1, p.call("/test/Silent"))
			return append(b, repeat(n, appendRSTStream(nil, 1, Cancel))...)
		}},
		{"WINDOW_UPDATE of 1", EnhanceYourCalm, func(p *peer) []byte { return repeat(4*maxWindows, appendWindowUpdate(nil, 0, 1)) }},
		{"WINDOW_UPDATE of 0", ProtocolError, func(p *peer) []byte { return appendWindowUpdate(nil, 0, 0) }},
		{"WINDOW_UPDATE overflow", FlowControlError, func(p *peer) []byte { return repeat(2, appendWindowUpdate(nil, 0, maxWindow)) }},
		{"initial window overflow", FlowControlError, func(p *peer) []byte {
			b := rawFrame(frameHeaders, flagEndHeaders, 1, p.call("/test/Silent"))
			b = appendWindowUpdate(b, 1, maxWindow-defaultWindow)
			return append(b, rawFrame(frameSettings, 0, 0, appendSetting(nil, settingInitialWindowSize, defaultWindow+1))...)
		}},
		{"HPACK: index that does not exist", CompressionError, func(p *peer) []byte {
			return rawFrame(frameHeaders, flagEndHeaders, 1, []byte{0xff, 0x80, 0x80, 0x01})
		}},
		{"HPACK: huge integer", CompressionError, func(p *peer) []byte {
			return rawFrame(frameHeaders, flagEndHeaders, 1, append([]byte{0xff}, repeat(20, []byte{0xff})...))
		}},
		{"HPACK: table larger than offered", CompressionError, func(p *peer) []byte {
			return rawFrame(frameHeaders, flagEndHeaders, 1, appendHpackInt(nil, 5, 0x20, 1<<30))
		}},
		{"HPACK: string longer than all headers may be", CompressionError, func(p *peer) []byte {
			block := appendHpackInt([]byte{0x00, 1, 'a'}, 7, 0, 1<<20)
			return rawFrame(frameHeaders, flagEndHeaders, 1, append(block, make([]byte, 1000)...))
		}},
		{"HPACK: truncated", CompressionError, func(p *peer) []byte { return rawFrame(frameHeaders, flagEndHeaders, 1, []byte{0x00, 5, 'a'}) }},
		{"frame too large", FrameSizeError, func(p *peer) []byte { return appendFrameHeader(nil, maxFrameSize+1, frameData, 0, 1) }},
		{"connection window exceeded", FlowControlError, func(p *peer) []byte {
			return append(rawFrame(frameHeaders, flagEndHeaders, 1, p.call("/test/Silent")), rawFrame(frameData, 0, 1, make([]byte, 1))...)
		}},
		{"PUSH_PROMISE", ProtocolError, func(p *peer) []byte { return rawFrame(framePushPromise, flagEndHeaders, 1, make([]byte, 4)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := Config{}
			addr, srv := startServer(t, cfg, silent{})
			p := newPeer(t, addr)
			b := tc.send(p)
			c := only(t, srv)
			if tc.name == "connection window exceeded" {
				c.Lock()
				c.recvWindow = 0 // As if all of it had been sent and not acknowledged.
				c.Unlock()
			}
			cc := dial(t, addr)
			besides(t, cc, 12<<20, func() {
				go func() { _, _ = p.nc.Write(b) }() // It fails when the server has had enough.
				if code, ok := p.goAway(); !ok || ErrCode(code) != tc.code {
					t.Errorf("GOAWAY: %v, code %v; want %d", ok, code, tc.code)
				}
			})
			honest(t, cc)
		})
	}
}

// TestNoHTTP2 is about peers that speak something else: they are gone soon.
func TestNoHTTP2(t *testing.T) {
	noLeaks(t)
	for _, tc := range []struct{ name, bytes string }{
		{"HTTP/1 request", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"HTTP/1 upgrade", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n"},
		{"TLS client hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 500)},
		{"zeros", strings.Repeat("\x00", 100_000)},
		{"preface with a wrong end", preface[:23] + "x"},
		{"preface and HTTP/1", preface + "GET / HTTP/1.1\r\n\r\n"},
		{"half a preface", preface[:10]},
		{"only a preface", preface},
		{"half a SETTINGS frame", preface + "\x00\x00\x06\x04"},
		{"nothing", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr, srv := startServer(t, Config{HandshakeTimeout: 100e6}, echoHandler{})
			p := rawPeer(t, addr)
			only(t, srv)
			go func() { _, _ = p.nc.Write([]byte(tc.bytes)) }()
			p.goAway()
			eventually(t, "the connection is forgotten", func() bool { return len(srv.connections()) == 0 })
			honest(t, dial(t, addr))
		})
	}
}

// TestResetsAfterAnswers: Envoy resets every stream that was answered, and may do so as often as it likes.
func TestResetsAfterAnswers(t *testing.T) {
	for _, path := range []string{"/test/Echo", "/test/Fail"} {
		t.Run(path, func(t *testing.T) {
			addr, srv := startServer(t, Config{}, echoHandler{})
			p := newPeer(t, addr)
			c := only(t, srv)
			const streams, batch = 100_000, 100
			for id := uint32(1); id < 2*streams; id += 2 * batch {
				var b []byte
				for i := id; i < id+2*batch; i += 2 {
					b = append(b, rawFrame(frameHeaders, flagEndHeaders, i, p.call(path))...)
					b = append(b, rawFrame(frameData, 0, i, message("x"))...)
				}
				b = appendWindowUpdate(b, 0, batch*6)
				p.write(b)
				answers := 0
				p.until("answers", func(f http2.Frame) bool {
					if f.Header().Type == http2.FrameData || path == "/test/Fail" && f.Header().Type == http2.FrameHeaders {
						answers++
					}
					return answers == batch
				})
				b = b[:0]
				for i := id; i < id+2*batch; i += 2 {
					b = appendRSTStream(b, i, Cancel)
				}
				p.write(b)
			}
			p.ping()
			c.Lock()
			defer c.Unlock()
			if len(c.streams) != 0 {
				t.Errorf("%d streams left", len(c.streams))
			}
			checkInvariants(t, c)
		})
	}
}

// TestHeaderBombs: a call whose headers are too large when they are unpacked is refused by itself.
func TestHeaderBombs(t *testing.T) {
	addr, _ := startServer(t, Config{}, echoHandler{})
	p := newPeer(t, addr)
	insert := p.call("/test/Echo", "bomb", strings.Repeat("x", 3000)) // Goes into the dynamic table.
	p.must(p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: insert, EndHeaders: true, EndStream: true}))
	if o := p.outcome(1); o.fields["grpc-status"] != "0" {
		t.Fatalf("warm up: %v", o)
	}
	block := append(p.call("/test/Echo"), bytes.Repeat([]byte{0x80 | 62}, 12_000)...) // 36 MB.
	p.must(p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block, EndHeaders: true, EndStream: true}))
	if o := p.outcome(3); o.fields["grpc-status"] != "8" {
		t.Errorf("indexed references: %v; want status 8", o)
	}
	big := p.call("/test/Echo", "a", strings.Repeat("0", 40<<10), "b", strings.Repeat("1", 40<<10)) // Huffman makes it fit into a block.
	p.must(p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 5, BlockFragment: big[:16000], EndStream: true}))
	for rest := big[16000:]; len(rest) > 0; {
		n := min(16000, len(rest))
		p.must(p.fr.WriteContinuation(5, n == len(rest), rest[:n]))
		rest = rest[n:]
	}
	if o := p.outcome(5); o.fields["grpc-status"] != "8" {
		t.Errorf("huge headers: %v; want status 8", o)
	}
	p.open(7, "/test/Echo")
	p.data(7, true, message("still here"))
	if o := p.outcome(7); o.fields["grpc-status"] != "0" || string(o.data) != string(message("still here")) {
		t.Errorf("afterwards: %v", o)
	}
}

// TestDynamicTableBound: the dynamic table never holds more than was offered.
func TestDynamicTableBound(t *testing.T) {
	srv := NewServer(Config{}, echoHandler{})
	c := newConn(srv, &srv.cfg, discardConn{})
	enc := &bytes.Buffer{}
	e := hpack.NewEncoder(enc)
	for i := range 5000 {
		enc.Reset()
		_ = e.WriteField(hpack.HeaderField{Name: "k", Value: strings.Repeat("v", 100) + string(binary.BigEndian.AppendUint32(nil, uint32(i)))})
		c.request.reset()
		if err := c.decode(enc.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	// 4096/(1+104+32) entries at most: index 62+29 is past the end.
	if err := c.decode([]byte{0x80 | 62 + 29}); err == nil {
		t.Error("an entry past 4096 bytes is still there")
	}
}
