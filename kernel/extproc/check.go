package extproc

import (
	"errors"
	"unicode/utf8"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
	"github.com/policy-engine/policy-engine/fastpath/view"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// Limits of a worker's result beyond those of header mutations. In bytes.
const (
	maxContext = 256 * 1024
	maxSubject = 1024
)

// Why a result is illegal. Errors, not text: they are compared in tests and never shown to clients.
var (
	errNoResult      = errors.New("no result")
	errPhase         = errors.New("result of another phase")
	errOutcome       = errors.New("outcome unknown or unspecified")
	errFailure       = errors.New("failure unknown or unspecified")
	errContext       = errors.New("context too large")
	errPolicy        = errors.New("policy is not of this call")
	errSubject       = errors.New("subject is not UTF-8 or too long")
	errMutationKind  = errors.New("mutation not legal in this phase")
	errMutationCount = errors.New("more mutations than Envoy takes")
	errHeaderCase    = errors.New("header name is not in lower case")
	errNoHeader      = errors.New("header without a name")
	errMethodMode    = errors.New("method can't be changed while Envoy streams the body ahead of the answer")
	errImmediate     = errors.New("immediate response missing, or out of place")
	errPosition      = errors.New("position is not that of the policy")
	errBody          = errors.New("body out of place, or too large")
	errSkips         = errors.New("policies that skip the body do not take part in it")
	errContextLost   = errors.New("context is empty, but was not before")
)

// checkResult checks what a worker answered (requirement K14). What passes can be applied as it is. It does not allocate.
func checkResult(phase workerv1.Phase, segment *route.Segment, r *workerv1.Result) error {
	switch {
	case r == nil:
		return errNoResult
	case r.Phase != phase:
		return errPhase
	case len(r.Context) > maxContext:
		return errContext
	case r.Policy != "" && policyOf(segment, r.Policy) == "":
		return errPolicy
	case r.Position != 0 && !at(segment, r.Position-1, r.Policy):
		return errPosition
	case len(r.Subject) > maxSubject || !utf8.ValidString(r.Subject):
		return errSubject
	}
	if err := httpsyntax.Reason(r.Reason); err != nil {
		return err
	}
	switch r.Outcome {
	case workerv1.Result_OUTCOME_CONTINUE, workerv1.Result_OUTCOME_SKIP_REMAINING:
		if r.Immediate != nil {
			return errImmediate
		}
		return checkMutations(phase, r.Mutations)
	case workerv1.Result_OUTCOME_IMMEDIATE:
		return checkImmediate(r.Immediate)
	case workerv1.Result_OUTCOME_FAILED:
		if r.Immediate != nil {
			return errImmediate
		}
		if r.Failure < workerv1.Result_FAILURE_POLICY_ERROR || r.Failure > workerv1.Result_FAILURE_POLICY_OVERLOADED {
			return errFailure
		}
		return nil
	default:
		return errOutcome
	}
}

// policyOf returns the segment's own string of the policy's name, "" if the policy is not of the segment.
func policyOf(segment *route.Segment, name string) string {
	for i := range segment.Policies {
		if segment.Policies[i].Name == name {
			return segment.Policies[i].Name
		}
	}
	return ""
}

// at reports whether the policy of that name stands at that place in the segment's chain.
func at(segment *route.Segment, index uint32, name string) bool {
	for i := range segment.Policies {
		if p := &segment.Policies[i]; p.Index == int(index) {
			return p.Name == name
		}
	}
	return false
}

func checkMutations(phase workerv1.Phase, mutations []*workerv1.Mutation) error {
	if len(mutations) > maxChanges {
		return errMutationCount
	}
	for _, m := range mutations {
		if m == nil {
			return errMutationKind
		}
		if err := checkMutation(phase, m); err != nil {
			return err
		}
	}
	return nil
}

func checkMutation(phase workerv1.Phase, m *workerv1.Mutation) error {
	response := phase >= responseHeaders
	switch m.Kind {
	case workerv1.Mutation_KIND_SET_HEADER, workerv1.Mutation_KIND_APPEND_HEADER:
		return checkHeader(m.Name, view.String(m.Value))
	case workerv1.Mutation_KIND_REMOVE_HEADER:
		return checkHeader(m.Name, "")
	case workerv1.Mutation_KIND_SET_PATH, workerv1.Mutation_KIND_SET_PATH_AND_ROUTE:
		if isTrailers(phase) || response || m.Name != "" {
			return errMutationKind
		}
		return httpsyntax.Path(m.Value)
	case workerv1.Mutation_KIND_SET_METHOD:
		if isTrailers(phase) || response || m.Name != "" {
			return errMutationKind
		}
		return httpsyntax.Method(m.Value)
	case workerv1.Mutation_KIND_SET_STATUS:
		if isTrailers(phase) || !response || m.Name != "" {
			return errMutationKind
		}
		return httpsyntax.StatusText(m.Value)
	default:
		return errMutationKind
	}
}

// checkHeader applies the rules of headers that policies may set to a name in lower case, which is how workers send it.
func checkHeader(name, value string) error {
	for i := range len(name) {
		if c := name[i]; 'A' <= c && c <= 'Z' {
			return errHeaderCase
		}
	}
	return httpsyntax.Field(name, value)
}

// checkImmediate refuses above all a status below 200, of which Envoy makes 200 (ext_proc.cc, sendImmediateResponse).
func checkImmediate(r *workerv1.ImmediateResponse) error {
	switch {
	case r == nil:
		return errImmediate
	case r.Status > 599: // It must not wrap.
		return httpsyntax.ErrStatus
	case len(r.Body) > httpsyntax.MaxBody:
		return httpsyntax.ErrBody
	case len(r.Headers) > httpsyntax.MaxFields:
		return httpsyntax.ErrTooMany
	}
	if err := httpsyntax.Status(int(r.Status)); err != nil {
		return err
	}
	if r.GrpcStatus != nil {
		if err := httpsyntax.GRPCStatus(int(r.Status), *r.GrpcStatus); err != nil {
			return err
		}
	}
	size := 0
	for _, h := range r.Headers {
		if h == nil {
			return errNoHeader
		}
		if err := checkHeader(h.Name, view.String(h.Value)); err != nil {
			return err
		}
		size += len(h.Name) + len(h.Value)
	}
	if size > httpsyntax.MaxFieldBytes {
		return httpsyntax.ErrTooMany
	}
	return nil
}
