package route

import (
	"errors"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/lane"
)

// Evaluator runs the chains of one worker name: replicas behind their sockets, or the worker core in the same process. It is safe for concurrent use.
type Evaluator interface {
	// Name is the worker's name.
	Name() string
	// Available reports whether at least one replica is healthy and holds the current generation. It does not block.
	Available() bool
	// Evaluate starts a call. c.Message is the evaluator's until c.Done is called, its bytes must stay as they are: a call that comes to nothing on one replica is sent to
	// another one. c.Done is called exactly once, with the deadline at the latest, on any goroutine, perhaps before Evaluate returns: c may be another stream's then, and its caller's lock must not be held. Evaluate does not
	// block: what does not fit is ErrOverloaded.
	Evaluate(c *Call)
}

// InlineEvaluator is an Evaluator that may run calls on the goroutine of its caller.
type InlineEvaluator interface {
	Evaluator
	// Inline reports whether it does. Then a call may be moved aside: the goroutine of Evaluate has only that call left to do (lane.Lane.Moved), and what it leads to leaves as that of a
	// call that is completed after Evaluate has returned.
	Inline() bool
}

// BatchEvaluator is an Evaluator that sends several calls together.
type BatchEvaluator interface {
	Evaluator
	// EvaluateAll starts calls as Evaluate does each of them. It keeps nothing of the slice.
	EvaluateAll(calls []*Call)
}

// Call is one run of a chain on a worker. It belongs to the caller, who may use it again after Done.
type Call struct {
	// Message is what the worker gets; the evaluator sets its id, and shortens its timeout. Lent until Done.
	Message workerv1.Call
	// Done gets the outcome.
	Done Completer
	// Progress is the evaluator's own.
	Progress Progress
	// Lane is the goroutine that calls an InlineEvaluator; it may be nil.
	Lane *lane.Lane
}

// Progress is how far a call has come.
type Progress struct {
	// Deadline is of all attempts together, on the evaluator's clock.
	Deadline time.Duration
	// Tried has a bit for each replica that had the call, by its number modulo 64.
	Tried uint64
	// Attempts counts them.
	Attempts uint8
}

// Completer takes the outcome of a call. r is nil exactly if err is not; it is valid only during Complete, and so are its bytes. Complete does
// not block: it may run on the goroutine that reads all results of a connection.
// What it leads to may leave only when the evaluator says that all calls of a batch are completed (workers.Options.AfterBatch), so that they leave together. Of a call that
// is completed before Evaluate returns, it is the caller of Evaluate who knows the batch.
type Completer interface {
	Complete(c *Call, r *workerv1.Result, err error)
}

// Why a call had no result.
var (
	// ErrUnavailable: no healthy replica, or the connection was lost while the call was under way.
	ErrUnavailable = errors.New("worker unavailable")
	// ErrTimeout: no result within the timeout.
	ErrTimeout = errors.New("worker timeout")
	// ErrOverloaded: too many calls in flight, for longer than calls wait.
	ErrOverloaded = errors.New("worker overloaded")
	// ErrRouteOverloaded: the route's chain has its share of the calls in flight, for longer than calls wait.
	ErrRouteOverloaded = errors.New("route overloaded")
	// ErrIllegalResult: the worker's answer can't be decoded.
	ErrIllegalResult = errors.New("illegal result from worker")
)
