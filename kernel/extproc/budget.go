package extproc

import "sync/atomic"

// Budget bounds what the bodies of all streams take together, in bytes. It is safe for concurrent use; nil has no bound.
type Budget struct {
	max, used atomic.Int64
}

// NewBudget makes a budget.
func NewBudget(max int) *Budget {
	b := &Budget{}
	b.SetMax(max)
	return b
}

// SetMax changes the bound. What was taken stays taken.
func (b *Budget) SetMax(max int) { b.max.Store(int64(max)) }

// Used is what is taken now.
func (b *Budget) Used() int64 { return b.used.Load() }

// Take takes n bytes, if there are that many left.
func (b *Budget) Take(n int) bool {
	if b == nil || b.used.Add(int64(n)) <= b.max.Load() {
		return true
	}
	b.used.Add(-int64(n))
	return false
}

// Give gives n bytes back.
func (b *Budget) Give(n int) {
	if b != nil {
		b.used.Add(-int64(n))
	}
}
