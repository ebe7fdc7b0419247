// Package chain is a compiled chain: policies one after the other on one exchange.
package chain

import (
	"fmt"
	"sync/atomic"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/policies"
)

// Policy is a policy instance at its place in a chain.
type Policy struct {
	// Name is the policy's name in the registry.
	Name string
	// Instance has the phase methods.
	Instance any
	// OnFailure is what its failure means for the chain.
	OnFailure workerv1.OnFailure
	// Timeout bounds one run of a phase method; 0 means no bound but the call's.
	Timeout time.Duration
	// Observer is told of every run.
	Observer Observer
	// Owned are the headers that policies.Owner and policies.Replacer name.
	Owned []string
}

// Observer is told what a policy does. It must not block, and keeps nothing of what it is told.
type Observer interface {
	// Ran is told how a run ended and how long it took.
	Ran(Status, time.Duration)
	// Failed is told why a run failed, before Ran.
	Failed(Failure)
	// Slow is told of a run that held up others for longer than lane.Slice. moved says that it was moved aside after that time, and still runs.
	Slow(d time.Duration, moved bool)
}

// Failure is why a policy could not decide.
type Failure struct {
	Cause Cause
	// Err is what went wrong. Its methods are the policy's, and may panic.
	Err error
	// Stack is the policy's stack if it panicked.
	Stack []byte
	// RequestID is Envoy's x-request-id; it aliases the call.
	RequestID []byte
	// TraceID is the id of the request's trace, empty if it is not traced.
	TraceID string
}

// Status is how a run of a policy ended.
type Status uint8

// The statuses.
const (
	StatusContinue Status = iota
	StatusDeny
	StatusRespond
	StatusSkipRemaining
	StatusError
	StatusPanic
	StatusTimeout
	// StatusCancelled: the run was given up because the caller is gone or the worker stops; nobody is to blame.
	StatusCancelled
	// NumStatuses is how many statuses there are.
	NumStatuses
)

func (s Status) String() string {
	return [...]string{"continue", "deny", "respond", "skip_remaining", "error", "panic", "timeout", "cancelled"}[s]
}

// Cause is why a policy failed.
type Cause uint8

// The causes.
const (
	// CauseError: the phase method returned an error.
	CauseError Cause = iota
	// CausePanic: it panicked.
	CausePanic
	// CauseTimeout: it took longer than its timeout, or than the caller's patience.
	CauseTimeout
	// CauseIllegalChange: it tried a change that Envoy or the protocol would not take.
	CauseIllegalChange
	// CauseIllegalVerdict: its verdict has a status, reason or header that is not legal, or is an Await from Await.
	CauseIllegalVerdict
	// CauseOverloaded: too many runs of the policy take long.
	CauseOverloaded
	// NumCauses is how many causes there are.
	NumCauses
)

func (c Cause) String() string {
	return [...]string{"error", "panic", "timeout", "illegal_change", "illegal_verdict", "overloaded"}[c]
}

// detail says what failed and where to read more. The error of the policy may hold what the client sent, and is in the worker's log only.
func (c Cause) detail() string {
	return [...]string{
		"the policy returned an error; the worker's log has it under this request_id",
		"the policy panicked; the worker's log has the stack under this request_id",
		"the policy took longer than its timeout, or than the worker's timeout leaves for it",
		"the policy made a change that Envoy would not take; the worker's log has it under this request_id",
		"the verdict of the policy cannot be sent as an answer; the worker's log has why under this request_id",
		"too many runs of the policy that take long were waiting",
	}[c]
}

// status is the status of a run that failed for the cause.
func (c Cause) status() Status {
	switch c {
	case CausePanic:
		return StatusPanic
	case CauseTimeout:
		return StatusTimeout
	}
	return StatusError
}

// failure is the protocol's name for the cause.
func (c Cause) failure() workerv1.Result_Failure {
	switch c {
	case CausePanic:
		return workerv1.Result_FAILURE_POLICY_PANIC
	case CauseTimeout:
		return workerv1.Result_FAILURE_POLICY_TIMEOUT
	case CauseOverloaded:
		return workerv1.Result_FAILURE_POLICY_OVERLOADED
	}
	return workerv1.Result_FAILURE_POLICY_ERROR
}

// Chain is consecutive policies of one route and flow. It is safe for concurrent use.
type Chain struct {
	// Waiting counts the runs in flight of a chain that MayWait. It is the caller's.
	Waiting atomic.Int64
	// TrustedHops is how many proxies in front of Envoy are trusted. It is set before the first run.
	TrustedHops uint32
	// waits: a policy may block, or has made a run wait.
	waits atomic.Bool

	route    string
	response bool
	// headers, body and trailers have the policies that take part in the phases of the flow, in order.
	headers, body, trailers []step
	// whole: a policy wants the body as a whole.
	whole bool
	// decodes: a policy of body wants bodies without their content codings.
	decodes bool
}

// MayWait reports whether runs may have to wait (Run.Wait).
func (c *Chain) MayWait() bool { return c.waits.Load() }

// step is a policy in a phase.
type step struct {
	policy string
	// index is the policy's place in the chain.
	index int
	// request or response is set in a header phase, the busiest ones, and run in all others.
	request  policies.RequestHeaders
	response policies.ResponseHeaders
	run      method
	// chunk: run takes chunks; readOnly: it must not replace a body; decoded: it wants bodies without their content coding.
	chunk, readOnly, decoded bool
	blocking                 bool
	onFailure                workerv1.OnFailure
	timeout                  time.Duration
	observer                 Observer
	pace                     *pace
	// owned are the headers of the request that only the policy may set.
	owned []string
	// takesBody: the policy takes part in the body of the flow.
	takesBody bool
}

// Compile makes a chain of a route's request flow, or of its response flow. Policies without a method for the flow's phases are left out.
func Compile(route string, response bool, list []Policy) (*Chain, error) {
	c := &Chain{route: route, response: response}
	for i, p := range list {
		if p.Observer == nil {
			return nil, fmt.Errorf("compile chain of route %q: policy %d (%q) has no observer", route, i, p.Name)
		}
		switch p.OnFailure {
		case workerv1.OnFailure_ON_FAILURE_DENY, workerv1.OnFailure_ON_FAILURE_CONTINUE, workerv1.OnFailure_ON_FAILURE_SKIP_REMAINING:
		default:
			return nil, fmt.Errorf("compile chain of route %q: policy %d (%q) has the unknown on_failure %d", route, i, p.Name, p.OnFailure)
		}
		if p.Timeout < 0 {
			return nil, fmt.Errorf("compile chain of route %q: policy %d (%q) has the negative timeout %v", route, i, p.Name, p.Timeout)
		}
		s := step{policy: p.Name, index: i, onFailure: p.OnFailure, timeout: p.Timeout, observer: p.Observer, pace: new(pace)}
		_, s.blocking = p.Instance.(policies.Blocking)
		if s.blocking {
			c.waits.Store(true)
		}
		_, s.readOnly = p.Instance.(policies.ReadOnlyBodies)
		_, s.decoded = p.Instance.(policies.DecodedBodies)
		s.owned = p.Owned
		methods := methodsOf(p.Instance, response)
		s.takesBody = methods.body != nil || methods.chunk != nil
		c.headers = appendHeaders(c.headers, s, p.Instance, response)
		c.body = appendStep(c.body, s, methods.body)
		c.whole = c.whole || methods.body != nil
		c.decodes = c.decodes || s.decoded && s.takesBody
		s.chunk = true
		c.body = appendStep(c.body, s, methods.chunk)
		s.chunk = false
		c.trailers = appendStep(c.trailers, s, methods.trailers)
	}
	return c, nil
}

func appendHeaders(steps []step, s step, instance any, response bool) []step {
	takesPart := false
	if response {
		s.response, takesPart = instance.(policies.ResponseHeaders)
	} else {
		s.request, takesPart = instance.(policies.RequestHeaders)
	}
	if !takesPart {
		return steps
	}
	return append(steps, s)
}

func appendStep(steps []step, s step, m method) []step {
	if m == nil {
		return steps
	}
	s.run = m
	return append(steps, s)
}

// steps are the policies that take part in a phase; ok is false for a phase of the other flow.
func (c *Chain) steps(phase workerv1.Phase) (steps []step, ok bool) {
	if c.response != (phase >= workerv1.Phase_PHASE_RESPONSE_HEADERS) {
		return nil, false
	}
	switch phase {
	case workerv1.Phase_PHASE_REQUEST_HEADERS, workerv1.Phase_PHASE_RESPONSE_HEADERS:
		return c.headers, true
	case workerv1.Phase_PHASE_REQUEST_BODY, workerv1.Phase_PHASE_RESPONSE_BODY:
		return c.body, true
	case workerv1.Phase_PHASE_REQUEST_TRAILERS, workerv1.Phase_PHASE_RESPONSE_TRAILERS:
		return c.trailers, true
	default:
		return nil, false
	}
}
