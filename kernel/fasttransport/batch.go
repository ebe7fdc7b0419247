package fasttransport

import (
	"slices"

	"github.com/policy-engine/policy-engine/fastpath/h2"
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

// start starts the calls, and empties the batch. After a panic of an evaluator it can be called again: no call starts twice.
func (b *batch) start() {
	for i, first := range b.calls {
		if first == nil {
			continue
		}
		worker := b.workers[i]
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
}

// outcome is what completed calls led to: connections with answers, and the calls that follow.
type outcome struct {
	dirty []*h2.Conn
	next  batch
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
		s.pending = &outcome{}
	}
	s.spare = nil
	return o
}

// settle does it. What a panic of an evaluator left undone is left for the next time.
func (s *Server) settle(o *outcome) {
	defer func() {
		clear(o.dirty)
		o.dirty = o.dirty[:0]
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, c := range o.next.calls {
			if c != nil {
				s.pending.next.add(extproc.Effect{Worker: o.next.workers[i], Call: c})
			}
		}
		if len(o.next.calls) == 0 {
			s.spare = o
		}
	}()
	for _, c := range o.dirty {
		c.Flush() // Before the next calls, which may take their time.
	}
	o.next.start()
}
