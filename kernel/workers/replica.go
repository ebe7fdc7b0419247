package workers

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/filemode"
)

// The delay before a replica is connected to again doubles from the first to the last; while nobody listens on its socket, which costs next to nothing to find out, only to the second: a worker
// that was restarted takes calls as soon as it can.
const (
	minBackoff    = 20 * time.Millisecond
	absentBackoff = 50 * time.Millisecond
	maxBackoff    = 500 * time.Millisecond
)

// replica is one process behind one socket.
type replica struct {
	worker *Worker
	path   string
	// bit is the replica's in route.Progress.Tried.
	bit         uint64
	breaker     breaker
	connections int
	health      config.HealthCheck

	// The registry's mu guards these.

	// session is nil while there is none.
	session *session
	// discovered is true once the replica has told its policies; policies is its last word, also while it is down.
	discovered bool
	policies   []*workerv1.PolicyDescriptor
	// problem is why the replica takes no calls; empty if it does.
	problem string
	// returns is true once it has taken calls: when it does so again it has come back.
	returns bool
	// tried is true when the first attempt to connect has ended.
	tried bool
	// metrics are its last ones.
	metrics []byte
}

// run keeps the replica connected until ctx ends.
func (r *replica) run(ctx context.Context, reg *Registry) {
	delay := minBackoff
	for {
		served, err := r.attend(ctx, reg)
		if ctx.Err() != nil {
			return
		}
		reg.lost(r, served, err)
		if served {
			delay = minBackoff
		}
		// Jitter keeps many kernels or replicas from coming back in step.
		timer := time.NewTimer(delay/2 + rand.N(delay/2+1))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if delay *= 2; absent(err) {
			delay = min(delay, absentBackoff)
		}
		delay = min(delay, maxBackoff)
	}
}

// absent reports whether a replica could not be reached because nobody listens on its socket.
func absent(err error) bool {
	return errors.Is(err, errNoSocket) || status.Code(err) == codes.Unavailable
}

// attend connects to the replica and stays until something fails. served says whether the replica took calls.
func (r *replica) attend(ctx context.Context, reg *Registry) (served bool, err error) {
	s, err := r.connect()
	if err != nil {
		return false, err
	}
	defer s.hangUp()
	reg.checkFolder(r)
	cfg, err := s.discover(ctx)
	if err != nil {
		return false, err
	}
	reg.connected(s, cfg.Policies)
	defer reg.disconnected(s)
	if err := s.catchUp(ctx, reg); err != nil {
		return false, err
	}
	return s.serve(ctx, reg)
}

func (r *replica) connect() (*session, error) {
	if local := r.worker.local; local != nil {
		return newSession(r, direct{local}), nil
	}
	if err := checkSocket(r.path); err != nil {
		return nil, err
	}
	return dial(r, r.connections)
}

// checkFolder logs that other users can remove or replace the replica's socket. What they put in its place decides
// nothing (dialSocket): the worker, which makes the socket, refuses such a folder unless it is configured to take it.
func (reg *Registry) checkFolder(r *replica) {
	if r.worker.local != nil {
		return
	}
	err := filemode.CheckFolder(filepath.Dir(r.path))
	if err == nil {
		return
	}
	if suppressed, ok := reg.throttle.Allow("folder of " + r.path); ok {
		reg.log.Warn("other users can remove a worker's socket", zap.String("worker", r.worker.name), zap.String("socket", r.path), zap.Error(err),
			zap.Int("suppressed", suppressed))
	}
}

// lost logs why a replica is down: at once when it was up, else once per interval.
func (reg *Registry) lost(r *replica, served bool, err error) {
	reg.mu.Lock()
	r.problem = err.Error()
	if !r.tried {
		r.tried = true
		reg.announce()
	}
	reg.mu.Unlock()
	suppressed, ok := reg.throttle.Allow(r.path)
	if !ok && !served {
		return
	}
	reg.log.Warn("worker replica is down", zap.String("worker", r.worker.name), zap.String("socket", r.path), zap.Error(err),
		zap.Bool("worker_available", r.worker.Available()), zap.Int("suppressed", suppressed))
}
