package kernel

import (
	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// claimBook remembers what policies with the same parameters claimed before: at a reload, the worker may be gone whose policies a request shall go on without.
type claimBook map[claimKey][]string

type claimKey struct{ worker, policy, params string }

// pushed is a table that is being distributed.
type pushed struct {
	table  *route.Table
	chains map[string][]*workerv1.Chain
	// told is what the workers have told of their policies; one that is not in it has not.
	told map[string][]*workerv1.Claims
}

// acknowledged is told what the policies of a worker claim, before the worker's acknowledgement of the generation counts.
func (d *distributor) acknowledged(generation uint64, worker string, list []*workerv1.Claims) {
	d.mu.Lock()
	table := d.live[generation]
	if p := d.pushing; p != nil && p.table.Generation() == generation {
		table = p.table
		p.told[worker] = append(p.told[worker], list...)
	}
	d.mu.Unlock()
	if table != nil {
		table.Tell(worker, list)
	}
}

// recall lets a table that is about to be used know what workers claimed before that have not told now, and makes the book of the next time.
func (d *distributor) recall(p *pushed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := make(claimBook)
	for worker, chains := range p.chains {
		if list, told := p.told[worker]; told {
			next.learn(worker, chains, list)
		} else if list, all := d.book.claims(worker, chains, next); all {
			p.table.Tell(worker, list)
		}
	}
	d.book = next
}

// learn notes what the policies of chains claim.
func (b claimBook) learn(worker string, chains []*workerv1.Chain, list []*workerv1.Claims) {
	type place struct{ chain, policy uint32 }
	names := make(map[place][]string, len(list))
	for _, l := range list {
		names[place{l.Chain, l.Policy}] = l.Names
	}
	for _, c := range chains {
		for i, p := range c.Policies {
			if p.TellClaims {
				b[keyOf(worker, p)] = names[place{c.Id, uint32(i)}]
			}
		}
	}
}

// claims is what the policies of chains are known to claim, which is copied to the next book; all reports whether it is known of each.
func (b claimBook) claims(worker string, chains []*workerv1.Chain, next claimBook) (list []*workerv1.Claims, all bool) {
	all = true
	for _, c := range chains {
		for i, p := range c.Policies {
			if !p.TellClaims {
				continue
			}
			key := keyOf(worker, p)
			names, known := b[key]
			if !known {
				all = false
				continue
			}
			next[key] = names
			list = append(list, &workerv1.Claims{Chain: c.Id, Policy: uint32(i), Names: names})
		}
	}
	return list, all
}

func keyOf(worker string, p *workerv1.PolicyInstance) claimKey {
	return claimKey{worker, p.Name, string(p.Params)}
}
