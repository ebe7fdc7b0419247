//go:build !race

// With the race detector, a sync.Pool forgets on purpose.

package hop

import "testing"

// TestHopDoesNotAllocate is about both ends of the hop, in their steady state: AllocsPerRun counts what all goroutines of the process allocate. A run is a batch of
// 8 calls, one DATA frame, and the result is rounded down: an allocation for every call or every batch shows; what the runtime does now and then, and a pool after a
// collection, does not.
func TestHopDoesNotAllocate(t *testing.T) {
	for _, size := range []int{8, 64} { // 64 calls take several frames.
		b := newBatch(t, size)
		for range 100 {
			b.run(t)
		}
		if n := testing.AllocsPerRun(1000, func() { b.run(t) }); n != 0 {
			t.Errorf("%v allocations per batch of %d calls", n, len(b.calls))
		}
	}
}

// TestChainDoesNotAllocate is about the chain of three policies with a token that is known.
func TestChainDoesNotAllocate(t *testing.T) {
	c := newChains(t)
	for range 2 * len(c.headers) {
		c.run(t)
	}
	if n := testing.AllocsPerRun(5000, func() { c.run(t) }); n != 0 {
		t.Errorf("%v allocations per call", n)
	}
}
