package e2e

import (
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

// TestUnnamedRoutes runs an Envoy whose filter does not send the names of routes: every request is refused with the
// configured status and counted apart, and the log has host and path without the query.
func TestUnnamedRoutes(t *testing.T) {
	t.Parallel()
	e := harness.StartEngine(t, harness.Spec{
		Kernel:    "  unknown_route: {status: 410}\n" + twoWorkers + "  route_policies:\n    - {route_name: orders}\n",
		Workers:   []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
		EditEnvoy: func(text string) string { return strings.ReplaceAll(text, "key: x-policy-route", "key: x-other") },
	})
	wantCode(t, get(t, e, 410, "/orders?in-the-query", mustNotArrive+"a route without a name"), "UNNAMED_ROUTE")
	wantCode(t, get(t, e, 410, "/nowhere?in-the-query", mustNotArrive+"no route"), "UNNAMED_ROUTE")
	e.Scrape().Want(t, map[string]float64{`policy_kernel_requests_total{route="unknown",worker="none",status="unnamed_route"}`: 2})
	checkLogs(t, e, []string{"a", "b"}, "in-the-query")
	log := e.Kernel.Output()
	if n := strings.Count(log, "Envoy named no route for a request"); n != 1 || !strings.Contains(log, `"path":"/orders"`) {
		t.Errorf("%d lines name the cause:\n%s", n, log)
	}
}

// TestRouteNotFoundStatus: the configured status reaches the client of a path that no route matches, and a route that
// the kernel does not know stays a 500.
func TestRouteNotFoundStatus(t *testing.T) {
	t.Parallel()
	e := harness.StartEngine(t, harness.Spec{
		Kernel:      "  unknown_route: {status: 410}\n" + twoWorkers + "  route_policies:\n    - {route_name: orders}\n",
		EnvoyKernel: twoWorkers + "  route_policies:\n    - {route_name: orders}\n    - {route_name: strange}\n",
		Workers:     []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	})
	get(t, e, 200, "/orders")
	wantCode(t, get(t, e, 410, "/nowhere?in-the-query", mustNotArrive+"no route"), "ROUTE_NOT_FOUND")
	wantCode(t, get(t, e, 500, "/strange?in-the-query", mustNotArrive+"an unknown route"), "UNKNOWN_ROUTE")
	checkLogs(t, e, []string{"a", "b"}, "in-the-query")
	for _, want := range []string{`"path":"/nowhere"`, `"route":"strange"`, `"path":"/strange"`} {
		if !strings.Contains(e.Kernel.Output(), want) {
			t.Errorf("the log lacks %s:\n%s", want, e.Kernel.Output())
		}
	}
}
