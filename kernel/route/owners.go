package route

import (
	"cmp"
	"slices"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
)

// Conflict is a policy that two worker names offer. Owner runs it; what Other offers under that name is ignored.
type Conflict struct {
	Policy string `json:"policy"`
	Owner  string `json:"owner"`
	Other  string `json:"other"`
}

// Conflicts returns the policies that several worker names offer, in the order of the workers in the configuration. The caller
// must not change the slice.
func (t *Table) Conflicts() []Conflict { return t.conflicts }

// owner is the worker that offers a policy.
type owner struct {
	offer      *Offer
	descriptor *workerv1.PolicyDescriptor
}

// collectOwners finds the worker of each policy. The owner in the previous table stays the owner for as long as it is
// configured and offers the policy: a worker that comes with another's policy changes nothing. Without a previous table,
// the worker that the configuration names first is the owner: whichever worker connects first, a later one neither takes
// a policy from an earlier one nor ends the start.
func (c *compiler) collectOwners(cfg *config.Kernel, offers []Offer, previous *Table) {
	c.owners = make(map[string]owner)
	positions := make(map[string]int, len(cfg.Workers))
	for i := range cfg.Workers {
		positions[cfg.Workers[i].Name] = i
	}
	offers = slices.Clone(offers)
	slices.SortStableFunc(offers, func(a, b Offer) int { return cmp.Compare(positions[a.Worker.Name()], positions[b.Worker.Name()]) })
	known := make(map[string]bool, len(offers))
	for i := range offers {
		o := &offers[i]
		if known[o.Worker.Name()] = o.Discovered; !o.Discovered {
			c.undiscovered = true
		}
	}
	for i := range cfg.Workers {
		c.undiscovered = c.undiscovered || !known[cfg.Workers[i].Name]
	}
	// The policies of a configured worker that has not said what it offers are run by no other one.
	c.away = make(map[string]bool)
	for name := range positions {
		c.away[name] = !known[name]
	}
	for i := range offers {
		o := &offers[i]
		if !o.Discovered {
			continue
		}
		name := o.Worker.Name()
		for _, d := range o.Policies {
			first, twice := c.owners[d.Name]
			before, owned := previous.ownerOf(d.Name)
			switch {
			case owned && c.away[before]:
				c.conflicts = append(c.conflicts, Conflict{d.Name, before, name})
			case !twice:
				c.owners[d.Name] = owner{o, d}
			case owned && before == name:
				c.conflicts = append(c.conflicts, Conflict{d.Name, name, first.offer.Worker.Name()})
				c.owners[d.Name] = owner{o, d}
			default:
				c.conflicts = append(c.conflicts, Conflict{d.Name, first.offer.Worker.Name(), name})
			}
		}
	}
	// Of three, the owner may have come last.
	for i := range c.conflicts {
		if o, ok := c.owners[c.conflicts[i].Policy]; ok {
			c.conflicts[i].Owner = o.offer.Worker.Name()
		}
	}
	c.conflicts = slices.DeleteFunc(c.conflicts, func(x Conflict) bool { return x.Owner == x.Other })
}

// Runs reports whether a worker of the table runs the policy: its owner has said that it offers it. An offer that is
// ignored, because the policy is another worker's, does not count.
func (t *Table) Runs(policy string) bool { return t.running[policy] }

// ownerOf returns the name of the worker that a policy belongs to in the table; a nil table has none.
func (t *Table) ownerOf(policy string) (worker string, owned bool) {
	if t == nil {
		return "", false
	}
	worker, owned = t.owners[policy]
	return worker, owned
}

// ownerNames are the names of the workers by policy, with those of the previous table whose worker is away.
func (c *compiler) ownerNames(previous *Table) map[string]string {
	names := make(map[string]string, len(c.owners))
	for policy, o := range c.owners {
		names[policy] = o.offer.Worker.Name()
	}
	if previous == nil {
		return names
	}
	for policy, worker := range previous.owners {
		if names[policy] == "" && c.away[worker] {
			names[policy] = worker
		}
	}
	return names
}
