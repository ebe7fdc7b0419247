package extproc

import (
	"net/http"
	"strings"
	"unicode/utf8"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/contentcoding"
	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
	"github.com/policy-engine/policy-engine/fastpath/view"
)

// refusal is the kernel's own answer to the client. It tells what failed, and nothing of where or why.
type refusal struct {
	status int
	reason string
	body   []byte
	// field is a header field beside the content type; it has no name if there is none.
	field    struct{ name, value string }
	decision Status
	// final: no on_failure lets it pass. It is the message that is at fault, not a policy.
	final bool
}

func newRefusal(decision Status, status int, message, code string) refusal {
	return refusal{
		status: status, decision: decision, reason: strings.ToLower(code),
		body: []byte(`{"error":"` + message + `","code":"` + code + `"}`),
	}
}

var (
	unknownRoute         = newRefusal(StatusUnknownRoute, http.StatusInternalServerError, "no policies are configured for this route", "UNKNOWN_ROUTE")
	routeNotFound        = newRefusal(StatusRouteNotFound, http.StatusNotFound, "not found", "ROUTE_NOT_FOUND")
	unnamedRoute         = newRefusal(StatusUnnamedRoute, http.StatusNotFound, "not found", "UNNAMED_ROUTE")
	malformedRequest     = newRefusal(StatusMalformedMessage, http.StatusBadRequest, "malformed request", "MALFORMED_MESSAGE")
	malformedResponse    = newRefusal(StatusMalformedMessage, http.StatusBadGateway, "malformed response", "MALFORMED_MESSAGE")
	unsupportedMode      = newRefusal(StatusUnsupportedMode, http.StatusInternalServerError, "policies can not be enforced", "UNSUPPORTED_MODE")
	workerTimeout        = newRefusal(StatusWorkerTimeout, http.StatusGatewayTimeout, "policy worker timeout", "WORKER_TIMEOUT")
	workerOverloaded     = retry(newRefusal(StatusWorkerOverloaded, http.StatusServiceUnavailable, "policy worker overloaded", "WORKER_OVERLOADED"))
	routeOverloaded      = retry(newRefusal(StatusRouteOverloaded, http.StatusServiceUnavailable, "too many requests of this route", "ROUTE_OVERLOADED"))
	illegalResult        = newRefusal(StatusIllegalResult, http.StatusInternalServerError, "policy failed", "POLICY_FAILED")
	policyError          = newRefusal(StatusPolicyError, http.StatusInternalServerError, "policy failed", "POLICY_FAILED")
	policyPanic          = newRefusal(StatusPolicyPanic, http.StatusInternalServerError, "policy failed", "POLICY_FAILED")
	policyTimeout        = newRefusal(StatusPolicyTimeout, http.StatusInternalServerError, "policy timeout", "POLICY_TIMEOUT")
	policyOverloaded     = retry(newRefusal(StatusPolicyOverloaded, http.StatusServiceUnavailable, "policy overloaded", "POLICY_OVERLOADED"))
	requestTooLarge      = newRefusal(StatusTooLarge, http.StatusRequestHeaderFieldsTooLarge, "request headers too large", "REQUEST_TOO_LARGE")
	responseTooLarge     = newRefusal(StatusTooLarge, http.StatusBadGateway, "response headers too large", "RESPONSE_TOO_LARGE")
	requestBodyTooLarge  = always(newRefusal(StatusTooLarge, http.StatusRequestEntityTooLarge, "request body too large", "REQUEST_TOO_LARGE"))
	responseBodyTooLarge = always(newRefusal(StatusTooLarge, http.StatusBadGateway, "response body too large", "RESPONSE_TOO_LARGE"))
	requestCoding        = always(accept(newRefusal(StatusBodyCoding, http.StatusUnsupportedMediaType, "request body can not be decoded", "BODY_CODING")))
	responseCoding       = always(newRefusal(StatusBodyCoding, http.StatusBadGateway, "response body can not be decoded", "BODY_CODING"))
	upgradeRefused       = newRefusal(StatusUnsupportedMode, http.StatusForbidden, "this route takes no upgrades", "UPGRADE_REFUSED")
	// workerUnavailable stands for the configured response.
	workerUnavailable = refusal{decision: StatusWorkerUnavailable}
)

const contentTypeName = "content-type"

func always(r refusal) refusal {
	r.final = true
	return r
}

// retry asks the client to come back in a second.
func retry(r refusal) refusal {
	r.field.name, r.field.value = "retry-after", "1"
	return r
}

// accept tells the client which content codings requests may have (RFC 9110 section 15.5.16).
func accept(r refusal) refusal {
	r.field.name, r.field.value = "accept-encoding", contentcoding.Accepted
	return r
}

// refuse answers the client with r.
func (m *Machine) refuse(r *refusal, now Instant) Effect {
	if r == &workerUnavailable {
		return m.respond(StatusWorkerUnavailable, &m.table.Terms().WorkerUnavailable, now)
	}
	contentType, body, formed := m.form(r.status, r.body)
	if !formed {
		contentType, body = "application/json", r.body
	}
	dst, start := m.openImmediate(r.status)
	dst, headers := open(dst, 2) // ImmediateResponse.headers
	dst = appendSetHeader(dst, "content-type", contentType, false)
	if r.field.name != "" {
		dst = appendSetHeader(dst, r.field.name, r.field.value, false)
	}
	dst = shut(dst, headers)
	m.shutImmediate(dst, start, r.status, body, nil, r.reason)
	m.decide(r.decision, now)
	return m.finish()
}

// respond answers the client with a configured response.
func (m *Machine) respond(decision Status, r *config.ImmediateResponse, now Instant) Effect {
	status := r.Status
	if status < 200 || status > 599 {
		status = http.StatusInternalServerError // Envoy would make 200 of less.
	}
	contentType, body, formed := m.form(status, r.Body)
	if !formed {
		body = r.Body
	}
	dst, start := m.openImmediate(status)
	dst = appendLines(dst, contentType, len(r.Headers), func(i int) (name, value string) { return r.Headers[i].Name, r.Headers[i].Value })
	m.shutImmediate(dst, start, status, body, nil, decision.String())
	m.decide(decision, now)
	return m.finish()
}

// immediate answers the client with a policy's response, and drops all changes.
func (m *Machine) immediate(r *workerv1.Result, now Instant) Effect {
	decision, reason := StatusDenied, r.Reason
	if r.Immediate.Status < 400 {
		decision = StatusResponded
	}
	m.policy, m.reason, m.detail = policyOf(m.segment, r.Policy), reason, httpsyntax.Detail(r.Detail)
	if reason == "" {
		reason = decision.String()
	}
	contentType, body, formed := m.form(int(r.Immediate.Status), r.Immediate.Body)
	if !formed {
		body = r.Immediate.Body
	}
	dst, start := m.openImmediate(int(r.Immediate.Status))
	headers := r.Immediate.Headers
	dst = appendLines(dst, contentType, len(headers), func(i int) (name, value string) { return headers[i].Name, view.String(headers[i].Value) })
	m.shutImmediate(dst, start, int(r.Immediate.Status), body, r.Immediate.GrpcStatus, reason)
	m.decide(decision, now)
	return m.finish()
}

// appendLines appends ImmediateResponse.headers, of n lines. A contentType that is not empty takes the place of theirs.
func appendLines(dst []byte, contentType string, n int, line func(int) (name, value string)) []byte {
	if n == 0 && contentType == "" {
		return dst
	}
	dst, headers := open(dst, 2)
	if contentType != "" {
		dst = appendSetHeader(dst, contentTypeName, contentType, false)
	}
	for i := range n {
		if name, value := line(i); contentType == "" || name != contentTypeName {
			dst = appendSetHeader(dst, name, value, repeated(i, line))
		}
	}
	return shut(dst, headers)
}

// repeated reports whether an earlier line has the name of line i. The first line of a name takes the place of what Envoy puts there, the others are added.
func repeated(i int, line func(int) (name, value string)) bool {
	name, _ := line(i)
	for j := range i {
		if earlier, _ := line(j); earlier == name {
			return true
		}
	}
	return false
}

// openImmediate begins ProcessingResponse.immediate_response with its status.
func (m *Machine) openImmediate(status int) ([]byte, int) {
	dst, start := open(m.out[:0], 7)
	dst, s := open(dst, 1) // ImmediateResponse.status
	dst = appendUint(dst, 1, uint64(status))
	return shut(dst, s), start
}

// shutImmediate ends what openImmediate began, adds the dynamic metadata, and leaves the answer in m.out.
func (m *Machine) shutImmediate(dst []byte, start, status int, body []byte, grpcStatus *uint32, reason string) {
	if status >= 400 && m.isGRPC() {
		if grpcStatus == nil {
			code := uint32(grpcCode(status))
			grpcStatus = &code
		}
		if message, _, ok := messageOf(body); ok {
			body = view.Bytes(message)
		}
	}
	if len(body) > 0 {
		dst = appendBytes(dst, 3, body)
	}
	if grpcStatus != nil {
		var g int
		dst, g = open(dst, 4)
		dst = appendUint(dst, 1, uint64(*grpcStatus))
		dst = shut(dst, g)
	}
	dst, details := open(dst, 5)
	dst = append(append(dst, "policy_engine_"...), reason...)
	dst = shut(dst, details)
	dst = shut(dst, start)
	m.out = m.appendMetadata(dst, status, reason)
	if m.trace != nil {
		m.trace.Answered(status)
	}
}

// appendMetadata appends ProcessingResponse.dynamic_metadata: the namespace policy_engine, for Envoy's access log.
func (m *Machine) appendMetadata(dst []byte, status int, reason string) []byte {
	dst, all := open(dst, 8)
	dst, entry := open(dst, 1) // Struct.fields
	dst = appendBytes(dst, 1, "policy_engine")
	dst, value := open(dst, 2)
	dst, namespace := open(dst, 5) // Value.struct_value
	if m.policy != "" {
		dst = appendStructString(dst, "policy", m.policy)
	}
	dst = appendStructString(dst, "reason", reason)
	// A string that is not UTF-8 would make the whole answer unreadable.
	if m.routeName != "" && utf8.ValidString(m.routeName) {
		dst = appendStructString(dst, "route", m.routeName)
	}
	dst = appendStructNumber(dst, "status", status)
	if len(m.subject) > 0 {
		dst = appendStructString(dst, "identity", view.String(m.subject))
	}
	dst = shut(dst, namespace)
	dst = shut(dst, value)
	dst = shut(dst, entry)
	return shut(dst, all)
}
