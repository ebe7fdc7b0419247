package extproc

import (
	"errors"
	"strings"
	"unicode/utf8"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/view"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// Limits of a worker's result beyond those of header mutations. In bytes.
const (
	maxContext       = 256 * 1024
	maxImmediateBody = 1024 * 1024
	maxReason        = 64
	maxSubject       = 1024
)

// Why a result is illegal. Errors, not text: they are compared in tests and never shown to clients.
var (
	errNoResult      = errors.New("no result")
	errPhase         = errors.New("result of another phase")
	errOutcome       = errors.New("outcome unknown or unspecified")
	errFailure       = errors.New("failure unknown or unspecified")
	errContext       = errors.New("context too large")
	errPolicy        = errors.New("policy is not of this call")
	errReason        = errors.New("reason is not one word of lower-case letters, digits and '_'")
	errSubject       = errors.New("subject is not UTF-8 or too long")
	errMutationKind  = errors.New("mutation not legal in this phase")
	errMutationCount = errors.New("more mutations than Envoy takes")
	errHeaderName    = errors.New("header name not legal in a mutation")
	errHeaderValue   = errors.New("header value has a control character")
	errMutationPath  = errors.New("path does not begin with '/' or has an illegal character")
	errMethod        = errors.New("method is not a token")
	errMethodMode    = errors.New("method can't be changed while Envoy streams the body ahead of the answer")
	errStatus        = errors.New("status is not from 200 to 599")
	errImmediate     = errors.New("immediate response missing, or out of place")
	errImmediateBody = errors.New("body of an immediate response too large")
	errGRPCStatus    = errors.New("gRPC status is not from 0 to 16")
	errPosition      = errors.New("position is not that of the policy")
	errBody          = errors.New("body out of place, or too large")
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
	case !legalReason(r.Reason):
		return errReason
	case len(r.Subject) > maxSubject || !utf8.ValidString(r.Subject):
		return errSubject
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
		if r.Failure < workerv1.Result_FAILURE_POLICY_ERROR || r.Failure > workerv1.Result_FAILURE_BODY_TOO_LARGE {
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

func legalReason(reason string) bool {
	if len(reason) > maxReason {
		return false
	}
	for i := range len(reason) {
		if c := reason[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
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
		return checkPath(m.Value)
	case workerv1.Mutation_KIND_SET_METHOD:
		if isTrailers(phase) || response || m.Name != "" {
			return errMutationKind
		}
		return checkMethod(m.Value)
	case workerv1.Mutation_KIND_SET_STATUS:
		if isTrailers(phase) || !response || m.Name != "" {
			return errMutationKind
		}
		return checkStatus(m.Value)
	default:
		return errMutationKind
	}
}

// checkHeader takes what Envoy lets a processor change by default (mutation_rules.cc): no pseudo-header (a ':' is no token character), no host, nothing of
// Envoy's own; and values of RFC 9110 section 5.5, bytes above 0x7f among them.
func checkHeader(name, value string) error {
	if name == "" || name == "host" || strings.HasPrefix(name, "x-envoy-") {
		return errHeaderName
	}
	for i := range len(name) {
		if c := name[i]; !tokenChar(c) || 'A' <= c && c <= 'Z' {
			return errHeaderName
		}
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return errHeaderValue
		}
	}
	return nil
}

// checkPath takes an origin-form or asterisk-form target (RFC 9112 section 3.2) of visible ASCII characters.
func checkPath(path []byte) error {
	if len(path) == 0 || path[0] != '/' && string(path) != "*" {
		return errMutationPath
	}
	for _, c := range path {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return errMutationPath
		}
	}
	return nil
}

func checkMethod(method []byte) error {
	if len(method) == 0 {
		return errMethod
	}
	for _, c := range method {
		if !tokenChar(c) {
			return errMethod
		}
	}
	return nil
}

func checkStatus(status []byte) error {
	if len(status) != 3 || status[0] < '2' || status[0] > '5' || status[1] < '0' || status[1] > '9' || status[2] < '0' || status[2] > '9' {
		return errStatus
	}
	return nil
}

// checkImmediate refuses above all a status below 200, of which Envoy makes 200 (ext_proc.cc, sendImmediateResponse).
func checkImmediate(r *workerv1.ImmediateResponse) error {
	switch {
	case r == nil:
		return errImmediate
	case r.Status < 200 || r.Status > 599:
		return errStatus
	case r.GrpcStatus != nil && *r.GrpcStatus > 16:
		return errGRPCStatus
	case len(r.Body) > maxImmediateBody:
		return errImmediateBody
	case len(r.Headers) > maxChanges:
		return errMutationCount
	}
	size := 0
	for _, h := range r.Headers {
		if h == nil {
			return errHeaderName
		}
		if err := checkHeader(h.Name, view.String(h.Value)); err != nil {
			return err
		}
		size += len(h.Name) + len(h.Value)
	}
	if size > maxChangeBytes {
		return errMutationCount
	}
	return nil
}

// tokenChar tells the characters of a token (RFC 9110 section 5.6.2).
func tokenChar(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
