package worker

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/worker/chain"
)

// execution is a call in flight. It is held by whoever runs it and by policies that overran their timeout: these count as in flight, and
// keep their generation from being closed, until they return.
type execution struct {
	core       *core
	run        *chain.Run
	generation *generation
	holds      atomic.Int32
	// left is true if the execution counts as in flight no longer.
	left bool
	// counted is the chain that counts the execution among those that may wait; nil if none does.
	counted *chain.Chain
	// broken is true after a panic of the core: the run is not used again.
	broken bool
	// own has the call with bytes of its own, for calls whose bytes are the caller's.
	own ownCall
	// to and later are those of Embedded.ExecuteOn; to is nil for all other calls.
	to    Receiver
	later func()
	// late is not nil if the call was moved aside.
	late *late
}

// late answers a call of Embedded that was moved aside when its time is over.
type late struct {
	answered atomic.Bool
	timer    *time.Timer
}

// claim reports whether the caller is the one who answers.
func (l *late) claim() bool { return l.answered.CompareAndSwap(false, true) }

// Moved implements chain.MoveHolder.
func (e *execution) Moved(now, deadline time.Time) {
	if e.to == nil {
		return // The kernel has a timer of its own, and the watchdog looks at the lanes.
	}
	e.core.alone.add(e, now)
	if deadline.IsZero() {
		return
	}
	l, to, later := &late{}, e.to, e.later
	l.timer = time.AfterFunc(deadline.Sub(now), func() {
		if l.claim() {
			if receiver, ok := to.(LateReceiver); ok {
				receiver.Late()
			} else {
				to.Result(nil)
			}
			later()
		}
	})
	e.late = l
}

// Retain implements chain.Holder.
func (e *execution) Retain() { e.holds.Add(1) }

// Release implements chain.Holder. The last hold ends the execution.
func (e *execution) Release() {
	if e.holds.Add(-1) > 0 {
		return
	}
	c, left := e.core, e.left
	e.uncount()
	e.to, e.later, e.late = nil, nil, nil
	e.generation.release()
	e.generation = nil
	if !e.run.Abandoned() && !e.broken {
		e.run.Reset()
		c.executions.put(e)
	}
	if !left {
		c.leave()
	}
}

// leave ends the counts as in flight before Release, unless a policy that overran its timeout still runs: what the result leads to may be the next call.
func (e *execution) leave() {
	if e.holds.Load() == 1 { // Nobody else could change it.
		e.left = true
		e.uncount()
		e.core.leave()
	}
}

// uncount ends the count among the calls that may wait.
func (e *execution) uncount() {
	if e.counted != nil {
		e.counted.Waiting.Add(-1)
		e.counted = nil
		e.core.waiting.Add(-1)
	}
}

// executionPool has executions that are not in flight.
type executionPool struct{ pool sync.Pool }

func (p *executionPool) get(c *core) *execution {
	if e, ok := p.pool.Get().(*execution); ok {
		return e
	}
	return &execution{core: c, run: chain.NewRun(c.settings)}
}

func (p *executionPool) put(e *execution) { p.pool.Put(e) }

// core runs calls. What it holds is safe for concurrent use.
type core struct {
	settings    *chain.Settings
	generations *generations
	meters      *meters
	malformed   func(call *workerv1.Call, err error)
	log         *slog.Logger
	alone       lone
	// maxWaiting is how many calls may be in flight whose chains may wait. Calls of all other chains run one after the other, and what waits
	// for that has come in a batch: no number bounds them.
	maxWaiting int64

	executions executionPool
	inFlight   atomic.Int64
	waiting    atomic.Int64
	leaving    atomic.Bool   // the worker is about to stop: its kernels know
	draining   atomic.Bool   // calls are refused
	idle       chan struct{} // a token when draining and nothing is in flight
}

// enter counts a call as in flight, or says why it can't be.
func (c *core) enter() (refusal, bool) {
	c.inFlight.Add(1)
	// After the count: drain sets the flag first and then waits for the count.
	if c.draining.Load() {
		c.leave()
		return refusedDraining, false
	}
	return 0, true
}

func (c *core) leave() {
	if c.inFlight.Add(-1) == 0 && c.draining.Load() {
		select {
		case c.idle <- struct{}{}:
		default:
		}
	}
}

// drain refuses new calls from now on, and waits until none is in flight or done is closed. It reports whether none is.
func (c *core) drain(done <-chan struct{}) bool {
	c.draining.Store(true)
	for c.inFlight.Load() > 0 {
		select {
		case <-c.idle:
		case <-done:
			return c.inFlight.Load() == 0
		}
	}
	return true
}

// start begins a call that arrived at received, or says why not. The execution is the caller's to run and to release, and the call's bytes are its own until then.
func (c *core) start(call *workerv1.Call, received time.Time) (*execution, refusal) {
	e, compiled, why := c.admit(call, received)
	if e == nil {
		return nil, why
	}
	if why, ok := e.load(compiled, call, received, c.settings.Now()); !ok {
		e.Release()
		return nil, why
	}
	return e, 0
}

// admit makes an execution for a call, or says why there is none.
func (c *core) admit(call *workerv1.Call, received time.Time) (*execution, *chain.Chain, refusal) {
	if why, ok := c.enter(); !ok {
		return nil, nil, c.refuse(why)
	}
	g := c.generations.get(call.Generation)
	if g == nil || !g.acquire() {
		c.leave()
		return nil, nil, c.refuse(refusedUnknownGeneration)
	}
	e := c.executions.get(c)
	e.generation, e.left = g, false
	e.holds.Store(1)
	g.kernel.renew(received)
	compiled, ok := g.chains[call.Chain]
	if !ok {
		e.Release()
		return nil, nil, c.refuse(refusedUnknownChain)
	}
	if compiled.MayWait() {
		compiled.Waiting.Add(1)
		e.counted = compiled
		if c.waiting.Add(1) > c.maxWaiting {
			e.Release()
			return nil, nil, c.refuse(refusedOverloaded)
		}
	}
	return e, compiled, 0
}

// room returns how many calls of a chain are in flight that may wait, and how many more of any chain a caller should send. It leaves a
// part of what there is: callers ask at the same time.
func (c *core) room(generation uint64, id uint32) (ofChain, free int64) {
	const unlimited = 1 << 30
	// Fast path.
	if c.waiting.Load() == 0 {
		return 0, unlimited
	}
	g := c.generations.get(generation)
	if g == nil || !g.acquire() {
		return 0, unlimited // It is refused for another reason.
	}
	defer g.release()
	compiled, ok := g.chains[id]
	if !ok || !compiled.MayWait() {
		return 0, unlimited
	}
	return compiled.Waiting.Load(), c.maxWaiting - c.maxWaiting/16 - c.waiting.Load()
}

// load makes the execution ready to run, or says why it can't be.
func (e *execution) load(compiled *chain.Chain, call *workerv1.Call, received, now time.Time) (why refusal, ok bool) {
	err := e.run.Load(compiled, call, received, now, e)
	switch {
	case err == nil:
		return 0, true
	case errors.Is(err, chain.ErrTooLarge):
		return e.core.refuse(refusedTooLarge), false
	default:
		e.core.malformed(call, err)
		return e.core.refuse(refusedMalformed), false
	}
}

// result is the outcome of an execution that has ended; it is valid until Release.
func (e *execution) result() *workerv1.Result {
	r := e.run.Result()
	switch r.Failure {
	case workerv1.Result_FAILURE_RESULT_TOO_LARGE:
		e.core.refuse(refusedResultTooLarge)
	case workerv1.Result_FAILURE_BODY_CODING:
		e.core.refuse(refusedBodyCoding)
	case workerv1.Result_FAILURE_BODY_TOO_LARGE:
		e.core.refuse(refusedBodyTooLarge)
	}
	return r
}

// refuse counts a refusal.
func (c *core) refuse(why refusal) refusal {
	c.meters.refused[why].Inc()
	return why
}
