package route

import (
	"maps"
	"slices"
	"sync/atomic"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// Claims are the headers of requests that only policies of a worker may set, by the policies' places. The worker tells them when it acknowledges the table's generation: so they come after
// the table was made, and perhaps long after, when no replica is there.
type Claims struct {
	told atomic.Pointer[map[place][]string]
}

// place is a policy in a chain.
type place struct {
	chain uint32
	index int
}

// Of tells what a policy claims. known is false while the worker has not told.
func (c *Claims) Of(chain uint32, index int) (names []string, known bool) {
	if c == nil {
		return nil, true // The table was not compiled: there is no worker to tell.
	}
	told := c.told.Load()
	if told == nil {
		return nil, false
	}
	return (*told)[place{chain, index}], true
}

// tell adds what a replica tells. Replicas of different versions may differ: what one of them claims is claimed.
func (c *Claims) tell(list []*workerv1.Claims) {
	for {
		before := c.told.Load()
		after := make(map[place][]string)
		if before != nil {
			after = maps.Clone(*before)
		}
		for _, l := range list {
			at := place{l.Chain, int(l.Policy)}
			after[at] = union(after[at], l.Names)
		}
		if c.told.CompareAndSwap(before, &after) {
			return
		}
	}
}

func union(a, b []string) []string {
	all := a[:len(a):len(a)]
	for _, name := range b {
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

// Tell notes what the policies of a worker claim; of those that are not in the list, nothing.
func (t *Table) Tell(worker string, list []*workerv1.Claims) {
	if c := t.claims[worker]; c != nil {
		c.tell(list)
	}
}

// Told reports whether a worker has told.
func (t *Table) Told(worker string) bool {
	c := t.claims[worker]
	return c == nil || c.told.Load() != nil
}
