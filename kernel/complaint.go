package kernel

import (
	"fmt"

	"go.uber.org/zap"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/telemetry"
)

// report logs each mistake once, as long as they stay the same.
func (d *distributor) report(err error, found config.Errors) {
	if err.Error() == d.reported {
		return
	}
	d.reported = err.Error()
	if found == nil {
		d.log.Error("the configuration could not be distributed; the last good one stays", zap.Error(err))
	}
	for _, e := range found {
		d.log.Error("mistake in the configuration; the last good one stays", zap.String("mistake", e.Error()))
	}
}

// warnUnsupported names the policies that nobody offers: their routes refuse all requests.
func (d *distributor) warnUnsupported(table *route.Table) {
	routes, first := 0, ""
	for _, r := range table.Routes() {
		if len(r.Unsupported) > 0 {
			routes++
			if first == "" {
				first = fmt.Sprintf("route %q: no worker offers %q", r.Name, r.Unsupported)
			}
		}
	}
	summary := fmt.Sprint(routes, first)
	if routes > 0 && summary != d.unsupported {
		d.log.Warn("routes refuse all requests, because no worker offers a policy of theirs", zap.Int("routes", routes), zap.String("first", first))
	}
	d.unsupported = summary
}

// reportConflicts names the policies that a second worker offers, in the log and as
// policy_kernel_policy_conflicts{worker,policy}, once as long as they stay the same. The worker is the one whose offer is
// ignored. Policies that no route has share the label "unused": what workers offer does not become a label.
func (d *distributor) reportConflicts(cfg *config.Kernel, table *route.Table) {
	used := policiesOf(cfg)
	counts := make(map[string]int)
	for _, c := range table.Conflicts() {
		policy := c.Policy
		if !used[policy] {
			policy = "unused"
		}
		counts[telemetry.Series("policy_kernel_policy_conflicts", "worker", c.Other, "policy", policy)]++
	}
	for _, series := range d.conflictSeries {
		if counts[series] == 0 {
			d.set.UnregisterMetric(series)
		}
	}
	d.conflictSeries = d.conflictSeries[:0]
	for series, n := range counts {
		d.set.GetOrCreateGauge(series, nil).Set(float64(n))
		d.conflictSeries = append(d.conflictSeries, series)
	}
	summary := fmt.Sprint(table.Conflicts())
	if summary != d.conflicts {
		for _, c := range table.Conflicts() {
			d.log.Error("two workers offer the same policy; the owner stays, and what the other one offers under that name is ignored",
				zap.String("policy", c.Policy), zap.String("owner", c.Owner), zap.String("other", c.Other))
		}
	}
	d.conflicts = summary
}

// policiesOf are the names of the policies in the chains of the routes.
func policiesOf(cfg *config.Kernel) map[string]bool {
	used := make(map[string]bool)
	for i := range cfg.Routes {
		for _, flow := range [...]*config.Flow{&cfg.Routes[i].Request, &cfg.Routes[i].Response} {
			for j := range flow.Chain {
				used[flow.Chain[j].Name] = true
			}
		}
	}
	return used
}
