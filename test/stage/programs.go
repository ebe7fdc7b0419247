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
	Dir                string
	Envoy, Supervisord string
	// Configuration is supervisord.conf.
	Configuration string
}

// Build builds the engine's programs into a folder, and fetches Envoy and supervisord where the machine has none. root is the folder of go.mod.
func Build(root, dir string) (*Programs, error) {
	p := &Programs{Dir: dir, Configuration: filepath.Join(root, "supervisord.conf")}
	// As `make build` does it: what is tested is what is shipped, and most of it is in the build cache already.
	build := exec.Command("go", "build", "-trimpath", "-o", dir, "./cmd/policy-kernel", "./cmd/policyctl", "./test/stage/proofworker")
	build.Env, build.Dir = append(os.Environ(), "CGO_ENABLED=0"), root
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	for name, path := range map[string]*string{"envoy": &p.Envoy, "supervisord": &p.Supervisord} {
		fetch := exec.Command(filepath.Join(root, "tools", "fetch.sh"), name)
		var stderr bytes.Buffer
		fetch.Stderr = &stderr
		out, err := fetch.Output()
		if err != nil {
			return nil, fmt.Errorf("fetch %s: %w\n%s", name, err, stderr.Bytes())
		}
		*path = strings.TrimSpace(string(out))
	}
	return p, nil
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
