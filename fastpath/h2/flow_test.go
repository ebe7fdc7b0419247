package h2

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// TestSendWindows: what we send never exceeds the peer's windows, whichever way it opens them.
func TestSendWindows(t *testing.T) {
	const size = 1000
	want := message(strings.Repeat("m", size))
	window := func(n uint32) http2.Setting { return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n} }
	for _, tc := range []struct {
		name  string
		first uint32 // initial window
		open  func(p *peer, left int)
	}{
		{"a byte at a time", 0, func(p *peer, _ int) { p.must(p.fr.WriteWindowUpdate(1, 1)) }},
		{"seven bytes at a time", 3, func(p *peer, _ int) { p.must(p.fr.WriteWindowUpdate(1, 7)) }},
		{"all at once", 0, func(p *peer, left int) { p.must(p.fr.WriteWindowUpdate(1, uint32(left))) }},
		{"by SETTINGS", 0, func(p *peer, left int) { p.must(p.fr.WriteSettings(window(uint32(len(want) - left + 500)))) }},
		{"by SETTINGS after a negative window", 400, func(p *peer, left int) {
			p.must(p.fr.WriteSettings(window(0), window(100)))
			p.must(p.fr.WriteWindowUpdate(1, uint32(300+left)))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr, srv := startServer(t, Config{}, echoHandler{})
			p := newPeer(t, addr, window(tc.first))
			p.open(1, "/test/Echo")
			p.data(1, true, want)
			var got []byte
			status := ""
			for range 3 * len(want) {
				p.must(p.fr.WritePing(false, [8]byte{}))
				p.until("PING answer", func(f http2.Frame) bool {
					switch f := f.(type) {
					case *http2.DataFrame:
						got = append(got, f.Data()...)
					case *http2.HeadersFrame:
						fields, err := p.dec.DecodeFull(f.HeaderBlockFragment())
						p.must(err)
						if f.StreamEnded() {
							status = fields[0].Value
						}
					case *http2.PingFrame:
						return f.IsAck()
					}
					return false
				})
				if len(got) == len(want) {
					break
				}
				tc.open(p, len(want)-len(got))
			}
			if !bytes.Equal(got, want) || status != "0" {
				t.Fatalf("status %q, %d bytes; want %d", status, len(got), len(want))
			}
			c := only(t, srv)
			c.Lock()
			defer c.Unlock()
			checkInvariants(t, c)
		})
	}
}

// TestConnectionWindowShared: streams that wait for the connection's window get it in turn, and none is forgotten.
func TestConnectionWindowShared(t *testing.T) {
	addr, srv := startServer(t, Config{}, echoHandler{})
	p := newPeer(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	const streams, size = 20, 10_000 // More than the connection's 65535.
	for i := range uint32(streams) {
		p.open(2*i+1, "/test/Echo")
		p.data(2*i+1, true, message(strings.Repeat("m", size)))
	}
	left, ended := streams*(size+5), 0
	p.must(p.fr.WriteRSTStream(2*streams-1, http2.ErrCodeCancel)) // One that waits goes away.
	for ended < streams-1 {
		p.until("DATA", func(f http2.Frame) bool {
			switch f := f.(type) {
			case *http2.DataFrame:
				left -= len(f.Data())
				p.must(p.fr.WriteWindowUpdate(0, uint32(max(len(f.Data())/2, 1)+700)))
			case *http2.HeadersFrame:
				if f.StreamEnded() {
					ended++
				}
			}
			return ended == streams-1
		})
	}
	c := only(t, srv)
	c.Lock()
	defer c.Unlock()
	checkInvariants(t, c)
	if c.pending != 0 || c.waiting.first != nil {
		t.Errorf("%d bytes wait still", c.pending)
	}
}

// TestWindowNeverOpened: pending answers are bounded for the connection, and the streams past the bound are reset.
func TestWindowNeverOpened(t *testing.T) {
	const limit = 100_000
	rec := &recorder{}
	addr, srv := startServer(t, Config{MaxSendBuffer: limit}, rec)
	p := newPeer(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	const streams, size = 100, 2000
	for i := range uint32(streams) {
		p.open(2*i+1, "/test/Echo")
		p.data(2*i+1, true, message(strings.Repeat("m", size)))
	}
	resets := 0
	p.must(p.fr.WritePing(false, [8]byte{9}))
	p.until("PING answer", func(f http2.Frame) bool {
		if r, ok := f.(*http2.RSTStreamFrame); ok && r.ErrCode == http2.ErrCodeEnhanceYourCalm {
			resets++
		}
		return f.Header().Type == http2.FramePing
	})
	c := only(t, srv)
	c.Lock()
	checkInvariants(t, c)
	if want := streams - limit/(size+5); c.pending > limit || resets < want {
		t.Errorf("%d bytes pending, %d streams reset; want at most %d and at least %d", c.pending, resets, limit, want)
	}
	c.Unlock()
	honest(t, dial(t, addr))
}

// TestReceiveWindows: a peer that keeps to its windows can send as much as it likes, and who does not is reset.
func TestReceiveWindows(t *testing.T) {
	addr, srv := startServer(t, Config{StreamWindow: 70_000, ConnWindow: 100_000}, silent{})
	p := newPeer(t, addr)
	p.must(p.fr.WriteSettingsAck())
	p.open(1, "/test/Silent")
	window := map[uint32]int{0: 100_000, 1: 70_000}
	part := message(strings.Repeat("m", 8000))
	for range 200 {
		for window[0] < len(part) || window[1] < len(part) {
			p.until("WINDOW_UPDATE", func(f http2.Frame) bool {
				u, ok := f.(*http2.WindowUpdateFrame)
				if ok {
					window[u.StreamID] += int(u.Increment)
				}
				return ok
			})
		}
		if window[0] -= len(part); window[0] >= 0 {
			window[1] -= len(part)
			p.data(1, false, part)
		}
	}
	p.ping()
	c := only(t, srv)
	c.Lock()
	c.streams[1].recvWindow = 5
	c.Unlock()
	p.data(1, false, message("x"))
	if o := p.outcome(1); o.rst != http2.ErrCodeFlowControl {
		t.Errorf("outcome %v; want FLOW_CONTROL_ERROR", o)
	}
}

// pausing pauses its stream at the first message, and resumes it when it is told so.
type pausing struct{ mute }

type pauses struct{ echoHandler }

func (pauses) Open(*Stream, *Request) Receiver { return pausing{} }
func (pausing) Message(s *Stream, msg []byte) {
	s.Pause()
	if strings.HasPrefix(string(msg), "resume") {
		s.Resume()
	}
}

// TestPause: the window of a paused stream is not opened, those of others and of the connection are; it is opened for all that came when the stream goes on.
func TestPause(t *testing.T) {
	addr, srv := startServer(t, Config{StreamWindow: 70_000, ConnWindow: 1 << 20}, pauses{})
	p := newPeer(t, addr)
	p.must(p.fr.WriteSettingsAck())
	p.open(1, "/test/Pausing")
	p.open(3, "/test/Pausing")
	part := message(strings.Repeat("m", 10_000))
	for range 6 {
		p.data(1, false, part)
	}
	opened := map[uint32]int{}
	count := func(until func() bool) {
		p.must(p.fr.WritePing(false, [8]byte{}))
		p.until("PING answer", func(f http2.Frame) bool {
			switch f := f.(type) {
			case *http2.WindowUpdateFrame:
				opened[f.StreamID] += int(f.Increment)
			case *http2.PingFrame:
				return f.IsAck()
			}
			return false
		})
		if !until() {
			t.Fatalf("the windows were opened by %v", opened)
		}
	}
	count(func() bool { return opened[1] == 0 })
	for range 5 {
		p.data(3, false, message("resume"+strings.Repeat("m", 10_000)))
	}
	count(func() bool { return opened[3] > 35_000 && opened[1] == 0 })
	p.data(1, false, message("resume"))
	count(func() bool { return opened[1] == 6*len(part)+len(message("resume")) })
	c := only(t, srv)
	c.Lock()
	defer c.Unlock()
	checkInvariants(t, c)
}
