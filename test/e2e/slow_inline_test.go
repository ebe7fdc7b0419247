package e2e

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

// slowVariable says how long each round of the tests of slow policies takes, such as 30s.
const slowVariable = "POLICY_ENGINE_SLOW_ROUND"

const (
	// slowClients is how many clients send requests to slow policies at the same time, slowBodies how many bodies one client
	// sends before, one after the other, and slowBody their size.
	slowClients, slowBodies, slowBody = 40, 5, 1 << 20
	// steadyPath is the neighbour's route, and steadyEvery the time between two of its requests.
	steadyPath, steadyEvery = "/steady", 5 * time.Millisecond
)

// slowPattern costs as many steps for each byte as it has repetitions: 1 MiB of "a" takes 23 s without a bound.
const slowPattern = `[a-z0-9._-]{1,64}@[a-z0-9.-]{1,255}`

// slowRoutes: the timeout is shorter than what one request takes without bounds, and long enough for a busy machine.
const slowRoutes = `  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 10s}
  route_policies:
    - route_name: steady
      request_flow: {policy_chain: [{policy: apiKeyAuth, params: {key_store: partners}}]}
    - route_name: cheap
      request_flow: {policy_chain: [{policy: requestSizeLimit, params: {max_header_count: 90}}]}
    - route_name: schema
      request_flow:
        policy_chain:
          - {policy: jsonSchemaValidation, params: {schema: {type: object, properties: {e: {type: string, pattern: '` + slowPattern + `'}}}}}
    - route_name: redact
      request_flow: {policy_chain: [{policy: redact, params: {patterns: ['` + slowPattern + `']}}]}
    - route_name: audit
      request_flow: {policy_chain: [{policy: auditLog, params: {file: "${E2E_DIR}/audit.jsonl", query: true, request_headers: [referer, x-long]}}]}
    - route_name: rewrite
      request_flow: {policy_chain: [{policy: rewritePath, params: {regex: '/rewrite/.*` + slowPattern + `', to: /rewritten}}]}
`

// slowClient says what hostile clients send.
type slowClient struct {
	name, method, target string
	header               http.Header
	body                 string
	// answer is what a client gets that is served: a status, with the code of a refusal. passes: the upstream may get it.
	answer string
	passes bool
}

// TestSlowPolicies: clients that make policies take long, whose cost grows with the size of what they look at and of the
// configured patterns, take nothing from a neighbour on another route of the same worker. The neighbour's latencies are
// logged, not judged.
func TestSlowPolicies(t *testing.T) {
	dir := t.TempDir()
	writeKeys(t, dir)
	e := harness.StartEngine(t, harness.Spec{
		Kernel: slowRoutes, Upstream: okUpstream(), Untapped: true,
		Workers: []harness.WorkerSpec{{Name: "worker-1", Program: "policy-worker-1", Config: `  name: worker-1
  socket_path: ${RUN_DIR}/worker-1.sock
  key_stores: {partners: {file: "${E2E_DIR}/keys.yaml"}}
`}},
		Env:       []string{"E2E_DIR=" + dir},
		EnvoyArgs: []string{"--route", "steady=" + steadyPath, "--route", "cheap=/cheap", "--route", "schema=/schema", "--route", "redact=/redact", "--route", "audit=/audit", "--route", "rewrite=/rewrite"},
	})
	text := strings.Repeat("a", slowBody)
	n := &neighbour{good: http.Header{"X-Api-Key": {keyAlice}}, bad: http.Header{"X-Api-Key": {keyWrong}}, refused: "401 API_KEY_INVALID"}
	n.beside(t, e, []slowClient{
		// What the bodies alone cost, in Envoy above all.
		{name: "a policy that is not slow", method: http.MethodPost, target: "/cheap", body: text, answer: "200", passes: true},
		{
			name: "jsonSchemaValidation", method: http.MethodPost, target: "/schema", header: http.Header{"Content-Type": {"application/json"}},
			body: `{"e":"` + text[:slowBody-16] + `"}`, answer: "413 PATTERN_BUDGET",
		},
		{
			name: "redact", method: http.MethodPost, target: "/redact", header: http.Header{"Content-Type": {"text/plain"}}, body: text,
			answer: "413 PATTERN_BUDGET", passes: true, // Its headers go on before its body has come.
		},
		{
			name: "auditLog", method: http.MethodPost, target: "/audit?" + strings.Repeat("a%255b%2525=", 1000),
			header: http.Header{"Referer": {"https://a.example/?" + strings.Repeat("b%255b=%253f&", 600)}, "X-Long": {strings.Repeat("c%5B%26=", 1000)}},
			body:   text, answer: "200", passes: true,
		},
		{
			name: "rewritePath", method: http.MethodPost, target: "/rewrite/" + text[:16000], body: text, answer: "414 PATTERN_BUDGET",
		},
	})
	checkLogs(t, e, []string{"worker-1"}, keyAlice, keyWrong)
}

// TestSlowInlinePolicies: the same of policies that burn processor time inline and have no bound of their own. Without
// calls that are moved aside, 40 of them would take 10 s one after the other, and the worker's timeout is 5 s.
func TestSlowInlinePolicies(t *testing.T) {
	e := harness.StartEngine(t, harness.Spec{
		Kernel: `  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 5s}
  route_policies:
    - {route_name: steady, request_flow: {policy_chain: [{policy: misbehaveA}]}}
    - {route_name: slow, request_flow: {policy_chain: [{policy: burnA}]}}
    - {route_name: short, request_flow: {policy_chain: [{policy: burnA}]}}
`,
		Upstream: okUpstream(), Untapped: true, Workers: []harness.WorkerSpec{testWorker("worker-1", "worker-1", "A")},
		EnvoyArgs: []string{"--route", "steady=" + steadyPath, "--route", "slow=/slow", "--route", "short=/short"},
	})
	n := &neighbour{bad: http.Header{"X-Misbehave": {"deny"}}, refused: "403 TOLD_TO"}
	n.beside(t, e, []slowClient{
		// Just short of what has a policy's next runs take place aside.
		{name: "2 ms", method: http.MethodGet, target: "/short", header: http.Header{"X-Misbehave": {"2ms"}}, answer: "200", passes: true},
		{name: "250 ms", method: http.MethodGet, target: "/slow", header: http.Header{"X-Misbehave": {"250ms"}}, answer: "200", passes: true},
	})
}

// okUpstream is an upstream that looks at no bodies.
func okUpstream() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "ok\n")
	})
}

// slowRound is how long one round takes.
func slowRound(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv(slowVariable)
	if text == "" {
		return 500 * time.Millisecond
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("%s: %v", slowVariable, err)
	}
	return d
}

// answerOf is the status of a response, and the engine's code if it has one.
func answerOf(client *http.Client, r *http.Request) string {
	resp, err := client.Do(r)
	if err != nil {
		return "no answer: " + err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "broken answer: " + err.Error()
	}
	answer := resp.Status[:3]
	if code := answerCode.FindSubmatch(text); code != nil {
		answer += " " + string(code[1])
	}
	return answer
}

var answerCode = regexp.MustCompile(`"code":"([A-Z_]+)"`)

// send sends the request once.
func (s *slowClient) send(t *testing.T, e *harness.Engine, client *http.Client) string {
	r, err := http.NewRequest(s.method, "http://"+e.Listen+s.target, strings.NewReader(s.body))
	if err != nil {
		t.Error(err)
		return ""
	}
	r.Header = maps.Clone(s.header)
	if r.Header == nil {
		r.Header = http.Header{}
	}
	if !s.passes {
		r.Header.Set(harness.MustNotArrive, s.name)
	}
	return answerOf(client, r)
}

// attack has many clients send one request after the other. stop ends that and returns their answers.
func (s *slowClient) attack(t *testing.T, e *harness.Engine) (stop func() map[string]int) {
	t.Helper()
	var over atomic.Bool
	var sending sync.WaitGroup
	var mu sync.Mutex
	answers := map[string]int{}
	for range slowClients {
		client := newClient(t, "HTTP/1.1")
		sending.Go(func() {
			for !over.Load() {
				answer := s.send(t, e, client)
				mu.Lock()
				answers[answer]++
				mu.Unlock()
			}
		})
	}
	stop = sync.OnceValue(func() map[string]int {
		over.Store(true)
		sending.Wait()
		return answers
	})
	t.Cleanup(func() { stop() })
	return stop
}

// neighbour is a client of another route that does nothing wrong: each second one of its requests has to be refused.
type neighbour struct {
	good, bad http.Header
	refused   string
}

// beside compares what the neighbour gets alone with what it gets beside each kind of hostile clients.
func (n *neighbour) beside(t *testing.T, e *harness.Engine, hostile []slowClient) {
	t.Helper()
	round := slowRound(t)
	alone := n.steady(t, e, round)
	alone.check(t, "alone")
	for _, s := range hostile {
		client := newClient(t, "HTTP/1.1")
		for range slowBodies {
			// A client that is refused before its body has ended may see the connection close first.
			if got := s.send(t, e, client); got != s.answer && !(s.passes && s.answer != "200" && strings.HasPrefix(got, "no answer")) {
				t.Errorf("%s: the answer to one client is %q, want %q", s.name, got, s.answer)
			}
		}
		stop := s.attack(t, e)
		beside := n.steady(t, e, round)
		answers := stop()
		beside.check(t, "beside "+s.name)
		t.Logf("beside %d clients of %s: P50 %v, P99 %v; alone P50 %v, P99 %v. Answers to these clients: %v", slowClients, s.name,
			beside.percentile(50), beside.percentile(99), alone.percentile(50), alone.percentile(99), answers)
		if len(answers) == 0 {
			t.Errorf("%s: no client has sent anything", s.name)
		}
		if n := answers["200"]; n > 0 && s.answer != "200" {
			t.Errorf("%s: %d answers without a verdict", s.name, n)
		}
	}
}

// steadyAnswers is what a neighbour got.
type steadyAnswers struct {
	want, got map[string]int
	latencies []time.Duration
}

// steady sends requests at a constant rate for a time, whatever becomes of them.
func (n *neighbour) steady(t *testing.T, e *harness.Engine, d time.Duration) *steadyAnswers {
	t.Helper()
	client := newClient(t, "HTTP/2")
	half := int(d / steadyEvery / 2)
	a := &steadyAnswers{want: map[string]int{"good 200": half, "bad " + n.refused: half}, got: map[string]int{}}
	var sending sync.WaitGroup
	var mu sync.Mutex
	tick := time.NewTicker(steadyEvery)
	defer tick.Stop()
	for i := range 2 * half {
		<-tick.C
		sending.Go(func() {
			s := slowClient{name: "neighbour", method: http.MethodGet, target: steadyPath, header: n.good, passes: true}
			kind := "good"
			if i%2 == 1 {
				s.header, s.passes, kind = n.bad, false, "bad"
			}
			began := time.Now()
			answer := fmt.Sprintf("%s %s", kind, s.send(t, e, client))
			took := time.Since(began)
			mu.Lock()
			defer mu.Unlock()
			a.got[answer]++
			a.latencies = append(a.latencies, took)
		})
	}
	sending.Wait()
	slices.Sort(a.latencies)
	return a
}

// check requires that each request had the answer that it has without others.
func (a *steadyAnswers) check(t *testing.T, when string) {
	t.Helper()
	if !maps.Equal(a.got, a.want) {
		t.Errorf("%s: the neighbour's answers are %v, want %v", when, a.got, a.want)
	}
}

func (a *steadyAnswers) percentile(p int) time.Duration {
	return a.latencies[(len(a.latencies)-1)*p/100].Round(100 * time.Microsecond)
}
