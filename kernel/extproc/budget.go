package extproc

import "sync/atomic"

// Budget bounds what the bodies of all streams take together, in bytes. It is safe for concurrent use; nil has no bound.
type Budget struct {
	max  int64
	used atomic.Int64
}

// NewBudget makes a budget.
func NewBudget(max int) *Budget { return &Budget{max: int64(max)} }

// Used is what is taken now.
func (b *Budget) Used() int64 { return b.used.Load() }

// Take takes n bytes, if there are that many left.
func (b *Budget) Take(n int) bool {
	if b == nil || b.used.Add(int64(n)) <= b.max {
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
