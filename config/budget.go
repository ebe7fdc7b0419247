package config

import (
	"cmp"
	"time"
)

// PhaseBudget is the longest that the calls of one phase may take, on any route: a call per policy when workers may alternate, else one.
func (k *Kernel) PhaseBudget() time.Duration {
	var slowest time.Duration
	for i := range k.Workers {
		slowest = max(slowest, k.Workers[i].Timeout)
	}
	calls := 0
	for i := range k.Routes {
		r := &k.Routes[i]
		calls = max(calls, len(r.Request.Chain), len(r.Response.Chain))
	}
	if len(k.Workers) < 2 {
		calls = min(calls, 1)
	}
	return cmp.Or(time.Duration(calls)*slowest, 500*time.Millisecond)
}

// MessageBudget is the longest that the calls for one message of Envoy may take where policies take part in bodies or trailers. A message may stand for two phases: headers
// and the body that does not follow, the end of a body and its trailers. A chunk may be many calls; they get no more time.
func (k *Kernel) MessageBudget() time.Duration { return 2 * k.PhaseBudget() }
