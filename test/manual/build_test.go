package manual

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestBuildCommands: the commands that the specification builds the programs with work in the folders that have them, and what they build starts.
func TestBuildCommands(t *testing.T) {
	for folder, output := range map[string]string{"policy-kernel": "policy-kernel", "policy-worker-1": "policy-worker", "policy-worker-2": "policy-worker", "policy-engine": "policy-engine"} {
		t.Run(folder, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), output)
			build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
			build.Dir = filepath.Join(root(t), "cmd", folder)
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("go build: %v\n%s", err, out)
			}
			if out, err := exec.CommandContext(t.Context(), program, "-version").CombinedOutput(); err != nil || strings.TrimSpace(string(out)) == "" {
				t.Errorf("-version says %q, %v", out, err)
			}
		})
	}
}
