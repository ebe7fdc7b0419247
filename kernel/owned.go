package kernel

import (
	"slices"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// ownedBook has the owned headers that policies with the same parameters had before: at a reload, their worker may be away.
type ownedBook map[ownedKey]*workerv1.OwnedHeaders

type ownedKey struct{ worker, policy, params string }

// pushed is a table that is being distributed.
type pushed struct {
	table  *route.Table
	chains map[string][]*workerv1.Chain
	// reports are the owned headers by worker; one that is not in it has not reported.
	reports map[string][]*workerv1.OwnedHeaders
}

// acknowledged takes the owned headers that a replica reports, before its acknowledgement of the generation counts.
func (d *distributor) acknowledged(generation uint64, worker string, list []*workerv1.OwnedHeaders) {
	d.mu.Lock()
	table := d.live[generation]
	if p := d.pushing; p != nil && p.table.Generation() == generation {
		table = p.table
		p.reports[worker] = append(p.reports[worker], list...)
	}
	d.mu.Unlock()
	if table != nil {
		table.Report(worker, list)
	}
}

// carryOver copies the owned headers of workers that have not reported for the table's generation from the book, and makes the book of
// the next generation.
func (d *distributor) carryOver(p *pushed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := make(ownedBook)
	for worker, chains := range p.chains {
		if list, reported := p.reports[worker]; reported {
			next.add(worker, chains, list)
		} else if list, all := d.book.of(worker, chains, next); all {
			p.table.Report(worker, list)
		}
	}
	d.book = next
}

// add notes the owned headers of the policies of chains. Several replicas may have reported; what one of them owns is owned.
func (b ownedBook) add(worker string, chains []*workerv1.Chain, list []*workerv1.OwnedHeaders) {
	type place struct{ chain, policy uint32 }
	reports := make(map[place]*workerv1.OwnedHeaders, len(list))
	for _, l := range list {
		at := place{l.Chain, l.Policy}
		reports[at] = merge(reports[at], l)
	}
	for _, c := range chains {
		for i, p := range c.Policies {
			key := keyOf(worker, p)
			b[key] = merge(b[key], reports[place{c.Id, uint32(i)}])
		}
	}
}

// merge returns what either has, never nil; a nil one has nothing.
func merge(a, b *workerv1.OwnedHeaders) *workerv1.OwnedHeaders {
	switch {
	case a == nil && b == nil:
		return &workerv1.OwnedHeaders{}
	case a == nil:
		return b
	case b == nil || equal(a, b):
		return a
	}
	return &workerv1.OwnedHeaders{
		Names:       union(a.Names, b.Names),
		Credentials: union(a.Credentials, b.Credentials),
		Replaced:    union(a.Replaced, b.Replaced),
	}
}

func equal(a, b *workerv1.OwnedHeaders) bool {
	return slices.Equal(a.Names, b.Names) && slices.Equal(a.Credentials, b.Credentials) && slices.Equal(a.Replaced, b.Replaced)
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// of returns the owned headers of the policies of chains, which are copied to the next book; all reports whether each is known.
func (b ownedBook) of(worker string, chains []*workerv1.Chain, next ownedBook) (list []*workerv1.OwnedHeaders, all bool) {
	all = true
	for _, c := range chains {
		for i, p := range c.Policies {
			key := keyOf(worker, p)
			owned, known := b[key]
			if !known {
				all = false
				continue
			}
			next[key] = owned
			list = append(list, &workerv1.OwnedHeaders{Chain: c.Id, Policy: uint32(i), Names: owned.Names, Credentials: owned.Credentials, Replaced: owned.Replaced})
		}
	}
	return list, all
}

func keyOf(worker string, p *workerv1.PolicyInstance) ownedKey {
	return ownedKey{worker, p.Name, string(p.Params)}
}
