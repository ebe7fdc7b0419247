package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

const retryRoutes = `  workers: [{name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 2s}]
  route_policies:
    - route_name: once
      request_flow: {policy_chain: [{policy: rateLimit, params: {requests: 1, per: 1h, key: client_ip, count_retries: false}}]}
    - route_name: each
      request_flow: {policy_chain: [{policy: rateLimit, params: {requests: 1, per: 1h, key: client_ip}}]}
`

// followRedirects has Envoy follow the upstream's redirects itself: the request goes through the filters again, with the id that it has.
func followRedirects(text string) string {
	const timeout = "timeout: 0s\n"
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString(line)
		if indent, ok := strings.CutSuffix(line, timeout); ok {
			out.WriteString(indent + "internal_redirect_policy: {max_internal_redirects: 3}\n")
		}
	}
	return out.String()
}

// redirect answers a path's first form with a redirect to its second.
func redirect(w http.ResponseWriter, r *http.Request) {
	if path, ok := strings.CutSuffix(r.URL.Path, "/first"); ok {
		w.Header().Set("Location", "http://"+r.Host+path+"/second")
		w.WriteHeader(http.StatusFound)
	}
}

// TestRetriesAreCountedOnce: a request that Envoy shows twice is one request to a limit that is told so.
func TestRetriesAreCountedOnce(t *testing.T) {
	t.Parallel()
	e := harness.StartEngine(t, harness.Spec{
		Kernel: retryRoutes, EditEnvoy: followRedirects, Upstream: http.HandlerFunc(redirect),
		Workers: []harness.WorkerSpec{{Name: "worker-1", Program: "policy-worker-1", Config: "  name: worker-1\n  socket_path: ${RUN_DIR}/worker-1.sock\n"}},
	})
	get(t, e, 429, "/each/first")
	if n := e.Upstream.Count(); n != 1 {
		t.Errorf("the upstream got %d requests, want the one that was redirected", n)
	}
	get(t, e, 200, "/once/first")
	if n := e.Upstream.Count(); n != 3 {
		t.Errorf("the upstream got %d requests, want 3", n)
	}
	get(t, e, 429, "/once/first", mustNotArrive+"another request")
	// An id of the client's own choice is none: Envoy makes one for each request from outside.
	get(t, e, 429, "/once/second", "X-Request-Id: mine", mustNotArrive+"another request")
	wantIdle(t, e)
}
