package workers

import (
	"slices"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// Offers is what each worker name offers now, in the order of the configuration.
func (reg *Registry) Offers() []route.Offer {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	return offersOf(reg.workers)
}

// offersOf is what workers offer. The registry's mu is held.
func offersOf(workers []*Worker) []route.Offer {
	offers := make([]route.Offer, 0, len(workers))
	for _, w := range workers {
		o := w.offer()
		offers = append(offers, route.Offer{Worker: w, Timeout: w.timeout, Discovered: o.discovered, Policies: o.policies})
	}
	return offers
}

// offer is what a worker name offers.
type offer struct {
	discovered bool
	policies   []*workerv1.PolicyDescriptor
}

// offer is what all replicas that were ever discovered offer: the policies that each of them has. The last word of a replica counts while it is down, so that a
// restart changes nothing. The registry's mu is held.
func (w *Worker) offer() offer {
	var o offer
	for _, r := range w.replicas {
		switch {
		case !r.discovered:
		case !o.discovered:
			o = offer{discovered: true, policies: slices.Clone(r.policies)}
		default:
			o.policies = slices.DeleteFunc(o.policies, func(p *workerv1.PolicyDescriptor) bool {
				return !slices.ContainsFunc(r.policies, func(q *workerv1.PolicyDescriptor) bool { return p.Name == q.Name })
			})
		}
	}
	return o
}

// equal compares what a compiler of routes looks at, the version aside.
func (o offer) equal(p offer) bool {
	return o.discovered == p.discovered && slices.EqualFunc(o.policies, p.policies, func(a, b *workerv1.PolicyDescriptor) bool {
		return a.Name == b.Name && slices.Equal(a.Phases, b.Phases) &&
			a.NeedsWholeRequestBody == b.NeedsWholeRequestBody && a.NeedsWholeResponseBody == b.NeedsWholeResponseBody &&
			a.DecodesBodies == b.DecodesBodies && a.ReadsBodiesOnly == b.ReadsBodiesOnly
	})
}
