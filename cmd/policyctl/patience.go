package main

import (
	"slices"
	"time"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/policies"
)

// messageTimeoutMargin is for the kernel itself and the way to it and back: the kernel's own answer must come first, since it says why.
const messageTimeoutMargin = 250 * time.Millisecond

// messageTimeout is longer than the calls for one message may take. Where policies may take part in bodies, a message may be two phases, and may find one of the other
// direction ahead of it: the kernel runs a stream's calls one after the other.
func messageTimeout(k *config.Kernel, c catalogue) time.Duration {
	longest := k.PhaseBudget()
	if c.mayTakeBodies(k) {
		longest = 2 * k.MessageBudget()
	}
	// Envoy refuses more than an hour (ext_proc.proto).
	return min(longest+messageTimeoutMargin, time.Hour)
}

// mayTakeBodies reports whether a policy of a route may take part in bodies or trailers: one that does, or that is not of the catalogue.
func (c catalogue) mayTakeBodies(k *config.Kernel) bool {
	return slices.ContainsFunc(k.Routes, func(r config.Route) bool { return c.flowMayTakeBodies(&r.Request) || c.flowMayTakeBodies(&r.Response) })
}

func (c catalogue) flowMayTakeBodies(f *config.Flow) bool {
	return slices.ContainsFunc(f.Chain, func(p config.Policy) bool { return !c.onlyHeaders(p.Name) })
}

func (c catalogue) onlyHeaders(policy string) bool {
	d, known := c[policy]
	return known && !slices.ContainsFunc(d.Phases(), func(p policies.Phase) bool {
		return p != policies.PhaseRequestHeaders && p != policies.PhaseResponseHeaders
	})
}

// wantsWholeRequest reports whether it is known already that bodies of requests are wanted as a whole. Envoy would be told with each request, but then it reads a body that is
// longer than its buffer no further until the answer to the headers, and not after that either (ext_proc.cc, onData): the client would wait for the end of a
// timeout instead of getting a 413.
func (c catalogue) wantsWholeRequest(r *config.Route) bool {
	return r.Request.Mode == config.ProcessingModeBuffered || slices.ContainsFunc(r.Request.Chain, func(p config.Policy) bool {
		d, known := c[p.Name]
		return known && d.Bodies().WholeRequest
	})
}
