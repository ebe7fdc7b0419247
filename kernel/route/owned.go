package route

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/headername"
)

// OwnedHeaders are the headers of requests that only policies may set. The kernel removes them from what clients send. They are
// immutable.
type OwnedHeaders struct {
	// Headers are removed from the headers of a request.
	Headers *headername.Set
	// Trailers are removed from its trailers: Headers, and what carries credentials.
	Trailers *headername.Set
}

// ownership is what is known of the owned headers of a table's policies. Workers report them when they acknowledge the table's
// generation: after the table was made and, for a worker that is away, perhaps much later.
type ownership struct {
	compiled atomic.Pointer[compiledOwnership]

	mu sync.Mutex
	// missing are the workers that have not reported.
	missing map[string]bool
	// undiscovered: a policy of the configuration may be offered by a worker that has never been there.
	undiscovered bool
	// kept are the chains of routes in keep_on, with the index of their route.
	kept map[uint32]int
	// names, credentials and own, by the index of a route in keep_on, are all that has been reported.
	names, credentials nameSet
	own                map[int]nameSet
}

type nameSet map[string]struct{}

// compiledOwnership answers Table.Owned.
type compiledOwnership struct {
	all OwnedHeaders
	own map[int]*OwnedHeaders
}

// newOwnership prepares for the reports of the workers that have chains.
func (c *compiler) newOwnership(cfg *config.Kernel, routes []Route) *ownership {
	o := &ownership{
		missing: make(map[string]bool, len(c.chains)), kept: make(map[uint32]int),
		names: make(nameSet), credentials: make(nameSet), own: make(map[int]nameSet),
	}
	indices := make(map[string]int)
	for i := range routes {
		o.undiscovered = o.undiscovered || routes[i].Undiscovered
		if slices.Contains(cfg.IdentityHeaders.KeepOn, routes[i].Name) {
			indices[routes[i].Name] = i
			o.own[i] = make(nameSet)
		}
	}
	for worker, chains := range c.chains {
		o.missing[worker] = true
		for _, chain := range chains {
			if i, keeps := indices[chain.RouteName]; keeps {
				o.kept[chain.Id] = i
			}
		}
	}
	o.compile()
	return o
}

// report adds what a replica reports. Replicas of different versions may differ: a header that one of them owns is owned.
func (o *ownership) report(worker string, list []*workerv1.OwnedHeaders) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.missing, worker)
	for _, l := range list {
		o.names.add(l.Names)
		o.credentials.add(l.Credentials)
		if i, kept := o.kept[l.Chain]; kept {
			o.own[i].add(l.Names)
		}
	}
	o.compile()
}

// compile publishes what is known, once all workers have reported.
func (o *ownership) compile() {
	if o.undiscovered || len(o.missing) > 0 {
		return
	}
	if c := o.compiled.Load(); c != nil && c.upToDate(o) {
		return
	}
	c := &compiledOwnership{all: *o.headers(o.names), own: make(map[int]*OwnedHeaders, len(o.own))}
	for i, names := range o.own {
		c.own[i] = o.headers(names)
	}
	o.compiled.Store(c)
}

func (o *ownership) headers(names nameSet) *OwnedHeaders {
	list := slices.Collect(maps.Keys(names))
	return &OwnedHeaders{
		Headers:  headername.NewSet(list),
		Trailers: headername.NewSet(slices.AppendSeq(list, maps.Keys(o.credentials))),
	}
}

// upToDate reports whether nothing was added since; sets only grow.
func (c *compiledOwnership) upToDate(o *ownership) bool {
	for i, names := range o.own {
		if c.own[i].Headers.Len() != len(names) {
			return false
		}
	}
	both := maps.Clone(o.names)
	maps.Copy(both, o.credentials)
	return c.all.Headers.Len() == len(o.names) && c.all.Trailers.Len() == len(both)
}

// add adds names, but for those that no policy may own.
func (s nameSet) add(names []string) {
	for _, name := range names {
		if !headername.Reserved(name) {
			s[headername.Fold(name)] = struct{}{}
		}
	}
}

// Report notes the owned headers of a worker's policies; a policy that is not in the list owns none.
func (t *Table) Report(worker string, list []*workerv1.OwnedHeaders) { t.owned.report(worker, list) }

// Owned returns the headers that are removed from what a client sends on the route, nil while a worker has not reported what its
// policies own. r is nil for a route that is not configured. It takes no lock and does not allocate.
func (t *Table) Owned(r *Route) *OwnedHeaders {
	c := t.owned.compiled.Load()
	if c == nil {
		return nil
	}
	if r != nil && len(c.own) > 0 {
		if own := c.own[r.Index]; own != nil {
			return own
		}
	}
	return &c.all
}
