package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/burst"
	"github.com/policy-engine/policy-engine/test/harness"
)

// TestBurst: requests that are sent at once, and whose responses come all at once, are all answered: nothing of Envoy or of the engine
// takes many for too many.
func TestBurst(t *testing.T) {
	upstream := &burst.Upstream{Checked: func(r *http.Request) bool { return r.Header.Get("x-seen-a") != "" }}
	e := harness.StartEngine(t, harness.Spec{
		Kernel: `  workers:
    - {name: worker-a, socket_path: "${RUN_DIR}/a.sock", timeout: 20s}
  route_policies:
    - route_name: burst
      request_flow: {policy_chain: [{policy: witnessA, params: {name: a}}]}
      response_flow: {policy_chain: [{policy: witnessA, params: {name: b}}]}
`,
		Upstream: upstream, Untapped: true, Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A")},
		EnvoyArgs: []string{"--route", "burst=/"},
		EditEnvoy: upstreamOfBursts,
	})
	b := &burst.Burst{
		Target: e.Listen, Requests: 3000, Upstream: upstream, Path: func(int) string { return "/" },
		Check: func(name, _ string) bool { return name == "x-seen-b" },
	}
	r, err := b.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

// upstreamOfBursts raises the limits of the upstream's cluster, which are not those of the engine.
func upstreamOfBursts(envoy string) string {
	return strings.NewReplacer("max_connections: 4096", "max_connections: 65536", "max_requests: 4096", "max_requests: 65536",
		"max_pending_requests: 4096", "max_pending_requests: 65536").Replace(envoy)
}
