package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/limits"
	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/telemetry"
	"github.com/policy-engine/policy-engine/telemetry/trace"
	"github.com/policy-engine/policy-engine/worker/chain"
	"github.com/policy-engine/policy-engine/worker/jwks"
	"github.com/policy-engine/policy-engine/worker/keystore"
)

const (
	// maxMessage bounds a push, in bytes: more than 100,000 chains.
	maxMessage = 256 << 20
	// minBatch is the longest batch of calls, in bytes, if one call alone can't be longer.
	minBatch = 8 << 20
	// The windows are static: on a Unix socket there is no bandwidth to find out.
	streamWindow = 4 << 20
	connWindow   = 16 << 20
	// expiryInterval is how often leases are looked at.
	expiryInterval = 5 * time.Second
	// asideShare is the share of the calls in flight that may wait for their turn because their policies take long, as a divisor.
	asideShare = 4
	// maxMoved is how many calls may be moved aside at a time, at most.
	maxMoved = 16
	// farewell bounds the end of connections after the last call.
	farewell = time.Second
)

// Options are what a configuration does not say.
type Options struct {
	// Version is the build's.
	Version string
	// Log is where the worker logs; nil means nowhere.
	Log *slog.Logger
	// LogLost counts the records that the log has lost. It may be nil.
	LogLost func() uint64
	// Clock is the system's when nil.
	Clock policies.Clock
	// DrainTimeout is how long calls in flight may take after the worker was told to stop; 0 means 10 seconds.
	DrainTimeout time.Duration
	// Notice is how long the worker goes on taking calls after it has told its kernels that it is about to stop, so that none has to be sent twice; 0 means 100 milliseconds. It is part
	// of DrainTimeout.
	Notice time.Duration
	// Serving is called when the socket is there. It may be nil.
	Serving func()
	// Poison makes a policy panic that uses its request or response after its phase method returned. For tests.
	Poison bool

	// watchInterval is another than the watchdog's own, for tests.
	watchInterval time.Duration
	// checkPeer is another than socket.CheckPeer, for tests.
	checkPeer func(net.Conn) error
}

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (o *Options) setDefaults() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Log = slog.New(trace.Logging(o.Log.Handler()))
	if o.LogLost == nil {
		o.LogLost = func() uint64 { return 0 }
	}
	if o.Clock == nil {
		o.Clock = systemClock{}
	}
	if o.DrainTimeout == 0 {
		o.DrainTimeout = 10 * time.Second
	}
	if o.Notice == 0 {
		o.Notice = 100 * time.Millisecond
	}
	if o.Serving == nil {
		o.Serving = func() {}
	}
	if o.watchInterval == 0 {
		o.watchInterval = watchInterval
	}
}

// Run serves the registry's policies on the configuration's socket until ctx ends. Then it refuses new calls, finishes those in flight, and
// closes all instances. An error means that it could not serve.
func Run(ctx context.Context, cfg *config.Worker, registry *Registry, opts Options) (err error) {
	opts.setDefaults()
	sources, err := openSources(cfg, opts)
	if err != nil {
		return err
	}
	defer sources.close(opts.Log)
	l, err := listenSocket(cfg.SocketPath, cfg.SharedSocketFolder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.remove()) }()
	tracer, err := openTracer(cfg, opts)
	if err != nil {
		return &sourceError{err}
	}
	w := newWorker(cfg, registry, opts, sources, tracer)
	w.service.core.meters.process = true
	l.refused = w.refused()
	if opts.checkPeer != nil {
		l.check = opts.checkPeer
	}
	if l.shared != nil {
		opts.Log.Warn("other users can remove a worker's socket", "socket", cfg.SocketPath, "reason", l.shared.Error())
	}
	w.server = newServer(w.service, min(max(1, cfg.MaxConcurrentRequests/asideShare), maxMoved))
	opts.Log.Info("serving", "socket", cfg.SocketPath, "policies", registry.names)
	opts.Serving()
	return w.serve(ctx, l)
}

// worker is a worker that serves.
type worker struct {
	opts    Options
	service *service
	// server is nil if the worker is Embedded.
	server *server
	// tracer is nil if nothing is traced.
	tracer *trace.Tracer
}

func newWorker(cfg *config.Worker, registry *Registry, opts Options, s *sources, tracer *trace.Tracer) *worker {
	m := newMeters(registry)
	throttle := telemetry.NewThrottle(logInterval, opts.Clock.Now)
	sizes := chain.Limits{MaxBodySize: cfg.ResourceLimits.MaxBodySize, MaxStateSize: cfg.ResourceLimits.MaxStateSize}
	c := &core{
		settings:    &chain.Settings{Limits: sizes, Now: opts.Clock.Now, Poison: opts.Poison},
		generations: newGenerations(opts.Clock.Now),
		meters:      m,
		log:         opts.Log,
		maxWaiting:  int64(cfg.MaxConcurrentRequests),
		idle:        make(chan struct{}, 1),
		malformed: func(call *workerv1.Call, err error) {
			if suppressed, ok := throttle.Allow("malformed"); ok {
				opts.Log.Error("malformed call", "generation", call.Generation, "chain", call.Chain, "error", err.Error(), "suppressed", suppressed)
			}
		},
	}
	m.gauge("policy_worker_in_flight", func() float64 { return float64(c.inFlight.Load()) })
	m.gauge("policy_worker_generations", func() float64 { return float64(c.generations.count()) })
	if tracer != nil {
		c.settings.Tracer = spans{tracer}
	}
	m.measureTracer(tracer)
	s.keySets.measure(m, opts.Clock.Now)
	s.keyFiles.measure(m, opts.Clock.Now)
	telemetry.DescribeWorker(m.set, opts.Version, opts.LogLost)
	share := max(1, cfg.MaxConcurrentRequests/asideShare)
	c.settings.Aside = &chain.Aside{
		Running: max(2, runtime.NumCPU()/2), PerPlace: max(1, runtime.NumCPU()/4), Waiting: share, WaitingPerPlace: max(1, share/2),
		Yield: limits.Yield, Busy: limits.Busy, ThreadTime: limits.ThreadTime,
	}
	w := &worker{opts: opts, tracer: tracer}
	w.service = &service{
		name: cfg.Name, version: opts.Version, instanceID: rand.Uint64(), registry: registry, core: c, keySets: s.keySets, keyFiles: s.keyFiles,
		env: &environment{
			log: opts.Log, clock: opts.Clock, keyStores: s.keyStores, issuers: s.issuers, meters: m,
			shared: newSharedValues(opts.Log), httpClient: newHTTPClient(),
		},
		observers: func() *observers {
			return &observers{meters: m, log: opts.Log, throttle: throttle, made: make(map[[2]string]*observer)}
		},
		maxBatch: max(minBatch, 3*sizes.MaxBodySize+sizes.MaxStateSize+1<<10),
		pushing:  make(chan struct{}, 1),
	}
	return w
}

// refused counts and logs connections of processes that run as other users.
func (w *worker) refused() func(error) {
	throttle := telemetry.NewThrottle(logInterval, w.opts.Clock.Now)
	return func(err error) {
		w.service.core.meters.strangers.Inc()
		if suppressed, ok := throttle.Allow(""); ok {
			w.opts.Log.Warn("connection of another user refused", "error", err.Error(), "suppressed", suppressed)
		}
	}
}

// serve accepts connections until ctx ends, and stops in order.
func (w *worker) serve(ctx context.Context, l net.Listener) error {
	failed := make(chan error, 1)
	go func() { failed <- w.server.Serve(l) }()
	expiry, stopExpiry := context.WithCancel(context.Background())
	var expiring sync.WaitGroup
	expiring.Go(func() { w.expire(expiry) })
	expiring.Go(func() { w.server.watch(expiry, w.opts.watchInterval) })
	lanes, stopLanes := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { w.server.lanes.Run(lanes) })
	defer watching.Wait()
	defer stopLanes()
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	stopExpiry()
	expiring.Wait()
	w.stop()
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// expire frees the generations of kernels that are not heard of.
func (w *worker) expire(ctx context.Context) {
	tick := time.NewTicker(expiryInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, g := range w.service.core.generations.expire() {
				w.opts.Log.Warn("generation freed: its kernel was not heard of", "generation", g.id, "kernel", g.kernel.id)
			}
		}
	}
}

// stop drains, ends all connections, and closes all instances.
func (w *worker) stop() {
	c, log := w.service.core, w.opts.Log
	log.Info("draining", "in_flight", c.inFlight.Load())
	deadline, cancel := context.WithTimeout(context.Background(), w.opts.DrainTimeout)
	defer cancel()
	c.leaving.Store(true)
	if w.server.announce() > 0 {
		within(w.opts.Notice, deadline.Done())
	}
	if !c.drain(deadline.Done()) {
		log.Warn("drain deadline passed", "in_flight", c.inFlight.Load())
	}
	ending, cancelEnding := context.WithTimeout(context.Background(), farewell)
	defer cancelEnding()
	w.server.Stop(ending)
	w.closeInstances()
	log.Info("stopped")
}

// closeInstances closes all that the policies have open.
func (w *worker) closeInstances() {
	for _, g := range w.service.core.generations.close() {
		if !within(farewell, g.freed) {
			w.opts.Log.Error("a policy did not return or close; the worker stops without it", "generation", g.id)
		}
	}
	w.service.env.httpClient.CloseIdleConnections()
	if w.tracer == nil {
		return
	}
	if err := w.tracer.Close(farewell); err != nil {
		w.opts.Log.Warn("the last spans were lost", "error", err.Error())
	}
}

// within waits for done, at most for d, and reports whether it came.
func within(d time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// sources are what the worker's configuration names for policies.
type sources struct {
	keyStores map[string]policies.KeyStore
	issuers   map[string]policies.Issuer
	keySets   keySets
	keyFiles  keyFiles
	closers   []io.Closer
}

// sourceError is a mistake in what the configuration names.
type sourceError struct{ error }

func (e *sourceError) Unwrap() error { return e.error }

// openSources opens all of them, or returns all errors.
func openSources(cfg *config.Worker, opts Options) (*sources, error) {
	logWarnings(opts.Log, cfg)
	s := &sources{keyStores: make(map[string]policies.KeyStore), issuers: make(map[string]policies.Issuer)}
	var errs []error
	for _, k := range cfg.KeyStores {
		store, err := keystore.Open(k.Name, k.File, opts.Clock, opts.Log)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.keyStores[k.Name] = store
		s.keyFiles = append(s.keyFiles, keyFile{k.Name, store})
		s.closers = append(s.closers, store)
	}
	for _, i := range cfg.JWTIssuers {
		issuer, err := jwks.Open(i, opts.Clock, opts.Log)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.issuers[i.Name] = issuer
		s.keySets = append(s.keySets, keySet{i.Name, i.JWKSFile == "", i.Required, issuer})
		s.closers = append(s.closers, issuer)
	}
	if err := errors.Join(errs...); err != nil {
		s.close(opts.Log)
		return nil, &sourceError{err}
	}
	return s, nil
}

func (s *sources) close(log *slog.Logger) {
	for _, c := range s.closers {
		if err := c.Close(); err != nil {
			log.Warn("close of a key store or issuer failed", "error", err.Error())
		}
	}
}
