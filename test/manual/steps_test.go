package manual

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// blocks returns the code blocks of a language below a heading.
func blocks(text, heading, language string) []string {
	_, below, _ := strings.Cut(text, "\n"+heading+"\n")
	if end := regexp.MustCompile(`(?m)^#+ [A-Z]`).FindStringIndex(below); end != nil {
		below = below[:end[0]]
	}
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(below, -1) {
		found = append(found, m[1])
	}
	return found
}

// TestFirstSteps does what the pages tell a new operator to do: the files of the README are legal, and the commands of docs/operations.md take them.
func TestFirstSteps(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	files, steps := blocks(string(readme), "## Configuration", "yaml"), blocks(page(t, "operations.md"), "### First steps", "sh")
	if len(files) < 2 || len(steps) != 1 {
		t.Fatalf("%d files and %d lists of steps", len(files), len(steps))
	}
	dir, bin := t.TempDir(), t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/policyctl")
	build.Dir = root(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const keyFile = "/etc/policy-engine/api-keys.yaml"
	if !strings.Contains(files[1], keyFile) {
		t.Fatalf("the worker's file has no %s:\n%s", keyFile, files[1])
	}
	write("kernel-config.yaml", files[0])
	write("worker-config-1.yaml", strings.ReplaceAll(files[1], keyFile, filepath.Join(dir, "api-keys.yaml")))
	commands := strings.Split(strings.TrimSpace(steps[0]), "\n")
	for i, command := range commands {
		cmd := exec.CommandContext(t.Context(), "bash", "-c", command)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		if i == 0 {
			entry := regexp.MustCompile(`(?m)^ +- \{id: .*$`).Find(out)
			if entry == nil {
				t.Fatalf("%s prints no entry:\n%s", command, out)
			}
			write("api-keys.yaml", "keys:\n"+string(entry)+"\n")
		}
		if last := i == len(commands)-1; last && (!strings.Contains(string(out), "Envoy asks the engine on all its routes") || strings.Contains(string(out), "note")) {
			t.Errorf("%s says:\n%s", command, out)
		}
	}
}
