package chain

import (
	"context"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// Tracer makes the spans of policies. It is safe for concurrent use.
type Tracer interface {
	// Join takes part in the trace that a call brings (Call.trace); nil if that can't be read.
	Join(wire []byte) Trace
}

// Trace has the spans of the policies of one run, one after the other.
type Trace interface {
	// ID is the trace's id in 32 hex digits.
	ID() string
	// Begin begins the span of the policy that runs, if it has not begun. It may keep the names.
	Begin(policy, route string, phase workerv1.Phase)
	// Context gives ctx the span that has begun.
	Context(ctx context.Context) context.Context
	// End ends it. It keeps nothing of the reason and its detail.
	End(s Status, reason, detail string)
}

// join takes part in the trace of the call, if it is traced.
func (r *Run) join(call *workerv1.Call) {
	// Fast path.
	if len(call.Trace) == 0 || r.settings.Tracer == nil {
		return
	}
	r.trace = r.settings.Tracer.Join(call.Trace)
}

// traced is the context for the step's policy.
func (r *Run) traced(ctx context.Context, s *step) context.Context {
	if r.trace == nil {
		return ctx
	}
	r.trace.Begin(s.policy, r.chain.route, r.phase)
	return r.trace.Context(ctx)
}

// ran tells how a run of a step's policy ended.
func (r *Run) ran(s *step, status Status, elapsed time.Duration, reason, detail string) {
	s.observer.Ran(status, elapsed)
	if r.trace == nil {
		return
	}
	r.trace.Begin(s.policy, r.chain.route, r.phase) // It may have had no time to.
	r.trace.End(status, reason, detail)
}

// traceID is the id of the trace, or empty.
func (r *Run) traceID() string {
	if r.trace == nil {
		return ""
	}
	return r.trace.ID()
}
