// Package kernel composes the Policy Kernel: the registry of workers, the route table, the server for Envoy, and the admin server.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/transport"
	"github.com/policy-engine/policy-engine/kernel/workers"
	"github.com/policy-engine/policy-engine/limits"
	"github.com/policy-engine/policy-engine/telemetry"
	"github.com/policy-engine/policy-engine/telemetry/trace"
)

// Options are what a kernel is given beside its configuration.
type Options struct {
	Log *telemetry.Logger
	// Version is of the build.
	Version string
	// File is the configuration's file, which is followed; if it is empty, the configuration stays.
	File string
	// Hangups are signals to read the file again; it may be nil.
	Hangups <-chan os.Signal
	// Local has the workers that are in this process, by their names in the configuration.
	Local map[string]workers.Local
	// Listening is called with the addresses for Envoy and of the admin server when both accept connections. It may be nil.
	Listening func(envoy, admin net.Addr)
}

// kernel is what a running kernel consists of.
type kernel struct {
	set         *metrics.Set
	registry    *workers.Registry
	distributor *distributor
	reloader    *reloader
	access      *access
	log         *telemetry.Logger
	transport   transport.Server
	ports       *ports
	pages       *slots
	tracer      *trace.Tracer // nil if nothing is traced
	draining    atomic.Bool
}

// Run runs a kernel until ctx ends and it has drained. The error is a config.Errors if the configuration has mistakes that show only with the workers.
func Run(ctx context.Context, cfg *config.Kernel, o Options) error {
	k, err := build(cfg, o)
	if err != nil {
		return err
	}
	defer k.stopTracing(o.Log)
	logWarnings(o.Log, cfg)
	descriptors, err := limits.Descriptors()
	if err != nil {
		return err
	}
	if err := k.ports.open(cfg, descriptors); err != nil {
		return err
	}
	envoy, admin := k.ports.envoy.Addr(), k.ports.admin.Addr()
	o.Log.Info("policy kernel is listening", zap.String("version", o.Version), zap.Stringer("envoy", envoy), zap.Stringer("admin", admin))
	if o.Listening != nil {
		o.Listening(envoy, admin)
	}
	err = k.serve(ctx, o)
	if err != nil {
		o.Log.Error("policy kernel has ended", zap.Error(err))
		return err
	}
	o.Log.Info("policy kernel has ended")
	return nil
}

// build makes the parts and connects them.
func build(cfg *config.Kernel, o Options) (*kernel, error) {
	k := &kernel{set: metrics.NewSet(), log: o.Log}
	log := o.Log.Logger
	k.registry = workers.New(cfg.Workers, workers.Options{
		KernelID: newKernelID(), Logger: log, Metrics: k.set, Local: o.Local,
		Lean: cfg.Server.Transport == config.TransportFast,
		Acknowledged: func(generation uint64, worker string, owned []*workerv1.OwnedHeaders) {
			k.distributor.acknowledged(generation, worker, owned)
		},
		AfterBatch: func() { k.transport.AfterBatch() },      // Set below, before anything is connected.
		Changed:    func() { k.distributor.offersChanged() }, // Nothing is connected before both are made.
	})
	observer := NewObserver(len(cfg.Routes), k.set, log)
	bodies := extproc.NewBudget(cfg.Limits.MaxTotalBodySize)
	k.distributor = newDistributor(cfg, k.registry, observer, bodies, log, k.set, time.Now)
	k.access = &access{config: k.distributor.config, log: log, throttle: telemetry.NewThrottle(repeatAfter, time.Now)}
	k.reloader = newReloader(o.File, k.distributor, o.Log, k.set)
	settings := &extproc.Settings{Routes: k.distributor.routes, Bodies: bodies, Observer: observer}
	k.set.NewGauge("policy_kernel_body_bytes", func() float64 { return float64(bodies.Used()) })
	panics := k.set.NewCounter("policy_kernel_panics_total")
	k.ports, k.pages = newPorts(k.set, log), newSlots()
	refusals := k.set.NewCounter("policy_kernel_memory_refusals_total")
	if err := k.trace(cfg.Observability.Tracing, o); err != nil {
		return nil, err
	}
	if k.tracer != nil {
		settings.Tracer, k.reloader.tracer = spans{k.tracer}, k.tracer
	}
	var err error
	k.transport, err = transport.New(transport.Options{
		Config: cfg.Server, Logger: log, Panicked: panics.Inc, Bodies: bodies,
		New:    func() extproc.Driven { return extproc.New(settings) },
		Memory: connectionMemory(&cfg.Server), Refused: k.ports.refusedForMemory(refusals),
		Ended: func(reason string, peer net.Addr) { k.ports.ended(envoyPort, reason, peer) },
	})
	if err != nil {
		return nil, err
	}
	k.distributor.serving = func() {
		if !k.draining.Load() {
			k.transport.SetServing(true)
		}
	}
	k.set.NewGauge("policy_kernel_streams", func() float64 { return float64(k.transport.Streams()) })
	k.set.NewGauge("policy_kernel_connection_memory_bytes", func() float64 { return float64(k.transport.Held()) })
	telemetry.DescribeKernel(k.set, o.Version, o.Log.Lost)
	return k, nil
}

// serve runs all parts until ctx ends or one fails, and then ends them in the order in which nothing is lost: no new work, work under way, workers.
func (k *kernel) serve(ctx context.Context, o Options) error {
	group, ctx := errgroup.WithContext(ctx)
	k.transport.SetServing(false) // Until there is a configuration in use.
	k.registry.Start()
	group.Go(func() error { return k.distributor.run(ctx) })
	group.Go(func() error { k.reloader.run(ctx, o.Hangups); return nil })
	group.Go(func() error { return k.transport.Serve(k.ports.envoy) })
	web := []*http.Server{k.admin(false)}
	sockets := []net.Listener{k.ports.admin}
	if k.ports.guarded != nil {
		web, sockets = append(web, k.admin(true)), append(sockets, k.ports.guarded)
	}
	for i := range web {
		group.Go(func() error {
			if err := web[i].Serve(sockets[i]); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve admin requests: %w", err)
			}
			return nil
		})
	}
	group.Go(func() error {
		<-ctx.Done()
		k.draining.Store(true)
		o.Log.Info("policy kernel is draining")
		// Not ready first: whoever has another kernel goes there, and finds this one still working meanwhile.
		k.transport.SetServing(false)
		cfg := k.distributor.config().Drain
		time.Sleep(cfg.Delay)
		drain, cancel := context.WithTimeout(context.Background(), cfg.Deadline)
		defer cancel()
		k.transport.Drain(drain)
		k.registry.Close()
		var errs []error
		for _, s := range web {
			errs = append(errs, s.Close())
		}
		return errors.Join(errs...)
	})
	return group.Wait()
}
