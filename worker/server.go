package worker

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/h2"
	"github.com/policy-engine/policy-engine/fastpath/lane"
	"github.com/policy-engine/policy-engine/limits"
)

// maxTimeoutDigits bounds the digits of grpc-timeout (gRPC over HTTP/2, Timeout).
const maxTimeoutDigits = 8

// server speaks the worker's protocol: the unary methods through their generated descriptors, each on a goroutine of its own, and Execute by itself.
type server struct {
	service *service
	http2   *h2.Server
	unary   map[string]*grpc.MethodDesc
	// ctx is of all calls that may wait.
	ctx    context.Context
	cancel context.CancelFunc

	// lanes moves calls aside that hold up their connection.
	lanes *lane.Watch

	mu      sync.Mutex
	streams map[*stream]struct{}
	leaving bool
	stopped bool
}

// newServer makes a server. maxMoved is how many calls may be moved aside at a time.
func newServer(s *service, maxMoved int) *server {
	srv := &server{service: s, lanes: lane.NewWatch(lane.Options{Now: s.core.settings.Now, Most: maxMoved, Busy: limits.Busy}), unary: make(map[string]*grpc.MethodDesc), streams: make(map[*stream]struct{})}
	srv.ctx, srv.cancel = context.WithCancel(context.Background())
	desc := &workerv1.PolicyWorker_ServiceDesc
	for i := range desc.Methods {
		srv.unary["/"+desc.ServiceName+"/"+desc.Methods[i].MethodName] = &desc.Methods[i]
	}
	srv.http2 = h2.NewServer(h2.Config{
		MaxMessageSize: s.maxBatch, StreamWindow: streamWindow, ConnWindow: connWindow, MaxSendBuffer: maxSendBuffer, MaxReceiveBuffer: maxReceiveBuffer,
		Panicked: func(v any, stack []byte) {
			s.core.meters.panics.Inc()
			s.env.log.Error("panic in the transport", "panic", fmt.Sprint(v), "stack", string(stack))
		},
	}, srv)
	return srv
}

// maxSendBuffer is how many bytes of results may wait for a kernel that does not read.
const maxSendBuffer = 64 << 20

// maxReceiveBuffer has room for two pushes at a time.
const maxReceiveBuffer = 2 * maxMessage

// Serve accepts connections until the server is closed.
func (s *server) Serve(l net.Listener) error {
	if err := s.http2.Serve(l); err != nil && err != h2.ErrServerClosed {
		return err
	}
	return nil
}

// announce tells the kernels on all Execute streams, also those that begin later, that the worker is about to stop. It returns how many there are now.
func (s *server) announce() int {
	s.mu.Lock()
	s.leaving = true
	streams := slices.Collect(maps.Keys(s.streams))
	s.mu.Unlock()
	for _, st := range streams {
		st.conn.Lock()
		if hs := st.conn.Stream(st.id); hs != nil && !st.gone {
			hs.Send(leavingNotice)
		}
		st.conn.Unlock()
		st.conn.Flush()
	}
	return len(streams)
}

// leavingNotice is a ResultBatch that says draining, and nothing else.
var leavingNotice = []byte{2 << 3, 1}

// Stop ends all Execute streams, waits until ctx ends for the unary calls under way, and closes all connections.
func (s *server) Stop(ctx context.Context) {
	s.mu.Lock()
	s.stopped = true
	streams := slices.Collect(maps.Keys(s.streams))
	s.mu.Unlock()
	for _, st := range streams {
		st.stop()
	}
	_ = s.http2.Drain(ctx) // What is left then is reset.
	s.cancel()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.http2.Close()
	}()
	if !within(farewell, closed) {
		s.service.env.log.Error("a policy that does not say that it may block did not return; the worker stops without it", "stacks", string(inlineStacks()))
	}
}

// Open implements h2.Handler.
func (s *server) Open(hs *h2.Stream, r *h2.Request) h2.Receiver {
	if r.Path == workerv1.PolicyWorker_Execute_FullMethodName {
		return s.openStream(hs)
	}
	method := s.unary[r.Path]
	if method == nil {
		return nil
	}
	hs.SetMaxMessage(maxMessage)
	ctx, cancel := s.ctx, context.CancelFunc(nil)
	if value, n := r.Header("grpc-timeout"); n > 0 {
		timeout, err := parseTimeout(value)
		if err != nil {
			hs.Fail(uint32(codes.InvalidArgument), err.Error())
			return nil
		}
		ctx, cancel = context.WithTimeout(ctx, timeout)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	return &unary{server: s, method: method, conn: hs.Conn(), id: hs.ID(), ctx: ctx, cancel: cancel}
}

// AfterRead implements h2.Handler: it runs the batches that the frames of one read brought, without the connection's lock.
func (s *server) AfterRead(c *h2.Conn) {
	c.Lock()
	ready, _ := c.Attachment.(*batches)
	c.Unlock()
	if ready == nil {
		return
	}
	if ready.lane == nil {
		ready.lane = s.lanes.Lane(ready)
	}
	l := ready.lane
	l.Enter()
	for _, st := range ready.streams {
		ready.running = st
		if !st.runQueued(l) {
			return // Another goroutine has taken over, and ready is its own.
		}
	}
	clear(ready.streams)
	ready.streams = ready.streams[:0]
}

// Closed implements h2.CloseHandler.
func (s *server) Closed(c *h2.Conn) {
	c.Lock()
	ready, _ := c.Attachment.(*batches)
	c.Unlock()
	if ready != nil {
		ready.lane.Close()
	}
}

// unary is one call of a unary method.
type unary struct {
	server *server
	method *grpc.MethodDesc
	conn   *h2.Conn
	id     uint32
	ctx    context.Context
	cancel context.CancelFunc
	begun  bool
}

// Message implements h2.Receiver.
func (u *unary) Message(hs *h2.Stream, msg []byte) {
	if u.begun {
		u.cancel()
		hs.Fail(uint32(codes.InvalidArgument), "second message of a unary call")
		return
	}
	u.begun = true
	request := append([]byte(nil), msg...)
	go u.run(request)
}

// HalfClose implements h2.Receiver.
func (u *unary) HalfClose(hs *h2.Stream) {
	if !u.begun {
		u.cancel()
		hs.Fail(uint32(codes.InvalidArgument), "unary call without a message")
	}
}

// Reset implements h2.Receiver.
func (u *unary) Reset(*h2.Stream) { u.cancel() }

// vtMessage is what vtprotobuf generates.
type vtMessage interface {
	MarshalVT() ([]byte, error)
	UnmarshalVT([]byte) error
}

func (u *unary) run(request []byte) {
	defer u.cancel()
	answer, err := u.call(request)
	u.conn.Lock()
	if hs := u.conn.Stream(u.id); hs != nil {
		if err != nil {
			st, ok := status.FromError(err)
			if !ok {
				st = status.FromContextError(err)
			}
			hs.Fail(uint32(st.Code()), st.Message())
		} else {
			hs.Finish(answer)
		}
	}
	u.conn.Unlock()
	u.conn.Flush()
}

func (u *unary) call(request []byte) (answer []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			u.server.service.core.meters.panics.Inc()
			u.server.service.env.log.Error("panic in a method of the worker", "method", u.method.MethodName, "panic", fmt.Sprint(p))
			answer, err = nil, status.Error(codes.Internal, "internal error")
		}
	}()
	out, err := u.method.Handler(u.server.service, u.ctx, func(v any) error {
		if err := v.(vtMessage).UnmarshalVT(request); err != nil {
			return status.Errorf(codes.InvalidArgument, "decode %s request: %v", u.method.MethodName, err)
		}
		return nil
	}, nil)
	if err != nil {
		return nil, err
	}
	answer, err = out.(vtMessage).MarshalVT()
	if err != nil {
		return nil, status.Errorf(codes.Internal, "encode %s response: %v", u.method.MethodName, err)
	}
	if answer == nil {
		answer = []byte{} // An empty message, not none.
	}
	return answer, nil
}

// parseTimeout reads a grpc-timeout: at most eight digits and a unit.
func parseTimeout(v string) (time.Duration, error) {
	units := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond}
	if n := len(v) - 1; n >= 1 && n <= maxTimeoutDigits {
		if count, err := strconv.ParseUint(v[:n], 10, 32); err == nil && units[v[n]] > 0 {
			return time.Duration(count) * units[v[n]], nil
		}
	}
	return 0, fmt.Errorf("grpc-timeout %q; legal are up to %d digits and one of H M S m u n", v, maxTimeoutDigits)
}
