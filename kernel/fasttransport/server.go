// Package fasttransport is the server of ext_proc on our own HTTP/2: it drives one state machine per stream without a goroutine per stream.
package fasttransport

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/h2"
	"github.com/policy-engine/policy-engine/fastpath/lane"
	"github.com/policy-engine/policy-engine/fastpath/memory"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/listener"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/limits"
)

// processPath is Envoy's name of the method.
const processPath = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

// routeKey names the route in the gRPC initial metadata, which only Envoy's configuration sets.
const routeKey = "x-policy-route"

// Options are what a server is given.
type Options struct {
	Config config.Server
	// New makes a machine. Machines are used again.
	New    func() extproc.Driven
	Logger *zap.Logger
	// Panicked is called for each panic of a machine, after it was logged.
	Panicked func()
	// Bodies bounds what messages that wait take together; nil stands for a bound of the server's own.
	Bodies *extproc.Budget
	// Memory is what all connections may hold; nil has no bound. Refused is called for each stream and message that is refused because it is used up; it may be nil.
	Memory  *memory.Budget
	Refused func()
	// Ended is called with why the server has ended a connection, one of h2.Reasons, and the peer's address. It may be nil.
	Ended func(reason string, peer net.Addr)
}

const (
	// streamWindow is what Envoy may send on a stream unasked, in bytes. So much of a long message waits here for its turn, in each stream.
	streamWindow = 64 << 10
	// maxUnderWay is how many bytes of long messages, and of work on them, a connection may have at a time; the others wait with Envoy. Eight chunks of the size that Envoy sends are
	// enough to keep the workers busy.
	maxUnderWay = 8 << 20
	// maxReceiveBuffer has room for that, and for the windows of some 600 streams that wait.
	maxReceiveBuffer = 48 << 20
	// maxSendBuffer is how many bytes of answers may wait for a connection that Envoy does not read. What it may ask is bounded before (h2.Config.MaxUnderWay), but for many short messages.
	maxSendBuffer = 32 << 20
)

// Server serves ext_proc and the gRPC health protocol.
type Server struct {
	http2    *h2.Server
	log      *zap.Logger
	panicked func()
	streams  sync.Pool
	health   health
	epoch    time.Time
	bodies   *extproc.Budget
	memory   *memory.Budget // nil: no bound
	open     atomic.Int64

	watching     sync.Once
	lanes        *lane.Watch // after watching
	stopWatching func()      // after watching; nil if there is none

	mu      sync.Mutex
	pending *outcome // for AfterBatch
	spare   *outcome // for the next pending; may be nil
}

// New makes a server.
func New(o Options) (*Server, error) {
	tlsConfig, err := listener.TLS(o.Config.TLS, o.Logger)
	if err != nil {
		return nil, err
	}
	s := &Server{log: o.Logger, panicked: o.Panicked, epoch: time.Now(), bodies: o.Bodies, pending: &outcome{}}
	s.pending.server = s
	if s.bodies == nil {
		s.bodies = extproc.NewBudget(maxAllQueued)
	}
	s.streams.New = func() any { return &stream{server: s, machine: o.New()} }
	s.memory = o.Memory
	s.http2 = h2.NewServer(h2.Config{
		MaxConcurrentStreams: o.Config.MaxConcurrentStreams, StreamWindow: streamWindow, MaxUnderWay: maxUnderWay, MaxReceiveBuffer: maxReceiveBuffer, MaxSendBuffer: maxSendBuffer,
		MaxConnections:   2 * o.Config.MaxConnections, // The listener has the bound; those that it has closed are here for a moment longer.
		HandshakeTimeout: o.Config.HandshakeTimeout, Memory: o.Memory, Refused: o.Refused, Ended: o.Ended, TLS: tlsConfig, Panicked: s.panicking,
	}, s)
	return s, nil
}

// Serve accepts connections until Drain. It closes the listener.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http2.Serve(l); err != nil && err != h2.ErrServerClosed {
		return fmt.Errorf("serve ext_proc on %q: %w", l.Addr(), err)
	}
	return nil
}

// panicking counts a panic of a receiver that h2 caught.
func (s *Server) panicking(v any, stack []byte) {
	s.log.Error("panic in the transport", zap.Any("panic", v), zap.ByteString("stack", stack))
	if s.panicked != nil {
		s.panicked()
	}
}

// Open implements h2.Handler.
func (s *Server) Open(hs *h2.Stream, r *h2.Request) h2.Receiver {
	switch r.Path {
	case processPath:
		return s.process(hs, r)
	case healthCheckPath, healthWatchPath:
		return s.health.open(hs, r.Path == healthWatchPath)
	}
	return nil
}

// AfterRead implements h2.Handler: it starts the calls that the frames of one read led to.
func (s *Server) AfterRead(c *h2.Conn) {
	c.Lock()
	pending, _ := c.Attachment.(*attachment)
	c.Unlock()
	if pending == nil {
		return
	}
	var ran *lane.Lane
	if pending.batch.start(pending, &ran) {
		s.afterBatch(pending)
	}
}

// Closed implements h2.CloseHandler.
func (s *Server) Closed(c *h2.Conn) {
	c.Lock()
	a, _ := c.Attachment.(*attachment)
	c.Unlock()
	if a != nil {
		a.lane.Close()
	}
}

// AfterBatch sends the answers that completed calls led to, and starts the calls that follow them. The evaluator calls it when it has completed all calls of a batch of
// results.
func (s *Server) AfterBatch() { s.afterBatch(nil) }

// afterBatch is AfterBatch on a goroutine that reads a connection, or on another one (nil).
func (s *Server) afterBatch(a *attachment) {
	for o := s.take(); o != nil; o = s.take() {
		if !s.settle(o, a) {
			return
		}
	}
}

// maxMoved is how many calls may be moved aside at a time.
const maxMoved = 16

// watch moves calls aside that hold up a connection of Envoy. It begins with the first call that may.
func (s *Server) watch() *lane.Watch {
	s.watching.Do(func() {
		s.lanes = lane.NewWatch(lane.Options{Now: time.Now, Most: maxMoved, Busy: limits.Busy})
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.lanes.Run(ctx)
		}()
		s.stopWatching = func() { cancel(); <-ended }
	})
	return s.lanes
}

// lastWords is how long answers that were made at the drain deadline have to leave.
const lastWords = 250 * time.Millisecond

// SetServing says what health checkers are told until Drain; at first it is true.
func (s *Server) SetServing(serving bool) { s.health.set(serving) }

// Drain tells health checkers and peers that the server goes away, and lets streams finish until ctx ends. Then those that wait for a worker get an answer of
// refusal, and all others are reset: none ends with OK, because Envoy would take that for permission.
func (s *Server) Drain(ctx context.Context) {
	s.health.shutdown()
	defer func() {
		s.http2.Close()
		s.watching.Do(func() {})
		if s.stopWatching != nil {
			s.stopWatching()
		}
	}()
	if s.http2.Drain(ctx) == nil {
		return
	}
	s.log.Warn("drain deadline has passed; the remaining streams are refused", zap.Int64("streams", s.open.Load()))
	s.http2.Each(func(hs *h2.Stream, r h2.Receiver) {
		if st, ok := r.(*stream); ok && st.outstanding {
			st.apply(hs, st.drain())
		}
	})
	last, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	_ = s.http2.Drain(last) // What is left is reset.
}

// Held is what the connections hold, in bytes.
func (s *Server) Held() int64 {
	if s.memory == nil {
		return 0
	}
	return s.memory.Used()
}

// Streams is how many streams are open.
func (s *Server) Streams() int64 { return s.open.Load() }

func (s *Server) now() extproc.Instant { return extproc.Instant(time.Since(s.epoch)) }

var (
	_ h2.Handler      = (*Server)(nil)
	_ route.Completer = (*stream)(nil)
)
