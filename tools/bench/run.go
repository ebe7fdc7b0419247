package main

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// suite is the benchmarks of a tree.
type suite struct {
	root                string // the folder of go.mod
	pattern, skip, time string // -bench, -skip and -benchtime of go test
	out                 io.Writer
}

var benchmarkFunc = regexp.MustCompile(`(?m)^func Benchmark\w*\(`)

// packages finds the packages with benchmarks, by path below the root.
func (s *suite) packages() ([]string, error) {
	var out []string
	err := filepath.WalkDir(s.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != s.root {
				return fs.SkipDir // Another module.
			}
			if name := d.Name(); path != s.root && (name == "testdata" || name == "build" || strings.HasPrefix(name, ".")) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		pkg, err := filepath.Rel(s.root, filepath.Dir(path))
		if err != nil {
			return err
		}
		if pkg = filepath.ToSlash(pkg); benchmarkFunc.Match(b) && !slices.Contains(out, pkg) {
			out = append(out, pkg)
		}
		return nil
	})
	slices.Sort(out)
	return out, err
}

// build makes the test program of a package.
func (s *suite) build(pkg, program string) error {
	cmd := exec.Command("go", "test", "-c", "-o", program, "./"+pkg)
	cmd.Dir = s.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the benchmarks of %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// run runs a package's benchmarks. Each of its lines goes to s.out as it comes, and to lines.
func (s *suite) run(pkg, program string, lines io.Writer) ([]result, error) {
	args := []string{"-test.run=^$", "-test.bench=" + s.pattern, "-test.benchmem", "-test.benchtime=" + s.time, "-test.timeout=30m"}
	if s.skip != "" {
		args = append(args, "-test.skip="+s.skip)
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = filepath.Join(s.root, pkg)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the benchmarks of %s: %w", pkg, err)
	}
	var results []result
	in := bufio.NewReader(pipe)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			fmt.Fprint(io.MultiWriter(s.out, lines), line)
		}
		if r, ok := parseLine(pkg, line); ok {
			results = append(results, r)
		}
		if err != nil {
			break
		}
	}
	if err := cmd.Wait(); err != nil {
		return results, fmt.Errorf("run the benchmarks of %s: %w", pkg, err)
	}
	return results, nil
}
