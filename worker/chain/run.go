package chain

import (
	"context"
	"errors"
	"fmt"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/lane"
	"github.com/policy-engine/policy-engine/policies"
)

// Limits are the largest sizes, in bytes, of what goes into a run and comes out of it.
type Limits struct {
	// MaxBodySize bounds a header map, and the body of an answer.
	MaxBodySize int
	// MaxStateSize bounds the context, and the changes of one run.
	MaxStateSize int
}

// Settings are shared by many runs.
type Settings struct {
	Limits Limits
	// Now is the clock.
	Now func() time.Time
	// Tracer is nil if nothing is traced.
	Tracer Tracer
	// Aside bounds the runs of policies that take long; nil: they run inline as all others.
	Aside *Aside
	// Poison is for tests: a policy that uses its request or response after its phase method panics.
	Poison bool
}

// Holder is kept from ending while a policy runs that may outlive its run of the chain.
type Holder interface {
	Retain()
	Release()
}

// MoveHolder is a Holder that is told when a step of its run is moved aside.
type MoveHolder interface {
	Holder
	// Moved is called under the conditions of lane.Task.Overran. The deadline is the call's; the zero time means that it has none.
	Moved(now, deadline time.Time)
}

// Run is one run of a chain in one phase. The order of calls is Load, Inline, Wait if Inline did not end it, Result, Reset. A Run is not safe for concurrent use, and
// can be used again after Reset unless it is Abandoned.
type Run struct {
	settings *Settings
	chain    *Chain
	phase    workerv1.Phase
	chainID  uint32
	steps    []step // of the phase
	stop     int    // in steps: from here on nothing runs
	holder   Holder
	x        *policies.Exchange
	// The header maps that x aliases.
	requestHeaders  []byte
	responseHeaders []byte
	id              uint64
	wantContext     bool
	deadline        time.Time // of the caller; zero if it has no limit

	next      int       // in steps: the step that runs now or is to run next
	began     time.Time // when that step began
	mark      policies.Mark
	awaiting  func(context.Context) (policies.Verdict, error)
	abandoned bool
	lane      *lane.Lane // the goroutine that runs the steps; may be nil
	moved     bool       // a step was moved aside
	outcome   outcome
	body      body
	badCoding error  // why the codings of the body can't be undone
	skips     uint64 // Result.skips_body
	states    []*workerv1.PolicyState
	trace     Trace // nil: the call is not traced

	in     workerv1.Context
	claims []policies.Entry // of the identity in in
	resume bool             // in is not empty
	out    encoding
}

// NewRun makes a run.
func NewRun(s *Settings) *Run {
	return &Run{settings: s, x: new(policies.Exchange)}
}

// Reset lets go of all that belongs to the call.
func (r *Run) Reset() {
	r.x.Reset()
	r.chain, r.holder, r.steps = nil, nil, nil
	r.phase, r.chainID, r.stop = 0, 0, 0
	r.body, r.badCoding, r.skips, r.states = body{}, nil, 0, nil
	r.requestHeaders, r.responseHeaders = nil, nil
	r.id, r.wantContext = 0, false
	r.deadline, r.began = time.Time{}, time.Time{}
	r.next, r.mark, r.awaiting = 0, policies.Mark{}, nil
	r.outcome, r.trace = outcome{}, nil
	r.lane, r.moved = nil, false
	// Fast path: the first call of an HTTP request has no context.
	if r.resume {
		r.in.ResetVT()
		clear(r.claims)
		r.claims, r.resume = r.claims[:0], false
	}
	r.out.reset()
}

// Abandoned reports that a policy overran its timeout and may still use memory of the run: neither the run nor the bytes that the call came in may be
// used again.
func (r *Run) Abandoned() bool { return r.abandoned }

// Inline runs policies until the chain has ended, which it reports, or until one has to wait.
func (r *Run) Inline(ctx context.Context) (ended bool) {
	for r.next < r.stop {
		s := &r.steps[r.next]
		if s.blocking || r.awaiting != nil || r.aside(s) {
			return false
		}
		if r.overdue(s) || !r.ready(s) {
			continue
		}
		wasMoved := r.moved
		r.lane.Begin(r, r.began)
		var v policies.Verdict
		var err error
		if s.pace.doubt.Load() > 0 {
			v, err = r.measured(r.traced(ctx, s), s)
		} else { // Fast path.
			v, err = s.inline(r.traced(ctx, s), r.x, r.lane)
		}
		movedNow := r.moved != wasMoved
		if r.moved {
			r.lane = nil
		}
		if r.mustAwait(v, err) {
			return false
		}
		if movedNow && err != nil && ctx.Err() == context.Canceled && context.Cause(ctx) == context.Canceled {
			r.cancel(s) // The caller is gone.
			continue
		}
		if elapsed := r.settle(s, v, err, false); !movedNow {
			r.measure(s, elapsed)
		}
	}
	r.finish()
	return true
}

// aside reports whether the step is to run aside, because its recent runs took long.
func (r *Run) aside(s *step) bool {
	return s.pace.owed.Load() > 0
}

// Wait runs the rest of the chain after Inline, waiting where policies wait. When ctx ends, so does the chain, undecided.
func (r *Run) Wait(ctx context.Context) {
	if !r.chain.waits.Load() {
		r.chain.waits.Store(true)
	}
	r.lane = nil
	for !r.Inline(ctx) {
		s := &r.steps[r.next]
		switch {
		case ctx.Err() != nil:
			r.cancel(s)
		case r.awaiting != nil:
			fn := r.awaiting
			r.awaiting = nil
			r.wait(ctx, s, fn)
		case r.overdue(s):
		case r.ready(s):
			r.wait(ctx, s, nil)
		}
	}
}

// ready prepares for the run of the next step. It is false, and the step passed over, if there is nothing for it to do.
func (r *Run) ready(s *step) bool {
	if r.body.on && !r.offer(s) {
		r.next++ // Or the chain has ended.
		return false
	}
	// Fast path: no policy of this HTTP request keeps anything.
	if len(r.states) > 0 {
		r.giveState(s)
	}
	r.mark = r.x.Mark()
	if r.settings.Poison {
		r.x.Revive()
	}
	return true
}

// overdue fails a step that has no time left to begin: the caller's patience has ended.
func (r *Run) overdue(s *step) bool {
	if r.deadline.IsZero() || r.began.Before(r.deadline) {
		return false
	}
	r.mark = r.x.Mark()
	r.fail(s, CauseTimeout, errDeadline, 0, s.onFailure)
	return true
}

var (
	errDeadline = errors.New("the caller's timeout has passed")
	errAwait    = errors.New("await from a function given to Await")
)

// limit is when the step that began has to end; zero if never.
func (r *Run) limit(s *step) time.Time {
	if s.timeout == 0 {
		return r.deadline
	}
	limit := r.began.Add(s.timeout)
	if !r.deadline.IsZero() && r.deadline.Before(limit) {
		return r.deadline
	}
	return limit
}

// mustAwait takes over the function of a verdict that says Await.
func (r *Run) mustAwait(v policies.Verdict, err error) bool {
	fn := v.Awaited()
	if fn == nil || err != nil || r.x.Err() != nil {
		return false
	}
	r.awaiting = fn
	return true
}

// settle makes out of a step's verdict or error how the chain goes on. It returns how long the step took.
func (r *Run) settle(s *step, v policies.Verdict, err error, late bool) (elapsed time.Duration) {
	now := r.settings.Now()
	elapsed = now.Sub(r.began)
	limit := r.limit(s)
	late = late || !limit.IsZero() && now.After(limit)
	r.began = now

	if cause, why := r.judge(v, err, late, elapsed); why != nil {
		onFailure := s.onFailure
		if err == nil && v.IsDeny() {
			// The policy decided, and only how or when is wrong. Else a client that gets a line break into the text of its refusal would get past a
			// policy whose on_failure is not deny.
			onFailure = workerv1.OnFailure_ON_FAILURE_DENY
		}
		r.fail(s, cause, why, elapsed, onFailure)
		return elapsed
	}
	r.next++
	if len(r.states) > 0 || len(r.x.State()) > 0 {
		r.keepState(s)
	}
	switch {
	case r.body.on:
		r.passed(s)
	case r.x.TakeSkipsBody() && s.takesBody:
		r.skipBody(s)
	}
	switch {
	case v.IsContinue():
		r.ran(s, StatusContinue, elapsed, "", "")
	case v.IsSkipRemaining():
		r.ran(s, StatusSkipRemaining, elapsed, v.Reason(), v.Detail())
		r.end(outcome{
			result: workerv1.Result_OUTCOME_SKIP_REMAINING, policy: s.policy, reason: v.Reason(), detail: v.Detail(), position: s.index + 1,
		})
	default:
		status := StatusRespond
		if v.IsDeny() {
			status = StatusDeny
		}
		r.ran(s, status, elapsed, v.Reason(), v.Detail())
		r.end(outcome{
			result: workerv1.Result_OUTCOME_IMMEDIATE, verdict: v, policy: s.policy, reason: v.Reason(), detail: v.Detail(), position: s.index + 1,
		})
	}
	if r.settings.Poison {
		r.x.Poison()
	}
	return elapsed
}

// judge tells whether a run failed, and why. The error is the policy's own type: none of its methods is called, since a panic of theirs would not be caught.
func (r *Run) judge(v policies.Verdict, err error, late bool, elapsed time.Duration) (Cause, error) {
	_, panicked := err.(*panicError)
	switch {
	case panicked:
		return CausePanic, err
	case late:
		return CauseTimeout, fmt.Errorf("took %v", elapsed)
	case err == errAwait:
		return CauseIllegalVerdict, err
	case err == errOverloaded:
		return CauseOverloaded, err
	case err != nil:
		return CauseError, err
	case r.x.Err() != nil:
		return CauseIllegalChange, r.x.Err()
	}
	if err := checkVerdict(v); err != nil {
		return CauseIllegalVerdict, err
	}
	if r.body.on {
		return CauseIllegalChange, r.checkBody()
	}
	return 0, nil
}

// fail undoes what the step changed and does what onFailure says.
func (r *Run) fail(s *step, cause Cause, err error, elapsed time.Duration, onFailure workerv1.OnFailure) {
	r.next++
	r.x.Revive()
	undone := r.x.Rollback(r.mark, r.requestHeaders, r.responseHeaders)
	f := Failure{Cause: cause, Err: err, RequestID: r.x.Request().ID(), TraceID: r.traceID()}
	if panicked, ok := err.(*panicError); ok {
		f.Stack = panicked.stack
	}
	s.observer.Failed(f)
	r.ran(s, cause.status(), elapsed, cause.String(), cause.detail())
	if r.body.on {
		r.dropOut(s)
	}
	switch {
	case undone == nil && onFailure == workerv1.OnFailure_ON_FAILURE_CONTINUE:
		r.removeOwned(s)
	case undone == nil && onFailure == workerv1.OnFailure_ON_FAILURE_SKIP_REMAINING:
		r.removeOwned(s)
		for i := r.next; i < len(r.steps); i++ {
			r.removeOwned(&r.steps[i])
		}
		r.end(outcome{
			result: workerv1.Result_OUTCOME_SKIP_REMAINING, policy: s.policy, reason: cause.String(), detail: cause.detail(), failure: cause.failure(),
			position: s.index + 1,
		})
	default:
		r.end(outcome{
			result: workerv1.Result_OUTCOME_FAILED, policy: s.policy, reason: cause.String(), detail: cause.detail(), failure: cause.failure(),
			position: s.index + 1,
		})
	}
	if r.settings.Poison {
		r.x.Poison()
	}
}

// removeOwned removes the owned headers of a policy that the request goes on without.
func (r *Run) removeOwned(s *step) {
	if r.phase != workerv1.Phase_PHASE_REQUEST_HEADERS {
		return // The headers have passed.
	}
	for _, name := range s.owned {
		r.x.Request().RemoveSpellings(name)
	}
}
