// Package respond is the policy respond: it answers requests itself, in place of the upstream.
package respond

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/policy-engine/policy-engine/policies"
)

const (
	name    = "respond"
	version = "1.0.0"
)

// Params are the policy's parameters.
type Params struct {
	Status      int               `json:"status,omitempty" jsonschema:"minimum=200,maximum=599,default=200,description=The HTTP status of the answer."`
	ContentType string            `json:"content_type,omitempty" jsonschema:"description=The content-type. Default: text/plain; charset=utf-8 if there is a body."`
	Headers     map[string]string `json:"headers,omitempty" jsonschema:"description=Further headers of the answer."`
	Body        string            `json:"body,omitempty" jsonschema:"description=The body of the answer; at most 64 KiB."`
	GRPCStatus  *uint32           `json:"grpc_status,omitempty" jsonschema:"minimum=0,maximum=16,description=The status that gRPC clients get. Default: that of the HTTP status."`
	Reason      string            `json:"reason,omitempty" jsonschema:"default=responded,description=What operators see in metrics and in Envoy's access log; a word of lower-case letters and digits and '_'."`
}

// Defaults sets what the configuration leaves out.
func (p *Params) Defaults() { *p = Params{Status: 200, Reason: "responded"} }

const (
	// maxBody is the longest body, in bytes. It is sent with each answer; what is longer belongs on a server.
	maxBody = 64 << 10
	// maxReason is the longest reason, in bytes: it becomes a metric's label.
	maxReason     = 64
	maxGRPCStatus = 16
)

// Headers that are not the policy's: Envoy frames the message itself, and the others belong to one connection (RFC 9110 section 7.6.1).
var framing = []string{
	"connection", "content-length", "date", "grpc-message", "grpc-status", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
}

// Definition returns the policy's entry for a worker's registry.
func Definition() policies.Definition { return policies.Define(name, version, build) }

// Policy is respond at one place of the configuration.
type Policy struct {
	answer policies.Verdict
}

func build(_ policies.Env, params Params) (*Policy, error) {
	var problems []error
	bad := func(param, format string, args ...any) {
		problems = append(problems, policies.BadParam(param, format, args...))
	}
	if params.Status < 200 || params.Status > 599 {
		bad("status", "%d is not legal; legal are 200 to 599", params.Status)
	}
	if !legalReason(params.Reason) {
		bad("reason", "%q is not legal; legal are 1 to %d lower-case letters, digits and '_'", params.Reason, maxReason)
	}
	if params.GRPCStatus != nil && *params.GRPCStatus > maxGRPCStatus {
		bad("grpc_status", "%d is not legal; legal are 0 to %d", *params.GRPCStatus, maxGRPCStatus)
	}
	if params.GRPCStatus != nil && *params.GRPCStatus == 0 && params.Status >= 400 {
		bad("grpc_status", "0 is OK, which a status of %d is not; expected 1 to %d", params.Status, maxGRPCStatus)
	}
	checkBody(params, bad)
	headers := checkHeaders(params.Headers, bad)
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return &Policy{answer: answer(params, headers)}, nil
}

// checkBody refuses a body where HTTP has none, and a type without one.
func checkBody(params Params, bad func(param, format string, args ...any)) {
	switch {
	case params.Body != "" && bodiless(params.Status):
		bad("body", "an answer with status %d has no body (RFC 9110 section 6.4.1)", params.Status)
	case len(params.Body) > maxBody:
		bad("body", "it has %d bytes; legal are %d", len(params.Body), maxBody)
	case !utf8.ValidString(params.Body):
		bad("body", "it is not UTF-8")
	}
	if params.ContentType == "" {
		return
	}
	if params.Body == "" {
		bad("content_type", "there is no body; legal is content_type with body")
	}
	if err := policies.CheckHeader("content-type", params.ContentType); err != nil {
		bad("content_type", "%v", err)
	}
}

// checkHeaders returns the headers in the order of their names.
func checkHeaders(values map[string]string, bad func(param, format string, args ...any)) []policies.Header {
	var headers []policies.Header
	for header, value := range values {
		lower := strings.ToLower(header)
		if err := policies.CheckHeader(lower, value); err != nil {
			bad("headers", "%v", err)
		}
		switch {
		case lower == "content-type":
			bad("headers", "%q has a parameter of its own, content_type", header)
		case slices.Contains(framing, lower):
			bad("headers", "%q is Envoy's; legal are all others but %s", header, strings.Join(framing, ", "))
		}
		headers = append(headers, policies.Header{Name: lower, Value: value})
	}
	slices.SortFunc(headers, func(a, b policies.Header) int { return cmp.Compare(a.Name, b.Name) })
	for i := 1; i < len(headers); i++ {
		if headers[i].Name == headers[i-1].Name {
			bad("headers", "%q is there twice, in two spellings", headers[i].Name)
		}
	}
	return headers
}

func answer(params Params, headers []policies.Header) policies.Verdict {
	contentType := params.ContentType
	var body []byte
	if params.Body != "" {
		body = []byte(params.Body)
		contentType = cmp.Or(contentType, "text/plain; charset=utf-8")
	}
	v := policies.Respond(params.Status, params.Reason, contentType, body)
	for _, h := range headers {
		v = v.WithHeader(h.Name, h.Value)
	}
	v = v.WithDetail(fmt.Sprintf("the policy answers every request of the route with status %d", params.Status))
	if params.GRPCStatus != nil {
		v = v.WithGRPCStatus(*params.GRPCStatus)
	}
	return v
}

// bodiless tells the statuses whose answers have no content (RFC 9110 sections 15.3.5, 15.3.6, 15.4.5).
func bodiless(status int) bool { return status == 204 || status == 205 || status == 304 }

func legalReason(reason string) bool {
	for i := range len(reason) {
		if c := reason[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return len(reason) > 0 && len(reason) <= maxReason
}

// OnRequestHeaders answers. The method makes no difference: Envoy leaves the body out of answers to HEAD.
func (p *Policy) OnRequestHeaders(context.Context, *policies.Request) (policies.Verdict, error) {
	return p.answer, nil
}

var _ policies.RequestHeaders = (*Policy)(nil)
