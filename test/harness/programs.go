// Package harness starts the engine's programs, Envoy and an upstream as real processes, for tests of the whole system.
package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// EnvoyVersion is the Envoy that the engine is made for.
const EnvoyVersion = "1.36.2"

// buildTimeout bounds the build of all programs with an empty build cache, on two busy cores.
const buildTimeout = 5 * time.Minute

var built struct {
	once sync.Once
	dir  string
	err  error
}

// Main runs the tests of a package that uses the harness, and removes what was built for them. Call it from TestMain.
func Main(m *testing.M) {
	status := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(status)
}

// Program returns the path of one of the programs of cmd/, or of a worker made for tests below test/. All are built once for each test process, from
// the sources as they are.
func Program(t testing.TB, name string) string {
	t.Helper()
	built.once.Do(func() { built.dir, built.err = build() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, name)
}

func build() (string, error) {
	dir, err := os.MkdirTemp("", "e2e-bin-")
	if err != nil {
		return "", err
	}
	root, err := Root()
	if err != nil {
		return dir, err
	}
	if err := NoteSources(root); err != nil {
		return dir, err
	}
	// As `make build` does it: what is tested is what is shipped, and most of it is in the build cache already.
	cmd := exec.Command("go", "build", "-trimpath", "-o", dir, "./cmd/...", "./test/e2e/testworker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Dir = root
	cmd.WaitDelay = time.Second
	timer := time.AfterFunc(buildTimeout, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return dir, nil
}

// NoteSources looks at every source file. `go test` caches a result as long as the files that the test itself looked at are the same; what
// `go build` reads would not count, and the tests would go on to pass after any change of the programs.
func NoteSources(root string) error {
	return filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || path == filepath.Join(root, "build") || path == filepath.Join(root, "bin")) {
			return filepath.SkipDir
		}
		_, err = os.Stat(path)
		if os.IsNotExist(err) {
			return nil // Gone since the folder was read, or a link to nowhere.
		}
		return err
	})
}

// Root is the directory of go.mod.
func Root() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find go.mod: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

var envoy struct {
	once sync.Once
	path string
	err  error
}

// Envoy returns the path of the real Envoy. A test that can't have it fails: without Envoy it proves nothing.
func Envoy(t testing.TB) string {
	t.Helper()
	envoy.once.Do(func() { envoy.path, envoy.err = findEnvoy() })
	if envoy.err != nil {
		t.Fatalf("no Envoy %s: %v; `make test` fetches it into build/ and runs the tests with it", EnvoyVersion, envoy.err)
	}
	return envoy.path
}

// findEnvoy looks where the Makefile looks: $ENVOY, the PATH, build/.
func findEnvoy() (string, error) {
	if path := os.Getenv("ENVOY"); path != "" {
		return path, checkVersion(path)
	}
	var tried []error
	if path, err := exec.LookPath("envoy"); err == nil {
		if err = checkVersion(path); err == nil {
			return path, nil
		}
		tried = append(tried, err)
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	var found []string
	err = filepath.WalkDir(filepath.Join(root, "build"), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, filepath.Join("envoy", "_bin", "envoy")) {
			found = append(found, path)
		}
		return nil // What can't be read is not it.
	})
	if err != nil {
		return "", err
	}
	for _, path := range found {
		err := checkVersion(path)
		if err == nil {
			return path, nil
		}
		tried = append(tried, err)
	}
	if len(tried) == 0 {
		return "", errors.New("none in $ENVOY, in the PATH or in build/")
	}
	return "", errors.Join(tried...)
}

func checkVersion(path string) error {
	out, err := exec.Command(path, "--version").Output()
	if err != nil {
		return fmt.Errorf("run %q: %w", path, err)
	}
	if !strings.Contains(string(out), "/"+EnvoyVersion+"/") {
		return fmt.Errorf("%q is %s", path, strings.TrimSpace(string(out)))
	}
	return nil
}
