package route

import (
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
	// Unsupported names the policies that no worker offers; with any, every request is refused (policy_not_supported_response).
	Unsupported []string
	// Undiscovered is true if a policy has no known worker, and a configured worker has not told its policies yet: requests are refused as worker_unavailable.
	Undiscovered bool
}

// Plan is what one flow runs: one call after the other.
type Plan struct {
	Segments []Segment
}

// Segment is consecutive policies of one worker: one call.
type Segment struct {
	Worker   Evaluator
	Chain    uint32
	Policies []PolicyRef
	// HoldsUp is true if a request must not start while the worker is unavailable: one of the policies has on_failure deny.
	HoldsUp bool
	// Timeout is how long the call may take.
	Timeout time.Duration
}

// PolicyRef is a policy in a segment.
type PolicyRef struct {
	Name      string
	OnFailure workerv1.OnFailure
}
