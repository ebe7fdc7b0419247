package route

import (
	"cmp"
	"sync/atomic"
	"time"

	"github.com/policy-engine/policy-engine/config"
)

// Table is one generation of routes. It is immutable; only its count of users changes.
type Table struct {
	generation uint64
	ready      bool
	budget     time.Duration
	terms      Terms
	byName     index
	owned      *ownership
	owners     map[string]string // the worker of each policy
	conflicts  []Conflict
	running    map[string]bool // policies whose owners offer them
	all        []Route         // one after the other, so that no pointer has to be read to find one
	routes     []*Route

	// users is the number of streams that hold the table, plus one while it is the store's current one.
	users   atomic.Int64
	swapped atomic.Bool // given to a store already
	gone    atomic.Bool // told as retired
	retired func(generation uint64)
}

// Terms are what a configuration says of all routes together, and of those that it doesn't know.
type Terms struct {
	// UnknownRoute is deny unless it says continue.
	UnknownRoute config.UnknownRoute
	// RouteNotFoundStatus is the status of a request that no route of Envoy matches.
	RouteNotFoundStatus int
	PolicyNotSupported  config.ImmediateResponse
	WorkerUnavailable   config.ImmediateResponse
	Refusals            config.Refusals
	// MaxBodySize is the longest whole body that is taken, in bytes.
	MaxBodySize int
	// MaxHeaderCount and MaxHeaderSize, in bytes, are what Envoy takes of header fields in one message.
	MaxHeaderCount, MaxHeaderSize int
	// MaxResponseHeaderSize, in bytes, is the same of a response; MaxHTTP1HeaderSize where it comes from an upstream
	// over HTTP/1.
	MaxResponseHeaderSize, MaxHTTP1HeaderSize int
}

// TermsOf are the terms of a configuration.
func TermsOf(cfg *config.Kernel) Terms {
	return Terms{
		UnknownRoute: cfg.UnknownRoute, RouteNotFoundStatus: cmp.Or(cfg.RouteNotFoundStatus, 404), PolicyNotSupported: cfg.PolicyNotSupported, WorkerUnavailable: cfg.WorkerUnavailable, Refusals: cfg.Refusals,
		MaxBodySize:    cfg.Limits.MaxBodySize,
		MaxHeaderCount: cmp.Or(cfg.Limits.MaxHeaderCount, 100), MaxHeaderSize: cmp.Or(cfg.Limits.MaxHeaderSize, defaultHeaderSize),
		MaxResponseHeaderSize: cmp.Or(cfg.Limits.MaxResponseHeaderSize, max(cfg.Limits.MaxHeaderSize, defaultHeaderSize)),
		MaxHTTP1HeaderSize:    cmp.Or(cfg.Limits.MaxResponseHeaderSize, max(cfg.Limits.MaxHeaderSize, defaultHTTP1HeaderSize)),
	}
}

// What Envoy takes of header fields, in bytes: of requests and of responses over HTTP/2 and HTTP/3 (codec_client.cc),
// and of responses over HTTP/1 (http1/codec_impl.h).
const (
	defaultHeaderSize      = 60 * 1024
	defaultHTTP1HeaderSize = 80 * 1024
)

// newTable makes a table of routes with different names, which it numbers.
func newTable(generation uint64, all []Route) *Table {
	t := &Table{generation: generation, ready: true, owned: new(ownership), all: all, routes: make([]*Route, len(all))}
	names := make([]string, len(all))
	for i := range all {
		all[i].Index = i
		names[i] = all[i].Name
		t.routes[i] = &all[i]
	}
	t.byName = newIndex(names)
	return t
}

// Generation returns the table's generation, 0 for the one that stands in before the first Swap.
func (t *Table) Generation() uint64 { return t.generation }

// Budget is the longest that the calls for one message may take on a route with Bodies: Envoy waits longer (`policyctl envoy`), so that the kernel's answer comes first.
func (t *Table) Budget() time.Duration { return t.budget }

// Terms are those of the configuration that the table was compiled from. The caller must not change them.
func (t *Table) Terms() *Terms { return &t.terms }

// Ready reports whether the table was compiled from a configuration. In one that was not, no route is known and none may be taken for unknown: every
// request is refused as worker_unavailable.
func (t *Table) Ready() bool { return t.ready }

// Lookup returns the route of that name, or nil if it is unknown. It does not allocate, keeps no reference to name, and its cost does not depend on the number
// of routes, other than by how much of them the processor's caches hold.
func (t *Table) Lookup(name string) *Route {
	if i := t.byName.find(name); i >= 0 {
		return &t.all[i]
	}
	return nil
}

// Routes returns all routes by their index. The caller must not change the slice.
func (t *Table) Routes() []*Route { return t.routes }

// Release ends the use that began with Store.Acquire. The table must not be used after it.
func (t *Table) Release() {
	switch users := t.users.Add(-1); {
	case users > 0:
	case users < 0:
		panic("route: table released more often than acquired")
	// An Acquire that lost against a Swap may bring the count to 0 a second time.
	case t.gone.CompareAndSwap(false, true):
		// The stand-in before the first Swap was on no worker.
		if t.ready && t.retired != nil {
			t.retired(t.generation)
		}
	}
}

// Store holds the current table behind one atomic pointer.
type Store struct {
	current atomic.Pointer[Table]
	retired func(generation uint64)
}

// NewStore makes a store whose table is not Ready, and has only terms. retired is called once for each table that was swapped in, when another has replaced it and its last user
// has released it, on the goroutine of whoever was last. It must not block; nil is legal.
func NewStore(terms Terms, retired func(generation uint64)) *Store {
	s := &Store{retired: retired}
	t := &Table{byName: newIndex(nil), terms: terms, owned: new(ownership)}
	t.users.Store(1)
	t.swapped.Store(true)
	s.current.Store(t)
	return s
}

// Acquire returns the current table, counted: the caller owes it one Release. It takes no lock and does not allocate.
func (s *Store) Acquire() *Table {
	for {
		if t := s.current.Load(); s.hold(t) {
			return t
		}
	}
}

// hold counts a use of t, which was current a moment ago, and reports whether it still is: only then it can't have been retired, because the store's own use was in
// the count. Otherwise the use is taken back.
func (s *Store) hold(t *Table) bool {
	t.users.Add(1)
	// Fast path.
	if s.current.Load() == t {
		return true
	}
	// Slow path: a Swap came between.
	t.Release()
	return false
}

// Swap makes t the current table. Every table is swapped in once at most: tables that come back would be retired while in use.
func (s *Store) Swap(t *Table) {
	if !t.swapped.CompareAndSwap(false, true) {
		panic("route: table swapped in twice")
	}
	t.retired = s.retired
	t.users.Store(1)
	s.current.Swap(t).Release()
}

// Current returns the current table without counting its use: for pages that show it, not for requests.
func (s *Store) Current() *Table { return s.current.Load() }
