package workers

import (
	"context"
	"reflect"
	"slices"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// Stage is the workers of a configuration that is not in use yet: those that stay as they are, and new ones for what is new or different, which connect while the old ones serve. It
// is for one goroutine, which ends it with Adopt or Drop.
type Stage struct {
	reg     *Registry
	workers []*Worker
	// offered is what Offers returned.
	offered []offer
}

// Stage makes a stage. Nothing changes for calls, offers and pages before Adopt.
func (reg *Registry) Stage(refs []config.WorkerRef) *Stage {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	st := &Stage{reg: reg}
	for _, ref := range refs {
		ref.Pos = config.Pos{}
		if i := slices.IndexFunc(reg.workers, func(w *Worker) bool { return reflect.DeepEqual(w.ref, ref) }); i >= 0 {
			st.workers = append(st.workers, reg.workers[i])
			continue
		}
		w := reg.newWorker(ref)
		st.workers = append(st.workers, w)
		reg.members[w] = func() {}
		if reg.started && !reg.closed {
			reg.run(w)
		}
	}
	reg.stages[st] = true
	return st
}

// Settle waits until each new replica has told what it offers, or has failed to for the first time, or ctx ends.
func (st *Stage) Settle(ctx context.Context) {
	for {
		st.reg.mu.Lock()
		news := st.reg.news
		settled := !slices.ContainsFunc(st.workers, func(w *Worker) bool {
			return slices.ContainsFunc(w.replicas, func(r *replica) bool { return !r.discovered && !r.tried })
		})
		st.reg.mu.Unlock()
		if settled {
			return
		}
		select {
		case <-news:
		case <-ctx.Done():
			return
		}
	}
}

// Offers is what each worker name offers now, in the order of the configuration.
func (st *Stage) Offers() []route.Offer {
	st.reg.mu.Lock()
	defer st.reg.mu.Unlock()
	st.offered = st.offers()
	return offersOf(st.workers)
}

// offers is what each worker offers. The registry's mu is held.
func (st *Stage) offers() (all []offer) {
	for _, w := range st.workers {
		all = append(all, w.offer())
	}
	return all
}

// Push is Registry.Push to the stage's workers.
func (st *Stage) Push(ctx context.Context, generation uint64, chains map[string][]*workerv1.Chain) error {
	return st.reg.push(ctx, generation, &distribution{chains, st.workers})
}

// Adopt makes the stage's workers those of the configuration in use. The ones that they replace go on as long as a generation that was pushed to them is live.
func (st *Stage) Adopt() {
	reg := st.reg
	reg.mu.Lock()
	before := reg.workers
	reg.workers = st.workers
	delete(reg.stages, st)
	reg.reap()
	reg.announce()
	moved := !slices.EqualFunc(st.offered, st.offers(), offer.equal) // A worker connected after Offers.
	reg.mu.Unlock()
	reg.measure(before, st.workers)
	if moved && reg.changed != nil {
		reg.changed()
	}
}

// Drop ends the stage; its new workers go away.
func (st *Stage) Drop() {
	st.reg.mu.Lock()
	defer st.reg.mu.Unlock()
	delete(st.reg.stages, st)
	st.reg.reap()
}

// inUse are the workers of the configuration in use. The caller must not change the slice.
func (reg *Registry) inUse() []*Worker {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	return reg.workers
}

// reap ends the members that nothing needs any more: no stream can call them. mu is held.
func (reg *Registry) reap() {
	for w, cancel := range reg.members {
		if slices.Contains(reg.workers, w) || reg.staged(w) || reg.distributed(w) {
			continue
		}
		cancel()
		delete(reg.members, w)
	}
}

func (reg *Registry) staged(w *Worker) bool {
	for st := range reg.stages {
		if slices.Contains(st.workers, w) {
			return true
		}
	}
	return false
}

func (reg *Registry) distributed(w *Worker) bool {
	for _, d := range reg.live {
		if slices.Contains(d.workers, w) {
			return true
		}
	}
	return false
}

// disown has a session retire what its replica holds of this kernel's and is no longer live: a worker that was replaced may have left it there. Generations never become live
// again. mu is held.
func (reg *Registry) disown(s *session, generations []uint64) {
	held := *s.held.Load()
	var left []uint64
	for _, g := range generations {
		if _, live := reg.live[g]; !live && !slices.Contains(held, g) {
			left = append(left, g)
		}
	}
	if len(left) > 0 {
		s.setHeld(slices.Concat(held, left))
		s.wake()
	}
}
