package chain

import (
	"errors"
	"fmt"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/worker/coding"
)

// body is the body, or the chunk of it, on its way through the policies of a run.
type body struct {
	// on: the run is one of a body phase.
	on    bool
	whole bool
	last  bool
	// bytes are what the policies before left, at first the call's.
	bytes    []byte
	replaced bool
	// codings are those of the body, if a policy of the chain wants them undone. plain: they are undone in bytes; then coded is the body with them, nil if it has to be
	// coded again because a policy replaced it.
	codings coding.List
	plain   bool
	coded   []byte
}

// fillBody begins a body phase.
func (r *Run) fillBody(call *workerv1.Call) error {
	switch {
	case call.NoBody && (len(call.Body) > 0 || !call.WholeBody || !call.EndOfStream):
		return errors.New("no_body with a body, or not at its end")
	case call.WholeBody && !call.EndOfStream:
		return errors.New("a whole body that does not end")
	case !call.WholeBody && r.chain.whole:
		return errors.New("a chunk for a policy that wants the whole body")
	}
	r.body = body{on: true, whole: call.WholeBody, last: call.EndOfStream, bytes: call.Body}
	if r.chain.decodes {
		r.readCodings()
		if !call.WholeBody && (!r.body.codings.Empty() || r.badCoding != nil) {
			return errors.New("a chunk of a coded body for a policy that wants it decoded")
		}
	}
	r.x.BeginBody(call.NoBody)
	return nil
}

// offer gives the step that is to run its body, what it held back of it before in front. It reports whether there is something to run for.
func (r *Run) offer(s *step) (runs bool) {
	held, out := r.heldOf(s), r.isOut(s)
	if out && len(held) == 0 {
		return false // Nor is the body decoded for it.
	}
	if r.chain.decodes && !r.recode(s.decoded) {
		return false
	}
	in := r.body.bytes
	if len(held) > 0 {
		in = append(append(make([]byte, 0, len(held)+len(in)), held...), in...)
	}
	switch {
	case out:
		r.pass(s, in, len(held) > 0)
		return false
	case s.chunk && len(r.body.bytes) == 0 && !r.body.last:
		return false // A policy before holds all of it back.
	}
	r.x.Offer(in, s.chunk, r.body.last, s.readOnly)
	return true
}

// pass takes over what a step passes on when it does not run.
func (r *Run) pass(s *step, in []byte, replaced bool) {
	r.body.bytes, r.body.replaced = in, r.body.replaced || replaced
	if replaced {
		r.hold(s, nil)
	}
}

// checkBody tells what is wrong with what the step that ran passes on.
func (r *Run) checkBody() error {
	if out, _, _ := r.x.Passed(); len(out) > r.settings.Limits.MaxBodySize {
		return fmt.Errorf("set body: %d bytes, legal are %d", len(out), r.settings.Limits.MaxBodySize)
	}
	return nil
}

// passed takes over what the step that ran passes on.
func (r *Run) passed(s *step) {
	out, replaced, held := r.x.Passed()
	if replaced || len(held) > 0 || len(r.heldOf(s)) > 0 {
		r.body.replaced, r.body.coded = true, nil
	}
	if replaced && r.body.whole {
		r.x.DropDigests()
	}
	r.body.bytes = out
	r.hold(s, held)
}

// dropOut lets the body go on without a policy that has failed on it: what it was offered goes on, and it is not asked again.
func (r *Run) dropOut(s *step) {
	held := r.heldOf(s)
	if len(held) > 0 {
		r.pass(s, append(append(make([]byte, 0, len(held)+len(r.body.bytes)), held...), r.body.bytes...), true)
	}
	if s.chunk && !r.body.last {
		r.stateOf(s, true).Out = true
	}
}

// flush passes on what the steps from r.next on hold back, which don't run any more, and gives the body its codings again.
func (r *Run) flush() {
	if !r.body.on {
		return
	}
	for i := r.next; i < len(r.steps); i++ {
		s := &r.steps[i]
		r.dropOut(s)
	}
	if err := r.encodePlain(); err != nil {
		r.outcome = unreadable
	}
}

// stateOf returns what the policy keeps; nil if it keeps nothing and make is false.
func (r *Run) stateOf(s *step, makeIt bool) *workerv1.PolicyState {
	for _, st := range r.states {
		if st.Policy == uint32(s.index) && st.Chain == r.chainID {
			return st
		}
	}
	if !makeIt {
		return nil
	}
	st := &workerv1.PolicyState{Chain: r.chainID, Policy: uint32(s.index)}
	r.states = append(r.states, st)
	return st
}

// skipBody leaves the step, which ran on the headers, out of the body that follows them.
func (r *Run) skipBody(s *step) {
	r.stateOf(s, true).Out = true
	if s.index < 64 {
		r.skips |= 1 << s.index
	}
}

func (r *Run) heldOf(s *step) []byte { return r.stateOf(s, false).GetHeld() }
func (r *Run) isOut(s *step) bool    { return r.stateOf(s, false).GetOut() }

func (r *Run) hold(s *step, held []byte) {
	if st := r.stateOf(s, len(held) > 0); st != nil {
		st.Held = held
	}
}

// giveState gives the step that is to run what it left before.
func (r *Run) giveState(s *step) { r.x.GiveState(r.stateOf(s, false).GetState()) }

// keepState takes over what the step that ran leaves.
func (r *Run) keepState(s *step) {
	state := r.x.State()
	if st := r.stateOf(s, len(state) > 0); st != nil {
		st.State = state
	}
	r.x.GiveState(nil) // It is not the next policy's.
}
