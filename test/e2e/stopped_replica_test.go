package e2e

import (
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/policy-engine/policy-engine/test/burst"
	"github.com/policy-engine/policy-engine/test/harness"
	"github.com/policy-engine/policy-engine/test/process"
)

// TestStoppedReplica stops one of two replicas with SIGSTOP in the middle of a burst of requests, and continues it in the
// middle of the burst of responses: nothing is lost or passes unchecked, hedges and retries are bounded, and the other
// replica keeps its calls.
func TestStoppedReplica(t *testing.T) {
	t.Parallel()
	harness.NeedWorkerProcesses(t)
	const requests = 2000
	upstream := &burst.Upstream{Checked: func(r *http.Request) bool { return r.Header.Get("x-seen-a") != "" }}
	e := harness.StartEngine(t, harness.Spec{
		Kernel: `  workers:
    - name: worker-a
      socket_paths: ["${RUN_DIR}/a1.sock", "${RUN_DIR}/a2.sock"]
      timeout: 20s
      retry: {hedge_after: 500ms}
  route_policies:
    - route_name: burst
      request_flow: {policy_chain: [{policy: witnessA, params: {name: a}}]}
      response_flow: {policy_chain: [{policy: witnessA, params: {name: b}}]}
`,
		Upstream: upstream, Untapped: true,
		Workers:   []harness.WorkerSpec{testWorker("a1", "worker-a", "A"), testWorker("a2", "worker-a", "A")},
		EnvoyArgs: []string{"--route", "burst=/"}, EditEnvoy: upstreamOfBursts,
	})
	waitReplicas(t, e, "worker-a", 2)

	stopped, resume := e.Worker("a1"), make(chan struct{})
	begin := sync.OnceFunc(func() { close(resume) })
	var answers atomic.Int32
	var during process.Metrics
	var done sync.WaitGroup
	done.Go(func() {
		<-resume
		during = process.Metrics(e.Scrape())
		stopped.Signal(syscall.SIGCONT)
	})
	b := &burst.Burst{
		Target: e.Listen, Requests: requests, Upstream: upstream,
		Path: func(i int) string {
			if i == requests/2 {
				stopped.Suspend()
			}
			return "/"
		},
		Check: func(name, _ string) bool {
			if name != "x-seen-b" {
				return false
			}
			if answers.Add(1) == requests/4 {
				begin()
			}
			return true
		},
	}
	r, err := b.Run(t.Context())
	begin()
	done.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	waitReplicas(t, e, "worker-a", 2)
	after := process.Metrics(e.Scrape())
	// Calls of the stopped replica are hedged, or are retried when its health check fails first.
	retries := after.Sum("policy_kernel_worker_retries_total")
	runs := after.Sum("policy_worker_executions_total", `policy="witnessA"`)
	if retries == 0 || retries > requests || runs > 2*requests+retries {
		t.Errorf("%v retries and hedges of %d calls, the policies ran %v times", retries, 2*requests, runs)
	}
	const state, other = "policy_kernel_worker_breaker_state", `replica="1"`
	if !during.Has(state, other) || during.Sum(state, other) != 0 {
		t.Errorf("the breaker of the other replica is not closed: %v", during.Sum(state, other))
	}
	if late := after.Sum("policy_kernel_worker_queue_refusals_total"); late != 0 {
		t.Errorf("%v calls were refused by the queue", late)
	}
}
