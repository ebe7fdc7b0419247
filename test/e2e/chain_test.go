package e2e

import (
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

const sigterm = syscall.SIGTERM

const twoWorkers = `  workers:
    - {name: worker-a, socket_path: "${RUN_DIR}/a.sock", timeout: 400ms}
    - {name: worker-b, socket_path: "${RUN_DIR}/b.sock", timeout: 400ms}
`

const chains = `  route_policies:
    - route_name: plain
    - route_name: there-and-back
      request_flow:
        policy_chain:
          - {policy: witnessA, params: {name: a1, set_path: "/there-and-back/changed?x=1", set_identity: alice, set_header: {x-from-a1: one, x-both: a1}}}
          - {policy: witnessB, params: {name: b1, set_method: PUT, remove_header: [x-from-a1], set_header: {x-from-b1: two, x-both: b1}}}
          - {policy: witnessA, params: {name: a2}}
      response_flow:
        policy_chain:
          - {policy: witnessA, params: {name: r1, set_status: 201, set_header: {x-from-r1: one}}}
          - {policy: witnessB, params: {name: r2, remove_header: [x-from-r1, x-upstream], set_header: {x-from-r2: two}}}
          - {policy: witnessA, params: {name: r3}}
    - route_name: gate
      request_flow:
        policy_chain:
          - {policy: answerA, params: {if: x-respond, status: 302}}
          - {policy: answerB, params: {if: x-deny, status: 403}}
    - route_name: hide
      response_flow:
        policy_chain:
          - {policy: witnessB, params: {name: first, set_header: {x-before: "yes"}}}
          - {policy: answerA, params: {if_response: x-secret, status: 502}}
    - route_name: fragile
      request_flow: {policy_chain: [{policy: misbehaveA}]}
      response_flow: {policy_chain: [{policy: misbehaveB}]}
    - route_name: tolerant
      request_flow:
        policy_chain:
          - {policy: misbehaveA, on_failure: continue}
          - {policy: witnessA, params: {name: after}}
          - {policy: answerA, params: {if: x-deny, status: 403}}
    - route_name: skipping
      request_flow:
        policy_chain:
          - {policy: misbehaveA, on_failure: skip_remaining}
          - {policy: answerA, params: {if: ":path", status: 403}}
          - {policy: answerB, params: {if: ":path", status: 403}}
    - route_name: slow
      request_flow: {policy_chain: [{policy: waitA, timeout: 50ms}]}
    - route_name: slow-continue
      request_flow:
        policy_chain:
          - {policy: waitA, timeout: 50ms, on_failure: continue}
          - {policy: witnessA, params: {name: after}}
    - route_name: slow-call
      request_flow: {policy_chain: [{policy: waitB}]}
    - route_name: nobody
      request_flow: {policy_chain: [{policy: nonesuch}]}
    - route_name: nobody-later
      request_flow: {policy_chain: [{policy: witnessA, params: {name: a}}]}
      response_flow: {policy_chain: [{policy: nonesuch, on_failure: continue}]}
`

// stranger is a route that Envoy has and the kernel has not.
const stranger = "    - route_name: stranger\n"

func chainSpec() harness.Spec {
	return harness.Spec{
		Kernel: twoWorkers + chains, EnvoyKernel: twoWorkers + chains + stranger,
		Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	}
}

func TestChains(t *testing.T) {
	t.Parallel()
	e := harness.StartEngine(t, chainSpec())

	t.Run("no policies", func(t *testing.T) {
		get(t, e, 200, "/plain")
	})
	t.Run("context goes from policy to policy and worker to worker", func(t *testing.T) { thereAndBack(t, e) })
	t.Run("answers in place of the upstream", func(t *testing.T) { answers(t, e) })
	t.Run("failures", func(t *testing.T) { failures(t, e) })
	t.Run("tolerated failures", func(t *testing.T) { tolerated(t, e) })
	t.Run("timeouts", func(t *testing.T) { timeouts(t, e) })
	t.Run("policies that nobody offers", func(t *testing.T) {
		for _, route := range []string{"/nobody", "/nobody-later"} {
			wantCode(t, get(t, e, 500, route, mustNotArrive+"policy not supported"), "POLICY_NOT_SUPPORTED")
		}
	})
	t.Run("unknown route", func(t *testing.T) {
		wantCode(t, get(t, e, 500, "/stranger", mustNotArrive+"unknown route"), "UNKNOWN_ROUTE")
	})
	checkLogs(t, e, []string{"a", "b"})
}

func thereAndBack(t *testing.T, e *harness.Engine) {
	before := e.Upstream.Count()
	r := get(t, e, 201, "/there-and-back?q=0", "X-Trail: client", harness.AnswerHeader+": x-trail up")

	const alice = " identity=alice/witness/[seen.a1]/a1"
	up := arrived(t, e, before)
	wantHeader(t, up.Header, "X-Seen-A1", "GET /there-and-back?q=0 header=client+ metadata= identity=nobody")
	wantHeader(t, up.Header, "X-Seen-B1", "GET /there-and-back/changed?x=1 header=client+a1+ metadata=a1>"+alice)
	wantHeader(t, up.Header, "X-Seen-A2", "PUT /there-and-back/changed?x=1 header=client+a1+b1+ metadata=a1>b1>"+alice)
	wantHeader(t, up.Header, "X-Trail", "client,a1,b1,a2")
	wantHeader(t, up.Header, "X-From-A1", "")
	wantHeader(t, up.Header, "X-From-B1", "two")
	wantHeader(t, up.Header, "X-Both", "b1")
	if up.Method != http.MethodPut || up.Path != "/there-and-back/changed?x=1" {
		t.Errorf("the upstream got %s %s", up.Method, up.Path)
	}

	const request = " | PUT /there-and-back/changed?x=1 header=client+a1+b1+a2+ metadata="
	wantHeader(t, r.Header, "X-Seen-R1", "200 up+"+request+"a1>b1>a2>"+alice)
	wantHeader(t, r.Header, "X-Seen-R2", "201 up+r1+"+request+"a1>b1>a2>r1>"+alice)
	wantHeader(t, r.Header, "X-Seen-R3", "201 up+r1+r2+"+request+"a1>b1>a2>r1>r2>"+alice)
	wantHeader(t, r.Header, "X-Trail", "up,r1,r2,r3")
	wantHeader(t, r.Header, "X-From-R1", "")
	wantHeader(t, r.Header, "X-From-R2", "two")
	wantHeader(t, r.Header, "X-Upstream", "")
}

func answers(t *testing.T, e *harness.Engine) {
	r := get(t, e, 302, "/gate", "X-Respond: 1", "X-Deny: 1", mustNotArrive+"answered by a policy")
	wantHeader(t, r.Header, "Location", "/elsewhere")
	wantHeader(t, r.Header, "X-Answered-By", "answer")
	wantHeader(t, r.Header, "Content-Type", "text/plain")
	if r.Body != "answered\n" {
		t.Errorf("the body is %q", r.Body)
	}
	wantCode(t, get(t, e, 403, "/gate", "X-Deny: 1", mustNotArrive+"denied by the second worker"), "TOLD_TO")
	get(t, e, 200, "/gate")

	r = get(t, e, 502, "/hide", harness.AnswerHeader+": x-secret 42")
	wantCode(t, r, "TOLD_TO")
	wantHeader(t, r.Header, "X-Secret", "")
	wantHeader(t, r.Header, "X-Upstream", "")
	wantHeader(t, r.Header, "X-Before", "")
	if strings.Contains(r.Body, "method") {
		t.Errorf("the upstream's body passes a denial: %q", r.Body)
	}
	r = get(t, e, 200, "/hide")
	wantHeader(t, r.Header, "X-Before", "yes")
	wantHeader(t, r.Header, "X-Upstream", "reached")
}

// failures: what a policy with on_failure deny does wrong denies the request, that one only.
func failures(t *testing.T, e *harness.Engine) {
	worker, replica := e.Worker("a"), e.Worker("b")
	for _, what := range []string{"panic", "nil", "error", "illegal", "illegal-deny", "line-break"} {
		t.Run("request: "+what, func(t *testing.T) {
			wantCode(t, get(t, e, 500, "/fragile", "X-Misbehave: "+what, mustNotArrive+"a policy failed"), "POLICY_FAILED")
			get(t, e, 200, "/fragile")
		})
	}
	wantCode(t, get(t, e, 403, "/fragile", "X-Misbehave: deny", mustNotArrive+"denied"), "TOLD_TO")
	for _, what := range []string{"panic", "nil", "error", "illegal", "illegal-deny"} {
		t.Run("response: "+what, func(t *testing.T) {
			r := get(t, e, 500, "/fragile", harness.AnswerHeader+": x-misbehave "+what)
			wantCode(t, r, "POLICY_FAILED")
			wantHeader(t, r.Header, "X-Upstream", "")
			get(t, e, 200, "/fragile")
		})
	}
	if !worker.Running() || !replica.Running() {
		t.Error("a worker did not outlive its policy's failure")
	}
}

func tolerated(t *testing.T, e *harness.Engine) {
	for _, what := range []string{"panic", "error", "illegal", "line-break"} {
		t.Run("continue: "+what, func(t *testing.T) {
			before := e.Upstream.Count()
			get(t, e, 200, "/tolerant", "X-Misbehave: "+what)
			up := arrived(t, e, before)
			wantHeader(t, up.Header, "X-Misbehave-Ran", "") // undone
			wantHeader(t, up.Header, "X-Injected", "")
			wantHeader(t, up.Header, "X-Seen-After", "GET /tolerant header= metadata= identity=nobody")
			get(t, e, 403, "/tolerant", "X-Misbehave: "+what, "X-Deny: 1", mustNotArrive+"a policy after the one that failed denies")
		})
		t.Run("skip_remaining: "+what, func(t *testing.T) {
			before := e.Upstream.Count()
			get(t, e, 200, "/skipping", "X-Misbehave: "+what)
			wantHeader(t, arrived(t, e, before).Header, "X-Misbehave-Ran", "")
		})
	}
	// The policy decided to deny, and only how it said so is wrong.
	for _, path := range []string{"/tolerant", "/skipping"} {
		get(t, e, 500, path, "X-Misbehave: illegal-deny", mustNotArrive+"a refusal that can't be sent")
	}
	get(t, e, 403, "/skipping", mustNotArrive+"nothing failed")
	before := e.Upstream.Count()
	get(t, e, 200, "/skipping", "X-Misbehave: skip")
	wantHeader(t, arrived(t, e, before).Header, "X-Misbehave-Ran", "yes") // a verdict, no failure: its changes stay
}

func timeouts(t *testing.T, e *harness.Engine) {
	get(t, e, 200, "/slow")
	get(t, e, 200, "/slow", "X-Misbehave: 1ms")
	for _, what := range []string{"context", "deaf", "300ms"} {
		wantCode(t, get(t, e, 500, "/slow", "X-Misbehave: "+what, mustNotArrive+"a policy timed out"), "POLICY_TIMEOUT")
		before := e.Upstream.Count()
		get(t, e, 200, "/slow-continue", "X-Misbehave: "+what)
		wantHeader(t, arrived(t, e, before).Header, "X-Seen-After", "GET /slow-continue header= metadata= identity=nobody")
		get(t, e, 200, "/slow")
	}
	// Without a timeout of its own, a policy has the call's. It is the worker's or the kernel's clock that sees its end first.
	for _, what := range []string{"context", "deaf", "2s"} {
		r := harness.Send(t, e.Listen, http.MethodGet, "/slow-call", "X-Misbehave: "+what, mustNotArrive+"a call timed out")
		switch r.Status {
		case http.StatusInternalServerError:
			wantCode(t, r, "POLICY_TIMEOUT")
		case http.StatusGatewayTimeout:
			wantCode(t, r, "WORKER_TIMEOUT")
		default:
			t.Errorf("%s: %v", what, r)
		}
	}
	get(t, e, 200, "/slow-call", "X-Misbehave: 1ms")
}

// TestUnknownRouteContinues: only the configuration lets unknown routes pass, and only those.
func TestUnknownRouteContinues(t *testing.T) {
	t.Parallel()
	spec := chainSpec()
	spec.Kernel = "  unknown_route: continue\n" + spec.Kernel
	e := harness.StartEngine(t, spec)
	get(t, e, 200, "/stranger")
	get(t, e, 403, "/gate", "X-Deny: 1", mustNotArrive+"the route is known")
	wantCode(t, get(t, e, 500, "/nobody", mustNotArrive+"the route is known, its policy is not"), "POLICY_NOT_SUPPORTED")
	m := e.Scrape()
	m.Want(t, map[string]float64{`policy_kernel_requests_total{route="unknown",worker="none",status="unknown_route"}`: 1})
}
