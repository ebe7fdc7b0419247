//go:build !race

// With the race detector, a sync.Pool forgets on purpose.

package worker

import "testing"

// TestBatchDoesNotAllocate is about the worker's part of a batch: start, run, encode.
func TestBatchDoesNotAllocate(t *testing.T) {
	registry, err := NewRegistry(newWorld().definitions()...)
	if err != nil {
		t.Fatal(err)
	}
	run := newTestCore(t, registry)
	call := requestCall(1, 5, 1)
	var out []byte
	if n := testing.AllocsPerRun(200, func() {
		e, why := run.start(call, run.settings.Now())
		if e == nil || !e.run.Inline(t.Context()) {
			t.Fatal(why)
		}
		out = appendResult(out[:0], e.result())
		e.Release()
	}); n != 0 {
		t.Errorf("%v allocations per call, want none", n)
	}
}
