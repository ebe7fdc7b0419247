package e2e

import (
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

const claimRoutes = `  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 2s, health_check: {interval: 100ms, timeout: 100ms}}
    - {name: worker-w, socket_path: "${RUN_DIR}/w.sock", timeout: 2s, health_check: {interval: 100ms, timeout: 100ms}}
  route_policies:
    - route_name: key
      request_flow: {policy_chain: [{policy: apiKeyAuth, params: {key_store: partners}, on_failure: continue}]}
    - route_name: skip
      request_flow:
        policy_chain:
          - {policy: modifyHeaders, params: {set: {x-first: "1"}}, on_failure: skip_remaining}
          - {policy: apiKeyAuth, params: {key_store: partners}, on_failure: continue}
    - route_name: key-witness
      request_flow:
        policy_chain:
          - {policy: apiKeyAuth, params: {key_store: partners}, on_failure: continue}
          - {policy: answerW, params: {if: x-user-id, status: 418}}
`

// TestClaimsWithoutTheirWorker: a request that may go on without the policy that says who the client is goes on without the client's own word on it.
func TestClaimsWithoutTheirWorker(t *testing.T) {
	t.Parallel()
	harness.NeedWorkerProcesses(t)
	e := startStandard(t, claimRoutes)
	check := func(t *testing.T) {
		t.Helper()
		c := dialKernel(t, e.ExtProc)
		for _, name := range spellings() {
			for _, route := range []string{"key", "skip", "key-witness"} {
				r, err := c.exchange(route, name+": admin", "x-user-id: root", name+": operator")
				if got := outcome(r, err); got != "pass" {
					t.Errorf("%s on %s: %s, %v", name, route, got, err)
					continue
				}
				for _, header := range []string{strings.ToLower(name), "x-user-id"} {
					if value, removed := set(r, header); !removed || value != "" {
						t.Errorf("%s on %s: %s removed %t, set to %q", name, route, header, removed, value)
					}
				}
			}
		}
		r := get(t, e.Engine, 200, "/key", "X-User-ID: root", "x-USER-id: admin")
		wantHeader(t, r.Header, "X-User-Id", "")
	}
	for _, line := range []string{"X-API-Key: " + keyAlice, "X-Nothing: 1"} {
		if want := map[bool]int{true: 200, false: 401}[strings.Contains(line, keyAlice)]; want != 0 {
			get(t, e.Engine, want, "/key", line)
		}
	}
	e.Worker("worker-1").Kill()
	waitHealth(t, e.Engine, "worker-1", 0)
	before := e.Upstream.Count()
	check(t)
	if got := arrived(t, e.Engine, before).Header; got.Get("X-User-Id") != "" {
		t.Errorf("the upstream got %v", got)
	}
	e.StartWorker("worker-1")
	waitHealth(t, e.Engine, "worker-1", 1)
	get(t, e.Engine, 401, "/key")
}
