package route

import (
	"slices"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// Route is a route's policies, compiled: what to run in which phase. It is immutable.
type Route struct {
	// Name is the route's name in the configuration.
	Name string
	// Index numbers the routes of a table from 0.
	Index int
	// Request and Response are the plans of the two flows.
	Request, Response Plan
	// Bodies is true if a policy of either flow takes part in a body or in trailers.
	Bodies bool
	// Unsupported names the policies that no worker offers; with any, every request is refused (policy_not_supported_response).
	Unsupported []string
	// Undiscovered is true if a policy has no known worker, and a configured worker has not told its policies yet: requests are refused as worker_unavailable.
	Undiscovered bool
}

// Has reports whether a policy of that name is in one of the flows, or is one that no worker offers.
func (r *Route) Has(policy string) bool {
	for _, p := range [...]*Plan{&r.Request, &r.Response} {
		for _, segments := range [...][]Segment{p.Headers, p.Body, p.Trailers} {
			for i := range segments {
				for j := range segments[i].Policies {
					if segments[i].Policies[j].Name == policy {
						return true
					}
				}
			}
		}
	}
	return slices.Contains(r.Unsupported, policy)
}

// Plan is what one flow runs: in each phase, one call after the other.
type Plan struct {
	// Headers, Body and Trailers are the calls of the phases. A chain is in those phases only that one of its policies takes part in.
	Headers, Body, Trailers []Segment
	// BodyMode is what is asked of Envoy for a body: the least that the policies need, or what the configuration demands.
	BodyMode BodyMode
	// CodedBodyMode is the same for a body with a content coding.
	CodedBodyMode BodyMode
	// DecodesBody is true if a policy wants the body without its content coding.
	DecodesBody bool
}

// Empty reports whether the flow runs nothing.
func (p *Plan) Empty() bool { return len(p.Headers)+len(p.Body)+len(p.Trailers) == 0 }

// BodyMode is in what form a flow's body comes. More is asked for by a greater value.
type BodyMode uint8

// The modes.
const (
	// BodyNone: no policy takes part in the body.
	BodyNone BodyMode = iota
	// BodyStreamed: chunk by chunk.
	BodyStreamed
	// BodyBuffered: as a whole.
	BodyBuffered
)

func (m BodyMode) String() string { return [...]string{"none", "streamed", "buffered"}[m] }

// Segment is consecutive policies of one worker: one call in one phase.
type Segment struct {
	Worker Evaluator
	Chain  uint32
	// Position is the chain's place in its flow, from 0.
	Position int
	// First is the place in the flow of the chain's first policy, from 0. That of each policy is First +
	// PolicyRef.Index.
	First int
	// Policies are those that take part in the phase.
	Policies []PolicyRef
	// HoldsUp is true if a request must not start while the worker is unavailable: one of the policies has on_failure deny.
	HoldsUp bool
	// Timeout is how long the call may take.
	Timeout time.Duration
}

// PolicyRef is a policy in a segment.
type PolicyRef struct {
	Name string
	// Index is the policy's place in its chain, from 0.
	Index     int
	OnFailure workerv1.OnFailure
	// ReplacesBody is true if the policy may replace a body, in whole or in part; DecodesBody if it wants one without
	// its content coding.
	ReplacesBody, DecodesBody bool
}

// Skips reports whether the policy skips the body of a message. skipped has the bits 1<<place of those that do, by
// their places in the flow; a policy whose place has no bit never skips one.
func (s *Segment) Skips(ref *PolicyRef, skipped uint64) bool {
	place := s.First + ref.Index
	return place < 64 && skipped&(1<<place) != 0
}
