// Package stage is the engine as it is run in production, with real traffic on it: kernel and workers under supervisord, the real Envoy in front of them, an upstream and a
// token issuer; and handles on each of these, to break them.
package stage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Programs are the paths of what a stage starts.
type Programs struct {
	// Dir has policy-kernel, policyctl and proofworker.
	Dir   string
	Envoy string
	// Supervisor is the command that supervises the engine in the container: a Python that has supervisord, supervise.py, and supervisord.conf.
	Supervisor []string
}

// Build builds the engine's programs into a folder, and fetches Envoy and supervisord where the machine has none. root is the folder of go.mod.
func Build(root, dir string) (*Programs, error) {
	p := &Programs{Dir: dir}
	// As `make build` does it: what is tested is what is shipped, and most of it is in the build cache already.
	build := exec.Command("go", "build", "-trimpath", "-o", dir, "./cmd/policy-kernel", "./cmd/policyctl", "./test/stage/proofworker")
	build.Env, build.Dir = append(os.Environ(), "CGO_ENABLED=0"), root
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	var err error
	if p.Envoy, err = fetch(root, "envoy"); err != nil {
		return nil, err
	}
	supervisord, err := fetch(root, "supervisord")
	if err != nil {
		return nil, err
	}
	// Its first line names the Python that it was installed for.
	script, err := os.ReadFile(supervisord)
	if err != nil {
		return nil, fmt.Errorf("find the Python of supervisord: %w", err)
	}
	first, _, _ := strings.Cut(string(script), "\n")
	python, found := strings.CutPrefix(first, "#!")
	if !found {
		return nil, fmt.Errorf("find the Python of supervisord: %s begins with %.100q", supervisord, first)
	}
	p.Supervisor = append(strings.Fields(python), filepath.Join(root, "deploy", "container", "supervise.py"), "--configuration", filepath.Join(root, "supervisord.conf"))
	return p, nil
}

// fetch is the path of a program that tools/fetch.sh finds or installs.
func fetch(root, name string) (string, error) {
	fetch := exec.Command(filepath.Join(root, "tools", "fetch.sh"), name)
	var stderr bytes.Buffer
	fetch.Stderr = &stderr
	out, err := fetch.Output()
	if err != nil {
		return "", fmt.Errorf("fetch %s: %w\n%s", name, err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}

// Root is the folder of go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find go.mod: there is none in this folder or above")
		}
		dir = parent
	}
}
