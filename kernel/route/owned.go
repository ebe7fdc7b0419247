package route

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/headername"
)

// OwnedHeaders are the headers of requests that only policies may set, for the requests of a route. The kernel removes them from what
// clients send. They are immutable.
type OwnedHeaders struct {
	// Headers are removed from the headers of a request.
	Headers *headername.Set
	// Trailers are removed from its trailers: Headers, and what carries credentials.
	Trailers *headername.Set
	// Replaced are the headers that policies of the route remove or replace: the upstream does not get what the client sent in them.
	// It is nil if there are none.
	Replaced *headername.Set
	// places are the policies that replace headers.
	places map[place][]string
}

// place is a policy in a chain.
type place struct {
	chain  uint32
	policy int
}

// ReplacedBy returns the headers that a policy of the route removes or replaces.
func (o *OwnedHeaders) ReplacedBy(chain uint32, policy int) []string {
	return o.places[place{chain, policy}]
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
	// kept and routes are the indices of the routes of chains: of those in keep_on, and of all request flows.
	kept, routes map[uint32]int
	// names, credentials, own (by the index of a route in keep_on) and replaced (by the index of a route) are all that was reported.
	names, credentials nameSet
	own, replaced      map[int]nameSet
	places             map[place][]string
	changed            bool
	count              int // of the routes
}

type nameSet map[string]struct{}

// compiledOwnership answers Table.Owned.
type compiledOwnership struct {
	all OwnedHeaders
	// byRoute has, by their indices, the routes whose headers are not those of all; it is empty if there are none.
	byRoute []*OwnedHeaders
}

// newOwnership prepares for the reports of the workers that have chains.
func (c *compiler) newOwnership(cfg *config.Kernel, routes []Route) *ownership {
	o := &ownership{
		missing: make(map[string]bool, len(c.chains)), kept: make(map[uint32]int), routes: make(map[uint32]int),
		names: make(nameSet), credentials: make(nameSet), own: make(map[int]nameSet), replaced: make(map[int]nameSet),
		places: make(map[place][]string), changed: true, count: len(routes),
	}
	indices := make(map[string]int, len(routes))
	for i := range routes {
		o.undiscovered = o.undiscovered || routes[i].Undiscovered
		indices[routes[i].Name] = i
		if slices.Contains(cfg.IdentityHeaders.KeepOn, routes[i].Name) {
			o.own[i] = make(nameSet)
		}
	}
	for worker, chains := range c.chains {
		o.missing[worker] = true
		for _, chain := range chains {
			i := indices[chain.RouteName]
			if o.own[i] != nil {
				o.kept[chain.Id] = i
			}
			if !chain.ResponseFlow {
				o.routes[chain.Id] = i
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
		o.add(o.names, l.Names)
		o.add(o.credentials, l.Credentials)
		if i, kept := o.kept[l.Chain]; kept {
			o.add(o.own[i], l.Names)
		}
		if i, known := o.routes[l.Chain]; known && len(l.Replaced) > 0 {
			o.addReplaced(i, place{l.Chain, int(l.Policy)}, l.Replaced)
		}
	}
	o.compile()
}

// add adds names, but for those that no policy may own.
func (o *ownership) add(to nameSet, names []string) {
	for _, name := range names {
		if !headername.Reserved(name) {
			o.addTo(to, name)
		}
	}
}

func (o *ownership) addTo(to nameSet, name string) {
	folded := headername.Fold(name)
	if _, there := to[folded]; !there {
		to[folded] = struct{}{}
		o.changed = true
	}
}

func (o *ownership) addReplaced(route int, at place, names []string) {
	set := o.replaced[route]
	if set == nil {
		set = make(nameSet)
		o.replaced[route] = set
	}
	for _, name := range names {
		if strings.HasPrefix(name, ":") || name == "host" {
			continue // Envoy would not remove it.
		}
		o.addTo(set, name)
		if !slices.Contains(o.places[at], name) {
			o.places[at] = append(slices.Clip(o.places[at]), name)
			o.changed = true
		}
	}
}

// compile publishes what is known, once all workers have reported.
func (o *ownership) compile() {
	if o.undiscovered || len(o.missing) > 0 || !o.changed {
		return
	}
	o.changed = false
	sets := make(interned)
	places := maps.Clone(o.places)
	headers := func(names nameSet) *OwnedHeaders {
		return &OwnedHeaders{Headers: sets.of(names), Trailers: sets.of(names, o.credentials), places: places}
	}
	c := &compiledOwnership{all: *headers(o.names)}
	if len(o.own)+len(o.replaced) > 0 {
		c.byRoute = make([]*OwnedHeaders, o.count)
	}
	for i, names := range o.own {
		c.byRoute[i] = headers(names)
	}
	for i, names := range o.replaced {
		if c.byRoute[i] == nil {
			c.byRoute[i] = &OwnedHeaders{Headers: c.all.Headers, Trailers: c.all.Trailers, places: places}
		}
		c.byRoute[i].Replaced = sets.of(names)
	}
	o.compiled.Store(c)
}

// interned has one Set for all routes with the same names.
type interned map[string]*headername.Set

func (all interned) of(sets ...nameSet) *headername.Set {
	var list []string
	for _, s := range sets {
		list = slices.AppendSeq(list, maps.Keys(s))
	}
	slices.Sort(list)
	key := strings.Join(list, " ")
	set := all[key]
	if set == nil {
		set = headername.NewSet(list)
		all[key] = set
	}
	return set
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
	if r != nil && r.Index < len(c.byRoute) {
		if own := c.byRoute[r.Index]; own != nil {
			return own
		}
	}
	return &c.all
}
