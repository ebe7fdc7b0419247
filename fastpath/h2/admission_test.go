package h2

import (
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
)

// hoard keeps every message in hand until it is told to let one go.
type hoard struct {
	mu    sync.Mutex
	conn  *Conn
	inbox []hoarded
	most  int // bytes in hand
	now   int
}

type hoarded struct {
	stream uint32
	size   int
}

func (h *hoard) Open(s *Stream, _ *Request) Receiver {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conn = s.Conn()
	return h
}
func (h *hoard) AfterRead(*Conn)      {}
func (h *hoard) HalfClose(s *Stream)  { s.Finish(nil) }
func (h *hoard) Reset(*Stream)        {}
func (h *hoard) count() int           { h.mu.Lock(); defer h.mu.Unlock(); return len(h.inbox) }
func (h *hoard) inHand() (n, now int) { h.mu.Lock(); defer h.mu.Unlock(); return h.most, h.now }

func (h *hoard) Message(s *Stream, msg []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Conn().Occupy(len(msg))
	h.inbox = append(h.inbox, hoarded{s.ID(), len(msg)})
	h.now += len(msg)
	h.most = max(h.most, h.now)
}

// answer answers the oldest message.
func (h *hoard) answer(text string) {
	h.mu.Lock()
	m := h.inbox[0]
	h.inbox = h.inbox[1:]
	h.now -= m.size
	c := h.conn
	h.mu.Unlock()
	c.Lock()
	c.Occupy(-m.size)
	if s := c.Stream(m.stream); s != nil {
		s.Send([]byte(text))
	}
	c.Unlock()
	c.Flush()
}

// TestLongMessagesTakeTurns: of many long messages a few are under way at a time, none is refused, all come in the end, and short ones go past them.
func TestLongMessagesTakeTurns(t *testing.T) {
	noLeaks(t)
	const streams, size, limit = 60, 300_000, 1_000_000
	h := &hoard{}
	addr, srv := startServer(t, Config{StreamWindow: 70_000, MaxUnderWay: limit, MaxReceiveBuffer: 16 << 20}, h)
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	cl := NewClient(nc, Config{MaxSendBuffer: 64 << 20}, func() {})
	defer cl.Close()
	o := &outcomes{}
	long := strings.Repeat("m", size)
	for range streams {
		cl.call(t, o, long)
	}
	answered := 0
	for round := range streams {
		eventually(t, "messages are in hand", func() bool { return h.count() >= min(limit/size, streams-round) })
		if round == 3 { // Nothing more is asked for now; a short message needs not be.
			cl.call(t, o, "short")
			eventually(t, "a short message comes", func() bool { return h.count() > limit/size })
		}
		h.answer("done")
		answered++
		eventually(t, "an answer", func() bool { return strings.Count(o.String(), "message done") == answered })
		sc := only(t, srv)
		sc.Lock()
		checkInvariants(t, sc)
		if sc.occupied+sc.reserved > limit+len("short") {
			t.Errorf("round %d: %d bytes in hand, %d asked for", round, sc.occupied, sc.reserved)
		}
		sc.Unlock()
	}
	if most, _ := h.inHand(); most > limit+len("short") || most < limit/size*size {
		t.Errorf("%d bytes in hand at a time; the limit is %d", most, limit)
	}
	h.answer("done")
	eventually(t, "the last answer", func() bool { return strings.Count(o.String(), "message done") == streams+1 })
	if text := o.String(); strings.Contains(text, "reset") || strings.Contains(text, "status") {
		t.Errorf("a stream has ended: %.200s", text)
	}
	sc := only(t, srv)
	sc.Lock()
	defer sc.Unlock()
	if checkInvariants(t, sc); sc.reserved != 0 || sc.occupied != 0 || sc.held > streams*80_000 {
		t.Errorf("reserved %d, occupied %d, held %d bytes at the end", sc.reserved, sc.occupied, sc.held)
	}
}

// TestAloneIsAdmitted: a message that is longer than all that may be under way comes too, and one whose stream is reset on its way makes room for the next.
func TestAloneIsAdmitted(t *testing.T) {
	noLeaks(t)
	h := &hoard{}
	addr, srv := startServer(t, Config{StreamWindow: 70_000, MaxUnderWay: 100_000}, h)
	p := newPeer(t, addr)
	p.must(p.fr.WriteSettingsAck())
	begun := message(strings.Repeat("m", 500_000))
	for id := uint32(1); id <= 5; id += 2 {
		p.open(id, "/test/Hoard")
		p.data(id, false, begun[:16_000])
	}
	window := func(id uint32) {
		t.Helper()
		p.until("WINDOW_UPDATE", func(f http2.Frame) bool {
			u, ok := f.(*http2.WindowUpdateFrame)
			if ok && u.StreamID != 0 && u.StreamID != id {
				t.Errorf("the window of stream %d is opened, want that of %d", u.StreamID, id)
			}
			return ok && u.StreamID == id && int(u.Increment) >= len(begun)-70_000
		})
	}
	window(1) // In their order.
	p.must(p.fr.WriteRSTStream(1, http2.ErrCodeCancel))
	window(3)
	for b := begun[16_000:]; len(b) > 0; {
		n := min(len(b), 16_000)
		p.data(3, false, b[:n])
		b = b[n:]
	}
	eventually(t, "the message", func() bool { return h.count() == 1 })
	c := only(t, srv)
	c.Lock()
	if checkInvariants(t, c); c.reserved != 0 || !c.unadmitted.has(c.streams[5]) {
		t.Errorf("reserved %d while a message is in hand", c.reserved)
	}
	c.Unlock()
	h.answer("done")
	window(5)
}

// deaf is a message of a peer that reads nothing.
type deaf struct{ mute }

var deafAnswer = make([]byte, 20_000)

func (deaf) Open(*Stream, *Request) Receiver { return deaf{} }
func (deaf) AfterRead(*Conn)                 {}
func (deaf) Message(s *Stream, _ []byte)     { s.Send(deafAnswer) }

// TestDeafPeerIsNotAskedForMore: who does not read what was answered can't have more answered, and keeps its connection.
func TestDeafPeerIsNotAskedForMore(t *testing.T) {
	addr, srv := startServer(t, Config{StreamWindow: 70_000, MaxUnderWay: 200_000, MaxSendBuffer: 64 << 20}, deaf{})
	p := newPeer(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxWindow})
	p.must(p.fr.WriteWindowUpdate(0, maxWindow-defaultWindow))
	p.must(p.fr.WriteSettingsAck())
	const streams = 20
	for id := uint32(1); id < 2*streams; id += 2 {
		p.open(id, "/test/Deaf")
		for range 60 { // 60,000 bytes: within the window.
			p.data(id, false, message(strings.Repeat("m", 995)))
		}
	}
	c := only(t, srv)
	waiting := map[uint32]bool{}
	eventually(t, "streams wait for their windows", func() bool {
		c.Lock()
		defer c.Unlock()
		clear(waiting)
		for id, s := range c.streams {
			if c.unadmitted.has(s) {
				waiting[id] = true
			}
		}
		last := c.streams[2*streams-1]
		return last != nil && last.received == 60_000 && len(waiting) > 1 && c.unsent() > c.cfg.MaxUnderWay
	})
	p.until("the windows of those streams", func(f http2.Frame) bool {
		if u, ok := f.(*http2.WindowUpdateFrame); ok {
			delete(waiting, u.StreamID)
		}
		return len(waiting) == 0
	})
}
