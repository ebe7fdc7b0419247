package policies

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
)

// Verdict is what a policy decided. The zero value lets the request go on to the next policy.
type Verdict struct {
	kind    verdictKind
	status  int
	reason  string
	message string
	detail  string
	headers []Header
	body    []byte
	grpc    *uint32
	await   func(context.Context) (Verdict, error)
}

// Header is a header line that a policy sends.
type Header struct {
	Name  string
	Value string
}

type verdictKind uint8

const (
	kindContinue verdictKind = iota
	kindDeny
	kindRespond
	kindSkip
	kindAwait
)

// Continue lets the request go on to the next policy. It is the zero Verdict.
func Continue() Verdict { return Verdict{} }

// Deny refuses the request with an HTTP status from 400 to 599. The reason is one word of lower-case letters, digits and
// '_' that tells operators why: it goes into metrics and dynamic metadata, and in upper case into the body
// {"error":…,"code":…}. It must not depend on what the client sent.
func Deny(status int, reason string) Verdict {
	return Verdict{kind: kindDeny, status: status, reason: reason}
}

// Respond answers the client with a status from 200 to 599 in place of the upstream, without the meaning of a refusal.
func Respond(status int, reason, contentType string, body []byte) Verdict {
	v := Verdict{kind: kindRespond, status: status, reason: reason, body: body}
	if contentType != "" {
		v.headers = []Header{{Name: "content-type", Value: contentType}}
	}
	return v
}

// SkipRemaining lets the request go on past all policies that follow in its flow.
func SkipRemaining(reason string) Verdict {
	return Verdict{kind: kindSkip, reason: reason}
}

// Await is for the run of a policy that finds it has to wait (a key set to fetch, say): fn is called on a goroutine of its own, with
// a context that the policy's timeout cancels, and its verdict takes the place of this one. The phase method counts as running until fn has
// returned, so fn may still use the Request or Response. Await from fn is an error.
func Await(fn func(context.Context) (Verdict, error)) Verdict {
	return Verdict{kind: kindAwait, await: fn}
}

// WithMessage returns v with a sentence for the client in the "error" member of the body.
func (v Verdict) WithMessage(message string) Verdict {
	v.message = message
	return v
}

// WithDetail returns v with more about its reason, for operators: which claim, key id, limit or part of a schema. It goes to the debug log and to
// traces, and never to the client. It may name what the configuration has; it must have nothing of the client's credentials, query or body. What is
// longer than httpsyntax.MaxDetail (256) bytes is cut off, and what is not printable is replaced. A detail that is made when the policy is built costs
// a refusal nothing.
func (v Verdict) WithDetail(detail string) Verdict {
	v.detail = httpsyntax.Detail(detail)
	return v
}

// Detail returns the text given to WithDetail, empty if there is none.
func (v Verdict) Detail() string { return v.detail }

// WithHeader returns v with one more header line on the answer.
func (v Verdict) WithHeader(name, value string) Verdict {
	v.headers = append(v.headers[:len(v.headers):len(v.headers)], Header{Name: strings.ToLower(name), Value: value})
	return v
}

// WithBody returns v with a body in place of the JSON one that a refusal has by default.
func (v Verdict) WithBody(contentType string, body []byte) Verdict {
	v.body = body
	return v.WithHeader("content-type", contentType)
}

// WithGRPCStatus returns v with the status that a client of gRPC gets, from 0 to 16 (https://grpc.io/docs/guides/status-codes); 0 is for an HTTP status below 400 only. Without it,
// the kernel makes a gRPC status of an HTTP status of 400 or above: 429 becomes RESOURCE_EXHAUSTED (docs/operations.md has the table). Other clients get the HTTP status.
func (v Verdict) WithGRPCStatus(status uint32) Verdict {
	v.grpc = &status
	return v
}

// GRPCStatus returns the status given to WithGRPCStatus, and whether there is one.
func (v Verdict) GRPCStatus() (uint32, bool) {
	if v.grpc == nil {
		return 0, false
	}
	return *v.grpc, true
}

// IsContinue reports whether the chain goes on.
func (v Verdict) IsContinue() bool { return v.kind == kindContinue }

// IsDeny reports whether the request is refused.
func (v Verdict) IsDeny() bool { return v.kind == kindDeny }

// IsImmediate reports whether the client gets an answer from the policy: a refusal or a response.
func (v Verdict) IsImmediate() bool { return v.kind == kindDeny || v.kind == kindRespond }

// IsSkipRemaining reports whether the rest of the flow is skipped.
func (v Verdict) IsSkipRemaining() bool { return v.kind == kindSkip }

// Awaited returns the function given to Await, or nil.
func (v Verdict) Awaited() func(context.Context) (Verdict, error) { return v.await }

// Status returns the HTTP status of the answer, 0 if there is none.
func (v Verdict) Status() int { return v.status }

// Reason returns the reason given to Deny, Respond or SkipRemaining.
func (v Verdict) Reason() string { return v.reason }

// Headers returns the header lines of the answer. The caller must not change them.
func (v Verdict) Headers() []Header { return v.headers }

// Body returns the body of the answer: the one given, or for refusals {"error":…,"code":…}. The caller must not change it.
func (v Verdict) Body() []byte {
	if v.body != nil || v.kind != kindDeny {
		return v.body
	}
	message := v.message
	if message == "" {
		message = http.StatusText(v.status)
	}
	return ErrorBody(message, v.reason)
}

// ErrorBody is the body of an answer that refuses: {"error":message,"code":REASON}, the reason in upper case.
func ErrorBody(message, reason string) []byte {
	body, err := json.Marshal(struct {
		Error string `json:"error"`
		Code  string `json:"code"`
	}{message, strings.ToUpper(reason)})
	if err != nil { // Two strings always encode.
		panic(err)
	}
	return body
}
