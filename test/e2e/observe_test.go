package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

const meteredRoutes = `  workers:
    - {name: worker-a, socket_path: "${RUN_DIR}/a.sock"}
    - {name: worker-b, socket_path: "${RUN_DIR}/b.sock"}
  route_policies:
    - route_name: metered
      request_flow:
        policy_chain:
          - {policy: witnessA, params: {name: a, set_identity: alice}}
          - {policy: misbehaveB}
    - route_name: metered-slow
      request_flow: {policy_chain: [{policy: waitA, timeout: 50ms}]}
    - route_name: metered-response
      response_flow: {policy_chain: [{policy: misbehaveB}]}
`

// TestObservation checks after known traffic what the engine tells of it: metrics (SPEC 6.1), dynamic metadata in Envoy's access log, and log lines.
func TestObservation(t *testing.T) {
	t.Parallel()
	e := harness.StartEngine(t, harness.Spec{
		Kernel: meteredRoutes, EnvoyKernel: meteredRoutes + stranger, EnvoyArgs: []string{"--access-log"},
		Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	})
	send := func(n, status int, target string, lines ...string) {
		t.Helper()
		for range n {
			get(t, e, status, target, lines...)
		}
	}
	send(5, 200, "/metered")
	send(2, 403, "/metered?secret=in-the-query", "X-Misbehave: deny", mustNotArrive+"denied")
	send(3, 500, "/metered", "X-Misbehave: panic", mustNotArrive+"panic")
	send(1, 500, "/metered", "X-Misbehave: error", mustNotArrive+"error")
	send(1, 200, "/metered", "X-Misbehave: skip")
	send(2, 500, "/metered-slow", "X-Misbehave: context", mustNotArrive+"timeout")
	send(1, 200, "/metered-slow")
	send(2, 500, "/stranger", mustNotArrive+"unknown route")
	send(1, 200, "/metered-response")
	send(2, 500, "/metered-response", harness.AnswerHeader+": x-misbehave panic")
	send(1, 200, "/metered/"+canary+"?"+canary+"="+canary, "X-"+canary+": "+canary, "X-Request-Id: "+canary, "User-Agent: "+canary, "Authorization: Bearer "+canary, "X-Policy-Route: "+canary)

	want := map[string]float64{
		`policy_kernel_request_duration_seconds_count{route="metered",worker="worker-b"}`:                  13,
		`policy_kernel_request_duration_seconds_bucket{route="metered",worker="worker-b",le="+Inf"}`:       13,
		`policy_kernel_request_duration_seconds_count{route="metered-slow",worker="worker-a"}`:             3,
		`policy_kernel_request_duration_seconds_count{route="unknown",worker="none"}`:                      2,
		`policy_kernel_request_duration_seconds_bucket{route="metered-slow",worker="worker-a",le="0.025"}`: 1, // the timeouts took 50 ms
		`policy_kernel_worker_health{worker="worker-a"}`:                                                   1,
		`policy_kernel_worker_health{worker="worker-b"}`:                                                   1,
	}
	requests := func(route, worker, status string, n float64) {
		want[fmt.Sprintf(`policy_kernel_requests_total{route=%q,worker=%q,status=%q}`, route, worker, status)] = n
	}
	requests("metered", "worker-b", "allowed", 7)
	requests("metered", "worker-b", "denied", 2)
	requests("metered", "worker-b", "policy_panic", 3)
	requests("metered", "worker-b", "policy_error", 1)
	requests("metered-slow", "worker-a", "allowed", 1)
	requests("metered-slow", "worker-a", "policy_timeout", 2)
	requests("metered-response", "none", "allowed", 3)
	requests("unknown", "none", "unknown_route", 2)
	runs := func(policy, status string, n float64) {
		want[fmt.Sprintf(`policy_worker_executions_total{policy=%q,status=%q}`, policy, status)] = n
	}
	runs("witnessA", "continue", 13)
	runs("misbehaveB", "continue", 7)
	runs("misbehaveB", "deny", 2)
	runs("misbehaveB", "panic", 5)
	runs("misbehaveB", "error", 1)
	runs("misbehaveB", "skip_remaining", 1)
	runs("waitA", "continue", 1)
	runs("waitA", "timeout", 2)
	for series, n := range map[string]float64{"witnessA": 13, "misbehaveB": 16, "waitA": 3} {
		want[fmt.Sprintf(`policy_worker_execution_duration_seconds_count{policy=%q}`, series)] = n
	}
	failures := func(policy, reason string, n float64) {
		want[fmt.Sprintf(`policy_worker_policy_failures_total{policy=%q,reason=%q}`, policy, reason)] = n
	}
	failures("misbehaveB", "panic", 5)
	failures("misbehaveB", "error", 1)
	failures("misbehaveB", "timeout", 0)
	failures("waitA", "timeout", 2)
	failures("witnessA", "panic", 0)
	e.Scrape().Want(t, want)
	checkExposition(t, e)

	e.Envoy.Signal(sigterm) // It writes what it has before it ends.
	e.Envoy.Wait()
	checkAccessLog(t, e.Envoy.Output())
	checkLogs(t, e, []string{"a", "b"}, "in-the-query")
	checkFailureLines(t, e)
}

// accessLine is a line of Envoy's access log.
type accessLine struct {
	Path   string `json:"path"`
	Status int    `json:"status"`
	Engine *struct {
		Policy   string  `json:"policy"`
		Reason   string  `json:"reason"`
		Route    string  `json:"route"`
		Identity string  `json:"identity"`
		Status   float64 `json:"status"`
	} `json:"policy_engine"`
	Details string `json:"details"`
}

// checkAccessLog: each refusal says in Envoy's access log who refused, and why.
func checkAccessLog(t *testing.T, output string) {
	t.Helper()
	counts := map[string]int{}
	for text := range strings.Lines(output) {
		if text[0] != '{' {
			continue
		}
		var line accessLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Errorf("access log: %v: %s", err, text)
			continue
		}
		if strings.Contains(text, "in-the-query") {
			t.Errorf("the query is in the access log: %s", text)
		}
		if line.Engine == nil {
			counts[fmt.Sprintf("%s %d", line.Path, line.Status)]++
			continue
		}
		counts[fmt.Sprintf("%s %d %s/%s/%s/%v/%s", line.Path, line.Status, line.Engine.Policy, line.Engine.Reason, line.Engine.Route, line.Engine.Status, line.Engine.Identity)]++
	}
	for text, n := range map[string]int{
		"/metered 200": 6,
		"/metered 403 misbehaveB/told_to/metered/403/alice":                    2,
		"/metered 500 misbehaveB/policy_failed/metered/500/alice":              4,
		"/metered-slow 500 waitA/policy_timeout/metered-slow/500/":             2,
		"/stranger 500 /unknown_route/stranger/500/":                           2,
		"/metered-response 500 misbehaveB/policy_failed/metered-response/500/": 2,
	} {
		if counts[text] != n {
			t.Errorf("access log: %q %d times, want %d", text, counts[text], n)
		}
	}
	if t.Failed() {
		t.Logf("access log: %v", counts)
	}
}

// checkFailureLines: a failing policy is in the log once and not each time, with the id of its request, and a panic with its stack.
func checkFailureLines(t *testing.T, e *harness.Engine) {
	t.Helper()
	lines, _ := harness.ParseLog(e.Worker("b").Output(), "worker")
	panics := 0
	for _, line := range lines {
		if line.Metadata["policy"] != "misbehaveB" || line.Metadata["reason"] != "panic" || line.Metadata["route"] != "metered" {
			continue
		}
		panics++
		stack, _ := line.Metadata["stack"].(string)
		if line.Level != "error" || line.RequestID == "" || !strings.Contains(stack, "misbehave.go") {
			t.Errorf("the line of a panic lacks level error, its request's id or its stack: %+v", line)
		}
	}
	if panics != 1 {
		t.Errorf("%d lines for the same panic within a second, want 1", panics)
	}
	kernel, _ := harness.ParseLog(e.Kernel.Output(), "kernel")
	unknown := 0
	for _, line := range kernel {
		if line.Message == "unknown route" {
			unknown++
		}
		if line.Level == "info" && line.RequestID != "" {
			t.Errorf("a line of a request at the default level: %+v", line)
		}
	}
	if unknown != 1 {
		t.Errorf("%d lines for the same unknown route, want 1", unknown)
	}
}

// TestProfiles takes profiles of kernel and workers from the kernel's admin port.
func TestProfiles(t *testing.T) {
	t.Parallel()
	e := harness.StartEngine(t, harness.Spec{
		Kernel: meteredRoutes, Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	})
	for path, want := range map[string]struct {
		status int
		says   string
	}{
		"/debug/pprof/heap":                                      {200, "\x1f\x8b"}, // gzip
		"/workers/worker-a/debug/pprof/heap":                     {200, "\x1f\x8b"},
		"/workers/worker-b/debug/pprof/goroutine?replica=0":      {200, "\x1f\x8b"},
		"/workers/worker-a/debug/pprof/profile?seconds=1":        {200, "\x1f\x8b"},
		"/workers/worker-a/debug/pprof/secrets":                  {404, "legal are cpu, allocs"},
		"/workers/worker-z/debug/pprof/heap":                     {404, `no worker "worker-z"`},
		"/workers/worker-a/debug/pprof/heap?replica=1":           {404, "legal are 0 to 0"},
		"/workers/worker-a/debug/pprof/profile?seconds=61":       {400, `seconds "61"; legal are 1 to 60`},
		"/workers/worker-a/debug/pprof/profile?seconds=&replica": {400, `replica ""; legal are 0 to`},
	} {
		status, body := e.Health(path)
		if status != want.status || !strings.Contains(body, want.says) {
			t.Errorf("GET %s: %d %.80q, want %d and %q", path, status, body, want.status, want.says)
		}
	}
}
