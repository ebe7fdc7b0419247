package workers

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/zap"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/telemetry"
)

// Options are what a registry is given.
type Options struct {
	// KernelID tells workers whose generations they hold; not 0.
	KernelID uint64
	Logger   *zap.Logger
	// Metrics gets the registry's own metrics.
	Metrics *metrics.Set
	// Lean has the calls go over our own HTTP/2 rather than grpc-go.
	Lean bool
	// Local has the workers that are in this process, by name. Their sockets are not used.
	Local map[string]Local
	// AfterBatch is called when calls were completed together. It may be nil.
	AfterBatch func()
	// Acknowledged is called with the owned headers that a replica reports, before its acknowledgement of a generation counts. It may be nil.
	Acknowledged func(generation uint64, worker string, owned []*workerv1.OwnedHeaders)
	// Changed is called when Offers has changed. It must not block.
	Changed func()
}

// Registry knows the workers of a kernel.
type Registry struct {
	kernelID uint64
	log      *zap.Logger
	changed  func()
	// acknowledged is never nil.
	acknowledged func(generation uint64, worker string, owned []*workerv1.OwnedHeaders)
	lean         bool
	// afterBatch is never nil.
	afterBatch func()
	throttle   *telemetry.Throttle
	metrics    *metrics.Set
	local      map[string]Local
	running    sync.WaitGroup
	// current is the generation that was pushed last.
	current atomic.Uint64

	mu sync.Mutex
	// workers are those of the configuration in use. The slice is replaced, never changed.
	workers []*Worker
	// members are all that run: also those that only an older generation uses, or a stage. started and closed say whether new ones are to run.
	members         map[*Worker]context.CancelFunc
	stages          map[*Stage]bool
	started, closed bool
	// live are the generations that every replica of their workers shall hold.
	live map[uint64]*distribution
	// news is closed, and replaced, whenever a replica changes.
	news chan struct{}
}

// New makes a registry; nothing is connected before Start.
func New(refs []config.WorkerRef, o Options) *Registry {
	reg := &Registry{
		kernelID: o.KernelID, log: o.Logger, changed: o.Changed, lean: o.Lean, afterBatch: o.AfterBatch, throttle: telemetry.NewThrottle(time.Minute, time.Now),
		metrics: o.Metrics, local: o.Local, members: make(map[*Worker]context.CancelFunc), stages: make(map[*Stage]bool),
		live: make(map[uint64]*distribution), news: make(chan struct{}),
	}
	if reg.acknowledged = o.Acknowledged; reg.acknowledged == nil {
		reg.acknowledged = func(uint64, string, []*workerv1.OwnedHeaders) {}
	}
	if reg.afterBatch == nil {
		reg.afterBatch = func() {}
	}
	for _, ref := range refs {
		w := reg.newWorker(ref)
		reg.members[w] = func() {}
		reg.workers = append(reg.workers, w)
	}
	reg.measure(nil, reg.workers)
	return reg
}

// newWorker makes a worker with its replicas. There may be one of the same name already.
func (reg *Registry) newWorker(ref config.WorkerRef) *Worker {
	w := newWorker(ref, reg.metrics)
	if w.local, w.afterBatch = reg.local[ref.Name], reg.afterBatch; w.local != nil {
		ref.SocketPaths = []string{localPath}
	}
	w.afterLocal = func() {
		w.pump()
		w.afterBatch()
	}
	for i, path := range ref.SocketPaths {
		r := &replica{worker: w, path: path, bit: 1 << (i % 64), connections: ref.Connections, health: ref.HealthCheck, problem: "not connected yet"}
		r.breaker.config, r.breaker.changed = ref.Breaker, func(open bool) { reg.tripped(r, open) }
		w.replicas = append(w.replicas, r)
	}
	return w
}

// Start begins to connect to all replicas, and to keep them connected until Close.
func (reg *Registry) Start() {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	reg.started = true
	for w := range reg.members {
		reg.run(w)
	}
}

// run keeps a member connected. mu is held.
func (reg *Registry) run(w *Worker) {
	ctx, cancel := context.WithCancel(context.Background())
	reg.members[w] = sync.OnceFunc(func() {
		close(w.ended)
		cancel()
	})
	for _, r := range w.replicas {
		reg.running.Go(func() { r.run(ctx, reg) })
	}
}

// Close ends all connections. Calls under way complete with route.ErrUnavailable; those on local workers end with these.
func (reg *Registry) Close() {
	reg.mu.Lock()
	reg.closed = true
	members := maps.Clone(reg.members)
	reg.mu.Unlock()
	for _, cancel := range members {
		cancel()
	}
	reg.running.Wait()
	for w := range members {
		w.closeQueue()
		w.waiting.Wait()
	}
}

// update changes the state of a replica under the lock and tells those who wait for news.
func (reg *Registry) update(w *Worker, change func()) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	change()
	w.refresh()
	reg.announce()
}

// announce wakes those who wait for news. mu is held.
func (reg *Registry) announce() {
	close(reg.news)
	reg.news = make(chan struct{})
}

// connected notes a replica's offer.
func (reg *Registry) connected(s *session, policies []*workerv1.PolicyDescriptor) {
	r := s.replica
	var before, after offer
	inUse := false
	reg.update(r.worker, func() {
		inUse = slices.Contains(reg.workers, r.worker) // What a stage's workers offer is looked at when it is adopted.
		before = r.worker.offer()
		r.session, r.discovered, r.policies, r.problem = s, true, policies, "connected; not serving yet"
		after = r.worker.offer()
	})
	if inUse && !before.equal(after) && reg.changed != nil {
		reg.changed()
	}
}

// disconnected ends a session: from here on no call is sent to it.
func (reg *Registry) disconnected(s *session) {
	reg.update(s.replica.worker, func() {
		s.serving = false
		s.replica.session = nil
	})
}

// setServing notes whether a session takes calls. If it does not, unready is why, or empty for a worker that is about to stop.
func (reg *Registry) setServing(s *session, serving bool, unready string) {
	r := s.replica
	before := false
	reg.update(r.worker, func() {
		before, s.serving, s.unready = s.serving, serving, unready
		if serving && !s.served {
			s.served = true
			r.breaker.reset()
			if r.returns {
				s.share.begin(r.worker.now())
			}
			r.returns = true
		}
		r.problem = ""
		if !serving {
			r.problem = cmp.Or(unready, "the worker is draining")
		}
	})
	fields := []zap.Field{zap.String("worker", r.worker.name), zap.String("socket", r.path), zap.String("version", s.version), zap.Uint64("instance", s.instance)}
	switch {
	case serving && !before:
		reg.log.Info("worker replica is up", fields...)
	case unready != "":
		reg.log.Warn("worker replica takes no calls", append(fields, zap.String("reason", unready))...)
	case !serving && before:
		reg.log.Warn("worker replica is draining", fields...)
	}
}

// probed takes an answer to a health check. Generations that the replica has lost are pushed again, unless held has changed since the question.
func (reg *Registry) probed(s *session, resp *workerv1.HealthCheckResponse, changes uint64) {
	if serving := resp.Status == workerv1.HealthCheckResponse_STATUS_SERVING && !s.leaving.Load(); serving != reg.isServing(s) {
		reg.setServing(s, serving, resp.Unready)
	}
	reg.setWarnings(s, resp.Warnings)
	reg.mu.Lock()
	lost := s.changes == changes && !containsAll(resp.Generations, *s.held.Load())
	if s.changes == changes {
		reg.disown(s, resp.Generations)
	}
	reg.mu.Unlock()
	if !lost {
		return
	}
	reg.log.Warn("worker replica has lost a generation", zap.String("worker", s.replica.worker.name), zap.String("socket", s.replica.path))
	reg.update(s.replica.worker, func() {
		s.setHeld(slices.DeleteFunc(slices.Clone(*s.held.Load()), func(g uint64) bool { return !slices.Contains(resp.Generations, g) }))
	})
	s.wake()
}

// Bounds of the warnings that are kept of a replica: how many, and how long each may be in bytes.
const (
	maxWarnings = 16
	maxWarning  = 300
)

// setWarnings notes what a replica warns of, and logs it when it changes.
func (reg *Registry) setWarnings(s *session, warnings []string) {
	warnings = slices.Clone(warnings[:min(len(warnings), maxWarnings)])
	for i, w := range warnings {
		warnings[i] = strings.ToValidUTF8(w[:min(len(w), maxWarning)], "")
	}
	reg.mu.Lock()
	before := s.warnings
	s.warnings = warnings
	reg.mu.Unlock()
	if slices.Equal(before, warnings) {
		return
	}
	fields := []zap.Field{zap.String("worker", s.replica.worker.name), zap.String("socket", s.replica.path)}
	if len(warnings) == 0 {
		reg.log.Info("worker replica has no warnings any more", fields...)
		return
	}
	reg.log.Warn("worker replica has warnings", append(fields, zap.Strings("warnings", warnings))...)
}

func containsAll(have, want []uint64) bool {
	for _, g := range want {
		if !slices.Contains(have, g) {
			return false
		}
	}
	return true
}

func (reg *Registry) isServing(s *session) bool {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	return s.serving
}

// setHeld replaces the acknowledged generations. The registry's mu is held.
func (s *session) setHeld(generations []uint64) {
	s.changes++
	s.held.Store(&generations)
}

// wake makes reconcile look again.
func (s *session) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// announced takes the notice of a replica that is about to stop.
func (reg *Registry) announced(s *session) {
	if !s.leaving.Swap(true) {
		go reg.setServing(s, false, "") // This is the goroutine that reads results; it does not wait for the registry.
	}
}

// tripped notes that the breaker of a replica has opened or closed.
func (reg *Registry) tripped(r *replica, open bool) {
	if w := r.worker; open {
		w.tripped.Add(1)
	} else {
		w.tripped.Add(-1)
	}
	go reg.reportTripped(r, open) // As above.
}

func (reg *Registry) reportTripped(r *replica, open bool) {
	reg.mu.Lock()
	s := r.session
	reg.mu.Unlock()
	if s != nil && !open {
		s.share.begin(r.worker.now())
	}
	reg.log.Warn("circuit breaker of a worker replica has changed", zap.String("worker", r.worker.name), zap.String("socket", r.path), zap.Bool("open", open))
}

// WorkerStatus is the state of a worker name.
type WorkerStatus struct {
	Name      string          `json:"name"`
	Available bool            `json:"available"`
	Replicas  []ReplicaStatus `json:"replicas"`
}

// ReplicaStatus is the state of a replica; Problem is empty if it takes calls.
type ReplicaStatus struct {
	Socket  string `json:"socket"`
	Problem string `json:"problem,omitempty"`
	// Breaker is closed, half-open or open.
	Breaker string `json:"breaker"`
	// InFlight is how many calls are under way.
	InFlight int32 `json:"in_flight"`
	// Draining is true when the replica gets no further calls because it is about to stop.
	Draining bool `json:"draining"`
	// Warnings are what an operator has to look at although the replica takes calls, such as a key file that cannot be loaded.
	Warnings []string `json:"warnings,omitempty"`
}

// Status is the state of all workers.
func (reg *Registry) Status() []WorkerStatus {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	all := make([]WorkerStatus, 0, len(reg.workers))
	for _, w := range reg.workers {
		st := WorkerStatus{Name: w.name, Available: w.Available()}
		for _, r := range w.replicas {
			rs := ReplicaStatus{Socket: r.path, Problem: r.problem, Breaker: breakerName(r.breaker.state.Load())}
			if s := r.session; s != nil && s.served {
				rs.InFlight, _ = (&target{conns: s.conns}).underWay()
				rs.Draining = !s.serving && s.unready == ""
			}
			if r.session != nil {
				rs.Warnings = r.session.warnings
			}
			if r.session != nil && len(r.session.rejected) > 0 {
				rs.Problem = strings.TrimPrefix(rs.Problem+"; it rejected the configuration", "; ")
			}
			st.Replicas = append(st.Replicas, rs)
		}
		all = append(all, st)
	}
	return all
}

// String names the workers, for logs.
func (s WorkerStatus) String() string {
	return fmt.Sprintf("%s (available: %t)", s.Name, s.Available)
}
