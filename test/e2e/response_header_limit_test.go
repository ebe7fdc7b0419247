package e2e

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

// startResponseLimits has a route that adds a field to the response. The upstream answers with as many bytes of
// header fields as the query says, and in chunks if it says so.
func startResponseLimits(t *testing.T, limits string, envoy ...string) *harness.Engine {
	return harness.StartEngine(t, harness.Spec{
		Kernel: `  workers: [{name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock"}]
  limits: {` + limits + `}
  route_policies:
    - route_name: back
      response_flow: {policy_chain: [{policy: modifyHeaders, params: {set: {x-new: "` + strings.Repeat("n", 2000) + `"}}}]}
`,
		EnvoyArgs: envoy,
		Workers:   []harness.WorkerSpec{{Name: "worker-1", Program: "policy-worker-1", Config: "  name: worker-1\n  socket_path: ${RUN_DIR}/worker-1.sock\n"}},
		Upstream: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			size, _ := strconv.Atoi(r.URL.Query().Get("size"))
			w.Header().Set("H-Size", strings.Repeat("v", size))
			w.WriteHeader(http.StatusOK)
			if r.URL.Query().Has("chunked") {
				_ = http.NewResponseController(w).Flush()
			}
			fmt.Fprint(w, "{}")
		}),
	})
}

// TestResponseHeaderLimitOfEnvoy: of a response, Envoy takes 60 KiB of header fields over HTTP/2 and 80 KiB over
// HTTP/1. What it would not take after changes of policies is refused by the kernel, with a status that says so, and
// never by Envoy with an empty 500.
func TestResponseHeaderLimitOfEnvoy(t *testing.T) {
	t.Parallel()
	const all = "max_header_count: 10000, max_header_size: 8MiB"
	started := make(map[string]*harness.Engine)
	start := func(limits string, envoy []string) *harness.Engine {
		key := fmt.Sprint(limits, envoy)
		if started[key] == nil {
			started[key] = startResponseLimits(t, limits, envoy...)
		}
		return started[key]
	}
	for _, tc := range []struct {
		name, limits string
		query        string
		size         int
		envoy        []string
		bare, status int // of an engine that leaves the limit to Envoy, and of one that does not
	}{
		{"HTTP/2, room", "", "", 58_000, []string{"--upstream-http2"}, 200, 200},
		{"HTTP/2, changed beyond it", "", "", 60_500, []string{"--upstream-http2"}, 500, 502},
		{"HTTP/1, certain by its chunks", "", "&chunked", 60_500, nil, 200, 200},
		{"HTTP/1, certain by its size", "", "", 70_000, nil, 200, 200},
		{"HTTP/1, changed beyond it", "", "&chunked", 81_000, nil, 500, 502},
		{"HTTP/1, not certain", "", "", 60_500, nil, 200, 502},
		{"HTTP/1, configured", "max_response_header_size: 80KiB", "", 60_500, nil, 200, 200},
		{"HTTP/2, configured too high", "max_response_header_size: 80KiB", "", 60_500, []string{"--upstream-http2"}, 500, 500},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, bare := start(tc.limits, tc.envoy), start(all, tc.envoy)
			target := fmt.Sprintf("/back?size=%d%s", tc.size, tc.query)
			if r := harness.Send(t, bare.Listen, "GET", target); r.Status != tc.bare || r.Status == 500 && r.Body != "" {
				t.Errorf("Envoy: %d %.100s, want %d", r.Status, r.Body, tc.bare)
			}
			r := harness.Send(t, e.Listen, "GET", target)
			if r.Status != tc.status || r.Status == 502 && !strings.Contains(r.Body, "RESPONSE_TOO_LARGE") {
				t.Errorf("the kernel: %d %.100s, want %d", r.Status, r.Body, tc.status)
			}
		})
	}
}
