package h2

import (
	"sync"
	"testing"

	"golang.org/x/net/http2"
)

// TestPanics: a receiver that panics ends its call with INTERNAL, and neither the connection nor the process.
func TestPanics(t *testing.T) {
	for _, tc := range []struct {
		name string
		act  func(s *Stream, e string)
	}{
		{"before an answer", func(*Stream, string) { panic("planned") }},
		{"after an answer", func(s *Stream, _ string) { s.Send([]byte("x")); panic("planned") }},
		{"at the end", func(s *Stream, e string) {
			if e == "half-close" {
				panic("planned")
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var mu sync.Mutex
			var panics []any
			rec := &recorder{act: tc.act}
			addr, _ := startServer(t, Config{Panicked: func(v any, stack []byte) {
				mu.Lock()
				defer mu.Unlock()
				if panics = append(panics, v); len(stack) == 0 {
					t.Error("no stack")
				}
			}}, rec)
			p := newPeer(t, addr)
			for id := uint32(1); id < 10; id += 2 {
				p.open(id, "/test/Any")
				p.data(id, true, message("a"))
				if o := p.outcome(id); o.fields["grpc-status"] != "13" {
					t.Errorf("outcome %v; want INTERNAL", o)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if len(panics) != 5 || panics[0] != "planned" {
				t.Errorf("panics: %v", panics)
			}
		})
	}
}

// panicking panics where there is no receiver.
type panicking struct {
	echoHandler
	where string
}

func (h panicking) Open(s *Stream, r *Request) Receiver {
	if h.where == "Open" && r.Path == "/test/Panic" {
		panic("planned")
	}
	if r.Path == "/test/Panic" {
		s.Conn().Attachment = true
		return panicReset{}
	}
	return h.echoHandler.Open(s, r)
}

func (h panicking) AfterRead(c *Conn) {
	c.Lock()
	marked := c.Attachment != nil
	c.Unlock()
	if h.where == "AfterRead" && marked {
		panic("planned")
	}
}

type panicReset struct{ mute }

func (panicReset) Reset(*Stream) { panic("planned") }

func TestPanicsOfTheHandler(t *testing.T) {
	t.Run("Open", func(t *testing.T) {
		addr, _ := startServer(t, Config{}, panicking{where: "Open"})
		p := newPeer(t, addr)
		p.open(1, "/test/Panic")
		if o := p.outcome(1); o.fields["grpc-status"] != "13" {
			t.Errorf("outcome %v", o)
		}
		p.ping()
	})
	t.Run("Reset", func(t *testing.T) {
		addr, _ := startServer(t, Config{}, panicking{where: "Reset"})
		p := newPeer(t, addr)
		p.open(1, "/test/Panic")
		p.must(p.fr.WriteRSTStream(1, http2.ErrCodeCancel))
		p.ping()
	})
	t.Run("AfterRead", func(t *testing.T) {
		addr, srv := startServer(t, Config{}, panicking{where: "AfterRead"})
		p := newPeer(t, addr)
		p.open(1, "/test/Panic") // Its Reset panics too.
		if code, ok := p.goAway(); !ok || code != http2.ErrCodeInternal {
			t.Errorf("GOAWAY %v with %v", ok, code)
		}
		eventually(t, "the connection is forgotten", func() bool { return len(srv.connections()) == 0 })
		honest(t, dial(t, addr))
	})
}
