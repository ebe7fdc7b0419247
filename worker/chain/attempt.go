package chain

import (
	"bytes"
	"context"
	"fmt"
	"runtime/debug"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/lane"
	"github.com/policy-engine/policy-engine/policies"
)

// maxStack bounds the stack of a panic in the log, in bytes.
const maxStack = 16 << 10

// panicError is a panic of a policy.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// rescue is deferred: it makes an error of a panic.
func rescue(v *policies.Verdict, err *error) {
	if p := recover(); p != nil {
		*v, *err = policies.Verdict{}, panicked(p)
	}
}

func panicked(value any) error {
	stack := debug.Stack()
	return &panicError{value, stack[:min(len(stack), maxStack)]}
}

// call runs the step's phase method on a goroutine where it may wait.
func (s *step) call(ctx context.Context, x *policies.Exchange) (v policies.Verdict, err error) {
	defer rescue(&v, &err)
	return s.method(ctx, x)
}

// inline runs the step's phase method where it must not wait. Its name is InlineFrame's.
func (s *step) inline(ctx context.Context, x *policies.Exchange, l *lane.Lane) (v policies.Verdict, err error) {
	defer func() { // Also when the policy ends the goroutine.
		l.End()
		if p := recover(); p != nil {
			v, err = policies.Verdict{}, panicked(p)
		}
	}()
	return s.method(ctx, x)
}

// InlineFrame is the name of the function under which phase methods run that must not wait.
const InlineFrame = "worker/chain.(*step).inline"

func (s *step) method(ctx context.Context, x *policies.Exchange) (policies.Verdict, error) {
	switch {
	case s.request != nil:
		return s.request.OnRequestHeaders(ctx, x.Request())
	case s.response != nil:
		return s.response.OnResponseHeaders(ctx, x.Response())
	}
	return s.run(ctx, x)
}

// attempt is a run of a policy on a goroutine of its own.
type attempt struct {
	verdict  policies.Verdict
	err      error
	returned bool
	done     chan struct{}
}

// run runs fn, or the step's phase method when fn is nil.
func (a *attempt) run(ctx context.Context, s *step, x *policies.Exchange, fn func(context.Context) (policies.Verdict, error)) {
	if fn == nil {
		a.verdict, a.err = s.call(ctx, x)
		a.await(ctx, x)
		return
	}
	a.verdict, a.err = await(ctx, fn)
	a.returned = true
}

// await runs what the phase method gave to Await, if it did.
func (a *attempt) await(ctx context.Context, x *policies.Exchange) {
	if fn := a.verdict.Awaited(); fn != nil && a.err == nil && x.Err() == nil {
		a.verdict, a.err = await(ctx, fn)
	}
	a.returned = true
}

// runAside runs the phase method of a step whose runs take long, when it is its turn.
func (a *attempt) runAside(ctx context.Context, s *step, x *policies.Exchange, aside *Aside, t *ticket, now func() time.Time) {
	if err := aside.wait(ctx, t); err != nil {
		a.err, a.returned = err, true
		return
	}
	aside.run(t, now, func() { a.verdict, a.err = s.inline(ctx, x, nil) })
	a.await(ctx, x)
}

// await runs a function given to Await.
func await(ctx context.Context, fn func(context.Context) (policies.Verdict, error)) (v policies.Verdict, err error) {
	defer rescue(&v, &err)
	v, err = fn(ctx)
	if err == nil && v.Awaited() != nil {
		return policies.Verdict{}, errAwait
	}
	return v, err
}

// wait runs fn, or the step's phase method when fn is nil, on a goroutine, for as long as the step may take. When it takes longer, the chain goes on without
// it and leaves the exchange to it.
func (r *Run) wait(ctx context.Context, s *step, fn func(context.Context) (policies.Verdict, error)) {
	var t *ticket
	if fn == nil && !s.blocking {
		if t = r.settings.Aside.queue(s.pace); t == nil {
			r.settle(s, policies.Verdict{}, errOverloaded, false)
			return
		}
	}
	snapshot := r.x.Snapshot(r.mark)
	attemptCtx, stop := r.bound(r.traced(ctx, s), s)
	defer stop()
	a := &attempt{done: make(chan struct{})}
	holder, x, settings := r.holder, r.x, r.settings
	holder.Retain()
	go func() {
		defer holder.Release()
		defer close(a.done)
		if t != nil {
			a.runAside(attemptCtx, s, x, settings.Aside, t, settings.Now)
			return
		}
		a.run(attemptCtx, s, x, fn)
	}()
	select {
	case <-a.done:
	case <-attemptCtx.Done():
	}
	select {
	case <-a.done:
	default:
		r.abandon(ctx, s, snapshot)
		return
	}
	if !a.returned { // The policy called runtime.Goexit.
		a.verdict, a.err = policies.Verdict{}, &panicError{value: "the policy ended its goroutine"}
	}
	if _, panicked := a.err.(*panicError); a.err != nil && !panicked && ctx.Err() != nil {
		r.cancel(s)
		return
	}
	r.settle(s, a.verdict, a.err, attemptCtx.Err() == context.DeadlineExceeded)
}

// bound returns a context that ends when the step has to.
func (r *Run) bound(ctx context.Context, s *step) (context.Context, context.CancelFunc) {
	limit := r.limit(s)
	if limit.IsZero() {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit.Sub(r.settings.Now()))
}

// abandon leaves the exchange to a policy that did not return in time, and goes on with another one that has the state of before.
func (r *Run) abandon(ctx context.Context, s *step, snapshot policies.Snapshot) {
	r.abandoned = true
	r.requestHeaders, r.responseHeaders = bytes.Clone(r.requestHeaders), bytes.Clone(r.responseHeaders)
	x, err := snapshot.Exchange(r.requestHeaders, r.responseHeaders)
	if err != nil { // Not to be expected: the same bytes were read before.
		r.x = new(policies.Exchange)
		r.ran(s, StatusTimeout, r.settings.Now().Sub(r.began), CauseTimeout.String(), CauseTimeout.detail())
		r.end(outcome{
			result: workerv1.Result_OUTCOME_FAILED, policy: s.policy, reason: CauseTimeout.String(), detail: CauseTimeout.detail(),
			failure: CauseTimeout.failure(),
		})
		return
	}
	r.x, r.mark = x, x.Mark()
	if ctx.Err() != nil {
		r.cancel(s)
		return
	}
	r.settle(s, policies.Verdict{}, nil, true)
}
