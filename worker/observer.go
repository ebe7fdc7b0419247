package worker

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/policy-engine/policy-engine/telemetry"
	"github.com/policy-engine/policy-engine/worker/chain"
)

// logInterval is how often a failure of the same kind, of a policy on a route, is logged.
const logInterval = 10 * time.Second

// observers make the observers of one generation: one for each policy and route.
type observers struct {
	meters   *meters
	log      *slog.Logger
	throttle *telemetry.Throttle
	made     map[[2]string]*observer
}

func (o *observers) of(policy, route string) *observer {
	key := [2]string{policy, route}
	if o.made[key] == nil {
		o.made[key] = &observer{meters: o.meters.policies[policy], log: o.log, throttle: o.throttle, policy: policy, route: route}
	}
	return o.made[key]
}

// observer counts what a policy does, and logs its failures.
type observer struct {
	meters   *policyMeters
	log      *slog.Logger
	throttle *telemetry.Throttle
	policy   string
	route    string
}

// Ran implements chain.Observer.
func (o *observer) Ran(s chain.Status, d time.Duration) { o.meters.ran(s, d) }

// Slow implements chain.Observer.
func (o *observer) Slow(d time.Duration, moved bool) {
	o.meters.slow.Inc()
	if suppressed, ok := o.throttle.Allow(o.policy + "\x00" + o.route + "\x00slow"); ok {
		o.log.Warn("slow policy: it ran inline for longer than its slice", "policy", o.policy, "route", o.route, "duration", d.String(), "moved_aside", moved, "suppressed", suppressed)
	}
}

// Failed implements chain.Observer.
func (o *observer) Failed(f chain.Failure) {
	o.meters.failures[f.Cause].Inc()
	suppressed, ok := o.throttle.Allow(o.policy + "\x00" + o.route + "\x00" + f.Cause.String())
	if !ok {
		return
	}
	// Sprint, unlike Error, survives an error whose methods panic.
	attrs := []any{
		"policy", o.policy, "route", o.route, "reason", f.Cause.String(), "error", fmt.Sprint(f.Err),
		"request_id", string(f.RequestID), "suppressed", suppressed,
	}
	if f.TraceID != "" {
		attrs = append(attrs, "trace_id", f.TraceID)
	}
	if f.Stack != nil {
		attrs = append(attrs, "stack", string(f.Stack))
	}
	if f.Cause == chain.CauseOverloaded {
		o.log.Warn("policy overloaded: too many of its runs take long", attrs...)
		return
	}
	o.log.Error("policy failed", attrs...)
}

var _ chain.Observer = (*observer)(nil)
