package kernel

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/kernel/workers"
	"github.com/policy-engine/policy-engine/limits"
)

const (
	// retryAfter is after how long a table that could not be distributed is tried again: what a worker missed may have come.
	retryAfter = 10 * time.Second
	// startTime is how long after the start a mistake of the configuration still ends the process, even if some worker has accepted its part.
	startTime = 10 * time.Second
)

// distributor brings tables into use: compile, push to the workers, swap. It does so at the start, and whenever the workers' offers change.
type distributor struct {
	cfg      *config.Kernel
	registry *workers.Registry
	routes   *route.Store
	log      *zap.Logger
	changed  chan struct{}
	now      func() time.Time
	started  time.Time
	// generations of a kernel have the same random high 32 bits, so that those of two kernels, or of one before and after a restart, are never taken for each other.
	generation uint64
	// accepted: workers have accepted a table that was made for at least one of them. complete: one that was made for all.
	accepted, complete bool
	reported           string
	unsupported        string

	mu sync.Mutex
	// problem is why the newest configuration is not in use.
	problem string
	// offers counts the changes of the workers' offers, distributed those of them that the last attempt took into account.
	offers, distributed uint64
}

func newDistributor(cfg *config.Kernel, registry *workers.Registry, routes *route.Store, log *zap.Logger, now func() time.Time) *distributor {
	return &distributor{
		cfg: cfg, registry: registry, routes: routes, log: log, changed: make(chan struct{}, 1), now: now, started: now(),
		generation: uint64(rand.Uint32()|1) << 32, problem: "not distributed yet",
	}
}

// offersChanged asks for a new table. It does not block.
func (d *distributor) offersChanged() {
	d.mu.Lock()
	d.offers++
	d.mu.Unlock()
	select {
	case d.changed <- struct{}{}:
	default: // run will look at all that has changed.
	}
}

// run distributes until ctx ends. It returns mistakes of the configuration if no good table is in use.
func (d *distributor) run(ctx context.Context) error {
	for {
		var retry <-chan time.Time
		if err := d.distribute(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			found := mistakes(d.cfg, err)
			if found != nil && !d.good() {
				return found
			}
			d.report(err, found)
			retry = time.After(retryAfter)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.changed:
		case <-retry:
		}
	}
}

// good reports whether a table is in use that is worth staying for.
func (d *distributor) good() bool {
	return d.complete || d.accepted && d.now().Sub(d.started) > startTime
}

// distribute makes the next generation, from what the workers offer now, the current one.
func (d *distributor) distribute(ctx context.Context) (err error) {
	d.mu.Lock()
	known := d.offers
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.problem, d.distributed = "", known
		if err != nil {
			d.problem = err.Error()
		}
	}()
	d.generation++
	offers := d.registry.Offers()
	table, chains, err := route.Compile(d.generation, d.cfg, offers)
	if err != nil {
		return err
	}
	if err := d.registry.Push(ctx, d.generation, chains); err != nil {
		return err
	}
	d.routes.Swap(table)
	discovered := 0
	for _, o := range offers {
		if o.Discovered {
			discovered++
		}
	}
	d.accepted = d.accepted || discovered > 0
	d.complete = d.complete || discovered == len(offers)
	d.reported = ""
	d.log.Info("configuration in use", zap.Uint64("generation", table.Generation()), zap.Int("routes", len(table.Routes())),
		zap.Int("workers", len(offers)), zap.Int("workers_discovered", discovered))
	d.warnUnsupported(table)
	limits.Trim()
	return nil
}

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

// state is why the newest configuration is not in use; empty if it is.
func (d *distributor) state() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.problem == "" && d.distributed != d.offers {
		return "a table for what the workers offer now is on its way"
	}
	return d.problem
}
