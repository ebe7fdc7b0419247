package e2e

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/policy-engine/policy-engine/test/harness"
)

const respondRoutes = `  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 2s}
  route_policies:
    - route_name: closed
      request_flow: {policy_chain: [{policy: respond, params: {status: 503, body: closed for maintenance, grpc_status: 14, reason: maintenance, headers: {Retry-After: "600"}}}]}
    - route_name: page
      request_flow: {policy_chain: [{policy: respond, params: {body: "<p>hello", content_type: text/html}}]}
    - route_name: empty
      request_flow: {policy_chain: [{policy: respond, params: {status: 204, headers: {X-Answer: "1"}}}]}
    - route_name: unchanged
      request_flow: {policy_chain: [{policy: respond, params: {status: 304, headers: {ETag: '"1"'}}}]}
    - route_name: elsewhere
      request_flow: {policy_chain: [{policy: respond, params: {status: 308, headers: {Location: "https://api.example/v2"}}}]}
    - route_name: guarded
      request_flow:
        policy_chain:
          - {policy: requestSizeLimit, params: {max_body_bytes: 10}}
          - {policy: respond, params: {body: within}}
          - {policy: requestSizeLimit, params: {max_header_count: 1}}
`

func TestRespond(t *testing.T) {
	t.Parallel()
	e := bodyEngine(t, respondRoutes)
	for _, c := range []struct {
		method, target string
		status         int
		header, value  string
		contentType    string
		length         string
		body           string
	}{
		{"GET", "/closed", 503, "Retry-After", "600", "text/plain; charset=utf-8", "22", "closed for maintenance"},
		{"GET", "/page", 200, "Retry-After", "", "text/html", "8", "<p>hello"},
		{"HEAD", "/page", 200, "Retry-After", "", "text/html", "8", ""},
		{"DELETE", "/page", 200, "Retry-After", "", "text/html", "8", "<p>hello"},
		{"GET", "/empty", 204, "X-Answer", "1", "", "", ""},
		{"HEAD", "/empty", 204, "X-Answer", "1", "", "", ""},
		{"GET", "/unchanged", 304, "Etag", `"1"`, "", "", ""},
		{"GET", "/elsewhere", 308, "Location", "https://api.example/v2", "", "0", ""},
	} {
		r := harness.Send(t, e.Listen, c.method, c.target, mustNotArrive+"the policy answers")
		if r.Status != c.status || r.Body != c.body {
			t.Errorf("%s %s: %v", c.method, c.target, r)
		}
		wantHeader(t, r.Header, c.header, c.value)
		wantHeader(t, r.Header, "Content-Type", c.contentType)
		if got := r.Header.Get("Content-Length"); got != c.length && (got != "0" || c.length != "") {
			t.Errorf("%s %s: content-length %q, want %q", c.method, c.target, got, c.length)
		}
	}
	post(t, e, 200, "/page", "a body that nobody reads", mustNotArrive+"the policy answers")
	post(t, e, 200, "/guarded", "short", mustNotArrive+"the policy answers")
	wantCode(t, post(t, e, 413, "/guarded", "longer than ten bytes", mustNotArrive+"refused before"), "BODY_TOO_LARGE")

	c := dialGRPC(t, e)
	_, _, end := c.call("/closed/Each", []string{"m"}, harness.MustNotArrive, "the policy answers")
	c.wantStatus(end, codes.Unavailable, "closed for maintenance")
	_, _, end = c.call("/page/Each", []string{"m"}, harness.MustNotArrive, "the policy answers")
	c.wantStatus(end, codes.Unknown, "<p>hello") // Never OK: there is no message.
	checkLogs(t, e, []string{"worker-1"})
}
