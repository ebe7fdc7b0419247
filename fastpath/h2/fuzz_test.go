package h2

import (
	"bytes"
	"testing"

	"golang.org/x/net/http2/hpack"
	"pgregory.net/rapid"
)

// fuzzHandler has receivers of all sorts.
type fuzzHandler struct{}

func (fuzzHandler) Open(s *Stream, r *Request) Receiver {
	switch r.Path {
	case "/f":
		s.Fail(7, "at once")
		return echo{}
	case "/m":
		return mute{}
	case "/p":
		return panicReset{}
	case "/d":
		s.Finish([]byte("done"))
		return nil
	}
	return echo{}
}
func (fuzzHandler) AfterRead(*Conn) {}

// fuzzBlock is a header block without Huffman coding, so that mutations mean something.
func fuzzBlock(path string) []byte {
	b := appendLiteral([]byte{0x83, 0x86, 0x04}, path)
	b = appendLiteral([]byte(string(b)+"\x01"), "a")
	return appendLiteral(append(b, 0x0f, 0x10), "application/grpc")
}

// FuzzFrames: after any bytes in any cuts the connection has ended with an error, or all its sums are right and within their limits.
func FuzzFrames(f *testing.F) {
	for _, path := range []string{"/e", "/f", "/m", "/p", "/d"} {
		open := rawFrame(frameHeaders, flagEndHeaders, 1, fuzzBlock(path))
		f.Add(bytes.Join([][]byte{open, rawFrame(frameData, flagEndStream, 1, message("hello"))}, nil), uint16(5))
		f.Add(bytes.Join([][]byte{open, rawFrame(frameData, flagPadded, 1, append([]byte{2}, message("hi")...)), appendRSTStream(nil, 1, Cancel)}, nil), uint16(7))
		f.Add(bytes.Join([][]byte{
			rawFrame(frameSettings, 0, 0, appendSetting(appendSetting(nil, settingInitialWindowSize, 3), settingHeaderTableSize, 0)),
			rawFrame(frameHeaders, 0, 1, fuzzBlock(path)[:9]), rawFrame(frameContinuation, flagEndHeaders, 1, fuzzBlock(path)[9:]),
			rawFrame(frameData, 0, 1, message("waits")), appendWindowUpdate(nil, 1, 2), appendWindowUpdate(nil, 0, 9),
			rawFrame(frameHeaders, flagEndHeaders, 3, fuzzBlock(path)),
			rawFrame(frameSettings, 0, 0, appendSetting(nil, settingInitialWindowSize, 1000)),
			rawFrame(frameHeaders, flagEndHeaders|flagEndStream, 1, []byte{0x00, 1, 'x', 1, 'y'}),
		}, nil), uint16(100))
	}
	f.Add(append(appendPing(nil, 0, "12345678"), appendGoAway(nil, 1, NoError, "bye")...), uint16(1))
	f.Add(append(rawFrame(framePriority, 0, 1, make([]byte, 5)), rawFrame(framePushPromise, 0, 1, make([]byte, 9))...), uint16(3))
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		for _, client := range []bool{false, true} {
			c := memoryConn(Config{MaxConcurrentStreams: 5, StreamWindow: 100, MaxUnderWay: 300, MaxReceiveBuffer: 4000, MaxMessageSize: 2000, MaxSendBuffer: 3000}, fuzzHandler{})
			if client {
				cl := &Client{conn: c}
				c.client, c.nextID = true, 1
				for range 3 {
					cl.Open("/x", &outcomes{}).Send([]byte("q"))
				}
			}
			fuzzConn(t, c, b, int(cut)%200+1)
		}
	})
}

func fuzzConn(t *testing.T, c *Conn, b []byte, cut int) {
	c.cfg.Panicked = func(v any, stack []byte) {
		if v != "planned" {
			t.Fatalf("panic: %v\n%s", v, stack)
		}
	}
	have := 0
	for n := min(cut, len(b)); n <= len(b) && n > have; n = min(n+cut, len(b)) {
		used, more := 0, true
		for more {
			var err error
			var u int
			if u, more, err = c.step(b[have+used : n]); err != nil {
				c.sendGoAway(ProtocolError, "")
				c.resetAll()
				return
			}
			used += u
		}
		have += used
		checkInvariants(t, c)
		if c.unsent() > 5*c.cfg.MaxSendBuffer+flushSize {
			t.Fatalf("%d bytes of answers", c.unsent())
		}
		if n == len(b) {
			break
		}
	}
	c.resetAll()
	if c.active != 0 || c.pending != 0 || c.waiting.first != nil {
		t.Fatalf("after the end: %d active, %d pending", c.active, c.pending)
	}
}

// FuzzHeaders: no header block makes a request larger than the limit, or a malformed one legal.
func FuzzHeaders(f *testing.F) {
	f.Add(fuzzBlock("/x"))
	f.Add([]byte{0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff}) // RFC 7541 C.4.1
	f.Add([]byte{0x3f, 0xe1, 0x1f, 0x40, 1, 'a', 1, 'b', 0xbe, 0xbe})
	f.Fuzz(func(t *testing.T, block []byte) {
		const limit = 1000
		c := memoryConn(Config{MaxHeaderListSize: limit}, fuzzHandler{})
		for range 2 { // The second time with what the first left in the table.
			c.request.reset()
			if c.decode(block) != nil {
				return
			}
			r := &c.request
			size := uint32(0)
			for _, field := range r.fields {
				size += field.Size()
				if checkField(field) != "" {
					t.Fatalf("field %q", field)
				}
			}
			if size > limit {
				t.Fatalf("%d bytes of fields", size)
			}
			if r.check() == "" && (r.Method == "" || r.Method != "CONNECT" && (r.Path == "" || r.seen&seenScheme == 0)) {
				t.Fatalf("request %+v is taken for legal", r)
			}
		}
	})
}

// TestChunkingProperty: how messages are cut into frames, and frames padded and cut into reads, never changes what is delivered.
func TestChunkingProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		messages := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 700), 1, 6).Draw(t, "messages")
		var payload []byte
		want := ""
		for _, m := range messages {
			payload = append(payload, message(string(m))...)
			want += "message " + string(m) + ", "
		}
		wire := rawFrame(frameHeaders, flagEndHeaders, 1, fuzzBlock("/x"))
		for len(payload) > 0 {
			n := rapid.IntRange(0, min(len(payload), 400)).Draw(t, "frame")
			if pad := rapid.IntRange(-1, 20).Draw(t, "padding"); pad >= 0 {
				padded := append(append([]byte{byte(pad)}, payload[:n]...), make([]byte, pad)...)
				wire = append(wire, rawFrame(frameData, flagPadded, 1, padded)...)
			} else {
				wire = append(wire, rawFrame(frameData, 0, 1, payload[:n])...)
			}
			payload = payload[n:]
		}
		wire = append(wire, rawFrame(frameData, flagEndStream, 1, nil)...)
		rec := &recorder{}
		c := memoryConn(Config{}, rec)
		have := 0
		for end := 0; end < len(wire); {
			end = min(end+rapid.IntRange(1, 600).Draw(t, "read"), len(wire))
			used, _, err := c.step(wire[have:end])
			if have += used; err != nil {
				t.Fatal(err)
			}
		}
		if got := rec.events(); got != want+"half-close" {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

// shortStream is a whole stream as Envoy sends it: headers from the dynamic table, one message, and a reset after the answer.
type shortStream struct {
	c    *Conn
	id   uint32
	wire []byte
	head []byte
	body []byte
}

func newShortStream(h Handler) *shortStream {
	s := &shortStream{c: memoryConn(Config{}, h), id: 1, body: message(string(make([]byte, 500)))}
	var buf bytes.Buffer
	enc := hpack.NewEncoder(&buf)
	for range 2 { // The second block consists of indexes.
		buf.Reset()
		for _, f := range []string{":method=POST", ":scheme=http", ":path=/test/Finish", ":authority=kernel", "te=trailers", "grpc-timeout=200m", "content-type=application/grpc", "x-request-id=1"} {
			name, value, _ := bytes.Cut([]byte(f[1:]), []byte("="))
			_ = enc.WriteField(hpack.HeaderField{Name: f[:1] + string(name), Value: string(value)})
		}
		s.head = bytes.Clone(buf.Bytes())
		s.run(s.head)
	}
	return s
}

func (s *shortStream) run(head []byte) {
	s.wire = append(appendFrameHeader(s.wire[:0], len(head), frameHeaders, flagEndHeaders, s.id), head...)
	s.wire = append(appendFrameHeader(s.wire, len(s.body), frameData, 0, s.id), s.body...)
	s.wire = appendRSTStream(s.wire, s.id, Cancel)
	s.wire = appendWindowUpdate(s.wire, 0, 200)
	s.id += 2
	used, more, err := s.c.step(s.wire)
	if err != nil || more || used != len(s.wire) || len(s.c.streams) != 0 {
		panic("a short stream went wrong") // In a benchmark, too.
	}
	s.c.out = s.c.out[:0]
}

// finishing answers the first message and ends.
type finishing struct{ mute }

var answer = make([]byte, 100)

func (finishing) Open(*Stream, *Request) Receiver { return finishing{} }
func (finishing) AfterRead(*Conn)                 {}
func (finishing) Message(s *Stream, _ []byte)     { s.Finish(answer) }

func TestShortStreamAllocatesNothing(t *testing.T) {
	s := newShortStream(finishing{})
	s.run(s.head)
	if n := testing.AllocsPerRun(5000, func() { s.run(s.head) }); n != 0 {
		t.Errorf("%v allocations for a stream", n)
	}
	// A message that spans frames goes into the buffer of the stream before it.
	c := s.c
	split := func() {
		s.wire = append(appendFrameHeader(s.wire[:0], len(s.head), frameHeaders, flagEndHeaders, s.id), s.head...)
		s.wire = append(appendFrameHeader(s.wire, 100, frameData, 0, s.id), s.body[:100]...)
		s.wire = append(appendFrameHeader(s.wire, len(s.body)-100, frameData, flagEndStream, s.id), s.body[100:]...)
		s.wire = appendWindowUpdate(s.wire, 0, 200)
		s.id += 2
		if _, _, err := c.step(s.wire); err != nil || len(c.streams) != 0 {
			panic("a short stream went wrong")
		}
		c.out = c.out[:0]
	}
	split()
	if n := testing.AllocsPerRun(5000, split); n != 0 {
		t.Errorf("%v allocations for a stream with a message in two frames", n)
	}
}
