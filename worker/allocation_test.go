//go:build !race

// With the race detector, a sync.Pool forgets on purpose.

package worker

import (
	"testing"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
)

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

// nobody takes results.
type nobody struct{ results int }

func (n *nobody) Result(*workerv1.Result) { n.results++ }

// TestEmbeddedDoesNotAllocate is about a call that does not wait.
func TestEmbeddedDoesNotAllocate(t *testing.T) {
	e := embed(t, func(_ *config.Worker, o *Options) { o.Poison = false })
	call, to, later := requestCall(1, 1, chainSet), &nobody{}, func() { t.Error("later was called") }
	if n := testing.AllocsPerRun(200, func() { e.Execute(call, to, later) }); n != 0 {
		t.Errorf("%v allocations per call, want none", n)
	}
	if to.results != 201 {
		t.Errorf("%d results", to.results)
	}
}
