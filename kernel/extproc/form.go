package extproc

import (
	"bytes"
	"encoding/json"
	"net/http"

	"google.golang.org/grpc/codes"

	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/fastpath/view"
)

// grpcCodes is the gRPC status of a refusal that has an HTTP status and names no gRPC status. Envoy's own table (gRPC's http-grpc-status-mapping) is for answers of servers that do not
// know gRPC, of which it makes UNAVAILABLE for 429 and UNKNOWN for most: clients then try again at once what they have to wait for, or what can't succeed.
//
// 404 is UNIMPLEMENTED, as in Envoy's table: an unknown path is an unknown method, which is what gRPC servers answer. 502 stays UNAVAILABLE, as there.
var grpcCodes = map[int]codes.Code{
	http.StatusBadRequest:                  codes.InvalidArgument,
	http.StatusUnauthorized:                codes.Unauthenticated,
	http.StatusForbidden:                   codes.PermissionDenied,
	http.StatusNotFound:                    codes.Unimplemented,
	http.StatusMethodNotAllowed:            codes.Unimplemented,
	http.StatusRequestTimeout:              codes.DeadlineExceeded,
	http.StatusConflict:                    codes.Aborted,
	http.StatusLengthRequired:              codes.InvalidArgument,
	http.StatusPreconditionFailed:          codes.FailedPrecondition,
	http.StatusRequestEntityTooLarge:       codes.ResourceExhausted,
	http.StatusRequestURITooLong:           codes.InvalidArgument,
	http.StatusUnsupportedMediaType:        codes.InvalidArgument,
	http.StatusUnprocessableEntity:         codes.InvalidArgument,
	http.StatusPreconditionRequired:        codes.FailedPrecondition,
	http.StatusTooManyRequests:             codes.ResourceExhausted,
	http.StatusRequestHeaderFieldsTooLarge: codes.ResourceExhausted,
	http.StatusInternalServerError:         codes.Internal,
	http.StatusNotImplemented:              codes.Unimplemented,
	http.StatusBadGateway:                  codes.Unavailable,
	http.StatusServiceUnavailable:          codes.Unavailable,
	http.StatusGatewayTimeout:              codes.DeadlineExceeded,
}

// grpcCode returns the gRPC status of an HTTP status of 400 or above.
func grpcCode(status int) codes.Code {
	if code, ok := grpcCodes[status]; ok {
		return code
	}
	return codes.Unknown
}

// isGRPC reports whether the client of the request takes Envoy's answer as one of gRPC: then Envoy makes 200 of the status, application/grpc of the content-type, and grpc-message of the
// body (utility.cc, prepareLocalReply). A client of application/grpc-web gets the answer as it is, with its HTTP status, unless Envoy's grpc_web filter has made gRPC of it.
func (m *Machine) isGRPC() bool {
	kind, ok := bytes.CutPrefix(firstValue(m.requestFields(), "content-type"), []byte("application/grpc")) // Envoy compares the case as well.
	return ok && (len(kind) == 0 || kind[0] == '+')
}

// requestFields are the headers of the request as Envoy sent them; none if they are malformed. After the request's header phase, they take the place of those in m.fields.
func (m *Machine) requestFields() []headermap.Field {
	// Fast path: they are there.
	if m.phase == requestHeaders {
		return m.fields
	}
	var err error
	if m.fields, err = headermap.Parse(m.fields[:0], m.requestMap); err != nil {
		return nil
	}
	return m.fields
}

// messageOf returns what {"error":…,"code":…} says, which is the body of refusals by default. Another body is not ok: it is a policy's or an operator's own.
func messageOf(body []byte) (message, code string, ok bool) {
	rest, ok := bytes.CutPrefix(body, []byte(`{"error":"`))
	if !ok {
		return "", "", false
	}
	rest, ok = bytes.CutSuffix(rest, []byte(`"}`))
	if !ok {
		return "", "", false
	}
	i := bytes.LastIndex(rest, []byte(`","code":"`))
	if i < 0 {
		return "", "", false
	}
	code = view.String(rest[i+len(`","code":"`):])
	for j := range len(code) {
		if c := code[j]; (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return "", "", false
		}
	}
	// Fast path: no character is escaped, and none is missing its escape.
	if text := rest[:i]; bytes.IndexByte(text, '\\') < 0 && bytes.IndexByte(text, '"') < 0 {
		return view.String(text), code, true
	}
	// Slow path: by the grammar of JSON.
	var parsed struct{ Error, Code string }
	if json.Unmarshal(body, &parsed) != nil || parsed.Code != code {
		return "", "", false
	}
	return parsed.Error, code, true
}
