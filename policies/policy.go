// Package policies is the SDK: what a policy is given, what it may change, and what it decides.
//
// A policy is a value with one or more of the phase methods below. The worker finds them by type assertion, once,
// when the policy is registered, so a policy can't declare a need that it does not have.
package policies

import "context"

// RequestHeaders is implemented by policies that run when the headers of a request have arrived.
//
// Denied is a Verdict. An error means "could not decide"; what follows then is the operator's choice (on_failure), and
// denies by default.
type RequestHeaders interface {
	OnRequestHeaders(context.Context, *Request) (Verdict, error)
}

// ResponseHeaders is implemented by policies that run when the headers of a response have arrived.
type ResponseHeaders interface {
	OnResponseHeaders(context.Context, *Response) (Verdict, error)
}

// Blocking is implemented by policies whose phase methods may wait (network, disk, locks held long): each of
// their runs gets a goroutine of its own, and its context is cancelled when the policy's timeout has passed.
// All others run inline, one after the other, and must return without waiting. A policy that has to wait only
// now and then returns Await instead.
type Blocking interface {
	MayBlock()
}

// Phase is a moment in the life of an HTTP request at which policies run.
type Phase uint8

// The phases. Their values are those of the worker protocol.
const (
	PhaseRequestHeaders  Phase = 1
	PhaseResponseHeaders Phase = 4
)

func (p Phase) String() string {
	switch p {
	case PhaseRequestHeaders:
		return "request_headers"
	case PhaseResponseHeaders:
		return "response_headers"
	}
	return "unknown"
}

// phasesOf finds the phases of a policy by its methods. A typed nil has them too.
func phasesOf(p any) []Phase {
	var phases []Phase
	if _, ok := p.(RequestHeaders); ok {
		phases = append(phases, PhaseRequestHeaders)
	}
	if _, ok := p.(ResponseHeaders); ok {
		phases = append(phases, PhaseResponseHeaders)
	}
	return phases
}
