package h2

import (
	"context"
	"sync"
	"testing"

	"golang.org/x/net/http2"
)

// begin drains in the background and reads the first GOAWAY.
func (p *peer) begin(ctx context.Context, srv *Server) (ended chan error, drainPing [8]byte) {
	p.t.Helper()
	ended = make(chan error, 1)
	go func() { ended <- srv.Drain(ctx) }()
	p.until("first GOAWAY", func(f http2.Frame) bool {
		g, ok := f.(*http2.GoAwayFrame)
		if ok && (g.LastStreamID != maxStreamID || g.ErrCode != http2.ErrCodeNo) {
			p.t.Errorf("first GOAWAY names %d with %v", g.LastStreamID, g.ErrCode)
		}
		return ok
	})
	p.until("PING", func(f http2.Frame) bool {
		g, ok := f.(*http2.PingFrame)
		if ok {
			drainPing = g.Data
		}
		return ok && !g.IsAck()
	})
	return ended, drainPing
}

func (p *peer) lastGoAway(want uint32) {
	p.t.Helper()
	p.until("second GOAWAY", func(f http2.Frame) bool {
		g, ok := f.(*http2.GoAwayFrame)
		if ok && (g.LastStreamID != want || g.ErrCode != http2.ErrCodeNo) {
			p.t.Errorf("second GOAWAY names %d with %v, want %d", g.LastStreamID, g.ErrCode, want)
		}
		return ok
	})
}

// TestDrain: streams under way and those on the wire finish; later ones are refused.
func TestDrain(t *testing.T) {
	noLeaks(t)
	for _, answered := range []bool{true, false} {
		t.Run(map[bool]string{true: "PING is answered", false: "PING is not answered"}[answered], func(t *testing.T) {
			addr, srv := startServer(t, Config{}, echoHandler{})
			p := newPeer(t, addr)
			p.open(1, "/test/Echo")
			p.ping()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			ended, ping := p.begin(ctx, srv)
			p.open(3, "/test/Echo") // It was on the wire.
			if answered {
				p.must(p.fr.WritePing(true, ping))
			}
			p.lastGoAway(3)
			p.open(5, "/test/Echo")
			p.data(5, true, message("x"))
			if o := p.outcome(5); o.rst != http2.ErrCodeRefusedStream {
				t.Errorf("late stream: %v", o)
			}
			for id := uint32(1); id <= 3; id += 2 {
				p.data(id, false, message("x"))
				p.data(id, true, nil)
				if o := p.outcome(id); o.fields["grpc-status"] != "0" || string(o.data) != string(message("x")) {
					t.Errorf("stream %d: %v", id, o)
				}
			}
			if code, seen := p.goAway(); seen && code != http2.ErrCodeNo {
				t.Errorf("end: GOAWAY with %v", code)
			}
			if err := <-ended; err != nil {
				t.Errorf("drain: %v", err)
			}
		})
	}
}

// TestDrainDeadline: what is left is reset by Close, and nothing ends with OK.
func TestDrainDeadline(t *testing.T) {
	noLeaks(t)
	rec := &recorder{}
	addr, srv := startServer(t, Config{}, rec)
	p := newPeer(t, addr)
	p.open(1, "/test/Any")
	p.ping()
	ctx, cancel := context.WithCancel(context.Background())
	ended, ping := p.begin(ctx, srv)
	p.must(p.fr.WritePing(true, ping))
	p.lastGoAway(1)
	cancel()
	if err := <-ended; err != context.Canceled {
		t.Errorf("drain: %v", err)
	}
	srv.Close()
	for {
		f, err := p.fr.ReadFrame()
		if err != nil {
			break
		}
		if f.Header().StreamID == 1 {
			t.Errorf("an answer: %v", f)
		}
	}
	if got := rec.events(); got != "reset" {
		t.Errorf("events: %s", got)
	}
}

// TestDrainEverybody: connections of all kinds don't hold up a drain.
func TestDrainEverybody(t *testing.T) {
	noLeaks(t)
	addr, srv := startServer(t, Config{}, echoHandler{})
	rawPeer(t, addr)                    // Says nothing.
	rawPeer(t, addr).write([]byte("P")) // Begins to say something.
	newPeer(t, addr).ping()             // Idle, and never answers.
	answered := newPeer(t, addr)        // Never closes its side.
	answered.open(1, "/test/Fail")
	answered.data(1, false, message("x"))
	answered.outcome(1)
	cc := dial(t, addr)
	honest(t, cc)
	eventually(t, "all are there", func() bool { return len(srv.connections()) == 5 })
	late := rawPeer(t, addr) // Speaks when the drain has begun.
	eventually(t, "the late one is there", func() bool { return len(srv.connections()) == 6 })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var draining sync.WaitGroup
	draining.Add(1)
	go func() {
		defer draining.Done()
		if err := srv.Drain(ctx); err != nil {
			t.Errorf("drain: %v", err)
		}
	}()
	eventually(t, "the drain begins", func() bool {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		return srv.closed
	})
	late.write([]byte(preface))
	late.must(late.fr.WriteSettings())
	late.open(1, "/test/Echo")
	late.data(1, true, message("x"))
	if o := late.outcome(1); o.fields["grpc-status"] != "0" {
		t.Errorf("late connection: %v", o)
	}
	draining.Wait()
}
