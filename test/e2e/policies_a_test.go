package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
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

const rewriteRoutes = `  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 2s}
  route_policies:
    - route_name: strip
      request_flow: {policy_chain: [{policy: rewritePath, params: {prefix: /strip, to: /}}]}
    - route_name: users
      request_flow: {policy_chain: [{policy: rewritePath, params: {template: "/users/{id}/{rest...}", to: "/accounts/{id}/of/{rest}"}}]}
    - route_name: lax
      request_flow: {policy_chain: [{policy: rewritePath, params: {regex: "/lax/([0-9]+)", to: "/items/{1}", unmatched: continue}}]}
    - route_name: twice
      request_flow:
        policy_chain:
          - {policy: rewritePath, params: {prefix: /twice, to: /once}}
          - {policy: rewritePath, params: {prefix: /once, to: /}}
`

func TestRewritePath(t *testing.T) {
	t.Parallel()
	e := bodyEngine(t, rewriteRoutes)
	for target, want := range map[string]string{
		"/strip/orders?page=2&back=%2F..%2F": "/orders?page=2&back=%2F..%2F",
		"/strip":                             "/",
		"/users/7/a/b":                       "/accounts/7/of/a/b",
		"/users/caf%C3%A9/x?y":               "/accounts/caf%C3%A9/of/x?y",
		"/lax/42":                            "/items/42",
		"/lax/other?x":                       "/lax/other?x",
		"/twice/a":                           "/a",
	} {
		before := e.Upstream.Count()
		get(t, e, 200, target)
		if got := arrived(t, e, before).Path; got != want {
			t.Errorf("%s: the upstream got %s, want %s", target, got, want)
		}
	}
	wantCode(t, get(t, e, 404, "/users/7", mustNotArrive+"unmatched"), "PATH_UNMATCHED")
	for _, target := range []string{
		"/strip/a;/b/..;/c", "/strip/%252e%252e/admin", "/strip/%c0%ae%c0%ae/x", "/strip/%00", "/strip/%2e%2e%2fadmin", "/lax/%2Fadmin", "/lax/..;/admin",
	} {
		get(t, e, 400, target, mustNotArrive+"more than one meaning")
	}
	// What Envoy would resolve before it asks is refused where it does not.
	c := dialKernel(t, e.ExtProc)
	for _, path := range []string{"/strip/%61dmin", "/strip/../admin", "/strip/%2e%2e/admin", "/strip//admin", "/strip/a#b", "strip/a", "/strip/a\\b", ""} {
		if got := outcome(c.exchange("strip", ":path: "+path)); got != "400" {
			t.Errorf("%q: %s", path, got)
		}
	}
	checkLogs(t, e, []string{"worker-1"})
}

const schemaRoutes = `  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 2s}
  route_policies:
    - route_name: order
      request_flow:
        policy_chain:
          - policy: jsonSchemaValidation
            params:
              schema:
                type: object
                required: [item]
                additionalProperties: false
                properties:
                  item: {type: string, pattern: "^[a-z]+$"}
                  more: {$ref: "#"}
    - route_name: patch
      request_flow: {policy_chain: [{policy: jsonSchemaValidation, params: {schema: {type: array}, required: false, status: 422, max_errors: 0}}]}
    - route_name: echo
      response_flow: {policy_chain: [{policy: jsonSchemaValidation, params: {schema: {properties: {body: {maxLength: 10}}}}}]}
`

func TestJSONSchemaValidation(t *testing.T) {
	t.Parallel()
	e := bodyEngine(t, schemaRoutes)
	t.Run("requests", func(t *testing.T) { schemaRequests(t, e) })
	t.Run("responses", func(t *testing.T) { schemaResponses(t, e) })
	checkLogs(t, e, []string{"worker-1"}, "hunter2")
}

func schemaRequests(t *testing.T, e *harness.Engine) {
	const typed, good = "Content-Type: application/json", `{"item": "tea", "more": {"item": "cup"}}`
	for _, framing := range []string{"X-Framing: length", "Transfer-Encoding: chunked"} {
		for _, body := range []string{good, good + strings.Repeat(" ", 100_000)} {
			before := e.Upstream.Count()
			post(t, e, 200, "/order", body, typed, framing)
			if up := arrived(t, e, before); up.Body != body {
				t.Errorf("the upstream got %.100q", up.Body)
			}
		}
	}
	before := e.Upstream.Count()
	coded := gzipped(t, good)
	post(t, e, 200, "/order", coded, typed, "Content-Encoding: gzip")
	if up := arrived(t, e, before); up.Body != coded || up.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("the upstream got %q", up.Body)
	}
	for _, c := range []struct {
		status int
		code   string
		body   string
		lines  []string
	}{
		{400, "BODY_MISSING", "", []string{typed}},
		{400, "BODY_MALFORMED", "item=tea", []string{typed}},
		{400, "BODY_MALFORMED", `{"item": "tea", "item": "ADMIN"}`, []string{typed}},
		{400, "BODY_MALFORMED", good + good, []string{typed, "Transfer-Encoding: chunked"}},
		{400, "BODY_MALFORMED", "{\"item\": \"\xff\"}", []string{typed}},
		{400, "BODY_INVALID", `{"item": "hunter2"}`, []string{typed}},
		{400, "BODY_INVALID", `{"item": "tea", "more": {}}` + strings.Repeat(" ", 100_000), []string{typed}},
		{400, "BODY_INVALID", gzipped(t, `{"item": 1}`), []string{typed, "Content-Encoding: gzip"}},
		{400, "BODY_TOO_COMPLEX", strings.Repeat("[", 100_000), []string{typed}},
		{415, "CONTENT_TYPE_UNSUPPORTED", good, nil},
		{415, "CONTENT_TYPE_UNSUPPORTED", good, []string{"Content-Type: text/plain"}},
		{415, "BODY_CODING", good, []string{typed, "Content-Encoding: gzip"}},
		{415, "BODY_CODING", good, []string{typed, "Content-Encoding: unknown"}},
	} {
		wantCode(t, post(t, e, c.status, "/order", c.body, append(c.lines, mustNotArrive+c.code)...), c.code)
	}
	r := post(t, e, 400, "/order", `{"item": "tea", "more": {"item": 5}}`, typed, mustNotArrive+"does not fit")
	if want := `"errors":[{"pointer":"/more/item","detail":"got number, want string"}]`; !strings.Contains(r.Body, want) {
		t.Errorf("the body is %s, want %s in it", r.Body, want)
	}
	wantCode(t, get(t, e, 400, "/order", typed, mustNotArrive+"no body"), "BODY_MISSING")
	get(t, e, 200, "/patch")
	if r := post(t, e, 422, "/patch", `{}`, typed, mustNotArrive+"no array"); r.Body != `{"error":"the body does not fit the schema","code":"BODY_INVALID"}` {
		t.Errorf("the body is %s", r.Body)
	}
}

func schemaResponses(t *testing.T, e *harness.Engine) {
	if r := post(t, e, 200, "/echo", "short"); !strings.Contains(r.Body, `"body":"short"`) {
		t.Errorf("the client got %v", r)
	}
	r := post(t, e, 502, "/echo", "longer, and hunter2")
	wantCode(t, r, "RESPONSE_INVALID")
	if strings.Contains(r.Body, "hunter2") || r.Header.Get("X-Upstream") != "" {
		t.Errorf("the client got %v", r)
	}
	if r := harness.Send(t, e.Listen, "HEAD", "/echo"); r.Status != 200 {
		t.Errorf("HEAD: %v", r)
	}
}

const auditRoutes = `  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 2s}
  route_policies:
    - route_name: audited
      request_flow:
        policy_chain:
          - {policy: auditLog, params: {file: FILE, query: true, request_headers: [Authorization, User-Agent], required: true}}
          - {policy: requestSizeLimit, params: {max_body_bytes: 10}}
      response_flow: {policy_chain: [{policy: auditLog, params: {file: FILE, response_headers: [X-Upstream]}}]}
    - route_name: logged
      request_flow: {policy_chain: [{policy: auditLog}]}
`

func TestAuditLog(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	e := bodyEngine(t, strings.ReplaceAll(auditRoutes, "FILE", file))
	get(t, e, 200, "/audited/a?page=2&token=hunter2", "Authorization: Bearer hunter2", "User-Agent: \",\"event\":\"forged")
	wantCode(t, post(t, e, 413, "/audited", "longer than ten bytes", mustNotArrive+"too large"), "BODY_TOO_LARGE")
	get(t, e, 200, "/logged?token=hunter2")
	checkLogs(t, e, []string{"worker-1"}, "hunter2") // It ends the worker, which writes what waits.
	if log := e.Worker("worker-1").Output() + e.Kernel.Output(); !strings.Contains(log, `"message":"audit"`) || !strings.Contains(log, `"path":"/logged"`) {
		t.Error("the worker's log has no audit")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	type line struct {
		Event           string            `json:"event"`
		Route           string            `json:"route"`
		RequestID       string            `json:"request_id"`
		Path            string            `json:"path"`
		Query           string            `json:"query"`
		Status          int               `json:"status"`
		RequestHeaders  map[string]string `json:"request_headers"`
		ResponseHeaders map[string]string `json:"response_headers"`
	}
	var lines []line
	for text := range strings.Lines(string(text)) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		lines = append(lines, l)
	}
	if len(lines) != 3 || strings.Contains(string(text), "hunter2") {
		t.Fatalf("the file has %s", text)
	}
	request, response, refused := lines[0], lines[1], lines[2]
	if request.Event != "request" || request.Route != "audited" || request.Path != "/audited/a" || request.Query != "page=2&token=[redacted]" ||
		request.RequestHeaders["authorization"] != "[redacted]" || request.RequestHeaders["user-agent"] != `","event":"forged` {
		t.Errorf("%+v", request)
	}
	if response.Event != "response" || response.Status != 200 || response.RequestID != request.RequestID || request.RequestID == "" || response.ResponseHeaders["x-upstream"] != "reached" {
		t.Errorf("%+v", response)
	}
	if refused.Event != "request" || refused.Path != "/audited" || refused.RequestID == request.RequestID {
		t.Errorf("%+v", refused)
	}
}
