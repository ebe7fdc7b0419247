package h2

import (
	"runtime"
	"strings"
	"sync"
	"testing"
)

// quitting ends the goroutine that calls it, as runtime.Goexit does, where the path says.
type quitting struct{ echoHandler }

func (h quitting) Open(s *Stream, r *Request) Receiver {
	switch r.Path {
	case "/test/Open":
		runtime.Goexit()
	case "/test/AfterRead":
		s.Conn().Attachment = true
		return mute{}
	case "/test/Message":
		return quitter{}
	}
	return h.echoHandler.Open(s, r)
}

func (quitting) AfterRead(c *Conn) {
	c.Lock()
	marked := c.Attachment != nil
	c.Attachment = nil
	c.Unlock()
	if marked {
		runtime.Goexit()
	}
}

type quitter struct{ mute }

func (quitter) Message(*Stream, []byte) { runtime.Goexit() }

// TestGoexit: who ends the goroutine of a connection ends the connection, which peers and receivers hear of at once, and nothing else.
func TestGoexit(t *testing.T) {
	noLeaks(t)
	for _, where := range []string{"Open", "Message", "AfterRead"} {
		t.Run(where, func(t *testing.T) {
			var mu sync.Mutex
			var stacks []string
			addr, srv := startServer(t, Config{Panicked: func(_ any, stack []byte) {
				mu.Lock()
				defer mu.Unlock()
				stacks = append(stacks, string(stack))
			}}, quitting{})
			other := dial(t, addr)
			honest(t, other)
			p := newPeer(t, addr)
			p.open(1, "/test/Echo")
			p.open(3, "/test/"+where)
			p.data(3, false, message("x"))
			p.goAway() // Without one: the connection just ends.
			eventually(t, "the connection is forgotten", func() bool { return len(srv.connections()) == 1 })
			honest(t, other)
			mu.Lock()
			defer mu.Unlock()
			if len(stacks) != 1 || !strings.Contains(stacks[0], "goexit_test.go") {
				t.Errorf("%d stacks, want one that names the culprit: %s", len(stacks), stacks)
			}
		})
	}
}

// TestClientGoexit: the calls of a client whose receiver ends the goroutine are told of the end.
func TestClientGoexit(t *testing.T) {
	noLeaks(t)
	cl, p := clientOf(t, Config{Panicked: func(any, []byte) {}})
	p.must(p.fr.WriteSettings())
	beside := &outcomes{}
	cl.call(t, beside, "q")
	cl.call(t, &outcomes{on: func(*Stream, string) { runtime.Goexit() }}, "q")
	p.ping()
	p.write(rawFrame(frameHeaders, flagEndHeaders, 3, append([]byte{0x88}, literals("content-type", "application/grpc")...)))
	p.data(3, false, message("a"))
	<-cl.Done()
	if got := beside.String(); got != "reset" {
		t.Errorf("the other call: %s", got)
	}
}
