package worker

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/lane"
)

// Embedded is a worker in the process of its caller: what Run serves on a socket are method calls here. It runs until Close.
type Embedded struct {
	worker  *worker
	sources *sources
	// ctx is of the calls that wait.
	ctx        context.Context
	cancel     context.CancelFunc
	stopExpiry context.CancelFunc
	expiring   sync.WaitGroup
}

// Receiver takes the result of a call.
type Receiver interface {
	// Result gets the result, which is valid only during the call, and so are its bytes; nil if the worker failed before it had one.
	Result(*workerv1.Result)
}

// LateReceiver is a Receiver that is told why a call has no result in time.
type LateReceiver interface {
	Receiver
	// Late takes the place of Result when a call was moved aside and its timeout has passed. Other receivers get nil.
	Late()
}

// Embed starts a worker without a socket. An error tells all that is wrong with the files that the configuration names.
func Embed(cfg *config.Worker, registry *Registry, opts Options) (*Embedded, error) {
	opts.setDefaults()
	sources, err := openSources(cfg, opts)
	if err != nil {
		return nil, err
	}
	tracer, err := openTracer(cfg, opts)
	if err != nil {
		sources.close(opts.Log)
		return nil, err
	}
	b := &Embedded{worker: newWorker(cfg, registry, opts, sources, tracer), sources: sources}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	var expiry context.Context
	expiry, b.stopExpiry = context.WithCancel(context.Background())
	b.expiring.Go(func() { b.worker.expire(expiry) })
	b.expiring.Go(func() { b.worker.service.core.watchStuck(expiry, opts.watchInterval) })
	opts.Log.Info("serving in the kernel's process", "policies", registry.names)
	return b, nil
}

// Protocol is the worker's protocol, called directly.
func (b *Embedded) Protocol() workerv1.PolicyWorkerServer { return b.worker.service }

// Execute is ExecuteOn without a lane.
func (b *Embedded) Execute(call *workerv1.Call, to Receiver, later func()) {
	b.ExecuteOn(nil, call, to, later)
}

// ExecuteOn runs a call and keeps nothing of it. It runs a chain that does not wait on the caller's goroutine, and has given the result when it returns; then it does not
// allocate. A chain that waits goes on on a goroutine of its own, which calls later after it has given the result. What does not fit has its refusal at once.
//
// A call that overruns its slice is moved aside if the goroutine is a lane: then it is the call's own, and calls later when the result is given.
func (b *Embedded) ExecuteOn(l *lane.Lane, call *workerv1.Call, to Receiver, later func()) {
	defer func() { // Also when a policy has ended the goroutine.
		if l.Moved() {
			l.Close()
			later()
		}
	}()
	e, result, waits := b.begin(l, call, to, later)
	switch {
	case !waits:
		deliver(e, result, to)
	case l.Moved():
		deliver(e, b.wait(e, to), to)
	default:
		go func() {
			defer later()
			deliver(e, b.wait(e, to), to)
		}()
	}
}

// deliver gives the result; of a refusal there is no execution. What the result leads to may be a call of the same HTTP request, for which there has to be room.
func deliver(e *execution, result *workerv1.Result, to Receiver) {
	if e == nil {
		to.Result(result)
		return
	}
	if e.late != nil {
		e.late.timer.Stop()
		if !e.late.claim() {
			e.Release()
			return
		}
	}
	e.leave()
	to.Result(result)
	e.Release()
}

// begin runs a call until it has a result or waits.
func (b *Embedded) begin(l *lane.Lane, call *workerv1.Call, to Receiver, later func()) (e *execution, result *workerv1.Result, waits bool) {
	core, returned := b.worker.service.core, false
	defer func() {
		if l == nil || l.Moved() {
			core.alone.remove(e)
		}
		if !returned {
			b.broke(recover(), e, to)
			result, waits = nil, false
		}
	}()
	now := core.settings.Now()
	e, compiled, why := core.admit(call, now)
	if e == nil {
		result = why.result(call)
	} else if why, ok := e.load(compiled, e.own.copy(call), now, now); !ok {
		result = why.result(call)
	} else if e.on(l, now, to, later); !e.run.Inline(l.Context(b.ctx)) {
		waits = true
	} else {
		result = e.result()
	}
	returned = true
	return e, result, waits
}

// on has the call run on a lane, which may be nil.
func (e *execution) on(l *lane.Lane, now time.Time, to Receiver, later func()) {
	e.run.On(l)
	if l == nil {
		e.core.alone.add(e, now)
		return
	}
	e.to, e.later = to, later
}

// wait runs the rest of a call.
func (b *Embedded) wait(e *execution, to Receiver) (result *workerv1.Result) {
	returned := false
	defer func() {
		if !returned {
			b.broke(recover(), e, to)
			result = nil
		}
	}()
	e.run.Wait(b.ctx)
	result = e.result()
	returned = true
	return result
}

// broke notes that a run ended in the middle: by a panic of the core (those of policies are caught where they are called), or because a policy ended the goroutine
// (runtime.Goexit), and then there is no panic, and nobody else who could give the result. The call has none, which denies the request.
func (b *Embedded) broke(panicked any, e *execution, to Receiver) {
	if e != nil {
		e.broken = true
	}
	if panicked != nil {
		b.worker.service.core.meters.panics.Inc()
		b.worker.opts.Log.Error("panic in the worker core", "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
		return
	}
	b.worker.opts.Log.Error("a policy ended the goroutine that it was called on", "stack", string(debug.Stack()))
	deliver(e, nil, to)
}

// Close refuses new calls, ends those in flight undecided, closes all instances, and returns when all results are given. Policies that ignore the end of their
// context are waited for a second.
func (b *Embedded) Close() {
	c := b.worker.service.core
	c.draining.Store(true)
	b.cancel()
	b.stopExpiry()
	b.expiring.Wait()
	ending, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	c.drain(ending.Done())
	b.worker.closeInstances()
	b.sources.close(b.worker.opts.Log)
	b.worker.opts.Log.Info("stopped")
}

// Room returns how many calls of a chain are in flight that may wait, and how many more of any chain there is room for. Calls of a chain
// that does not wait always have room.
func (b *Embedded) Room(generation uint64, chain uint32) (ofChain, free int64) {
	return b.worker.service.core.room(generation, chain)
}
