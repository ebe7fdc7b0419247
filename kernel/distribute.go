package kernel

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/zap"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/kernel/workers"
	"github.com/policy-engine/policy-engine/limits"
)

const (
	// retryAfter is after how long a table that could not be distributed is tried again: what a worker missed may have come.
	retryAfter = 10 * time.Second
	// startTime is how long after the start a mistake of the configuration still ends the process, even if some worker has accepted its part.
	startTime = 10 * time.Second
	// settleTime is how long a reload waits for workers that are new to say what they offer.
	settleTime = 3 * time.Second
	// forgetTime is how long the search for series of routes that are gone may hold up the distributor at a time, and how long it then waits.
	forgetTime, forgetPause = 200 * time.Millisecond, time.Second
)

// distributor brings tables into use: compile, push to the workers, swap. It does so at the start, whenever the workers' offers change, and for each reload.
type distributor struct {
	registry *workers.Registry
	routes   *route.Store
	observer *Observer
	bodies   *extproc.Budget
	log      *zap.Logger
	changed  chan struct{}
	reloads  chan reload
	retired  chan struct{}
	now      func() time.Time
	started  time.Time
	// generations of a kernel have the same random high 32 bits, so that those of two kernels, or of one before and after a restart, are never taken for each other.
	generation uint64
	// accepted: workers have accepted a table that was made for at least one of them. complete: one that was made for all.
	accepted, complete bool
	// serving is called when a table is in use that is worth staying for, perhaps more than once. It may be nil.
	serving     func()
	reported    string
	unsupported string
	conflicts   string // as reported last
	// conflictSeries are the gauges of the conflicts that were reported last.
	conflictSeries []string
	set            *metrics.Set

	mu sync.Mutex
	// cfg is the configuration in use, or that shall be at the start.
	cfg *config.Kernel
	// problem is why the newest configuration is not in use.
	problem string
	// offers counts the changes of the workers' offers, distributed those of them that the last attempt took into account.
	offers, distributed uint64
	// pushing is the table that is being distributed; nil if none is. book has the owned headers that policies had before.
	pushing *pushed
	book    ownedBook
	// live are the tables that streams use, by generation.
	live map[uint64]*route.Table
}

// reload asks for a configuration to be brought into use, and is told the outcome.
type reload struct {
	cfg  *config.Kernel
	done chan<- error
}

func newDistributor(cfg *config.Kernel, registry *workers.Registry, observer *Observer, bodies *extproc.Budget, log *zap.Logger, set *metrics.Set, now func() time.Time) *distributor {
	d := &distributor{
		cfg: cfg, registry: registry, observer: observer, bodies: bodies, log: log, set: set, now: now, started: now(),
		changed: make(chan struct{}, 1), reloads: make(chan reload), retired: make(chan struct{}, 1),
		generation: uint64(rand.Uint32()|1) << 32, problem: "not distributed yet", live: make(map[uint64]*route.Table),
	}
	d.routes = route.NewStore(route.TermsOf(cfg), d.retire)
	return d
}

// offersChanged asks for a new table. It does not block.
func (d *distributor) offersChanged() {
	d.mu.Lock()
	d.offers++
	d.mu.Unlock()
	wake(d.changed) // run will look at all that has changed.
}

// retire is told of tables that no stream uses any more. It does not block.
func (d *distributor) retire(generation uint64) {
	d.mu.Lock()
	delete(d.live, generation)
	d.mu.Unlock()
	d.registry.Retire(generation)
	wake(d.retired)
}

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// config is the configuration in use, or the one that shall be at the start.
func (d *distributor) config() *config.Kernel {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg
}

// run distributes until ctx ends. It returns mistakes of the configuration if no good table is in use.
func (d *distributor) run(ctx context.Context) error {
	var retry, forget <-chan time.Time
	settled := time.After(startTime + time.Second) // By then, workers that are there have told.
	attempt := func() error {
		retry = nil
		select {
		case <-d.changed: // What has changed up to here is looked at now: another table with it would be the same.
		default:
		}
		err := d.distribute(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		found := mistakes(d.config(), err)
		if found != nil && !d.good() {
			return found
		}
		d.report(err, found)
		retry = time.After(retryAfter)
		return nil
	}
	for err := attempt(); ; {
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.changed:
			err = attempt()
		case <-retry:
			err = attempt()
		case <-settled:
			d.announce()
		case r := <-d.reloads:
			failed := d.reload(ctx, r.cfg)
			r.done <- failed
			if failed == nil {
				retry = nil
			}
		case <-d.retired:
			forget = time.After(0)
		case <-forget:
			forget = nil
			if d.observer.Forget(d.tables(), forgetTime) {
				forget = time.After(forgetPause)
			}
		}
	}
}

// announce has health checkers told that requests are answered as the configuration says.
func (d *distributor) announce() {
	if d.good() && d.serving != nil {
		d.serving()
	}
}

// good reports whether a table is in use that is worth staying for.
func (d *distributor) good() bool {
	return d.complete || d.accepted && d.now().Sub(d.started) > startTime
}

// distribute makes the next generation of the configuration, from what the workers offer now, the current one.
func (d *distributor) distribute(ctx context.Context) (err error) {
	defer limits.Busy()() // Not aside: without it, requests may have to be refused.
	known := d.known()
	defer func() { d.settle(known, err) }()
	return d.bring(ctx, d.config(), d.registry.Offers(), d.registry.Push, nil)
}

// reload makes another configuration the one in use. If that fails, nothing has changed.
func (d *distributor) reload(ctx context.Context, cfg *config.Kernel) error {
	known := d.known()
	stage := d.registry.Stage(cfg.Workers)
	settle, cancel := context.WithTimeout(ctx, settleTime)
	stage.Settle(settle)
	cancel()
	offers := stage.Offers()
	if err := d.bring(ctx, cfg, offers, stage.Push, func(t *route.Table) error { return losses(cfg, t, d.routes.Current(), offers) }); err != nil {
		stage.Drop()
		if found := mistakes(cfg, err); found != nil {
			return found
		}
		return err
	}
	stage.Adopt()
	d.settle(known, nil)
	return nil
}

// known is what settle wants to know of the time before.
func (d *distributor) known() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.offers
}

// settle notes the outcome of bringing a table into use that took the known offers into account.
func (d *distributor) settle(known uint64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.problem, d.distributed = "", known
	if err != nil {
		d.problem = err.Error()
	}
}

// bring compiles the next generation, pushes it and makes it the current one, unless check, which may be nil, has something against it.
func (d *distributor) bring(ctx context.Context, cfg *config.Kernel, offers []route.Offer,
	push func(context.Context, uint64, map[string][]*workerv1.Chain) error, check func(*route.Table) error,
) error {
	d.generation++
	previous := d.routes.Current()
	if !previous.Ready() || !d.complete {
		previous = nil // The kernel starts: the order of the workers in the configuration decides.
	}
	table, chains, err := route.CompileAfter(previous, d.generation, cfg, offers)
	if err == nil && check != nil {
		err = check(table)
	}
	if err != nil {
		return err
	}
	p := &pushed{table: table, chains: chains, reports: make(map[string][]*workerv1.OwnedHeaders)}
	d.setPushing(p)
	defer d.setPushing(nil)
	if err := push(ctx, d.generation, chains); err != nil {
		return err
	}
	d.carryOver(p)
	d.use(cfg, table)
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
	d.reportConflicts(cfg, table)
	d.announce()
	limits.Trim()
	return nil
}

func (d *distributor) setPushing(p *pushed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pushing = p
}

// use swaps a table in, with all that belongs to its configuration and is not in the table.
func (d *distributor) use(cfg *config.Kernel, table *route.Table) {
	d.mu.Lock()
	d.cfg = cfg
	d.live[table.Generation()] = table
	d.mu.Unlock()
	d.observer.Follow(table)
	d.bodies.SetMax(cfg.Limits.MaxTotalBodySize)
	d.routes.Swap(table)
}

// tables are those that streams use.
func (d *distributor) tables() (all []*route.Table) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.live {
		all = append(all, t)
	}
	return all
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
