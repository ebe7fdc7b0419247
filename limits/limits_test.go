package limits

import (
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"time"
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
	Apply(slog.New(slog.NewTextHandler(io.Discard, nil)), Apart)
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
	Apply(slog.New(slog.NewTextHandler(io.Discard, nil)), Apart)
	if got := runtime.GOMAXPROCS(0); got != 3 {
		t.Errorf("GOMAXPROCS: got %d, want 3", got)
	}
	if got := debug.SetGCPercent(100); got != 77 {
		t.Errorf("GOGC: got %d, want 77", got)
	}
}

// However many processes there are, they have 90 % of the container's memory together.
func TestSharing(t *testing.T) {
	for said, want := range map[string]int{"": Apart, "1": 1, "2": 2, "64": 64, "0": Apart, "-1": Apart, "65": Apart, "two": Apart, "2.5": Apart} {
		got, err := sharing(said, Apart)
		if got != want {
			t.Errorf("%q: got %d, want %d", said, got, want)
		}
		if legal := said == "" || strconv.Itoa(want) == said; legal != (err == nil) {
			t.Errorf("%q: error %v", said, err)
		}
		if sum := share(got) * float64(got); sum > 0.9000001 || sum < 0.89 {
			t.Errorf("%q: the processes have %v of the memory together", said, sum)
		}
	}
}

// What is garbage now is the operating system's soon.
func TestTrim(t *testing.T) {
	restore(t)
	debug.SetGCPercent(-1)
	heap := func() (m runtime.MemStats) {
		runtime.ReadMemStats(&m)
		return m
	}
	kept = make([]byte, 64<<20)
	clear(kept)
	before := heap()
	kept = nil
	Trim()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for after := heap(); after.HeapAlloc > before.HeapAlloc-(32<<20) || after.HeapReleased < before.HeapReleased+(32<<20) || trimming.Load(); after = heap() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("heap %d -> %d bytes, released %d -> %d", before.HeapAlloc, after.HeapAlloc, before.HeapReleased, after.HeapReleased)
		}
	}
}

var kept []byte
