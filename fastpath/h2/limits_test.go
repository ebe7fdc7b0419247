package h2

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
)

// TestUnfinishedMessages: the messages that have begun on all streams of a connection share one limit, whatever their prefixes promise.
func TestUnfinishedMessages(t *testing.T) {
	const limit = 200_000
	addr, srv := startServer(t, Config{MaxMessageSize: 100_000, MaxReceiveBuffer: limit}, silent{})
	p := newPeer(t, addr)
	part := message(strings.Repeat("m", 90_000))[:16_000]
	const streams = 50
	for i := range uint32(streams) {
		p.open(2*i+1, "/test/Silent")
		p.data(2*i+1, false, part)
	}
	refused := 0
	p.must(p.fr.WritePing(false, [8]byte{9}))
	p.until("PING answer", func(f http2.Frame) bool {
		if h, ok := f.(*http2.HeadersFrame); ok && h.StreamEnded() {
			refused++
		}
		return f.Header().Type == http2.FramePing
	})
	c := only(t, srv)
	c.Lock()
	checkInvariants(t, c)
	if want := streams - limit/16_000; refused < want || refused == streams {
		t.Errorf("%d streams refused, want at least %d, and not all", refused, want)
	}
	c.Unlock()
	// A promise alone costs nothing.
	q := newPeer(t, addr)
	for i := range uint32(2000) {
		q.open(2*i+1, "/test/Silent")
		q.data(2*i+1, false, part[:6])
	}
	q.ping()
	// Large messages one after the other don't leave their buffers behind.
	r := newPeer(t, addr)
	for i := range uint32(20) {
		r.open(2*i+1, "/test/Silent")
		whole := message(strings.Repeat("m", 90_000))
		for len(whole) > 0 {
			n := min(len(whole), 16_000)
			r.data(2*i+1, false, whole[:n])
			whole = whole[n:]
		}
	}
	r.ping()
	for _, c := range srv.connections() {
		c.Lock()
		checkInvariants(t, c)
		c.Unlock()
	}
	honest(t, dial(t, addr))
}

// TestNeverReads: a peer that asks and does not read is disconnected, and holds no more than the limit meanwhile.
func TestNeverReads(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
	}{
		{"the buffer is full", Config{MaxSendBuffer: 1 << 20}},
		{"the deadline has passed", Config{WriteTimeout: 50e6}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr, srv := startServer(t, tc.cfg, echoHandler{})
			p := newPeer(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxWindow})
			p.must(p.fr.WriteWindowUpdate(0, maxWindow-defaultWindow))
			c := only(t, srv)
			var b []byte
			for i := range uint32(100) {
				b = append(b, rawFrame(frameHeaders, flagEndHeaders, 2*i+1, p.call("/test/Echo"))...)
				b = append(b, rawFrame(frameData, flagEndStream, 2*i+1, message(strings.Repeat("m", 15_000)))...)
			}
			// One connection's socket buffers take a few MiB.
			go func() {
				for id := uint32(1); ; {
					if _, err := p.nc.Write(b); err != nil {
						return
					}
					id += 200
					b = b[:0]
					for i := range uint32(100) {
						b = append(b, rawFrame(frameHeaders, flagEndHeaders, id+2*i, p.call("/test/Echo"))...)
						b = append(b, rawFrame(frameData, flagEndStream, id+2*i, message(strings.Repeat("m", 15_000)))...)
					}
				}
			}()
			cc := dial(t, addr)
			eventually(t, "the connection is closed", func() bool {
				c.Lock()
				if c.unsent() > 4*c.cfg.MaxSendBuffer {
					t.Errorf("%d bytes wait", c.unsent())
				}
				broken := c.writer.broken
				c.Unlock()
				return broken
			})
			honest(t, cc)
		})
	}
}

// TestOutputBoundFromElsewhere: answers of another goroutine count too.
func TestOutputBoundFromElsewhere(t *testing.T) {
	addr, srv := startServer(t, Config{MaxSendBuffer: 1 << 20}, silent{})
	p := newPeer(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxWindow})
	p.must(p.fr.WriteWindowUpdate(0, maxWindow-defaultWindow))
	p.open(1, "/test/Silent")
	p.ping()
	c := only(t, srv)
	msg := make([]byte, 10_000)
	eventually(t, "the connection is closed", func() bool {
		c.Lock()
		if s := c.Stream(1); s != nil {
			s.Send(msg)
		}
		n, broken := c.unsent(), c.writer.broken
		c.Unlock()
		c.Flush()
		if n > c.cfg.MaxSendBuffer+len(msg)+32 {
			t.Fatalf("%d bytes wait", n)
		}
		return broken
	})
	eventually(t, "it is forgotten", func() bool { return len(srv.connections()) == 0 })
}

// TestSlowReader: after a full socket, and a deadline that has passed since, the connection goes on.
func TestSlowReader(t *testing.T) {
	addr, srv := startServer(t, Config{WriteTimeout: 200e6, MaxSendBuffer: 64 << 20}, echoHandler{})
	p := newPeer(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxWindow})
	p.must(p.fr.WriteWindowUpdate(0, maxWindow-defaultWindow))
	c := only(t, srv)
	full := false
	id := uint32(1)
	var reading sync.WaitGroup
	for ; !full; id += 2 {
		p.open(id, "/test/Echo")
		p.data(id, true, message(strings.Repeat("m", 15_000)))
		c.Lock()
		full = c.writer.busy && c.unsent() > 0
		c.Unlock()
	}
	reading.Add(1)
	go func() {
		defer reading.Done()
		p.outcome(id - 2)
	}()
	reading.Wait()
	eventually(t, "nothing waits", func() bool {
		c.Lock()
		defer c.Unlock()
		return !c.writer.busy && c.unsent() == 0
	})
	// A deadline that was left would have passed now.
	start := c.owner.now()
	eventually(t, "the time of a write has passed", func() bool { return c.owner.now()-start > int64(c.cfg.WriteTimeout)*3/2 })
	p.open(id, "/test/Echo")
	p.data(id, true, message("x"))
	if o := p.outcome(id); o.fields["grpc-status"] != "0" {
		t.Errorf("outcome %v", o)
	}
}

// TestByteAtATime: a peer whose bytes come one by one is served, whatever else it is.
func TestByteAtATime(t *testing.T) {
	addr, _ := startServer(t, Config{}, echoHandler{})
	p := rawPeer(t, addr)
	if tcp, ok := p.nc.(*net.TCPConn); ok {
		p.must(tcp.SetNoDelay(true))
	}
	b := append([]byte(preface), rawFrame(frameSettings, 0, 0, nil)...)
	b = append(b, rawFrame(frameHeaders, flagEndHeaders, 1, p.call("/test/Echo"))...)
	b = append(b, rawFrame(frameData, flagEndStream, 1, message("one by one"))...)
	for i := range b {
		p.write(b[i : i+1])
	}
	if o := p.outcome(1); string(o.data) != string(message("one by one")) || o.fields["grpc-status"] != "0" {
		t.Errorf("outcome %v", o)
	}
}

// TestStreamLimit: calls past SETTINGS_MAX_CONCURRENT_STREAMS are refused, in a way that clients may retry, and the others go on.
func TestStreamLimit(t *testing.T) {
	addr, _ := startServer(t, Config{MaxConcurrentStreams: 3}, echoHandler{})
	p := newPeer(t, addr)
	for id := uint32(1); id <= 7; id += 2 {
		p.open(id, "/test/Echo")
	}
	p.data(7, true, message("on its way")) // No error: it crosses our RST_STREAM.
	if o := p.outcome(7); o.rst != http2.ErrCodeRefusedStream {
		t.Fatalf("fourth stream: %v", o)
	}
	for id := uint32(1); id <= 5; id += 2 {
		p.data(id, true, message(fmt.Sprint(id)))
		if o := p.outcome(id); o.fields["grpc-status"] != "0" {
			t.Errorf("stream %d: %v", id, o)
		}
	}
	p.open(9, "/test/Echo")
	p.data(9, true, nil)
	if o := p.outcome(9); o.fields["grpc-status"] != "0" {
		t.Errorf("stream after the others ended: %v", o)
	}
}

// TestNeverClosesItsSide: streams that were answered and that the peer leaves open are closed after others, and never keep all places.
func TestNeverClosesItsSide(t *testing.T) {
	for _, tc := range []struct{ limit, kept uint32 }{{10_000, maxFinished}, {4000, 2000}, {2000, 1000}, {100, 50}, {2, 1}, {1, 0}} {
		t.Run(fmt.Sprintf("%d streams allowed", tc.limit), func(t *testing.T) {
			addr, srv := startServer(t, Config{MaxConcurrentStreams: tc.limit}, echoHandler{})
			p := newPeer(t, addr)
			c := only(t, srv)
			const streams = 5000
			for i := range uint32(streams) {
				p.open(2*i+1, "/test/Fail")
				p.data(2*i+1, false, message("x"))
				if i%500 == 499 {
					if o := p.outcome(2*i + 1); o.fields["grpc-status"] != "9" {
						t.Fatalf("stream %d: %v", 2*i+1, o)
					}
				}
			}
			p.ping()
			c.Lock()
			defer c.Unlock()
			checkInvariants(t, c)
			if len(c.streams) != int(tc.kept) || c.active != 0 {
				t.Errorf("%d streams, %d active; want the last %d", len(c.streams), c.active, tc.kept)
			}
		})
	}
}
