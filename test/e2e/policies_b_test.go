package e2e

import (
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

const sizeRoutes = `  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 2s}
  route_policies:
    - route_name: announced
      request_flow: {policy_chain: [{policy: requestSizeLimit, params: {max_body_bytes: 1000, max_header_count: 30}}]}
    - route_name: counted
      request_flow: {policy_chain: [{policy: requestSizeLimitStreamed, params: {max_body_bytes: 100000}}]}
`

// bodyEngine is an engine with the standard policies alone.
func bodyEngine(t *testing.T, routes string) *harness.Engine {
	t.Helper()
	return harness.StartEngine(t, harness.Spec{
		Kernel:  routes,
		Workers: []harness.WorkerSpec{{Name: "worker-1", Program: "policy-worker-1", Config: "  name: worker-1\n  socket_path: ${RUN_DIR}/worker-1.sock\n"}},
	})
}

func TestRequestSizes(t *testing.T) {
	t.Parallel()
	e := bodyEngine(t, sizeRoutes)
	get(t, e, 200, "/announced")
	before := e.Upstream.Count()
	post(t, e, 200, "/announced", strings.Repeat("x", 1000))
	if up := arrived(t, e, before); len(up.Body) != 1000 {
		t.Errorf("the upstream got %d bytes", len(up.Body))
	}
	wantCode(t, post(t, e, 413, "/announced", strings.Repeat("x", 1001), mustNotArrive+"too large"), "BODY_TOO_LARGE")
	wantCode(t, post(t, e, 411, "/announced", "x", "Transfer-Encoding: chunked", mustNotArrive+"without length"), "LENGTH_REQUIRED")
	lines := []string{mustNotArrive + "too many headers"}
	for range 30 {
		lines = append(lines, "X-More: 1")
	}
	wantCode(t, get(t, e, 431, "/announced", lines...), "HEADERS_TOO_LARGE")

	wantCode(t, post(t, e, 413, "/counted", strings.Repeat("x", 100_001), mustNotArrive+"too large"), "BODY_TOO_LARGE")
	get(t, e, 200, "/counted")
	for _, framing := range []string{"X-Framing: length", "Transfer-Encoding: chunked"} {
		before := e.Upstream.Count()
		r := post(t, e, 200, "/counted", strings.Repeat("x", 100_000), framing)
		if up := arrived(t, e, before); len(up.Body) != 100_000 {
			t.Errorf("%s: the upstream got %d bytes\n%v", framing, len(up.Body), r)
		}
	}
	// Announced by nothing: what is over the limit never arrives as a whole, whether or not the upstream saw the beginning.
	before = e.Upstream.Count()
	r, err := harness.TrySend(e.Listen, "POST", "/counted", "\x00"+strings.Repeat("x", 300_000), "Transfer-Encoding: chunked")
	if err == nil && r.Status != 413 {
		t.Errorf("300000 bytes: %v", r)
	}
	if n := e.Upstream.Count(); n != before {
		t.Errorf("%d whole requests arrived", n-before)
	}
	checkLogs(t, e, []string{"worker-1"})
}
