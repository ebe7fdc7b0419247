//go:build !race

// With the race detector, a sync.Pool forgets on purpose.

package engine

import "testing"

func TestEvaluateDoesNotAllocate(t *testing.T) {
	w, c, done := caller(t)
	if n := testing.AllocsPerRun(200, func() { w.Evaluate(c) }); n != 0 {
		t.Errorf("%v allocations per call, want none", n)
	}
	if done.done != 201 {
		t.Errorf("%d completions of 201 calls", done.done)
	}
}
