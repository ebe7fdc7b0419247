package kernel

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/telemetry"
)

// Follow makes place for the routes of a table that is about to be swapped in, and finds those of them that have series already.
func (o *Observer) Follow(t *route.Table) {
	o.mu.Lock()
	defer o.mu.Unlock()
	slots := make([]atomic.Pointer[routeSeries], len(t.Routes())+1)
	for i, r := range t.Routes() {
		slots[i+1].Store(o.byName[r.Name])
	}
	slots[0].Store(o.byName[unknownRoute])
	o.slots.Store(&slots)
}

// Forget takes away the series of routes, and of workers of routes, that are in none of the tables, which are all that streams use. It stops after about the given time, because the library
// searches for each series among all, and then says that there is more.
func (o *Observer) Forget(live []*route.Table, atMost time.Duration) (more bool) {
	names, workers, workerNames := map[string]bool{unknownRoute: true}, map[route.Evaluator]bool{nil: true}, map[string]bool{noWorker: true}
	for _, t := range live {
		for _, r := range t.Routes() {
			names[r.Name] = true
			for _, p := range [...]*route.Plan{&r.Request, &r.Response} {
				for _, segments := range [...][]route.Segment{p.Headers, p.Body, p.Trailers} {
					for i := range segments {
						if w := segments[i].Worker; !workers[w] {
							workers[w], workerNames[w.Name()] = true, true
						}
					}
				}
			}
		}
	}
	for _, r := range o.known() {
		began := time.Now()
		for _, w := range o.forget(r, func(w *workerSeries) bool { return !names[r.name] || !workers[w.worker] }) {
			if names[r.name] && workerNames[w.name] {
				continue // A worker that took the place of one of its name counts on in the same series.
			}
			for _, series := range w.series(r.name) {
				o.set.UnregisterMetric(series)
			}
		}
		for _, series := range o.forgetReasons(r, live) {
			o.set.UnregisterMetric(series)
		}
		if atMost -= time.Since(began); atMost < 0 {
			return true
		}
	}
	return false
}

func (o *Observer) known() []*routeSeries {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Values(o.byName))
}

// forget drops what is gone of a route, and returns it. A route that comes back gets new series: Follow is called first, and finds nothing.
func (o *Observer) forget(r *routeSeries, gone func(*workerSeries) bool) (dropped []*workerSeries) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var kept []*workerSeries
	for _, w := range *r.workers.Load() {
		if gone(w) {
			dropped = append(dropped, w)
		} else {
			kept = append(kept, w)
		}
	}
	if len(dropped) > 0 {
		r.workers.Store(&kept)
	}
	if len(kept) == 0 {
		delete(o.byName, r.name)
	}
	return dropped
}

// forgetReasons drops the reasons of policies that the route has in no table, and returns the names of their series; all, if the route is gone.
func (o *Observer) forgetReasons(r *routeSeries, live []*route.Table) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byName[r.name] != r {
		return r.reasons.forget(r.name, func(string) bool { return true })
	}
	return r.reasons.forget(r.name, func(policy string) bool {
		return policy != noPolicy && !slices.ContainsFunc(live, func(t *route.Table) bool { return hasPolicy(t.Lookup(r.name), policy) })
	})
}

// series are the names of all that was counted.
func (w *workerSeries) series(route string) []string {
	all := []string{telemetry.Series(requestDuration, "route", route, "worker", w.name)}
	for metric, outcomes := range map[string]*[numStatuses]outcome{requestsTotal: &w.requests, responseFailures: &w.answers, toleratedFailures: &w.tolerated} {
		for status := range outcomes {
			if outcomes[status].counter.Load() != nil {
				all = append(all, telemetry.Series(metric, "route", route, "worker", w.name, "status", extproc.Status(status).String()))
			}
		}
	}
	return all
}
