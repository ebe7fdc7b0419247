package limits

import (
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"
	"testing"
)

func TestProcessors(t *testing.T) {
	for available, want := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 16: 8} {
		if got := processors(available); got != want {
			t.Errorf("processors(%d): got %d, want %d", available, got, want)
		}
	}
}

// restore puts the process back as it was.
func restore(t *testing.T) {
	percent := debug.SetGCPercent(100)
	debug.SetGCPercent(percent)
	memory, procs := debug.SetMemoryLimit(-1), runtime.GOMAXPROCS(0)
	t.Cleanup(func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(memory)
		runtime.GOMAXPROCS(procs)
	})
}

func TestApply(t *testing.T) {
	restore(t)
	runtime.GOMAXPROCS(4)
	Apply(slog.New(slog.NewTextHandler(io.Discard, nil)), 0.3)
	if got := runtime.GOMAXPROCS(0); got != 2 {
		t.Errorf("GOMAXPROCS: got %d, want 2", got)
	}
	if got := debug.SetGCPercent(100); got != gcPercent {
		t.Errorf("GOGC: got %d, want %d", got, gcPercent)
	}
}

// What the operator says counts.
func TestApplyLeavesTheEnvironment(t *testing.T) {
	restore(t)
	runtime.GOMAXPROCS(3)
	debug.SetGCPercent(77)
	t.Setenv("GOMAXPROCS", "3")
	t.Setenv("GOGC", "77")
	Apply(slog.New(slog.NewTextHandler(io.Discard, nil)), 0.3)
	if got := runtime.GOMAXPROCS(0); got != 3 {
		t.Errorf("GOMAXPROCS: got %d, want 3", got)
	}
	if got := debug.SetGCPercent(100); got != 77 {
		t.Errorf("GOGC: got %d, want 77", got)
	}
}
