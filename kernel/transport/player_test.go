package transport

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// call is what a peer says on one stream, in order.
type call struct {
	oddity string // what is not ordinary about it, a key of differences; "" else
	fields [][2]string
	ended  bool // END_STREAM comes with the headers
	steps  []step
}

// step is a DATA frame, or the end of the stream. Before it the peer waits until it has so many answers, or the end of the stream.
type step struct {
	await int
	data  []byte
	end   bool
	reset bool
}

// String tells the call with the length of its frames.
func (c *call) String() string {
	s := fmt.Sprintf("%s %.200q", c.oddity, c.fields)
	for _, st := range c.steps {
		s += fmt.Sprintf(", %d bytes behind %d answers (end %t, reset %t)", len(st.data), st.await, st.end, st.reset)
	}
	return s
}

// outcome is what a peer sees of a stream.
type outcome struct {
	http, status string
	trailersOnly bool
	reset        string // instead of an end; an RST_STREAM that follows an end says nothing
	messages     []string
	ended        bool
	cancelled    bool // by the peer itself
	body         []byte
}

// String is all but the messages.
func (o *outcome) String() string {
	return fmt.Sprintf("HTTP %s, grpc-status %q, trailers-only %t, reset %q", o.http, o.status, o.trailersOnly, o.reset)
}

// player is a client that keeps to the windows, and otherwise sends what it is told.
type player struct {
	t            tester
	nc           net.Conn
	fr           *http2.Framer
	enc          *hpack.Encoder
	dec          *hpack.Decoder
	block        bytes.Buffer
	nextID       uint32
	window       int64
	streamWindow int64 // initial
	windows      map[uint32]int64
	streams      map[uint32]*outcome
	pong         bool // a PING was answered
}

// tester is what tests and properties have in common.
type tester interface {
	Helper()
	Fatalf(string, ...any)
}

const largestFrame = 16384 // RFC 9113 section 4.2

func newPlayer(t tester, addr string) *player {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatalf("%v", err)
	}
	p := &player{
		t: t, nc: nc, fr: http2.NewFramer(nc, nc), dec: hpack.NewDecoder(4096, nil),
		nextID: 1, window: 65535, streamWindow: 65535, windows: map[uint32]int64{}, streams: map[uint32]*outcome{},
	}
	p.fr.AllowIllegalWrites = true
	p.enc = hpack.NewEncoder(&p.block)
	p.must(nc.SetDeadline(time.Now().Add(bound)))
	_, err = io.WriteString(nc, http2.ClientPreface)
	p.must(err)
	p.must(p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30}))
	p.must(p.fr.WriteWindowUpdate(0, 1<<30))
	for p.streamWindow == 65535 { // Until the server's SETTINGS, which name another.
		p.read()
	}
	p.must(p.fr.WriteSettingsAck())
	return p
}

func (p *player) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatalf("the connection: %v", err)
	}
}

// read takes one frame.
func (p *player) read() {
	p.t.Helper()
	f, err := p.fr.ReadFrame()
	p.must(err)
	o := p.streams[f.Header().StreamID]
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
			p.streamWindow = int64(v)
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			p.window += int64(f.Increment)
		} else {
			p.windows[f.StreamID] += int64(f.Increment)
		}
	case *http2.PingFrame:
		if p.pong = f.IsAck(); !p.pong {
			p.must(p.fr.WritePing(true, f.Data))
		}
	case *http2.GoAwayFrame:
		p.t.Fatalf("GOAWAY with %v %q", f.ErrCode, f.DebugData())
	case *http2.HeadersFrame:
		fields, err := p.dec.DecodeFull(f.HeaderBlockFragment())
		p.must(err)
		o.headers(fields, f.StreamEnded())
	case *http2.DataFrame:
		o.data(f.Data(), f.StreamEnded())
	case *http2.RSTStreamFrame:
		if o != nil && !o.ended {
			o.reset, o.ended = f.ErrCode.String(), true
		}
	}
}

func (o *outcome) headers(fields []hpack.HeaderField, end bool) {
	first := o.http == ""
	for _, f := range fields {
		switch f.Name {
		case ":status":
			o.http = f.Value
		case "grpc-status":
			o.status = f.Value
		}
	}
	if end {
		o.trailersOnly, o.ended = first, true
	}
}

func (o *outcome) data(b []byte, end bool) {
	o.body = append(o.body, b...)
	for o.http == "200" && len(o.body) >= 5 {
		n := int(binary.BigEndian.Uint32(o.body[1:]))
		if len(o.body) < 5+n {
			break
		}
		o.messages = append(o.messages, string(o.body[5:5+n]))
		o.body = o.body[5+n:]
	}
	o.ended = o.ended || end
}

// open sends the headers of a call.
func (p *player) open(c *call) (id uint32) {
	p.t.Helper()
	id = p.nextID
	p.nextID += 2
	p.windows[id], p.streams[id] = p.streamWindow, &outcome{}
	p.block.Reset()
	for _, f := range c.fields {
		p.must(p.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	block := p.block.Bytes()
	n := min(len(block), largestFrame)
	p.must(p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block[:n], EndHeaders: n == len(block), EndStream: c.ended}))
	for block = block[n:]; len(block) > 0; block = block[n:] {
		n = min(len(block), largestFrame)
		p.must(p.fr.WriteContinuation(id, n == len(block), block[:n]))
	}
	return id
}

// do performs a step. A peer that has seen the end of its stream says nothing more.
func (p *player) do(id uint32, s step) {
	p.t.Helper()
	o := p.streams[id]
	for !o.ended && len(o.messages) < s.await {
		p.read()
	}
	for b := s.data; ; {
		n := min(len(b), largestFrame)
		for !o.ended && n > 0 && (p.window < int64(n) || p.windows[id] < int64(n)) {
			p.read()
		}
		if o.ended {
			return
		}
		last := n == len(b)
		switch {
		case last && s.reset:
			p.must(p.fr.WriteRSTStream(id, http2.ErrCodeCancel))
			o.ended, o.cancelled = true, true
			return
		case n > 0 || s.end:
			p.must(p.fr.WriteData(id, last && s.end, b[:n]))
		}
		p.window -= int64(n)
		p.windows[id] -= int64(n)
		if b = b[n:]; len(b) == 0 {
			return
		}
	}
}

// play makes the calls at the same time, their steps in turn, and returns what became of them. A stream that was there before goes on.
func (p *player) play(calls []*call) []*outcome {
	p.t.Helper()
	outcomes := make([]*outcome, len(calls))
	ids := make([]uint32, len(calls))
	for i, c := range calls {
		ids[i] = p.open(c)
		outcomes[i] = p.streams[ids[i]]
	}
	for i, more := 0, true; more; i++ {
		more = false
		for j, c := range calls {
			if i < len(c.steps) {
				p.do(ids[j], c.steps[i])
				more = true
			}
		}
	}
	for _, o := range outcomes {
		for !o.ended {
			p.read()
		}
	}
	return outcomes
}
