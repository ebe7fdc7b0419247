package workers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/codec"
)

const (
	// discoverTimeout is how long a replica may take to accept a connection and to say what it is.
	discoverTimeout = 2 * time.Second
	// pushTimeout is how long a replica may take to compile a generation.
	pushTimeout = 30 * time.Second
	// rejectedRetry is after how long a generation that a replica rejected is pushed again: a missing key file may have appeared.
	rejectedRetry = 5 * time.Second
	// streamWindow and connWindow are fixed HTTP/2 windows in bytes; fixed ones spare the pings that measure the bandwidth.
	streamWindow = 1 << 20
	connWindow   = 4 << 20
	// maxResult is the longest batch of results.
	maxResult = 16 << 20
)

// errRestarted says that another process answers on the socket.
var errRestarted = errors.New("the worker was restarted")

// session is the time from one connect to a replica to the first failure of any of its connections.
type session struct {
	replica  *replica
	clients  []*grpc.ClientConn
	control  control
	conns    []*conn
	instance uint64
	// unready is why the replica takes no calls although it is not about to stop; the registry guards it once the session is known to it.
	unready string
	// warnings are those of the last health check; the registry guards them.
	warnings []string
	version  string
	// held are the generations that the replica has acknowledged.
	held atomic.Pointer[[]uint64]
	// kick wakes reconcile.
	kick chan struct{}
	// pushing is true while the replica compiles.
	pushing atomic.Bool
	// leaving is true when it is not to get further calls: it is about to stop, or a connection has ended.
	leaving atomic.Bool
	// share is how much of the calls it gets, capacity how many it may have in flight.
	share    share
	capacity int64
	// suspect asks for a health check at once; answered is when the last one was answered, on the worker's clock.
	suspect  chan struct{}
	answered atomic.Int64

	// The registry's mu guards these.

	// serving is true if calls may be sent.
	serving bool
	// served is true once serving was: conns does not change any more.
	served bool
	// changes counts the changes of held.
	changes uint64
	// rejected are the generations that the replica did not accept.
	rejected map[uint64][]*workerv1.ConfigError
}

func newSession(r *replica, c control) *session {
	s := &session{replica: r, control: c, kick: make(chan struct{}, 1), suspect: make(chan struct{}, 1), rejected: make(map[uint64][]*workerv1.ConfigError), share: share{slowStart: r.worker.ref.SlowStart}}
	s.held.Store(&[]uint64{})
	return s
}

// dial prepares the connections; they are made when they are first used.
func dial(r *replica, connections int) (*session, error) {
	s := newSession(r, nil)
	dialer := func(ctx context.Context, _ string) (net.Conn, error) { return dialSocket(ctx, r.path) }
	for range 1 + max(1, connections) { // What the replica is asked has a connection of its own, which no call holds up.
		c, err := grpc.NewClient("passthrough:///worker",
			grpc.WithTransportCredentials(insecure.NewCredentials()), // The socket's mode is the protection.
			grpc.WithContextDialer(dialer),
			grpc.WithAuthority("localhost"),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec.Codec{}), grpc.MaxCallRecvMsgSize(maxResult)),
			grpc.WithStaticStreamWindowSize(streamWindow),
			grpc.WithStaticConnWindowSize(connWindow),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: minBackoff, Multiplier: 2, Jitter: 0.2, MaxDelay: maxBackoff},
				MinConnectTimeout: discoverTimeout,
			}),
			grpc.WithDisableServiceConfig(),
			grpc.WithNoProxy(),
		)
		if err != nil {
			s.hangUp()
			return nil, fmt.Errorf("connect to %q: %w", r.path, err)
		}
		s.clients = append(s.clients, c)
	}
	s.control = workerv1.NewPolicyWorkerClient(s.clients[0])
	return s, nil
}

func (s *session) hangUp() {
	for _, c := range s.clients {
		_ = c.Close() // It fails only when it is closed already.
	}
}

// discover asks the replica what it is.
func (s *session) discover(ctx context.Context) (*workerv1.GetWorkerConfigResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, discoverTimeout)
	defer cancel()
	cfg, err := s.control.GetWorkerConfig(ctx, &workerv1.GetWorkerConfigRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask %q for its policies: %w", s.replica.path, err)
	}
	if want := s.replica.worker.name; cfg.Name != want {
		return nil, fmt.Errorf("ask %q for its policies: the worker calls itself %q, want %q", s.replica.path, cfg.Name, want)
	}
	s.instance, s.version = cfg.InstanceId, cfg.Version
	s.capacity = int64(maxInFlight * max(1, s.replica.connections))
	if most := int64(cfg.MaxConcurrentRequests); most > 0 {
		s.capacity = min(s.capacity, most)
	}
	s.unready = cfg.Unready
	return cfg, nil
}

// newConn makes a connection of the session.
func (s *session) newConn(reg *Registry, st stream) *conn {
	w := s.replica.worker
	c := newConn(st, w.timeout, w.unmatched.Inc)
	c.epoch, c.session, c.worker, c.breaker, c.batches = w.epoch, s, w, &s.replica.breaker, w.batches
	c.draining = func() { reg.announced(s) }
	return c
}

// holds reports whether the replica has acknowledged the generation.
func (s *session) holds(generation uint64) bool {
	return slices.Contains(*s.held.Load(), generation)
}

// serve opens the streams, takes calls and returns when anything fails. served says whether it came so far as to take calls.
func (s *session) serve(ctx context.Context, reg *Registry) (served bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	if s.replica.worker.local != nil {
		return s.attend(ctx, reg, group)
	}
	if reg.lean {
		if err := s.serveLean(ctx, reg, s.replica.connections, group.Go); err != nil {
			s.hangUp()
			cancel()
			_ = group.Wait()
			return false, err
		}
		return s.attend(ctx, reg, group)
	}
	for _, client := range s.clients[1:] {
		streamCtx, cancel := context.WithCancel(ctx)
		st, err := client.NewStream(streamCtx, &workerv1.PolicyWorker_ServiceDesc.Streams[0], workerv1.PolicyWorker_Execute_FullMethodName)
		if err != nil {
			cancel()
			s.hangUp()
			_ = group.Wait() // The streams that were opened before end because we hung up.
			return false, fmt.Errorf("open a stream to %q: %w", s.replica.path, err)
		}
		c := s.newConn(reg, st)
		s.conns = append(s.conns, c)
		group.Go(func() error {
			return fmt.Errorf("read results from %q: %w", s.replica.path, c.run(cancel))
		})
	}
	return s.attend(ctx, reg, group)
}

// attend takes calls until one of the group fails.
func (s *session) attend(ctx context.Context, reg *Registry, group *errgroup.Group) (served bool, err error) {
	reg.setServing(s, !s.leaving.Load() && s.unready == "", s.unready)
	group.Go(func() error { return s.probe(ctx, reg) })
	group.Go(func() error { return s.reconcile(ctx, reg) })
	return true, group.Wait()
}

// probe asks for the replica's health once per interval, until it fails, or is late too often in a row: after one that was late, the next check comes at once.
func (s *session) probe(ctx context.Context, reg *Registry) error {
	ticker := time.NewTicker(s.replica.health.Interval)
	defer ticker.Stop()
	for late := 0; ; {
		if late == 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-ticker.C:
			case <-s.suspect:
				if s.replica.worker.now()-time.Duration(s.answered.Load()) < s.replica.worker.suspectAfter/4 {
					continue
				}
			}
		}
		changes, results := reg.changesOf(s), s.results()
		probeCtx, cancel := context.WithTimeout(ctx, s.replica.health.Timeout)
		resp, err := s.control.HealthCheck(probeCtx, &workerv1.HealthCheckRequest{KernelId: reg.kernelID})
		cancel()
		switch {
		case err == nil:
			if resp.InstanceId != s.instance {
				return errRestarted
			}
			s.answered.Store(int64(s.replica.worker.now()))
			for _, c := range s.conns {
				c.dead.Store(false)
			}
			reg.probed(s, resp, changes)
			late = 0
		case status.Code(err) == codes.DeadlineExceeded && ctx.Err() == nil && (s.results() != results || s.pushing.Load()):
			// Late, but it answers calls, or compiles a configuration: a busy machine is no reason to fail all calls under way.
			late = 0
		case status.Code(err) == codes.DeadlineExceeded && ctx.Err() == nil && late+1 < s.replica.health.UnhealthyThreshold:
			late++
		default:
			return fmt.Errorf("check the health of %q: %w", s.replica.path, err)
		}
	}
}

// ask has the replica's health checked at once.
func (s *session) ask() {
	select {
	case s.suspect <- struct{}{}:
	default:
	}
}

// results counts what the replica has answered in this session.
func (s *session) results() uint64 {
	var n uint64
	for _, c := range s.conns {
		n += c.received.Load()
	}
	return n
}

// reconcile keeps the generations of the replica as the registry wants them.
func (s *session) reconcile(ctx context.Context, reg *Registry) error {
	for {
		if err := s.catchUp(ctx, reg); err != nil {
			return err
		}
		var retry <-chan time.Time
		if reg.rejects(s) {
			retry = time.After(rejectedRetry)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.kick:
		case <-retry:
			reg.forgive(s)
		}
	}
}

// catchUp pushes and retires until there is nothing to do now.
func (s *session) catchUp(ctx context.Context, reg *Registry) error {
	for {
		push, retire := reg.next(s)
		switch {
		case push != nil:
			s.pushing.Store(true)
			pushCtx, cancel := context.WithTimeout(ctx, pushTimeout)
			resp, err := s.control.PushConfig(pushCtx, push)
			cancel()
			s.pushing.Store(false)
			if err != nil {
				return fmt.Errorf("push the configuration to %q: %w", s.replica.path, err)
			}
			if len(resp.Errors) == 0 {
				reg.acknowledged(push.Generation, s.replica.worker.name, resp.OwnedHeaders)
			}
			reg.pushed(s, push.Generation, resp.Errors)
		case retire != 0:
			retireCtx, cancel := context.WithTimeout(ctx, discoverTimeout)
			_, err := s.control.RetireConfig(retireCtx, &workerv1.RetireConfigRequest{Generation: retire})
			cancel()
			if err != nil {
				return fmt.Errorf("retire a generation at %q: %w", s.replica.path, err)
			}
		default:
			return nil
		}
	}
}
