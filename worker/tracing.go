package worker

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	oteltrace "go.opentelemetry.io/otel/trace"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/telemetry"
	"github.com/policy-engine/policy-engine/telemetry/trace"
	"github.com/policy-engine/policy-engine/worker/chain"
)

// openTracer makes the tracer that the configuration wants; nil if it wants none.
func openTracer(cfg *config.Worker, opts Options) (*trace.Tracer, error) {
	t := cfg.Observability.Tracing
	if !t.Enabled {
		return nil, nil
	}
	headers := make(map[string]string, len(t.Headers))
	for _, h := range t.Headers {
		headers[h.Name] = h.Value
	}
	throttle := telemetry.NewThrottle(time.Minute, opts.Clock.Now)
	return trace.New(trace.Options{
		Service: "policy-worker", Version: opts.Version, Instance: cfg.Name, Endpoint: t.Endpoint, Insecure: t.Insecure, CAFile: t.CAFile, Headers: headers,
		Timeout: t.Timeout, QueueSize: t.QueueSize,
		Failed: func(spans int, err error) {
			if suppressed, ok := throttle.Allow(""); ok {
				opts.Log.Warn("spans were lost", "spans", spans, "endpoint", t.Endpoint, "error", err.Error(), "suppressed", suppressed)
			}
		},
	})
}

// measureTracer shows what became of the spans. The tracer may be nil.
func (m *meters) measureTracer(t *trace.Tracer) {
	count := func(of func(*trace.Tracer) uint64) func() uint64 {
		return func() uint64 {
			if t == nil {
				return 0
			}
			return of(t)
		}
	}
	telemetry.CounterFunc(m.set, "policy_worker_trace_spans_total", count((*trace.Tracer).Spans))
	telemetry.CounterFunc(m.set, "policy_worker_trace_spans_dropped_total", count((*trace.Tracer).Lost))
}

// spans makes the spans of policies.
type spans struct{ tracer *trace.Tracer }

// Join implements chain.Tracer.
func (s spans) Join(wire []byte) chain.Trace {
	call, err := trace.FromWire(wire)
	if err != nil {
		return nil
	}
	return &policySpans{tracer: s.tracer, call: call}
}

// policySpans are the spans of the policies of one call.
type policySpans struct {
	tracer *trace.Tracer
	call   oteltrace.SpanContext
	span   *trace.Span // of the policy that runs; nil between two
}

// ID implements chain.Trace.
func (p *policySpans) ID() string { return p.call.TraceID().String() }

// Begin implements chain.Trace.
func (p *policySpans) Begin(policy, route string, phase workerv1.Phase) {
	if p.span != nil {
		return
	}
	p.span = p.tracer.Begin(p.call, "policy ", policy, oteltrace.SpanKindInternal,
		attribute.String("policy_engine.policy", policy), attribute.String("policy_engine.route", route), attribute.String("policy_engine.phase", phases.Of(int32(phase))),
	)
}

var phases = trace.NewWords("PHASE_", workerv1.Phase_name)

// Context implements chain.Trace.
func (p *policySpans) Context(ctx context.Context) context.Context {
	return oteltrace.ContextWithSpan(ctx, p.span)
}

// End implements chain.Trace.
func (p *policySpans) End(s chain.Status, reason, detail string) {
	p.span.SetAttributes(attribute.String("policy_engine.verdict", s.String()))
	if reason != "" {
		p.span.SetAttributes(attribute.String("policy_engine.reason", reason))
	}
	if detail != "" {
		p.span.SetAttributes(attribute.String("policy_engine.detail", detail))
	}
	switch s {
	case chain.StatusError, chain.StatusPanic, chain.StatusTimeout:
		p.span.SetStatus(codes.Error, reason)
	}
	p.span.End()
	p.span = nil
}

var (
	_ chain.Tracer = spans{}
	_ chain.Trace  = (*policySpans)(nil)
)
