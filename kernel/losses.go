package kernel

import (
	"strings"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// losses refuses a reload after which routes would refuse all requests that don't now, because nobody offers a policy of theirs: in a configuration that is taken over while the workers
// run, that is a mistake, or comes too early. Routes that refuse their requests already may go on so. The error is a config.Errors.
func losses(cfg *config.Kernel, next, current *route.Table, offers []route.Offer) error {
	if !current.Ready() {
		return nil
	}
	var silent []string
	for _, o := range offers {
		if !o.Discovered {
			silent = append(silent, o.Worker.Name())
		}
	}
	why := "legal are those of policy_kernel.workers"
	if len(silent) > 0 {
		why += "; not heard of yet: " + strings.Join(silent, ", ")
	}
	refuses := func(r *route.Route) bool { return r != nil && (r.Undiscovered || len(r.Unsupported) > 0) }
	var errs config.Errors
	for i := range cfg.Routes {
		r := &cfg.Routes[i]
		if !refuses(next.Lookup(r.Name)) || refuses(current.Lookup(r.Name)) {
			continue
		}
		for _, flow := range [...]*config.Flow{&r.Request, &r.Response} {
			for j := range flow.Chain {
				if p := &flow.Chain[j]; !next.Runs(p.Name) {
					errs.Add(p.Pos, "no worker offers policy %q; %s", p.Name, why)
				}
			}
		}
	}
	return errs.Err()
}
