package workers

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.uber.org/zap"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// RejectedError says that workers did not accept a generation.
type RejectedError struct {
	Rejections []Rejection
}

// Rejection is what one worker name found wrong.
type Rejection struct {
	Worker string
	Errors []*workerv1.ConfigError
}

// Error lists all that is wrong.
func (e *RejectedError) Error() string {
	var b strings.Builder
	for _, r := range e.Rejections {
		for _, ce := range r.Errors {
			if b.Len() > 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "worker %s: %s: %s", r.Worker, ce.Path, ce.Message)
		}
	}
	return b.String()
}

// distribution is where a generation goes: chains by the names of the workers.
type distribution struct {
	chains  map[string][]*workerv1.Chain
	workers []*Worker
}

// Push makes a generation live: every connected replica gets the chains of its worker name, and every other one when it connects. Push waits until all
// connected replicas have acknowledged; one that is lost meanwhile counts as not connected. If a replica rejects the generation, the error is a
// *RejectedError and the generation is retired everywhere.
func (reg *Registry) Push(ctx context.Context, generation uint64, chains map[string][]*workerv1.Chain) error {
	return reg.push(ctx, generation, &distribution{chains, reg.inUse()})
}

func (reg *Registry) push(ctx context.Context, generation uint64, d *distribution) error {
	for name := range d.chains {
		if !slices.ContainsFunc(d.workers, func(w *Worker) bool { return w.name == name }) {
			return fmt.Errorf("push generation %d: there is no worker %q", generation, name)
		}
	}
	reg.mu.Lock()
	for _, w := range d.workers {
		for _, chain := range d.chains[w.name] {
			w.count(chain.Id)
		}
	}
	reg.live[generation] = d
	reg.wakeAll()
	reg.mu.Unlock()
	for {
		reg.mu.Lock()
		news := reg.news
		settled, rejected := reg.settled(generation)
		if settled && rejected == nil {
			reg.current.Store(generation)
			for _, w := range d.workers {
				w.generation = generation
				w.refresh()
			}
			reg.announce()
			reg.mu.Unlock()
			return nil
		}
		reg.mu.Unlock()
		if settled {
			reg.Retire(generation)
			return rejected
		}
		select {
		case <-news:
		case <-ctx.Done():
			reg.Retire(generation)
			return fmt.Errorf("push generation %d: %w", generation, ctx.Err())
		}
	}
}

// settled reports whether every connected replica has accepted or rejected the generation. mu is held.
func (reg *Registry) settled(generation uint64) (bool, error) {
	var e RejectedError
	d := reg.live[generation]
	if d == nil { // Retired meanwhile.
		return true, nil
	}
	for _, w := range d.workers {
		rejected := false
		for _, r := range w.replicas {
			if r.session == nil || r.session.holds(generation) {
				continue
			}
			errs := r.session.rejected[generation]
			if errs == nil {
				return false, nil
			}
			if !rejected { // Replicas have the same to say.
				rejected = true
				e.Rejections = append(e.Rejections, Rejection{Worker: w.name, Errors: errs})
			}
		}
	}
	if len(e.Rejections) > 0 {
		return true, &e
	}
	return true, nil
}

// Retire ends a generation: replicas free it.
func (reg *Registry) Retire(generation uint64) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	delete(reg.live, generation)
	reg.wakeAll()
	reg.reap()
}

// wakeAll makes all sessions look for what there is to do. mu is held.
func (reg *Registry) wakeAll() {
	for w := range reg.members {
		for _, r := range w.replicas {
			if r.session != nil {
				r.session.wake()
			}
		}
	}
}

// next says what a session shall push, newest generation first, or which generation it shall retire; nil and 0 if there is nothing to do. What is to be
// retired counts as not held from now on.
func (reg *Registry) next(s *session) (push *workerv1.PushConfigRequest, retire uint64) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	var newest uint64
	for g, d := range reg.live {
		if g > newest && !s.holds(g) && s.rejected[g] == nil && slices.Contains(d.workers, s.replica.worker) {
			newest = g
		}
	}
	if newest != 0 {
		return &workerv1.PushConfigRequest{KernelId: reg.kernelID, Generation: newest, Chains: reg.live[newest].chains[s.replica.worker.name]}, 0
	}
	held := *s.held.Load()
	for i, g := range held {
		if _, live := reg.live[g]; !live {
			s.setHeld(slices.Delete(slices.Clone(held), i, i+1))
			return nil, g
		}
	}
	for g := range s.rejected {
		if _, live := reg.live[g]; !live {
			delete(s.rejected, g)
		}
	}
	return nil, 0
}

// pushed notes a replica's answer to a push.
func (reg *Registry) pushed(s *session, generation uint64, errs []*workerv1.ConfigError) {
	reg.update(s.replica.worker, func() {
		if len(errs) > 0 {
			s.rejected[generation] = errs
			return
		}
		s.setHeld(append(slices.Clone(*s.held.Load()), generation))
	})
	if len(errs) == 0 || generation > reg.current.Load() {
		return // A first push: Push returns the errors.
	}
	if suppressed, ok := reg.throttle.Allow("rejected " + s.replica.path); ok {
		rejected := RejectedError{Rejections: []Rejection{{Worker: s.replica.worker.name, Errors: errs}}}
		reg.log.Error("worker replica rejects a configuration that was accepted before", zap.String("worker", s.replica.worker.name),
			zap.String("socket", s.replica.path), zap.Error(&rejected), zap.Int("suppressed", suppressed))
	}
}

// changesOf counts the changes of what the session holds.
func (reg *Registry) changesOf(s *session) uint64 {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	return s.changes
}

// rejects reports whether the session has rejected a live generation.
func (reg *Registry) rejects(s *session) bool {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	return len(s.rejected) > 0
}

// forgive makes next push again what the session rejected.
func (reg *Registry) forgive(s *session) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	clear(s.rejected)
}
