// Package h2 serves gRPC over HTTP/2 (RFC 9113) for one purpose: very many short streams on few connections. One goroutine reads a connection, handles every frame of a
// read inline, and writes all answers with one system call.
package h2

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/policy-engine/policy-engine/fastpath/socket"
)

// Handler decides on the calls of all connections. Its methods are called from many goroutines.
type Handler interface {
	// Open is called with the connection locked when the headers of a gRPC call have arrived. It returns who takes the call; nil
	// is UNIMPLEMENTED, unless Open already ended the stream.
	Open(s *Stream, r *Request) Receiver
	// AfterRead is called without the lock when all frames of one read were handled, before the answers are written: the moment to start what
	// must not run under the lock, all together.
	AfterRead(c *Conn)
}

// CloseHandler is a Handler that is told of the end of connections.
type CloseHandler interface {
	// Closed is called when a connection has ended, without its lock: AfterRead is not called any more.
	Closed(c *Conn)
}

// Server accepts connections.
type Server struct {
	cfg     Config
	handler Handler
	start   time.Time

	mu     sync.Mutex
	conns  map[*Conn]struct{}
	closed bool
	group  sync.WaitGroup
	stop   chan struct{}
}

// ErrServerClosed is returned by Serve after Close or Drain.
var ErrServerClosed = errors.New("h2: server closed")

// NewServer makes a server.
func NewServer(cfg Config, handler Handler) *Server {
	cfg.setDefaults()
	return &Server{cfg: cfg, handler: handler, start: time.Now(), conns: make(map[*Conn]struct{}), stop: make(chan struct{})}
}

func (s *Server) open(st *Stream, r *Request) Receiver { return s.handler.Open(st, r) }

func (s *Server) afterRead(c *Conn) { s.handler.AfterRead(c) }

func (s *Server) run(reads func()) { s.group.Go(reads) }

func (s *Server) ended(c *Conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	if h, ok := s.handler.(CloseHandler); ok {
		h.Closed(c)
	}
}

// now is the time since the server's start, in nanoseconds.
func (s *Server) now() int64 { return int64(time.Since(s.start)) }

// Serve accepts connections until the listener fails or the server is closed. It closes the listener.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrServerClosed
	}
	s.group.Add(1)
	s.mu.Unlock()
	go s.janitor()
	accepting := make(chan struct{})
	defer close(accepting)
	go func() {
		select {
		case <-s.stop:
			l.Close()
		case <-accepting:
		}
	}()
	for delay := time.Duration(0); ; {
		nc, err := l.Accept()
		if err != nil {
			select {
			case <-s.stop:
				return ErrServerClosed
			default:
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			// Out of descriptors, most likely: wait for some to come back.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(delay):
			case <-s.stop:
				return ErrServerClosed
			}
			continue
		}
		delay = 0
		s.accept(nc)
	}
}

func (s *Server) accept(nc net.Conn) {
	c := newConn(s, &s.cfg, nc)
	if s.cfg.TLS != nil {
		c.nc = tls.Server(nc, s.cfg.TLS)
	} else {
		c.plain = socket.New(nc)
	}
	s.mu.Lock()
	if s.closed || len(s.conns) >= s.cfg.MaxConnections {
		full := !s.closed
		s.mu.Unlock()
		c.account.Close()
		nc.Close()
		if full {
			c.reportEnd(ReasonConnections)
		}
		return
	}
	s.conns[c] = struct{}{}
	s.group.Add(1)
	s.mu.Unlock()
	s.track(c)
	go func() {
		defer s.group.Done()
		if !c.secure() {
			nc.Close()
			c.endFor(ReasonHandshake)
			c.over(nil)
			s.ended(c)
			return
		}
		c.serve()
	}()
}

// secure does the TLS handshake, where there is one.
func (c *Conn) secure() bool {
	tc, ok := c.nc.(*tls.Conn)
	if !ok {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.HandshakeTimeout)
	defer cancel()
	return tc.HandshakeContext(ctx) == nil && tc.ConnectionState().NegotiatedProtocol == "h2"
}

// janitor sends PINGs on silent connections and closes those that don't answer.
func (s *Server) janitor() {
	defer s.group.Done()
	tick := time.NewTicker(s.cfg.idleTick())
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
			now := s.now()
			for _, c := range s.connections() {
				c.checkIdle(now)
			}
		}
	}
}

func (s *Server) connections() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

// close stops accepting; later connections are refused.
func (s *Server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.stop)
	}
}

// Drain tells every client that no further streams are wanted (GOAWAY, in two steps), and waits until those under way have ended, or ctx has. It ends no stream
// itself: Close does, and the peers see an error.
func (s *Server) Drain(ctx context.Context) error {
	s.close()
	for _, c := range s.connections() {
		c.mu.Lock()
		c.beginDrain()
		c.flush()
		c.mu.Unlock()
	}
	tick := time.NewTicker(drainTick)
	defer tick.Stop()
	for {
		conns := s.connections()
		if len(conns) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		for _, c := range conns {
			c.mu.Lock()
			c.overdueDrain()
			c.flush()
			c.mu.Unlock()
		}
	}
}

// drainTick is how often Drain looks for connections that have ended.
const drainTick = 5 * time.Millisecond

// Each calls fn for every stream that has a receiver, with its connection locked, and sends what fn sent.
func (s *Server) Each(fn func(*Stream, Receiver)) {
	for _, c := range s.connections() {
		c.mu.Lock()
		for _, st := range c.streams {
			if st.receiver != nil {
				fn(st, st.receiver)
			}
		}
		c.flush()
		c.mu.Unlock()
	}
}

// Close ends all connections at once. Streams under way are reset: their receivers are told, the peers see an error.
func (s *Server) Close() {
	s.close()
	for _, c := range s.connections() {
		c.socket.Close()
	}
	s.group.Wait()
}
