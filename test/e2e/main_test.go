// Package e2e tests the whole system: real Envoy, kernel and workers, each a process of its own.
package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// mustNotArrive marks a request that has to be refused; the upstream fails the test when it arrives.
const mustNotArrive = harness.MustNotArrive + ": "

// testWorker is a process of test/e2e/testworker.
func testWorker(name, worker, suffix string) harness.WorkerSpec {
	return harness.WorkerSpec{
		Name: name, Program: "testworker", Worker: worker, Env: []string{harness.SuffixVariable + "=" + suffix},
		Config: fmt.Sprintf("  name: %s\n  socket_path: ${RUN_DIR}/%s.sock\n", worker, name),
	}
}

// get sends a GET through Envoy and checks the status.
func get(t *testing.T, e *harness.Engine, want int, target string, lines ...string) *harness.Response {
	t.Helper()
	r := harness.Send(t, e.Listen, http.MethodGet, target, lines...)
	if r.Status != want {
		t.Errorf("GET %s %q: status %d, want %d\n%v", target, lines, r.Status, want, r)
	}
	return r
}

// wantCode checks the code in the body of a refusal.
func wantCode(t *testing.T, r *harness.Response, code string) {
	t.Helper()
	if !strings.Contains(r.Body, `"code":"`+code+`"`) {
		t.Errorf("the body is %q, want the code %s", r.Body, code)
	}
	if got := r.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("content-type %q, want application/json", got)
	}
}

// arrived returns the only request that has reached the upstream since before.
func arrived(t *testing.T, e *harness.Engine, before int) harness.Received {
	t.Helper()
	all := e.Upstream.Received()
	if len(all) != before+1 {
		t.Fatalf("%d requests have reached the upstream, want 1", len(all)-before)
	}
	return all[before]
}

// wantHeader checks a header of a request or response, its lines joined.
func wantHeader(t *testing.T, h http.Header, name, want string) {
	t.Helper()
	if got := strings.Join(h.Values(name), ","); got != want {
		t.Errorf("%s is %q, want %q", name, got, want)
	}
}

// checkLogs ends kernel and workers in order, and checks what they wrote: JSON in the fields of SPEC 6.2, and no secret.
func checkLogs(t *testing.T, e *harness.Engine, workers []string, secrets ...string) {
	t.Helper()
	programs := map[string]*harness.Process{"kernel": e.Kernel}
	for _, w := range workers {
		programs[w] = e.Worker(w)
	}
	for name, p := range programs {
		if p.Running() {
			p.Signal(sigterm)
			if status := p.Wait(); status != 0 {
				t.Errorf("%s: exit status %d after SIGTERM, want 0", name, status)
			}
		}
		components := []string{"worker"}
		switch {
		case p == e.Kernel && harness.OneProcess():
			components = []string{"kernel", "worker"}
		case name == "kernel":
			components = []string{"kernel"}
		}
		lines, problems := harness.ParseLog(p.Output(), components...)
		if len(lines) == 0 {
			t.Errorf("%s: no log", name)
		}
		for _, problem := range problems {
			t.Errorf("log of %s: %s", name, problem)
		}
		for _, secret := range secrets {
			if strings.Contains(p.Output(), secret) {
				t.Errorf("log of %s: a credential is in it", name)
			}
		}
	}
}
