package worker

import (
	"errors"
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
}

// Retain implements chain.Holder.
func (e *execution) Retain() { e.holds.Add(1) }

// Release implements chain.Holder. The last hold ends the execution.
func (e *execution) Release() {
	if e.holds.Add(-1) > 0 {
		return
	}
	c := e.core
	e.generation.release()
	e.generation = nil
	if !e.run.Abandoned() {
		e.run.Reset()
		c.executions.put(e)
	}
	c.leave()
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
	maxInFlight int64

	executions executionPool
	inFlight   atomic.Int64
	draining   atomic.Bool
	idle       chan struct{} // a token when draining and nothing is in flight
}

// enter counts a call as in flight, or says why it can't be.
func (c *core) enter() (refusal, bool) {
	if c.inFlight.Add(1) > c.maxInFlight {
		c.leave()
		return refusedOverloaded, false
	}
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

// start begins a call that arrived at received, or says why not. The execution is the caller's to run and to release.
func (c *core) start(call *workerv1.Call, received time.Time) (*execution, refusal) {
	if why, ok := c.enter(); !ok {
		return nil, c.refuse(why)
	}
	g := c.generations.get(call.Generation)
	if g == nil || !g.acquire() {
		c.leave()
		return nil, c.refuse(refusedUnknownGeneration)
	}
	e := c.executions.get(c)
	e.generation = g
	e.holds.Store(1)
	g.kernel.renew(received)
	compiled, ok := g.chains[call.Chain]
	if !ok {
		e.Release()
		return nil, c.refuse(refusedUnknownChain)
	}
	if err := e.run.Load(compiled, call, received, e); err != nil {
		e.Release()
		if errors.Is(err, chain.ErrTooLarge) {
			return nil, c.refuse(refusedTooLarge)
		}
		c.malformed(call, err)
		return nil, c.refuse(refusedMalformed)
	}
	return e, 0
}

// result is the outcome of an execution that has ended; it is valid until Release.
func (e *execution) result() *workerv1.Result {
	r := e.run.Result()
	if r.Failure == workerv1.Result_FAILURE_RESULT_TOO_LARGE {
		e.core.refuse(refusedResultTooLarge)
	}
	return r
}

// refuse counts a refusal.
func (c *core) refuse(why refusal) refusal {
	c.meters.refused[why].Inc()
	return why
}
