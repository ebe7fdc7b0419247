package kernel

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// refused is a decision of the policy p of a table made by tableOf.
func refused(r *route.Route, reason string) *extproc.Decision {
	return &extproc.Decision{
		Route: r, RouteName: r.Name, Phase: workerv1.Phase_PHASE_REQUEST_HEADERS, OfRequest: true, Status: extproc.StatusDenied, Policy: "p", Reason: reason,
	}
}

// TestReasons: each decision that is not a plain allow is counted by policy and reason, a failure of the engine by its status.
func TestReasons(t *testing.T) {
	set := metrics.NewSet()
	o := NewObserver(1, set, zap.NewNop())
	w := &namedEvaluator{"w"}
	r := tableOf(t, 1, w, "a").Lookup("a")
	for _, d := range []*extproc.Decision{
		allowed(r, w),
		refused(r, "rate_limited"), refused(r, "rate_limited"), refused(r, ""),
		{Route: r, RouteName: "a", OfRequest: true, Status: extproc.StatusAllowed, Policy: "p", Reason: "trusted"},
		{Route: r, RouteName: "a", Status: extproc.StatusResponded, Policy: "p", Reason: "cached"},
		{Route: r, RouteName: "a", OfRequest: true, Status: extproc.StatusPolicyError, Policy: "p", Reason: "ignored"},
		{Route: r, RouteName: "a", OfRequest: true, Status: extproc.StatusWorkerTimeout},
		{Route: r, RouteName: "a", OfRequest: true, Status: extproc.StatusDenied, Policy: "invented", Reason: "no"},
		{RouteName: "x", OfRequest: true, Status: extproc.StatusUnknownRoute},
	} {
		o.Decided(d)
	}
	want := `policy_kernel_decisions_total{route="a",policy="none",reason="no"} 1
policy_kernel_decisions_total{route="a",policy="none",reason="worker_timeout"} 1
policy_kernel_decisions_total{route="a",policy="p",reason="cached"} 1
policy_kernel_decisions_total{route="a",policy="p",reason="denied"} 1
policy_kernel_decisions_total{route="a",policy="p",reason="policy_error"} 1
policy_kernel_decisions_total{route="a",policy="p",reason="rate_limited"} 2
policy_kernel_decisions_total{route="a",policy="p",reason="trusted"} 1
policy_kernel_decisions_total{route="unknown",policy="none",reason="unknown_route"} 1
`
	if got := exposed(set, decisionsTotal); got != want {
		t.Errorf("got\n%s", got)
	}
}

// TestReasonsAreBounded: a policy that invents reasons fills up its own share of series; the rest is other, and nothing is lost.
func TestReasonsAreBounded(t *testing.T) {
	set := metrics.NewSet()
	o := NewObserver(1, set, zap.NewNop())
	r := tableOf(t, 1, &namedEvaluator{"w"}, "a").Lookup("a")
	for i := range 10 * maxReasons {
		o.Decided(refused(r, fmt.Sprint("reason", i)))
	}
	o.Decided(refused(r, "no word"))
	o.Decided(refused(r, "reason3"))
	got := exposed(set, decisionsTotal)
	if n := strings.Count(got, "\n"); n != maxReasons+1 {
		t.Errorf("%d series, want %d", n, maxReasons+1)
	}
	for _, want := range []string{
		fmt.Sprintf(`reason="other"} %d`, 9*maxReasons+1), `reason="reason3"} 2`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("%s is missing in\n%s", want, got)
		}
	}
}

// TestReasonsAreForgotten: series go with the route, and with the policy of a route that stays.
func TestReasonsAreForgotten(t *testing.T) {
	set := metrics.NewSet()
	o := NewObserver(0, set, zap.NewNop())
	w := &namedEvaluator{"w"}
	first := tableOf(t, 1, w, "a", "b")
	o.Follow(first)
	for _, r := range first.Routes() {
		o.Decided(refused(r, "no"))
		o.Decided(&extproc.Decision{Route: r, RouteName: r.Name, OfRequest: true, Status: extproc.StatusDraining})
	}
	o.Forget([]*route.Table{first}, time.Minute)
	if n := strings.Count(exposed(set, decisionsTotal), "\n"); n != 4 {
		t.Errorf("%d series while the table is in use, want 4", n)
	}
	second := tableOfPolicy(t, 2, w, "other", "b")
	o.Follow(second)
	o.Decided(allowed(second.Lookup("b"), w))
	o.Forget([]*route.Table{second}, time.Minute)
	if got, want := exposed(set, decisionsTotal), `policy_kernel_decisions_total{route="b",policy="none",reason="draining"} 1`+"\n"; got != want {
		t.Errorf("got\n%s", got)
	}
}

// TestRefusalsDoNotAllocate: a flood of refusals costs no memory once their series are there.
func TestRefusalsDoNotAllocate(t *testing.T) {
	o := NewObserver(1, metrics.NewSet(), zap.NewNop())
	d := refused(tableOf(t, 1, &namedEvaluator{"w"}, "a").Lookup("a"), "rate_limited")
	d.Detail = "limit of 100 per 1m0s"
	if n := testing.AllocsPerRun(1000, func() { o.Decided(d) }); n != 0 {
		t.Errorf("%v allocations per refusal", n)
	}
}

// TestDetailIsLoggedAtDebug: the line of a decision has the detail, and no metric has.
func TestDetailIsLoggedAtDebug(t *testing.T) {
	core, lines := observer.New(zap.DebugLevel)
	set := metrics.NewSet()
	o := NewObserver(1, set, zap.New(core))
	d := refused(tableOf(t, 1, &namedEvaluator{"w"}, "a").Lookup("a"), "scope_missing")
	d.Detail = "key m2m lacks scope orders:write"
	o.Decided(d)
	found := lines.FilterMessage("decision").FilterField(zap.String("detail", d.Detail)).FilterField(zap.String("reason", "scope_missing"))
	if found.Len() != 1 {
		t.Errorf("lines: %v", lines.All())
	}
	if got := exposed(set, ""); strings.Contains(got, "m2m") {
		t.Errorf("a metric has the detail:\n%s", got)
	}
}

func BenchmarkDecidedRefusal(b *testing.B) {
	o := NewObserver(10, metrics.NewSet(), zap.NewNop())
	d := allowed(&route.Route{Name: "a", Index: 3}, &namedEvaluator{"w"})
	d.Status, d.Reason = extproc.StatusDenied, "rate_limited"
	b.ReportAllocs()
	for b.Loop() {
		o.Decided(d)
	}
}
