// Package grpctransport is the server of ext_proc on grpc-go: it drives one state machine per stream.
package grpctransport

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/codec"
	"github.com/policy-engine/policy-engine/fastpath/memory"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/listener"
)

// ServiceName is Envoy's name of the service.
const ServiceName = "envoy.service.ext_proc.v3.ExternalProcessor"

const (
	// maxMessage is the longest message from Envoy in bytes; its headers are at most 8 MiB by configuration and 60 KiB by default.
	maxMessage = 4 << 20
	// maxMetadata is how many bytes of gRPC headers a stream may begin with.
	maxMetadata = 64 << 10
	// streamWindow and connWindow are fixed HTTP/2 windows in bytes; fixed ones spare the pings that measure the bandwidth.
	// The peer may send streamWindow bytes on each stream unasked, for longer messages it waits (grants).
	streamWindow = 64 << 10
	connWindow   = 4 << 20
	// bufferSize is of the buffers that a connection reads into and writes from.
	bufferSize = 64 << 10
	// handshakeTimeout bounds TLS and the HTTP/2 preface where the configuration does not.
	handshakeTimeout = 5 * time.Second
	// lastWords is how long answers that were made at the drain deadline have to leave.
	lastWords = 250 * time.Millisecond
)

// Options are what a server is given.
type Options struct {
	Config config.Server
	// New makes a machine. Machines are used again.
	New    func() extproc.Driven
	Logger *zap.Logger
	// Panicked is called for each panic of a machine, after it was logged.
	Panicked func()
	// Memory is what all connections may hold; nil has no bound. Refused is called for each stream and connection that is refused because it is used up; it may be nil.
	Memory  *memory.Budget
	Refused func()
	// Ended is called with why the server has ended a connection, one of h2.Reasons, and the peer's address: for floods of
	// frames only. It may be nil.
	Ended func(reason string, peer net.Addr)
}

// Server serves ext_proc and the gRPC health protocol.
type Server struct {
	grpc     *grpc.Server
	health   *health.Server
	log      *zap.Logger
	panicked func()
	streams  streamPool
	epoch    time.Time
	// overdue is closed at the end of the drain time.
	overdue     chan struct{}
	overdueOnce sync.Once
	// open counts the streams that have begun and not ended.
	open   atomic.Int64
	bounds *bounds
}

// New makes a server.
func New(o Options) (*Server, error) {
	s := &Server{health: health.NewServer(), log: o.Logger, panicked: o.Panicked, epoch: time.Now(), overdue: make(chan struct{})}
	s.streams.pool.New = func() any { return newStream(s, o.New()) }
	s.bounds = &bounds{
		budget: o.Memory, refused: o.Refused, ended: o.Ended, maxStreams: o.Config.MaxConcurrentStreams,
		conns: make(map[*conn]struct{}),
	}
	handshake := cmp.Or(o.Config.HandshakeTimeout, handshakeTimeout)
	options := []grpc.ServerOption{
		grpc.InTapHandle(s.bounds.tap),
		grpc.UnaryInterceptor(unary),
		grpc.ForceServerCodecV2(codec.Codec{}),
		grpc.MaxConcurrentStreams(o.Config.MaxConcurrentStreams),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(maxMetadata),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.ReadBufferSize(bufferSize),
		grpc.WriteBufferSize(bufferSize),
		grpc.ConnectionTimeout(handshake),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		// Envoy pings as its connection_keepalive says; more than one a second is a flood.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}
	tlsConfig, err := listener.TLS(o.Config.TLS, o.Logger)
	if err != nil {
		return nil, err
	}
	creds := insecure.NewCredentials()
	if tlsConfig != nil {
		creds = credentials.NewTLS(tlsConfig)
	}
	options = append(options, grpc.Creds(handshaker{creds, s.bounds}))
	s.grpc = grpc.NewServer(options...)
	// The handler type is any type: the messages are frames, so there is no generated interface to check.
	s.grpc.RegisterService(&grpc.ServiceDesc{
		ServiceName: ServiceName,
		HandlerType: (*any)(nil),
		Streams:     []grpc.StreamDesc{{StreamName: "Process", Handler: s.process, ServerStreams: true, ClientStreams: true}},
		Metadata:    "envoy/service/ext_proc/v3/external_processor.proto",
	}, s)
	healthv1.RegisterHealthServer(s.grpc, s.health)
	s.health.SetServingStatus(ServiceName, healthv1.HealthCheckResponse_SERVING)
	return s, nil
}

// Serve accepts connections until Drain. It closes the listener.
func (s *Server) Serve(l net.Listener) error {
	if err := s.grpc.Serve(l); err != nil {
		return fmt.Errorf("serve ext_proc on %q: %w", l.Addr(), err)
	}
	return nil
}

// SetServing says what health checkers are told until Drain; at first it is true.
func (s *Server) SetServing(serving bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthv1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus(ServiceName, status)
	s.health.SetServingStatus("", status)
}

// Drain tells health checkers and peers that the server goes away, and lets streams finish until ctx ends. Then those that wait for a worker get an answer of
// refusal, and all others are reset: none ends with OK, because Envoy would take that for permission.
func (s *Server) Drain(ctx context.Context) {
	s.health.Shutdown()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	s.log.Warn("drain deadline has passed; the remaining streams are refused", zap.Int64("streams", s.open.Load()))
	s.overdueOnce.Do(func() { close(s.overdue) })
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	s.grpc.Stop()
	<-done
}

// AfterBatch implements the transport: handlers send their answers themselves.
func (s *Server) AfterBatch() {}

// Held is what the connections hold, in bytes.
func (s *Server) Held() int64 { return s.bounds.held.Load() }

// Streams is how many streams are open.
func (s *Server) Streams() int64 { return s.open.Load() }

func (s *Server) now() extproc.Instant { return extproc.Instant(time.Since(s.epoch)) }
