package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

const bodyRoutes = `  limits: {max_body_size: 64KiB}
  route_policies:
    - route_name: edit
      request_flow:
        policy_chain:
          - {policy: bodyA, params: {name: a1, append: "+a1"}}
          - {policy: bodyB, params: {name: b, append: "+b", deny_if: bad}}
          - {policy: bodyA, params: {name: a2, set_method: PUT}}
          - {policy: answerB, params: {if: x-deny, status: 401}}
    - route_name: empty
      request_flow: {policy_chain: [{policy: bodyA, params: {name: a, replace: ""}}]}
    - route_name: fragile
      request_flow: {policy_chain: [{policy: bodyA, params: {name: a, append: "+lost", fail_if: bad}}]}
    - route_name: tolerant
      request_flow:
        policy_chain:
          - {policy: bodyA, on_failure: continue, params: {name: a, append: "+a", fail_if: bad}}
          - {policy: bodyB, params: {name: b, append: "+b", deny_if: worse}}
    - route_name: skipping
      request_flow:
        policy_chain:
          - {policy: bodyA, on_failure: skip_remaining, params: {name: a, append: "+a", fail_if: bad}}
          - {policy: bodyB, params: {name: b, append: "+b"}}
    - route_name: answers
      response_flow:
        policy_chain:
          - {policy: bodyA, params: {name: a, append: "+a", set_status: 203, deny_if: secret}}
          - {policy: bodyB, params: {name: b, append: "+b"}}
`

// post sends a POST through Envoy and checks the status.
func post(t *testing.T, e *harness.Engine, want int, target, body string, lines ...string) *harness.Response {
	t.Helper()
	r := harness.SendBody(t, e.Listen, "POST", target, body, lines...)
	if r.Status != want {
		t.Errorf("POST %s %.100q %q: status %d, want %d\n%v", target, body, lines, r.Status, want, r)
	}
	return r
}

func TestBodies(t *testing.T) {
	t.Parallel()
	e := harness.StartEngine(t, harness.Spec{
		Kernel:  twoWorkers + bodyRoutes,
		Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	})
	t.Run("request", func(t *testing.T) { requestBodies(t, e) })
	t.Run("failures", func(t *testing.T) { bodyFailures(t, e) })
	t.Run("response", func(t *testing.T) { responseBodies(t, e) })
	checkLogs(t, e, []string{"a", "b"})
}

func requestBodies(t *testing.T, e *harness.Engine) {
	for _, framing := range []string{"X-Framing: length", "Transfer-Encoding: chunked"} {
		before := e.Upstream.Count()
		post(t, e, 200, "/edit", "hello", framing)
		up := arrived(t, e, before)
		wantHeader(t, up.Header, "X-Body-A1", `5 "hello"`)
		wantHeader(t, up.Header, "X-Body-B", `8 "hello+a1"`)
		wantHeader(t, up.Header, "X-Body-A2", `10 "hello+a1+b"`)
		if up.Body != "hello+a1+b" || up.Method != "PUT" {
			t.Errorf("%s: the upstream got %s %q", framing, up.Method, up.Body)
		}
		if length := up.Header.Get("Content-Length"); framing == "X-Framing: length" && length != "10" {
			t.Errorf("content-length %q", length)
		}
		wantCode(t, post(t, e, 403, "/edit", "a bad one", framing, mustNotArrive+"denied for its body"), "BAD_BODY")
		post(t, e, 401, "/edit", "a bad one", framing, "X-Deny: 1", mustNotArrive+"denied for its headers")
	}
	before := e.Upstream.Count()
	post(t, e, 200, "/empty", "hello")
	if up := arrived(t, e, before); up.Body != "" || up.Header.Get("Content-Length") != "0" {
		t.Errorf("the upstream got %q, content-length %q", up.Body, up.Header.Get("Content-Length"))
	}
	// Without a body, the policies run on an empty one.
	before = e.Upstream.Count()
	get(t, e, 200, "/edit")
	wantHeader(t, arrived(t, e, before).Header, "X-Body-B", `0 ""`)

	wantCode(t, post(t, e, 413, "/edit", strings.Repeat("x", 64<<10+1), mustNotArrive+"too large"), "REQUEST_TOO_LARGE")
	post(t, e, 413, "/edit", strings.Repeat("x", 200<<10), "Transfer-Encoding: chunked", mustNotArrive+"too large, and not announced")
	before = e.Upstream.Count()
	post(t, e, 200, "/edit", strings.Repeat("x", 60<<10))
	if up := arrived(t, e, before); len(up.Body) != 60<<10+5 {
		t.Errorf("the upstream got %d bytes", len(up.Body))
	}
	get(t, e, 403, "/edit", "Connection: Upgrade", "Upgrade: websocket", mustNotArrive+"an upgrade has no body")
}

func bodyFailures(t *testing.T, e *harness.Engine) {
	wantCode(t, post(t, e, 500, "/fragile", "a bad one", mustNotArrive+"a policy failed"), "POLICY_FAILED")
	before := e.Upstream.Count()
	post(t, e, 200, "/tolerant", "a bad one")
	up := arrived(t, e, before)
	wantHeader(t, up.Header, "X-Body-A", "") // undone
	wantHeader(t, up.Header, "X-Body-B", `9 "a bad one"`)
	if up.Body != "a bad one+b" {
		t.Errorf("the upstream got %q", up.Body)
	}
	post(t, e, 403, "/tolerant", "bad and worse", mustNotArrive+"a policy after the one that failed denies")
	before = e.Upstream.Count()
	post(t, e, 200, "/skipping", "a bad one")
	if up := arrived(t, e, before); up.Body != "a bad one" || up.Header.Get("X-Body-B") != "" {
		t.Errorf("the upstream got %q, %v", up.Body, up.Header)
	}
}

func responseBodies(t *testing.T, e *harness.Engine) {
	r := post(t, e, 203, "/answers", "hello")
	body, ok := strings.CutSuffix(r.Body, "+a+b")
	var echo harness.Received
	if !ok || json.Unmarshal([]byte(body), &echo) != nil || echo.Body != "hello" {
		t.Errorf("the client got %q", r.Body)
	}
	if r.Header.Get("X-Body-A") == "" || r.Header.Get("X-Body-B") == "" {
		t.Errorf("headers that go with the body: %v", r.Header)
	}
	r = post(t, e, 403, "/answers", "a secret")
	if strings.Contains(r.Body, "secret") || r.Header.Get("X-Upstream") != "" {
		t.Errorf("the upstream's response passes a denial: %v", r)
	}
	if r := harness.Send(t, e.Listen, "HEAD", "/answers"); r.Status != 203 || r.Header.Get("X-Body-A") != `0 ""` {
		t.Errorf("HEAD: %v", r)
	}
	if r := harness.SendBody(t, e.Listen, "POST", "/answers", strings.Repeat("x", 70<<10)); r.Status != 502 {
		t.Errorf("a response that is too large: %v", r)
	}
}
