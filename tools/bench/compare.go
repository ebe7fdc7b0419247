package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// side is one of the two trees of a comparison.
type side struct {
	name string
	suite
	packages []string
	text     bytes.Buffer // what go test would print
	results  []result
}

// compare runs the benchmarks of the base and of this tree, as it is on the disk, by turns, and prints benchstat's table.
func (o *options) compare() error {
	if o.base == "" {
		return errors.New("-base is missing; it is the revision to compare with")
	}
	tree := filepath.Join(o.root, programs, "base-tree")
	remove, err := o.checkOut(tree)
	if err != nil {
		return err
	}
	defer remove()
	base, change := &side{name: "base", suite: o.suite}, &side{name: "change", suite: o.suite}
	base.root = tree
	order := []*side{base, change}
	all, err := o.prepare(order)
	if err != nil {
		return err
	}
	total := o.count * len(all)
	for n := range total {
		pkg := all[n%len(all)]
		for _, s := range order {
			if !slices.Contains(s.packages, pkg) {
				continue
			}
			fmt.Fprintf(o.out, "[%d/%d] %s, %s\n", n+1, total, pkg, s.name)
			fmt.Fprintf(&s.text, "pkg: %s\n", pkg)
			got, err := s.run(pkg, o.program(s, pkg), &s.text)
			if err != nil {
				return err
			}
			for _, r := range got {
				r.Side = s.name
				s.results = append(s.results, r)
			}
		}
		slices.Reverse(order) // Whatever the second one of a pair gains or loses by its place, it does so on both sides.
	}
	return o.report(base, change)
}

// checkOut puts the base into a work tree of git, which the returned function removes; so does an interrupt.
func (o *options) checkOut(tree string) (remove func(), err error) {
	git := func(args ...string) error {
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("git %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	remove = func() {
		_ = git("worktree", "remove", "--force", tree)
		_ = os.RemoveAll(tree)
		_ = git("worktree", "prune")
	}
	remove() // What an earlier run may have left.
	if err := git("worktree", "add", "--detach", tree, o.base); err != nil {
		return nil, err
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		remove()
		os.Exit(1)
	}()
	return remove, nil
}

// prepare finds and builds the benchmarks of both sides, and returns the packages of either.
func (o *options) prepare(sides []*side) ([]string, error) {
	var all []string
	for _, s := range sides {
		found, err := s.suite.packages()
		if err != nil {
			return nil, err
		}
		for _, pkg := range found {
			if len(o.packages) > 0 && !slices.Contains(o.packages, pkg) {
				continue
			}
			fmt.Fprintf(o.out, "build %s, %s\n", pkg, s.name)
			if err := s.build(pkg, o.program(s, pkg)); err != nil {
				return nil, err
			}
			s.packages = append(s.packages, pkg)
			if !slices.Contains(all, pkg) {
				all = append(all, pkg)
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no benchmarks in %v", o.packages)
	}
	slices.Sort(all)
	return all, nil
}

func (o *options) program(s *side, pkg string) string {
	return filepath.Join(o.root, programs, s.name, strings.ReplaceAll(pkg, "/", "-")+".test")
}

// report writes the results and prints benchstat's table.
func (o *options) report(base, change *side) error {
	if len(base.results)+len(change.results) == 0 {
		return fmt.Errorf("no benchmark matches %q; the first part of a pattern is of the function: Engine/one-process", o.pattern)
	}
	path := filepath.Join(reports, "bench-compare.json")
	if err := writeJSON(path, medians(slices.Concat(base.results, change.results))); err != nil {
		return err
	}
	args := []string{}
	for _, s := range []*side{base, change} {
		file := filepath.Join(reports, "bench-"+s.name+".txt")
		if err := os.WriteFile(file, s.text.Bytes(), 0o644); err != nil {
			return err
		}
		args = append(args, s.name+"="+file)
	}
	cmd := exec.Command("build/tools/benchstat", args...)
	cmd.Stdout, cmd.Stderr = o.out, io.Writer(os.Stderr)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("benchstat %s: %w", strings.Join(args, " "), err)
	}
	fmt.Fprintf(o.out, "the same in %s\n", path)
	return nil
}
