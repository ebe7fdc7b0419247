package extproc

import (
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// Status says how a phase was decided. Its String is a metric label.
type Status uint8

// The statuses. StatusAllowed lets a request pass; StatusUnknownRoute, StatusRouteNotFound and StatusUnnamedRoute do so
// with unknown_route: continue. No other status does.
const (
	StatusNone Status = iota
	StatusAllowed
	// StatusDenied: a policy answered with a status of 400 or above.
	StatusDenied
	// StatusResponded: a policy answered with a status below 400.
	StatusResponded
	StatusUnknownRoute
	// StatusRouteNotFound: no route of Envoy matches the request.
	StatusRouteNotFound
	// StatusUnnamedRoute: Envoy sent no name of a route.
	StatusUnnamedRoute
	StatusPolicyNotSupported
	StatusWorkerUnavailable
	StatusWorkerTimeout
	StatusWorkerOverloaded
	// StatusRouteOverloaded: the route has its share of the worker.
	StatusRouteOverloaded
	StatusPolicyError
	StatusPolicyPanic
	StatusPolicyTimeout
	// StatusPolicyOverloaded: too many runs of a policy that take long are waiting.
	StatusPolicyOverloaded
	StatusIllegalResult
	// StatusTooLarge: a worker refused the message for its size.
	StatusTooLarge
	// StatusBodyCoding: a body can't be decoded for a policy that wants it decoded.
	StatusBodyCoding
	// StatusMalformedMessage: what Envoy sent, or the order of it, is against the protocol.
	StatusMalformedMessage
	// StatusUnsupportedMode: Envoy's filter runs in a mode in which policies could not be enforced.
	StatusUnsupportedMode
	// StatusCancelled: the stream ended before the decision.
	StatusCancelled
	StatusDraining
	// StatusInternal: the driver broke the machine's rules.
	StatusInternal
)

var statusNames = [...]string{
	StatusNone: "none", StatusAllowed: "allowed", StatusDenied: "denied", StatusResponded: "responded", StatusUnknownRoute: "unknown_route", StatusRouteNotFound: "route_not_found",
	StatusUnnamedRoute:       "unnamed_route",
	StatusPolicyNotSupported: "policy_not_supported", StatusWorkerUnavailable: "worker_unavailable", StatusWorkerTimeout: "worker_timeout",
	StatusWorkerOverloaded: "worker_overloaded", StatusRouteOverloaded: "route_overloaded", StatusPolicyError: "policy_error", StatusPolicyPanic: "policy_panic", StatusPolicyTimeout: "policy_timeout",
	StatusPolicyOverloaded: "policy_overloaded",
	StatusIllegalResult:    "illegal_result", StatusTooLarge: "too_large", StatusBodyCoding: "body_coding", StatusMalformedMessage: "malformed_message",
	StatusUnsupportedMode: "unsupported_mode", StatusCancelled: "cancelled", StatusDraining: "draining", StatusInternal: "internal",
}

// statusDetails are what is said of decisions that neither a policy nor the event explains in more detail.
var statusDetails = [...]string{
	StatusUnknownRoute:       "Envoy names a route that route_policies of the kernel's configuration does not have",
	StatusRouteNotFound:      "no route of Envoy matches the host and path, or Envoy names none",
	StatusUnnamedRoute:       "Envoy sends no name of the route: its ext_proc filter has neither request_attributes nor initial metadata",
	StatusPolicyNotSupported: "no worker of the kernel offers the policy",
	StatusWorkerUnavailable:  "no replica of the worker takes calls",
	StatusWorkerTimeout:      "the worker did not answer within its timeout",
	StatusWorkerOverloaded:   "all replicas of the worker are full, and so is the queue before them",
	StatusRouteOverloaded:    "the route has its share of the worker's room",
	StatusPolicyError:        "the policy returned an error; the worker's log has it",
	StatusPolicyPanic:        "the policy panicked; the worker's log has the stack",
	StatusPolicyTimeout:      "the policy took longer than its timeout",
	StatusPolicyOverloaded:   "too many runs of the policy that take long were waiting",
	StatusIllegalResult:      "the worker's result cannot be applied",
	StatusTooLarge:           "a message is longer than the worker takes",
	StatusBodyCoding:         "the body's content-encoding is unknown or the body is damaged, and a policy reads the body without it",
	StatusMalformedMessage:   "Envoy's message cannot be read, or came out of order",
	StatusUnsupportedMode:    "Envoy's ext_proc filter or the request's protocol does not let the policies see the body",
	StatusCancelled:          "the stream ended before the decision",
	StatusDraining:           "the kernel is shutting down",
	StatusInternal:           "a fault of the kernel; its log has more",
}

// detailOf is the detail of a status that nothing else explains, empty where a policy decided.
func detailOf(s Status) string {
	if int(s) < len(statusDetails) {
		return statusDetails[s]
	}
	return ""
}

// Statuses returns all statuses that a Decision can have, for metrics that are resolved at load time.
func Statuses() []Status {
	all := make([]Status, 0, len(statusNames))
	for s := StatusAllowed; int(s) < len(statusNames); s++ {
		all = append(all, s)
	}
	return all
}

func (s Status) String() string { return statusNames[s] }

// Observer is told each decision, once per phase that was decided. It must not block.
type Observer interface {
	// Decided gets a decision that is valid only during the call, and so are its strings and bytes.
	Decided(*Decision)
}

// Decision is how a phase ended.
type Decision struct {
	// Route is nil if the route is unknown, or was not looked up.
	Route *route.Route
	// RouteName is what Envoy named; the configuration may not know it.
	RouteName string
	// Host and Path are those of a request whose route is unknown, or not found; Path is without its query.
	Host, Path []byte
	// Phase is PHASE_UNSPECIFIED if the message could not be decoded.
	Phase  workerv1.Phase
	Status Status
	// OfRequest is true for the one decision that lets a request go upstream or refuses it.
	OfRequest bool
	// Tolerated is the last failure that an on_failure of continue or skip_remaining let pass in this phase; StatusNone if there was none.
	Tolerated Status
	// Worker is the segment whose worker decided, or was called last; nil when none was called.
	Worker *route.Segment
	Policy string
	Reason string
	// Detail says more about the reason, or about the failure that was tolerated. Clients never get it.
	Detail string
	// RequestID is the value of x-request-id.
	RequestID []byte
	// TraceID is the id of the request's trace, empty if it is not traced.
	TraceID string
	// Elapsed is the time from the arrival of the phase's message to the decision.
	Elapsed time.Duration
}
