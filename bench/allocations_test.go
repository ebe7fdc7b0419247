package bench

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// TestAllocations runs the benchmarks of allocations.txt for a short time, without the race detector, which allocates itself, and fails when one allocates more.
func TestAllocations(t *testing.T) {
	program := filepath.Join(t.TempDir(), "bench")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./bench")
	build.Dir = "../tools"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build tools/bench: %v\n%s", err, out)
	}
	check := exec.CommandContext(t.Context(), program, "check", "-benchtime", "50ms")
	check.Dir = ".."
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
