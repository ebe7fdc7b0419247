package e2e

import (
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

const timeoutRoutes = goneRoutes + `    - route_name: by-turns
      request_flow: {policy_chain: [{policy: waitA}, {policy: waitB}, {policy: waitA}, {policy: waitB}]}
`

// TestTimeoutIsTheKernels: in each phase, the kernel refuses before Envoy's own timeout strikes, whose answer says nothing.
func TestTimeoutIsTheKernels(t *testing.T) {
	t.Parallel()
	e := harness.StartEngine(t, harness.Spec{
		Kernel: timeoutRoutes, Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	})
	for _, tt := range []struct{ name, path, line string }{
		{"request headers", "/headers", "X-Stall-In: request-headers"},
		{"request headers, with a body to come", "/whole", "X-Stall-In: request-headers"},
		{"request body", "/whole", "X-Stall-In: request-body"},
		{"response headers", "/headers", "X-Stall-In: response-headers"},
		{"response headers, with a body to come", "/whole", "X-Stall-In: response-headers"},
		{"response body", "/whole", "X-Stall-In: response-body"},
		{"calls by turns, the first too long", "/by-turns", "X-Misbehave: context"},
		{"a policy that does not listen", "/by-turns", "X-Misbehave: deaf"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := harness.SendBody(t, e.Listen, "POST", tt.path, "some", tt.line)
			if r.Status < 500 || !strings.Contains(r.Body, `"code":"`) || !strings.Contains(r.Body, "TIMEOUT") {
				t.Errorf("%v, want a refusal of the kernel's that names the timeout", r)
			}
		})
	}
	t.Run("calls by turns, each almost too long", func(t *testing.T) {
		t.Parallel()
		// Four times 800 ms of 1 s: whether there is time for all of them is the kernel's decision, and not Envoy's.
		r := harness.SendBody(t, e.Listen, "POST", "/by-turns", "some", "X-Misbehave: 800ms")
		if r.Status != 200 && !strings.Contains(r.Body, "TIMEOUT") {
			t.Errorf("%v, want 200 or a refusal of the kernel's", r)
		}
	})
}
