package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

const replicas = `  workers:
    - name: worker-a
      socket_paths: ["${RUN_DIR}/a1.sock", "${RUN_DIR}/a2.sock"]
      timeout: 400ms
      health_check: {interval: 100ms, timeout: 100ms}
    - name: worker-b
      socket_path: ${RUN_DIR}/b.sock
      timeout: 400ms
      health_check: {interval: 100ms, timeout: 100ms}
  route_policies:
    - route_name: plain
    - route_name: on-a
      request_flow: {policy_chain: [{policy: answerA, params: {if: x-e2e-must-not-arrive, status: 403}}]}
    - route_name: on-b
      request_flow: {policy_chain: [{policy: answerB, params: {if: x-e2e-must-not-arrive, status: 403}}]}
    - route_name: on-both
      request_flow: {policy_chain: [{policy: answerA, params: {if: x-e2e-must-not-arrive, status: 403}}]}
      response_flow: {policy_chain: [{policy: witnessB, params: {name: late}}]}
    - route_name: without-b
      request_flow:
        policy_chain:
          - {policy: answerA, params: {if: x-e2e-must-not-arrive, status: 403}}
          - {policy: witnessB, params: {name: optional}, on_failure: continue}
    - route_name: slow
      request_flow: {policy_chain: [{policy: waitA}, {policy: answerA, params: {if: x-e2e-must-not-arrive, status: 403}}]}
`

func replicaSpec() harness.Spec {
	return harness.Spec{
		Kernel:  replicas,
		Workers: []harness.WorkerSpec{testWorker("a1", "worker-a", "A"), testWorker("a2", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	}
}

// wantUnavailable checks the refusal of a request whose worker is down.
func wantUnavailable(t *testing.T, e *harness.Engine, path string) {
	t.Helper()
	r := get(t, e, 503, path, mustNotArrive+"the worker is down")
	wantCode(t, r, "WORKER_UNAVAILABLE")
	wantHeader(t, r.Header, "Retry-After", "30")
}

// eventually waits until a path answers with a status.
func eventually(t *testing.T, e *harness.Engine, want int, path string, lines ...string) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("%s answers %d", path, want), func() error {
		r, err := harness.TrySend(e.Listen, http.MethodGet, path, lines...)
		if err != nil {
			return err
		}
		if r.Status != want {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
}

func TestWorkerDownAtStart(t *testing.T) {
	t.Parallel()
	harness.NeedWorkerProcesses(t)
	spec := replicaSpec()
	spec.Absent = []string{"a1", "a2", "b"}
	e := harness.StartEngine(t, spec)

	if status, body := e.Health("/health/ready"); status != 503 || !strings.Contains(body, "worker-b") {
		t.Errorf("/health/ready says %d, %s", status, body)
	}
	if status, _ := e.Health("/health/live"); status != 200 {
		t.Errorf("/health/live says %d", status)
	}
	for _, path := range []string{"/on-a", "/on-b", "/on-both", "/without-b"} {
		wantUnavailable(t, e, path)
	}
	get(t, e, 200, "/plain")

	e.StartWorker("a2")
	eventually(t, e, 200, "/on-a")
	// What worker-b's policies own is not known: a header that they may own does not pass.
	get(t, e, 503, "/on-a", mustNotArrive+"not known whether it is owned")
	wantUnavailable(t, e, "/on-b")
	wantUnavailable(t, e, "/on-both") // no half enforcement: its request chain alone does not run
	if status, _ := e.Health("/health/ready"); status != 503 {
		t.Errorf("/health/ready says %d without worker-b", status)
	}
	e.StartWorker("b")
	eventually(t, e, 200, "/on-b")
	eventually(t, e, 200, "/on-both")
	get(t, e, 403, "/on-a", mustNotArrive+"denied")
	e.WaitReady()
	e.Scrape().Want(t, map[string]float64{`policy_kernel_worker_health{worker="worker-a"}`: 1, `policy_kernel_worker_health{worker="worker-b"}`: 1})
}

// loader sends requests, every second of which must be refused, and counts how each kind ends.
type loader struct {
	t       *testing.T
	mu      sync.Mutex
	counts  map[string]int
	over    atomic.Bool
	senders sync.WaitGroup
}

// startLoad returns when requests of both kinds have had their usual answers several times.
func startLoad(t *testing.T, e *harness.Engine, path string, lines ...string) *loader {
	t.Helper()
	l := &loader{t: t, counts: map[string]int{}}
	for range 4 {
		l.senders.Go(func() {
			for i := 0; !l.over.Load(); i++ {
				l.send(e, path, i%2 == 1, lines)
			}
		})
	}
	t.Cleanup(func() { l.over.Store(true); l.senders.Wait() })
	l.wait(10)
	return l
}

func (l *loader) send(e *harness.Engine, path string, bad bool, lines []string) {
	kind := "good"
	if bad {
		lines, kind = append([]string{mustNotArrive + "refused under load"}, lines...), "bad"
	}
	result := "error"
	if r, err := harness.TrySend(e.Listen, http.MethodGet, path, lines...); err == nil {
		result = fmt.Sprint(r.Status)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[kind+" "+result]++
}

// wait waits for n more usual answers of each kind.
func (l *loader) wait(n int) {
	l.t.Helper()
	read := func() (int, int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.counts["good 200"], l.counts["bad 403"]
	}
	goodBefore, badBefore := read()
	harness.Eventually(l.t, "the load is answered", func() error {
		if good, bad := read(); good < goodBefore+n || bad < badBefore+n {
			return fmt.Errorf("%d good and %d bad ones so far", good-goodBefore, bad-badBefore)
		}
		return nil
	})
}

// stop ends the load, and checks that nothing else came than the usual answers and those given.
func (l *loader) stop(may ...string) {
	l.t.Helper()
	l.over.Store(true)
	l.senders.Wait()
	l.t.Logf("under load: %v", l.counts)
	for _, outcome := range append(may, "good 200", "bad 403") {
		delete(l.counts, outcome)
	}
	if len(l.counts) > 0 {
		l.t.Errorf("under load came %v", l.counts)
	}
}

func TestWorkerKilled(t *testing.T) {
	t.Parallel()
	harness.NeedWorkerProcesses(t)
	e := harness.StartEngine(t, replicaSpec())
	eventually(t, e, 200, "/on-a")

	t.Run("a replica takes over", func(t *testing.T) {
		l := startLoad(t, e, "/on-a")
		e.Worker("a1").Kill()
		waitHealth(t, e, "worker-a", 1) // the other one is there
		l.wait(10)
		l.stop()
	})
	t.Run("none is left", func(t *testing.T) {
		e.Worker("a2").Kill()
		eventually(t, e, 503, "/on-a", mustNotArrive+"no worker")
		wantUnavailable(t, e, "/on-a")
		waitHealth(t, e, "worker-a", 0)
		e.WaitNotReady()
		if status, _ := e.Health("/health/live"); status != 200 {
			t.Errorf("/health/live says %d: a dead worker is no reason to restart the kernel", status)
		}
		get(t, e, 200, "/on-b")
	})
	t.Run("restarted", func(t *testing.T) {
		e.StartWorker("a1")
		eventually(t, e, 200, "/on-a")
		get(t, e, 403, "/on-a", mustNotArrive+"denied")
		e.WaitReady()
		waitHealth(t, e, "worker-a", 1)
	})
	t.Run("on_failure continue does without its worker", func(t *testing.T) {
		e.Worker("b").Kill()
		eventually(t, e, 503, "/on-b", mustNotArrive+"no worker")
		before := e.Upstream.Count()
		get(t, e, 200, "/without-b")
		wantHeader(t, arrived(t, e, before).Header, "X-Seen-Optional", "")
		get(t, e, 403, "/without-b", mustNotArrive+"the other policy denies")
		e.StartWorker("b")
		eventually(t, e, 200, "/on-b")
		before = e.Upstream.Count()
		get(t, e, 200, "/without-b")
		if arrived(t, e, before).Header.Get("X-Seen-Optional") == "" {
			t.Error("the policy does not run after its worker's restart")
		}
	})
	t.Run("a worker that ends in order", func(t *testing.T) {
		e.StartWorker("a2")
		waitReplicas(t, e, "worker-a", 2)
		l := startLoad(t, e, "/on-a")
		e.Worker("a2").Signal(sigterm)
		if status := e.Worker("a2").Wait(); status != 0 {
			t.Errorf("exit status %d", status)
		}
		l.wait(10)
		l.stop()
		if _, err := os.Stat(e.RunDir + "/a2.sock"); !os.IsNotExist(err) {
			t.Errorf("its socket is left: %v", err)
		}
	})
	t.Run("a worker that hangs", func(t *testing.T) {
		e.Worker("a1").Suspend()
		r := harness.Send(t, e.Listen, http.MethodGet, "/on-a", mustNotArrive+"the worker hangs")
		if r.Status != 503 && r.Status != 504 {
			t.Errorf("%v", r)
		}
		eventually(t, e, 503, "/on-a", mustNotArrive+"the worker hangs")
		e.Worker("a1").Signal(syscall.SIGCONT)
		eventually(t, e, 200, "/on-a")
		get(t, e, 403, "/on-a", mustNotArrive+"denied")
	})
	t.Run("killed in the middle of a request", func(t *testing.T) {
		got := make(chan int, 1)
		go func() {
			r, err := harness.TrySend(e.Listen, http.MethodGet, "/slow", "X-Misbehave: 300ms", mustNotArrive+"its worker was killed")
			if err != nil {
				got <- 0
				return
			}
			got <- r.Status
		}()
		waitInFlight(t, e)
		e.Worker("a1").Kill()
		if status := <-got; status != 503 {
			t.Errorf("status %d, want 503", status)
		}
	})
	checkLogs(t, e, []string{"b"})
}

func waitHealth(t *testing.T, e *harness.Engine, worker string, want float64) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("the health of %s is %v", worker, want), func() error {
		if got := e.Scrape()[`policy_kernel_worker_health{worker="`+worker+`"}`]; got != want {
			return fmt.Errorf("it is %v", got)
		}
		return nil
	})
}

// waitReplicas waits until the kernel has told of so many healthy replicas.
func waitReplicas(t *testing.T, e *harness.Engine, worker string, want int) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("%d replicas of %s are up", want, worker), func() error {
		lines, _ := harness.ParseLog(e.Kernel.Output(), "kernel")
		up := map[any]bool{}
		for _, line := range lines {
			if line.Metadata["worker"] != worker {
				continue
			}
			switch line.Message {
			case "worker replica is up":
				up[line.Metadata["socket"]] = true
			case "worker replica is down":
				delete(up, line.Metadata["socket"])
			}
		}
		if len(up) != want {
			return fmt.Errorf("up are %v", up)
		}
		return nil
	})
}

// waitInFlight waits until some worker runs a call.
func waitInFlight(t *testing.T, e *harness.Engine) {
	t.Helper()
	harness.Eventually(t, "a call is in flight", func() error {
		for series, value := range e.Scrape() {
			if strings.HasPrefix(series, "policy_worker_in_flight") && value > 0 {
				return nil
			}
		}
		return fmt.Errorf("none is")
	})
}

// TestKernelEnds: whatever happens to the kernel, no request goes upstream unchecked.
func TestKernelEnds(t *testing.T) {
	t.Parallel()
	e := harness.StartEngine(t, replicaSpec())
	eventually(t, e, 200, "/on-a")

	t.Run("SIGTERM under load", func(t *testing.T) {
		l := startLoad(t, e, "/on-both")
		slow := make(chan *harness.Response, 1)
		go func() {
			r, _ := harness.TrySend(e.Listen, http.MethodGet, "/slow", "X-Misbehave: 350ms")
			slow <- r
		}()
		waitInFlight(t, e)
		start := time.Now()
		e.Kernel.Signal(sigterm)
		if status := e.Kernel.Wait(); status != 0 {
			t.Errorf("exit status %d", status)
		}
		t.Logf("it took %v to end", time.Since(start))
		if r := <-slow; r == nil || r.Status != 200 {
			t.Errorf("the request that was under way got %v", r)
		}
		eventually(t, e, 500, "/on-a", mustNotArrive+"no kernel")
		l.stop("good 500", "bad 500", "good 503", "bad 503")
		if e.Worker("a1").Running() {
			get(t, e, 500, "/plain", mustNotArrive+"no kernel: not even a route without policies")
		}
	})
	t.Run("restarted", func(t *testing.T) {
		e.StartKernel()
		e.WaitReady()
		eventually(t, e, 200, "/on-a")
		get(t, e, 403, "/on-a", mustNotArrive+"denied")
	})
	t.Run("kill -9 in the middle of a request", func(t *testing.T) {
		const n = 5
		got := make(chan int, n)
		for range n {
			go func() {
				r, err := harness.TrySend(e.Listen, http.MethodGet, "/slow", "X-Misbehave: 350ms", mustNotArrive+"the kernel was killed")
				if err != nil {
					got <- 0
					return
				}
				got <- r.Status
			}()
		}
		waitInFlight(t, e)
		e.Kernel.Kill()
		for range n {
			if status := <-got; status < 500 {
				t.Errorf("status %d, want 5xx", status)
			}
		}
	})
	t.Run("kill -9 under load, and a restart", func(t *testing.T) {
		e.StartKernel()
		e.WaitReady()
		eventually(t, e, 200, "/on-both")
		l := startLoad(t, e, "/on-both")
		e.Kernel.Kill()
		e.StartKernel()
		e.WaitReady()
		l.wait(10)
		l.stop("good 500", "bad 500", "good 503", "bad 503", "good 504", "bad 504")
	})
	t.Run("a kernel that hangs", func(t *testing.T) {
		e.Tap.SetTimeout(0) // It is meant to be too late here.
		e.Kernel.Suspend()
		r := harness.Send(t, e.Listen, http.MethodGet, "/on-a", mustNotArrive+"the kernel hangs")
		// Which of Envoy's clocks runs out first depends on when it last asked the connection for a sign of life.
		if r.Status != http.StatusGatewayTimeout && r.Status != http.StatusInternalServerError {
			t.Errorf("%v, want Envoy's 504 after message_timeout, or its 500 once it gives the connection up", r)
		}
		e.Kernel.Signal(syscall.SIGCONT)
		eventually(t, e, 200, "/on-a")
	})
	checkLogs(t, e, []string{"a1", "a2", "b"})
}
