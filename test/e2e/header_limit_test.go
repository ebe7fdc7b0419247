package e2e

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

// limited has routes that add, replace, append and remove header fields. Envoy takes 100 fields and 60 KiB of a request, and 80 KiB of a response over HTTP/1.
const limited = `  workers: [{name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock"}]
  limits: {max_header_count: %d, max_header_size: %s}
  route_policies:
    - route_name: add
      request_flow: {policy_chain: [{policy: modifyHeaders, params: {set: {x-new: "1", x-newer: "22"}}}]}
    - route_name: replace
      request_flow: {policy_chain: [{policy: modifyHeaders, params: {set: {h-0: "1", h-1: "2"}}}]}
    - route_name: append
      request_flow: {policy_chain: [{policy: modifyHeaders, params: {append: {h-0: "1", user-agent: "me"}}}]}
    - route_name: remove
      request_flow: {policy_chain: [{policy: modifyHeaders, params: {remove: [h-0, h-1]}}]}
    - route_name: none
      request_flow: {policy_chain: [{policy: modifyHeaders, params: {remove: [x-absent]}}]}
    - route_name: back
      response_flow: {policy_chain: [{policy: modifyHeaders, params: {set: {x-new: "1", x-newer: "22"}}}]}
    - route_name: back-whole
      response_flow:
        policy_chain:
          - {policy: modifyHeaders, params: {set: {x-new: "1"}}}
          - {policy: jsonSchemaValidation, params: {schema: {type: object}}}
`

func startLimited(t *testing.T, count int, size string) *harness.Engine {
	return harness.StartEngine(t, harness.Spec{
		Kernel: fmt.Sprintf(limited, count, size),
		// x-envoy-upstream-service-time has more digits when the machine is busy.
		EditEnvoy: func(envoy string) string {
			const router = "'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router\n"
			at := strings.Index(envoy, router)
			if at < 0 {
				t.Error("there is no router in the printed configuration")
				return envoy
			}
			indent := envoy[strings.LastIndexByte(envoy[:at], '\n')+1 : at]
			return strings.Replace(envoy, router, router+indent+"suppress_envoy_headers: true\n", 1)
		},
		Workers: []harness.WorkerSpec{{Name: "worker-1", Program: "policy-worker-1", Config: "  name: worker-1\n  socket_path: ${RUN_DIR}/worker-1.sock\n"}},
		Upstream: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, _ := strconv.Atoi(r.URL.Query().Get("n"))
			for i := range n {
				w.Header().Set(fmt.Sprintf("h-%d", i), "v")
			}
			if size, _ := strconv.Atoi(r.URL.Query().Get("size")); size > 0 {
				w.Header().Set("h-size", strings.Repeat("v", size))
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{}`)
		}),
	})
}

// fields sends a request, or has a response sent, with n fields, or with one of n bytes.
func fields(t *testing.T, e *harness.Engine, route string, n int, bytes bool) *harness.Response {
	t.Helper()
	target, lines := "/"+route, []string{"User-Agent: test"}
	switch back := strings.HasPrefix(route, "back"); {
	case back && bytes:
		target += fmt.Sprintf("?size=%d", n)
	case back:
		target += fmt.Sprintf("?n=%d", n)
	case bytes:
		for n > 0 { // A line of a test client has a limit of its own.
			lines = append(lines, fmt.Sprintf("h-%d: %s", len(lines)-1, strings.Repeat("v", min(n, 4000))))
			n -= min(n, 4000)
		}
	default:
		for i := range n {
			lines = append(lines, fmt.Sprintf("h-%d: v", i))
		}
	}
	return harness.Send(t, e.Listen, "GET", target, lines...)
}

// border is the highest of the numbers from low to high that is answered with 200.
func border(t *testing.T, e *harness.Engine, route string, low, high int, bytes bool) int {
	t.Helper()
	for low < high {
		middle := (low + high + 1) / 2
		if fields(t, e, route, middle, bytes).Status == 200 {
			low = middle
		} else {
			high = middle - 1
		}
	}
	return low
}

// TestHeaderLimitOfEnvoy: what Envoy would not take after changes of policies is refused by the kernel, with a status that says so, at exactly Envoy's limit. One engine leaves the
// limit to Envoy, and shows where it is.
func TestHeaderLimitOfEnvoy(t *testing.T) {
	t.Parallel()
	e, bare := startLimited(t, 100, "60KiB"), startLimited(t, 10000, "8MiB")
	for _, tc := range []struct {
		route     string
		low, high int
		bytes     bool
		status    int
		code      string
	}{
		{"add", 50, 100, false, 431, "REQUEST_TOO_LARGE"},
		{"replace", 50, 100, false, 431, "REQUEST_TOO_LARGE"},
		{"append", 50, 100, false, 431, "REQUEST_TOO_LARGE"},
		{"remove", 50, 100, false, 431, "REQUEST_TOO_LARGE"},
		{"none", 50, 100, false, 431, "REQUEST_TOO_LARGE"},
		{"add", 50000, 62000, true, 431, "REQUEST_TOO_LARGE"},
		{"append", 50000, 62000, true, 431, "REQUEST_TOO_LARGE"},
		{"back", 50, 100, false, 502, "RESPONSE_TOO_LARGE"},
		{"back-whole", 50, 100, false, 502, "RESPONSE_TOO_LARGE"},
		{"back", 70000, 82500, true, 502, "RESPONSE_TOO_LARGE"},
	} {
		t.Run(fmt.Sprintf("%s, bytes %v", tc.route, tc.bytes), func(t *testing.T) {
			envoys, ours := border(t, bare, tc.route, tc.low, tc.high, tc.bytes), border(t, e, tc.route, tc.low, tc.high, tc.bytes)
			t.Logf("Envoy takes %d", envoys)
			if envoys != ours || ours == tc.low {
				t.Errorf("the kernel lets %d pass, Envoy %d", ours, envoys)
			}
			for n := ours - 2; n <= ours+3; n++ {
				r, byEnvoy := fields(t, e, tc.route, n, tc.bytes), fields(t, bare, tc.route, n, tc.bytes)
				switch {
				case n <= ours:
					if r.Status != 200 {
						t.Errorf("%d: %v", n, r)
					}
				case byEnvoy.Status == 500 && byEnvoy.Body == "": // Envoy refuses the change, not the message as it came.
					if r.Status != tc.status || !strings.Contains(r.Body, tc.code) {
						t.Errorf("%d: %v, want %d %s", n, r, tc.status, tc.code)
					}
				case r.Status == 500 || r.Status == 200:
					t.Errorf("%d: %v; without the kernel's limit: %v", n, r, byEnvoy)
				}
			}
		})
	}
	m := e.Scrape()
	m.Want(t, map[string]float64{`policy_kernel_requests_total{route="none",worker="worker-1",status="too_large"}`: 0})
	if m[`policy_kernel_requests_total{route="add",worker="worker-1",status="too_large"}`] == 0 {
		t.Error("no refusal was counted as too_large")
	}
}
