package kernel

import (
	"maps"
	"strings"
	"sync/atomic"

	"github.com/VictoriaMetrics/metrics"

	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/telemetry"
)

const (
	// noPolicy is the policy of decisions that no policy made.
	noPolicy = "none"
	// maxReasons is how many reasons of one policy on one route have series of their own.
	maxReasons = 32
	// otherReason has all further ones.
	otherReason = "other"
)

// reasons are the series of policy_kernel_decisions_total of one route, by policy. Readers take no lock; maps are replaced under Observer.mu.
type reasons struct {
	byPolicy atomic.Pointer[map[string]*policyReasons]
}

// policyReasons are those of one policy.
type policyReasons struct {
	byReason atomic.Pointer[map[string]*metrics.Counter]
	// other counts what has no series of its own: those beyond maxReasons. It is nil until there are so many.
	other atomic.Pointer[metrics.Counter]
}

// countReason counts a decision by the policy that made it and its reason: what a policy that decided says, else the status. Policies are those of the route's
// configuration, and reasons are words of the code of workers and kernel; a worker that makes ever new ones fills up its share of series and no more.
func (o *Observer) countReason(r *routeSeries, d *extproc.Decision) {
	policy, reason := d.Policy, d.Reason
	switch d.Status {
	case extproc.StatusAllowed, extproc.StatusDenied, extproc.StatusResponded:
	default:
		reason = d.Status.String()
	}
	if reason == "" {
		reason = d.Status.String()
	}
	if policy == "" {
		policy = noPolicy
	}
	// Fast path: it was counted before.
	if all := r.reasons.byPolicy.Load(); all != nil {
		if p := (*all)[policy]; p != nil {
			if c := (*p.byReason.Load())[reason]; c != nil {
				c.Inc()
				return
			}
			if c := p.other.Load(); c != nil {
				c.Inc()
				return
			}
		}
	}
	// Slow path: once per policy and reason.
	o.addReason(r, d.Route, policy, reason).Inc()
}

// addReason makes the series of a reason.
func (o *Observer) addReason(r *routeSeries, of *route.Route, policy, reason string) *metrics.Counter {
	o.mu.Lock()
	defer o.mu.Unlock()
	if policy != noPolicy && !hasPolicy(of, policy) {
		policy = noPolicy
	}
	p := r.reasons.policy(policy)
	known := *p.byReason.Load()
	c := known[reason]
	switch {
	case c != nil:
		return c
	case len(known) >= maxReasons || httpsyntax.Reason(reason) != nil:
		c = o.set.GetOrCreateCounter(reasonSeries(r.name, policy, otherReason))
		if len(known) >= maxReasons {
			p.other.Store(c)
		}
		return c
	}
	reason = strings.Clone(reason) // It is the worker's memory.
	c = o.set.GetOrCreateCounter(reasonSeries(r.name, policy, reason))
	all := maps.Clone(known)
	all[reason] = c
	p.byReason.Store(&all)
	return c
}

// policy returns the series of a policy.
func (r *reasons) policy(name string) *policyReasons {
	var all map[string]*policyReasons
	if known := r.byPolicy.Load(); known != nil {
		if p := (*known)[name]; p != nil {
			return p
		}
		all = maps.Clone(*known)
	} else {
		all = make(map[string]*policyReasons)
	}
	p := new(policyReasons)
	p.byReason.Store(&map[string]*metrics.Counter{})
	all[strings.Clone(name)] = p
	r.byPolicy.Store(&all)
	return p
}

// forget drops the policies that are gone, and returns the names of their series.
func (r *reasons) forget(route string, gone func(policy string) bool) (series []string) {
	known := r.byPolicy.Load()
	if known == nil {
		return nil
	}
	kept := make(map[string]*policyReasons)
	for policy, p := range *known {
		if !gone(policy) {
			kept[policy] = p
			continue
		}
		for reason := range *p.byReason.Load() {
			series = append(series, reasonSeries(route, policy, reason))
		}
		series = append(series, reasonSeries(route, policy, otherReason))
	}
	if len(kept) < len(*known) {
		r.byPolicy.Store(&kept)
	}
	return series
}

func reasonSeries(route, policy, reason string) string {
	return telemetry.Series(decisionsTotal, "route", route, "policy", policy, "reason", reason)
}

// hasPolicy reports whether the configuration of a route has the policy.
func hasPolicy(r *route.Route, policy string) bool {
	return r != nil && r.Has(policy)
}
