package policies_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/policy-engine/policy-engine"

var (
	fileLine = regexp.MustCompile("^`([a-zA-Z0-9_./-]+)`:$")
	fence    = regexp.MustCompile("^(````*)([a-z]*)$")
)

// documentFiles returns the files that a page shows: a line with the path in backquotes and a colon, and the code block that follows it.
func documentFiles(text string) map[string]string {
	files := map[string]string{}
	name, open := "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch m := fence.FindStringSubmatch(line); {
		case open != "" && line == open:
			name, open = "", ""
		case open != "":
			if name != "" {
				files[name] += line + "\n"
			}
		case m != nil:
			open = m[1]
		case fileLine.MatchString(line):
			name = fileLine.FindStringSubmatch(line)[1]
		}
	}
	return files
}

// What docs/policies.md tells an author to write compiles, and its tests pass: in a module of the author's own.
func TestTheAuthorsPageIsTrue(t *testing.T) {
	text, err := os.ReadFile("../docs/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written := 0
	for name, content := range documentFiles(string(text)) {
		if strings.HasSuffix(name, ".yaml") {
			continue // The worker's and the kernel's own tests read configurations.
		}
		written++
		write(name, strings.ReplaceAll(content, module+"/policies/tenant\"", "author.example/policies/tenant\""))
	}
	if written != 4 {
		t.Fatalf("the page has %d files, want 4", written)
	}
	goMod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	// The author's module needs what ours needs, in the same versions; nothing is fetched.
	write("go.mod", strings.Replace(string(goMod), "module "+module, "module author.example", 1)+
		"\nrequire "+module+" v0.0.0\nreplace "+module+" => "+root+"\n")
	goSum, err := os.ReadFile("../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	write("go.sum", string(goSum))
	for _, args := range [][]string{{"vet", "./..."}, {"test", "-count=1", "./policies/tenant"}, {"build", "-o", filepath.Join(dir, "bin") + "/", "./cmd/policy-worker-2"}} {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	if out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "bin", "policy-worker-2"), "-version").CombinedOutput(); err != nil || string(out) != "dev\n" {
		t.Errorf("the worker says %q, %v", out, err)
	}
}
