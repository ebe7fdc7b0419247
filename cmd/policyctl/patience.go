package main

import (
	"slices"
	"time"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/policies"
)

const (
	// leastMargin is the time for the kernel itself, and for the way to it and back: the kernel's own answer must come
	// first, since it says why.
	leastMargin = 250 * time.Millisecond
	// burstMargin is for a burst. Envoy's clocks run while its thread is busy with the messages of other requests: 9,000
	// responses that come at once take it 1 to 1.6 s, though the engine answers each within milliseconds.
	burstMargin   = 2250 * time.Millisecond
	printedMargin = leastMargin + burstMargin
)

// leastMessageTimeout is the shortest message_timeout that validate accepts.
func leastMessageTimeout(k *config.Kernel, c catalogue) time.Duration {
	return c.messageTimeout(k, leastMargin)
}

// printedMessageTimeout is the message_timeout of the printed configuration.
func printedMessageTimeout(k *config.Kernel, c catalogue) time.Duration {
	return c.messageTimeout(k, printedMargin)
}

// messageTimeout is longer, by a margin, than the calls for one message may take. Where policies may take part in bodies,
// a message may be two phases, and may find one of the other direction ahead of it: the kernel runs a stream's calls one
// after the other.
func (c catalogue) messageTimeout(k *config.Kernel, margin time.Duration) time.Duration {
	longest := k.PhaseBudget()
	if c.mayTakeBodies(k) {
		longest = 2 * k.MessageBudget()
	}
	// Envoy refuses more than an hour (ext_proc.proto).
	return min(longest+margin, time.Hour)
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
