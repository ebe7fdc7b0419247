package kernel

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/telemetry"
)

// Labels that are no name of the configuration.
const (
	unknownRoute = "unknown"
	noWorker     = "none"
)

// The metrics of decisions.
const (
	requestsTotal     = "policy_kernel_requests_total"
	requestDuration   = "policy_kernel_request_duration_seconds"
	responseFailures  = "policy_kernel_response_failures_total"
	toleratedFailures = "policy_kernel_tolerated_failures_total"
	decisionsTotal    = "policy_kernel_decisions_total"
)

const (
	// repeatAfter is how often the same complaint may be logged.
	repeatAfter = time.Minute
	// maxLogged is how many bytes of what a client sent may be in a line.
	maxLogged = 128
)

// durations are the upper bounds of the histogram's buckets in seconds: the engine's own work takes some hundred microseconds.
var durations = []float64{1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5}

// Observer counts and logs decisions.
//
// Each HTTP request is counted once, when its request phase is decided: policy_kernel_requests_total{route,worker,status} and the histogram
// policy_kernel_request_duration_seconds{route,worker}. The worker is the one that decided or was called last, "none" if none was called. A route that the
// configuration doesn't know is "unknown": labels never come from a request. The response phase, and a stream that Envoy breaks after the request phase, are
// counted by policy_kernel_response_failures_total{route,worker,status} if they do anything but allow. Failures that an on_failure let pass
// are counted by policy_kernel_tolerated_failures_total{route,worker,status}.
//
// Each decision that is not a plain allow is also counted by policy_kernel_decisions_total{route,policy,reason}; see reasons.go.
//
// Series appear when they are first used, and go when no stream uses a table any more that has the route, or has it with that worker. A request finds its handles by the index of its route, without locks, maps of names, or allocation.
type Observer struct {
	set      *metrics.Set
	log      *zap.Logger
	throttle *telemetry.Throttle
	epoch    time.Time
	// slots are the series by the index of the route in its table; slot 0 is for unknown routes. A slot that belongs to a route of another table is replaced.
	slots  atomic.Pointer[[]atomic.Pointer[routeSeries]]
	mu     sync.Mutex
	byName map[string]*routeSeries
}

// routeSeries are the series of one route.
type routeSeries struct {
	name    string
	workers atomic.Pointer[[]*workerSeries]
	reasons reasons
}

// workerSeries are the series of a route with the worker that decided.
type workerSeries struct {
	worker                       route.Evaluator
	name                         string
	duration                     *metrics.PrometheusHistogram
	requests, answers, tolerated [numStatuses]outcome
}

// numStatuses is more than the highest extproc.Status; a test holds it to that.
const numStatuses = 32

// outcome counts one status.
type outcome struct {
	counter atomic.Pointer[metrics.Counter]
	// nextLine is when, in nanoseconds since the epoch, a line may be logged; suppressed counts those that were not.
	nextLine   atomic.Int64
	suppressed atomic.Int64
}

// NewObserver makes an observer for so many routes.
func NewObserver(routes int, set *metrics.Set, log *zap.Logger) *Observer {
	o := &Observer{set: set, log: log, throttle: telemetry.NewThrottle(repeatAfter, time.Now), epoch: time.Now(), byName: make(map[string]*routeSeries)}
	slots := make([]atomic.Pointer[routeSeries], routes+1)
	o.slots.Store(&slots)
	return o
}

// Decided implements extproc.Observer.
func (o *Observer) Decided(d *extproc.Decision) {
	r, w := o.series(d)
	// Fast path: nothing was refused, answered or skipped.
	if d.Status != extproc.StatusAllowed || d.Reason != "" {
		o.countReason(r, d)
	}
	if d.Tolerated != extproc.StatusNone {
		o.count(&w.tolerated[d.Tolerated], toleratedFailures, d, w, d.Tolerated)
		o.complain(&w.tolerated[d.Tolerated], "a failure was tolerated by on_failure", d, w, d.Tolerated)
	}
	if d.OfRequest {
		o.count(&w.requests[d.Status], requestsTotal, d, w, d.Status)
		w.duration.Update(d.Elapsed.Seconds())
	} else if d.Status != extproc.StatusAllowed {
		o.count(&w.answers[d.Status], responseFailures, d, w, d.Status)
	}
	switch d.Status {
	case extproc.StatusAllowed, extproc.StatusDenied, extproc.StatusResponded, extproc.StatusCancelled, extproc.StatusDraining:
	case extproc.StatusUnknownRoute:
		o.complainUnknown(zap.WarnLevel, "unknown route", d)
	case extproc.StatusRouteNotFound:
		o.complainUnknown(zap.InfoLevel, "no route of Envoy matches a request", d)
	case extproc.StatusUnnamedRoute:
		o.complainUnknown(zap.WarnLevel, "Envoy named no route for a request", d)
	default:
		o.complain(&w.requests[d.Status], "a request could not be decided by its policies", d, w, d.Status)
	}
	if ce := o.log.Check(zap.DebugLevel, "decision"); ce != nil {
		ce.Write(append(describe(d, w, d.Status), zap.Duration("elapsed", d.Elapsed))...)
	}
}

// series finds the handles of a decision.
func (o *Observer) series(d *extproc.Decision) (*routeSeries, *workerSeries) {
	name, index := unknownRoute, 0
	if d.Route != nil {
		name, index = d.Route.Name, d.Route.Index+1
	}
	var worker route.Evaluator
	if d.Worker != nil {
		worker = d.Worker.Worker
	}
	// Fast path: the route was seen before, with this worker.
	var r *routeSeries
	slots := *o.slots.Load()
	if index < len(slots) {
		r = slots[index].Load()
	}
	if r != nil && r.name == name {
		for _, w := range *r.workers.Load() {
			if w.worker == worker {
				return r, w
			}
		}
	}
	// Slow path: once per route and worker.
	return o.add(name, index, worker)
}

// add makes the series of a route and a worker.
func (o *Observer) add(name string, index int, worker route.Evaluator) (*routeSeries, *workerSeries) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.byName[name]
	if r == nil {
		r = &routeSeries{name: name}
		r.workers.Store(&[]*workerSeries{})
		o.byName[name] = r
	}
	if slots := *o.slots.Load(); index < len(slots) {
		slots[index].Store(r)
	}
	old := *r.workers.Load()
	for _, w := range old {
		if w.worker == worker {
			return r, w
		}
	}
	w := &workerSeries{worker: worker, name: noWorker}
	if worker != nil {
		w.name = worker.Name()
	}
	w.duration = o.set.GetOrCreatePrometheusHistogramExt(telemetry.Series(requestDuration, "route", name, "worker", w.name), durations)
	all := append(old[:len(old):len(old)], w)
	r.workers.Store(&all)
	return r, w
}

// count adds one to a counter, which is made when it is first used.
func (o *Observer) count(out *outcome, metric string, d *extproc.Decision, w *workerSeries, status extproc.Status) {
	c := out.counter.Load()
	if c == nil {
		name := unknownRoute
		if d.Route != nil {
			name = d.Route.Name
		}
		c = o.set.GetOrCreateCounter(telemetry.Series(metric, "route", name, "worker", w.name, "status", status.String()))
		out.counter.Store(c)
	}
	c.Inc()
}

// complain logs a failure, at most once per route, worker, status and minute.
func (o *Observer) complain(out *outcome, message string, d *extproc.Decision, w *workerSeries, status extproc.Status) {
	now := int64(time.Since(o.epoch))
	next := out.nextLine.Load()
	if now < next || !out.nextLine.CompareAndSwap(next, now+int64(repeatAfter)) {
		out.suppressed.Add(1)
		return
	}
	o.log.Warn(message, append(describe(d, w, status), zap.Int64("suppressed", out.suppressed.Swap(0)))...)
}

// complainUnknown logs a request without a route of the configuration, at most once per name of a route and minute.
func (o *Observer) complainUnknown(level zapcore.Level, message string, d *extproc.Decision) {
	if suppressed, ok := o.throttle.Allow(d.RouteName); ok {
		o.log.Log(level, message, zap.String("request_id", clip(string(d.RequestID))), zap.String("route", clip(strings.Clone(d.RouteName))),
			zap.String("host", clip(string(d.Host))), zap.String("path", clip(string(d.Path))), zap.Int("suppressed", suppressed))
	}
}

// describe copies what a line tells of a decision.
func describe(d *extproc.Decision, w *workerSeries, status extproc.Status) []zap.Field {
	fields := []zap.Field{
		zap.String("request_id", clip(string(d.RequestID))), zap.String("route", clip(strings.Clone(d.RouteName))), zap.String("worker", w.name),
		zap.Stringer("phase", d.Phase), zap.Stringer("status", status), zap.String("policy", strings.Clone(d.Policy)), zap.String("reason", strings.Clone(d.Reason)),
	}
	if d.Detail != "" {
		fields = append(fields, zap.String("detail", strings.Clone(d.Detail)))
	}
	if d.TraceID != "" {
		fields = append(fields, zap.String("trace_id", d.TraceID))
	}
	return fields
}

// clip bounds what a client can put into a line.
func clip(s string) string {
	if len(s) > maxLogged {
		return s[:maxLogged] + "…"
	}
	return s
}

var _ extproc.Observer = (*Observer)(nil)
