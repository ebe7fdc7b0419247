package kernel

import (
	"bytes"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	oteltrace "go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
	"github.com/policy-engine/policy-engine/fastpath/view"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/telemetry"
	"github.com/policy-engine/policy-engine/telemetry/trace"
)

const (
	// maxCallSpans is how many calls of one request are traced: a long body in chunks has thousands.
	maxCallSpans = 64
	// lastSpans is how long the last spans may take to leave when the kernel ends.
	lastSpans = time.Second
)

// trace makes the tracer, if the configuration wants one.
func (k *kernel) trace(cfg config.Tracing, o Options) error {
	count := func(of func(*trace.Tracer) uint64) func() uint64 {
		return func() uint64 {
			if k.tracer == nil {
				return 0
			}
			return of(k.tracer)
		}
	}
	telemetry.CounterFunc(k.set, "policy_kernel_trace_spans_total", count((*trace.Tracer).Spans))
	telemetry.CounterFunc(k.set, "policy_kernel_trace_spans_dropped_total", count((*trace.Tracer).Lost))
	if !cfg.Enabled {
		return nil
	}
	headers := make(map[string]string, len(cfg.Headers))
	for _, h := range cfg.Headers {
		headers[h.Name] = h.Value
	}
	throttle := telemetry.NewThrottle(repeatAfter, time.Now)
	tracer, err := trace.New(trace.Options{
		Service: "policy-kernel", Version: o.Version, Endpoint: cfg.Endpoint, Insecure: cfg.Insecure, CAFile: cfg.CAFile, Headers: headers,
		Timeout: cfg.Timeout, QueueSize: cfg.QueueSize, Rate: cfg.SamplingRate, ParentLimit: cfg.ParentLimit,
		Failed: func(spans int, err error) {
			if suppressed, ok := throttle.Allow(""); ok {
				o.Log.Warn("spans were lost", zap.Int("spans", spans), zap.String("endpoint", cfg.Endpoint), zap.Error(err), zap.Int("suppressed", suppressed))
			}
		},
	})
	k.tracer = tracer
	return err
}

// stopTracing sends the last spans.
func (k *kernel) stopTracing(log *telemetry.Logger) {
	if k.tracer == nil {
		return
	}
	if err := k.tracer.Close(lastSpans); err != nil {
		log.Warn("the last spans were lost", zap.Error(err))
	}
}

// spans makes the spans of requests.
type spans struct{ tracer *trace.Tracer }

// Begin implements extproc.Tracer.
func (s spans) Begin(traceparent, tracestate []byte) extproc.Trace {
	parent, sampled := s.tracer.Sample(traceparent, tracestate)
	if !sampled {
		return nil
	}
	r := &requestSpans{tracer: s.tracer}
	s.tracer.BeginIn(&r.span, parent, "ext_proc ", "", oteltrace.SpanKindServer)
	return r
}

// requestSpans are the span of a request and, below it, those of its calls.
type requestSpans struct {
	tracer  *trace.Tracer
	span    trace.Span
	call    trace.Span // of the call that is under way, if it is traced (calling), or of one before
	calling bool
	calls   int
	wire    []byte
	status  int // that the client gets, as far as it is known
}

// ID implements extproc.Trace.
func (r *requestSpans) ID() string { return r.span.SpanContext().TraceID().String() }

// Requested implements extproc.Trace. A query may hold secrets, and stays away.
func (r *requestSpans) Requested(method, path, requestID []byte) {
	path, _, _ = bytes.Cut(path, []byte{'?'})
	r.span.SetAttributes(
		attribute.String("http.request.method", view.String(method)), attribute.String("url.path", view.String(path)),
		attribute.String("policy_engine.request_id", clip(view.String(requestID))),
	)
}

// Calling implements extproc.Trace.
func (r *requestSpans) Calling(s *route.Segment, phase workerv1.Phase) []byte {
	if r.calls++; r.calls > maxCallSpans {
		return nil
	}
	r.calling = true
	r.tracer.BeginIn(&r.call, r.span.SpanContext(), "worker ", s.Worker.Name(), oteltrace.SpanKindClient,
		attribute.String("policy_engine.worker", s.Worker.Name()), attribute.String("policy_engine.phase", phases.Of(int32(phase))),
		attribute.Int64("policy_engine.chain", int64(s.Chain)),
	)
	r.call.SetTexts("policy_engine.policies", len(s.Policies), func(i int) string { return s.Policies[i].Name })
	r.wire = trace.AppendWire(r.wire[:0], r.call.SpanContext())
	return r.wire
}

// The words of calls and results.
var (
	phases   = trace.NewWords("PHASE_", workerv1.Phase_name)
	outcomes = trace.NewWords("OUTCOME_", workerv1.Result_Outcome_name)
	failures = trace.NewWords("FAILURE_", workerv1.Result_Failure_name)
)

// Called implements extproc.Trace.
func (r *requestSpans) Called(c *route.Call, result *workerv1.Result, err error) {
	if !r.calling {
		return
	}
	r.call.SetAttributes(attribute.Int("policy_engine.attempts", int(c.Progress.Attempts)))
	switch {
	case err != nil:
		r.call.SetAttributes(attribute.String("policy_engine.outcome", "none"))
		r.call.SetStatus(codes.Error, err.Error())
	default:
		r.call.SetAttributes(attribute.String("policy_engine.outcome", outcomes.Of(int32(result.Outcome))))
		if result.Policy != "" {
			r.call.SetAttributes(attribute.String("policy_engine.policy", result.Policy))
		}
		if result.Reason != "" {
			r.call.SetAttributes(attribute.String("policy_engine.reason", result.Reason))
		}
		if result.Detail != "" {
			r.call.SetAttributes(attribute.String("policy_engine.detail", httpsyntax.Detail(result.Detail)))
		}
		if result.Outcome == workerv1.Result_OUTCOME_FAILED {
			r.call.SetStatus(codes.Error, failures.Of(int32(result.Failure)))
		}
	}
	r.call.End()
	r.calling = false
}

// Answered implements extproc.Trace.
func (r *requestSpans) Answered(status int) {
	r.status = status
	r.span.SetAttributes(attribute.Int("http.response.status_code", status))
}

// Decided implements extproc.Trace.
func (r *requestSpans) Decided(d *extproc.Decision) {
	name := unknownRoute
	if d.Route != nil {
		name = d.Route.Name
	}
	r.span.SetObject(name)
	r.span.SetAttributes(attribute.String("policy_engine.route", clip(d.RouteName)))
	verdict := "policy_engine.status"
	if !d.OfRequest {
		if d.Status == extproc.StatusAllowed && d.Tolerated == extproc.StatusNone {
			return
		}
		verdict = "policy_engine.response_status"
	}
	r.span.SetAttributes(attribute.String(verdict, d.Status.String()))
	if d.Policy != "" {
		r.span.SetAttributes(attribute.String("policy_engine.policy", d.Policy))
	}
	if d.Reason != "" {
		r.span.SetAttributes(attribute.String("policy_engine.reason", d.Reason))
	}
	if d.Detail != "" {
		r.span.SetAttributes(attribute.String("policy_engine.detail", d.Detail))
	}
	if d.Tolerated != extproc.StatusNone {
		r.span.SetAttributes(attribute.String("policy_engine.tolerated", d.Tolerated.String()))
	}
	if r.failed(d.Status) {
		r.span.SetStatus(codes.Error, d.Status.String())
	}
}

// failed reports whether a decision is a failure. A denial is none, nor is what the client is at fault for.
func (r *requestSpans) failed(s extproc.Status) bool {
	switch s {
	case extproc.StatusNone, extproc.StatusAllowed, extproc.StatusDenied, extproc.StatusResponded, extproc.StatusCancelled, extproc.StatusTooLarge, extproc.StatusBodyCoding:
		return false
	case extproc.StatusRouteNotFound:
		return false
	case extproc.StatusUnknownRoute, extproc.StatusUnnamedRoute:
		return r.status >= 500 // Else the configuration lets it pass.
	}
	return true
}

// End implements extproc.Trace.
func (r *requestSpans) End() {
	if r.calls > maxCallSpans {
		r.span.SetAttributes(attribute.Int("policy_engine.calls_without_span", r.calls-maxCallSpans))
	}
	r.span.End()
}

var (
	_ extproc.Tracer = spans{}
	_ extproc.Trace  = (*requestSpans)(nil)
)
