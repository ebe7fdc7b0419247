package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

const http1Routes = twoWorkers + `  route_policies:
    - route_name: gate
      request_flow: {policy_chain: [{policy: answerA, params: {if: x-e2e-must-not-arrive, status: 403}}]}
    - route_name: whole
      request_flow: {policy_chain: [{policy: bodyA, params: {name: a, deny_if: forbidden}}, {policy: answerB, params: {if: x-e2e-must-not-arrive, status: 403}}]}
    - route_name: whole-response
      request_flow: {policy_chain: [{policy: answerA, params: {if: x-e2e-must-not-arrive, status: 403}}]}
      response_flow: {policy_chain: [{policy: bodyB, params: {name: b}}]}
    - route_name: streamed
      request_flow: {policy_chain: [{policy: sumA}, {policy: answerB, params: {if: x-e2e-must-not-arrive, status: 403}}]}
    - route_name: streamed-response
      response_flow: {policy_chain: [{policy: sumB}]}
    - route_name: seen
      request_flow: {policy_chain: [{policy: answerA, params: {if: x-deny, status: 403}}, {policy: witnessB, params: {name: a}}]}
`

// http1 is one connection to Envoy, for what clients of a library don't do.
type http1 struct {
	t *testing.T
	net.Conn
	reader *bufio.Reader
}

func dialHTTP1(t *testing.T, address string) *http1 {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(harness.Timeout)); err != nil {
		t.Fatal(err)
	}
	return &http1{t, conn, bufio.NewReader(conn)}
}

// write sends lines and the empty one that ends a header.
func (c *http1) write(lines ...string) {
	c.t.Helper()
	if _, err := io.WriteString(c, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		c.t.Fatal(err)
	}
}

// body sends bytes of a body. Who has refused it may have closed the connection.
func (c *http1) body(text string) { _, _ = io.WriteString(c, text) }

// response reads a header, of a 1xx response too.
func (c *http1) response(method string) *http.Response {
	c.t.Helper()
	r, err := http.ReadResponse(c.reader, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("read the answer: %v", err)
	}
	return r
}

func startHTTP1(t *testing.T, edit func(string) string) *harness.Engine {
	t.Helper()
	return harness.StartEngine(t, harness.Spec{
		Kernel: http1Routes, EditEnvoy: edit,
		Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	})
}

// TestProtocolContinue: a client that asks before it sends a body is answered by the policies, or by the upstream when they let it pass.
func TestProtocolContinue(t *testing.T) {
	t.Parallel()
	e := startHTTP1(t, nil)
	ask := func(t *testing.T, path string, lines ...string) *http1 {
		c := dialHTTP1(t, e.Listen)
		c.write(append([]string{"POST " + path + " HTTP/1.1", "Host: e2e.example", "Content-Length: 5", "Expect: 100-continue"}, lines...)...)
		return c
	}
	for _, path := range []string{"/gate", "/whole", "/whole-response", "/streamed", "/unknown"} {
		t.Run("refused on "+path, func(t *testing.T) {
			want := 403
			if path == "/unknown" {
				want = 404
			}
			// The first thing that comes is the refusal: the body is not asked for.
			if r := ask(t, path, mustNotArrive+"refused before the body").response("POST"); r.StatusCode != want {
				t.Errorf("%s, want %d", r.Status, want)
			}
		})
	}
	for _, path := range []string{"/gate", "/whole-response", "/streamed", "/streamed-response"} {
		t.Run("asked for on "+path, func(t *testing.T) {
			c := ask(t, path)
			before := e.Upstream.Count()
			if r := c.response("POST"); r.StatusCode != http.StatusContinue {
				t.Fatalf("%s, want 100", r.Status)
			}
			c.body("hello")
			if r := c.response("POST"); r.StatusCode != 200 {
				t.Errorf("%s, want 200", r.Status)
			}
			if up := arrived(t, e, before); up.Body != "hello" {
				t.Errorf("the upstream got %q", up.Body)
			}
		})
	}
	t.Run("sent without waiting, for whole bodies", func(t *testing.T) {
		for body, want := range map[string]int{"hello": 200, "forbidden": 403} {
			c := dialHTTP1(t, e.Listen)
			c.write("POST /whole HTTP/1.1", "Host: e2e.example", fmt.Sprint("Content-Length: ", len(body)), "Expect: 100-continue")
			c.body(body)
			r := c.response("POST")
			if r.StatusCode == http.StatusContinue { // The upstream's, which sees the expectation together with the body.
				r = c.response("POST")
			}
			if r.StatusCode != want {
				t.Errorf("%q: %s, want %d", body, r.Status, want)
			}
		}
	})
	wantIdle(t, e)
}

// upgrade is the header of a request for a WebSocket.
func upgrade(path string, lines ...string) []string {
	return append([]string{
		"GET " + path + " HTTP/1.1", "Host: e2e.example", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	}, lines...)
}

// TestProtocolUpgradeNeedsBody: what has no body to look at is refused where a policy wants one, in either direction.
func TestProtocolUpgradeNeedsBody(t *testing.T) {
	t.Parallel()
	e := startHTTP1(t, nil)
	for _, path := range []string{"/whole", "/whole-response", "/streamed", "/streamed-response"} {
		for _, lines := range [][]string{nil, {"Content-Length: 0"}, {"Transfer-Encoding: chunked"}} {
			c := dialHTTP1(t, e.Listen)
			c.write(upgrade(path, append(lines, mustNotArrive+"a policy wants its body")...)...)
			r := c.response("GET")
			body, _ := io.ReadAll(r.Body)
			if r.StatusCode != 403 {
				t.Errorf("%s %v: %s %s, want 403", path, lines, r.Status, body)
			}
		}
		c := dialHTTP1(t, e.Listen)
		c.write(upgrade(path)...)
		r := c.response("GET")
		body, _ := io.ReadAll(r.Body)
		if r.StatusCode != 403 || !strings.Contains(string(body), `"code":"UPGRADE_REFUSED"`) {
			t.Errorf("%s: %s %s, want 403 UPGRADE_REFUSED", path, r.Status, body)
		}
	}
	if n := e.Upstream.Count(); n != 0 {
		t.Errorf("%d upgrades have reached the upstream", n)
	}
	wantIdle(t, e)
}
