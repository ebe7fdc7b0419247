package h2

import (
	"sync/atomic"
	"testing"
)

// stuck is a handler whose first AfterRead hands over, and waits.
type stuck struct {
	echoHandler
	handed  atomic.Bool
	entered chan struct{}
	leave   chan struct{}
	closed  chan struct{}
}

func (s *stuck) AfterRead(c *Conn) {
	if s.handed.CompareAndSwap(false, true) {
		close(s.entered)
		c.HandOver()
		<-s.leave
	}
}

func (s *stuck) Closed(*Conn) { s.closed <- struct{}{} }

// TestHandOver: the connection goes on while the goroutine that read it is busy, and ends once, whether that goroutine returns before or after the end.
func TestHandOver(t *testing.T) {
	for name, early := range map[string]bool{"returns before the end": true, "returns after the end": false} {
		t.Run(name, func(t *testing.T) {
			s := &stuck{entered: make(chan struct{}), leave: make(chan struct{}), closed: make(chan struct{}, 2)}
			addr, srv := startServer(t, Config{}, s)
			p := newPeer(t, addr)
			<-s.entered
			p.ping() // It is answered by the goroutine that has taken over.
			if early {
				close(s.leave)
				p.ping()
			}
			p.nc.Close()
			<-s.closed
			if !early {
				close(s.leave)
			}
			srv.Close()
			if len(s.closed) > 0 {
				t.Error("the connection ended twice")
			}
		})
	}
}
