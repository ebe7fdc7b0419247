package workers

import (
	"math"
	"sync/atomic"
)

// chainLoad counts what a chain has in flight on all replicas of a worker.
type chainLoad struct {
	inFlight atomic.Int32
	// hedges are the calls that two replicas have although neither is silent.
	hedges atomic.Int32
}

// maxLoads bounds the chains that are counted one by one; further ones share a count.
const maxLoads = 1 << 20

// load returns the counts of a chain. Chains have the numbers of their generation: while two generations are in use, two chains may
// share their counts.
func (w *Worker) load(chain uint32) *chainLoad {
	all := *w.loads.Load()
	if int(chain) >= len(all) {
		chain = 0 // The chains that are not counted one by one.
	}
	return all[chain]
}

// count makes counts for the chains up to this one. The registry's mu is held.
func (w *Worker) count(chain uint32) {
	before := *w.loads.Load()
	want := int(min(chain, maxLoads-1)) + 1
	if want <= len(before) {
		return
	}
	all := append(make([]*chainLoad, 0, want), before...)
	made := make([]chainLoad, want-len(before))
	for i := range made {
		all = append(all, &made[i])
	}
	w.loads.Store(&all)
}

// share returns how many calls one chain may have in flight while there is room for this many more calls. A chain with the share s gets
// s of what it and nobody else use together: alone it holds s of the worker, n chains hold less each, and there is always room left.
func (w *Worker) share(free int64) int64 {
	if w.ratio <= 0 {
		return math.MaxInt64
	}
	return max(1, int64(w.ratio*float64(free)))
}

// ratioOf turns the share of what two use together into the ratio of one to the other; 0 means no bound.
func ratioOf(share float64) float64 {
	if share <= 0 || share >= 1 {
		return 0
	}
	return share / (1 - share)
}

// fair reports whether a chain may have another call in flight.
func (w *Worker) fair(chain uint32, free int64) bool {
	return int64(w.load(chain).inFlight.Load()) < w.share(free)
}
