package fasttransport

import (
	"slices"

	"github.com/policy-engine/policy-engine/fastpath/h2"
	"github.com/policy-engine/policy-engine/fastpath/lane"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// batch are calls that are started together, those of one worker at a time.
type batch struct {
	workers []route.Evaluator
	calls   []*route.Call // nil when started
	group   []*route.Call
}

// add takes the call of a KindCall effect.
func (b *batch) add(e extproc.Effect) {
	b.workers = append(b.workers, e.Worker)
	b.calls = append(b.calls, e.Call)
}

// host has the lane of the goroutine that starts calls.
type host interface{ ownLane() *lane.Lane }

// start starts the calls, and empties the batch. After a panic of an evaluator it can be called again: no call starts twice. It returns false if a call was moved aside, and the lane's
// owner has taken over the batch. ran is the lane that evaluators have used, if any.
func (b *batch) start(h host, ran **lane.Lane) (mine bool) {
	for i, first := range b.calls {
		if first == nil {
			continue
		}
		worker := b.workers[i]
		if in, ok := worker.(route.InlineEvaluator); ok && in.Inline() {
			b.calls[i] = nil
			l := h.ownLane()
			*ran = l
			first.Lane = l
			worker.Evaluate(first)
			if l.Moved() {
				return false
			}
			continue
		}
		b.group = b.group[:0]
		for j := i; j < len(b.calls); j++ {
			if b.calls[j] != nil && b.workers[j] == worker {
				b.group = append(b.group, b.calls[j])
				b.calls[j] = nil
			}
		}
		if all, ok := worker.(route.BatchEvaluator); ok {
			all.EvaluateAll(b.group)
			continue
		}
		for _, c := range b.group {
			worker.Evaluate(c)
		}
	}
	clear(b.workers)
	clear(b.group)
	b.workers, b.calls, b.group = b.workers[:0], b.calls[:0], b.group[:0]
	return true
}

// inline reports whether a call may run on the goroutine that starts it.
func (b *batch) inline() bool {
	for _, w := range b.workers {
		if in, ok := w.(route.InlineEvaluator); ok && in.Inline() {
			return true
		}
	}
	return false
}

// outcome is what completed calls led to: connections with answers, and the calls that follow.
type outcome struct {
	dirty []*h2.Conn
	next  batch
	// server and lane are for calls that run on the goroutine that starts them, where that is not one that reads a connection.
	server *Server
	lane   *lane.Lane
}

// ownLane implements host.
func (o *outcome) ownLane() *lane.Lane {
	if o.lane == nil {
		o.lane = o.server.watch().Lane(o)
	}
	o.lane.Enter()
	return o.lane
}

// TakeOver implements lane.Owner.
func (o *outcome) TakeOver(*lane.Lane) {
	o.server.putBack(o)
	go o.server.AfterBatch()
}

// putBack leaves the calls of an outcome that were not started for AfterBatch.
func (s *Server) putBack(o *outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range o.next.calls {
		if c != nil {
			s.pending.next.add(extproc.Effect{Worker: o.next.workers[i], Call: c})
		}
	}
}

// later leaves what a completed call led to for AfterBatch: an answer on conn, unless it is nil, and the next call, if there is one.
func (s *Server) later(conn *h2.Conn, next extproc.Effect) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if conn != nil && !slices.Contains(s.pending.dirty, conn) {
		s.pending.dirty = append(s.pending.dirty, conn)
	}
	if next.Kind == extproc.KindCall {
		s.pending.next.add(next)
	}
}

// take takes what AfterBatch has to do; nil if there is nothing.
func (s *Server) take() *outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.pending
	if len(o.dirty) == 0 && len(o.next.calls) == 0 {
		return nil
	}
	if s.pending = s.spare; s.pending == nil {
		s.pending = &outcome{server: s}
	}
	s.spare = nil
	return o
}

// settle does it. What a panic of an evaluator left undone is left for the next time. a is of the connection that the goroutine reads; nil if it reads none. It returns false if a call was
// moved aside: then another goroutine does the rest.
func (s *Server) settle(o *outcome, a *attachment) (mine bool) {
	for _, c := range o.dirty {
		c.Flush() // Before the next calls, which may take their time.
	}
	clear(o.dirty)
	o.dirty = o.dirty[:0]
	if a == nil && o.next.inline() {
		go func() { // The caller's goroutine may have other work: it reads the results of another worker.
			if s.start(o, o) {
				s.AfterBatch()
			}
		}()
		return true
	}
	if a == nil {
		return s.start(o, o)
	}
	a.outcome = o
	if !s.start(o, a) {
		return false
	}
	a.outcome = nil
	return true
}

// start starts the calls of an outcome.
func (s *Server) start(o *outcome, h host) (mine bool) {
	var ran *lane.Lane
	defer func() {
		if ran.Moved() {
			return
		}
		if len(o.next.calls) > 0 { // An evaluator panicked.
			s.putBack(o)
			o.lane.Close()
			return
		}
		s.mu.Lock()
		dropped := s.spare
		s.spare = o
		s.mu.Unlock()
		if dropped != nil {
			dropped.lane.Close()
		}
	}()
	return o.next.start(h, &ran)
}
