// Command bench runs the benchmarks of the module: `bench run` all of them, `bench check` only to compare their allocations with the baseline, and
// `bench compare` those of another revision and of this tree by turns. Run it in the folder of go.mod; it writes into build/.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	baselineFile = "bench/allocations.txt"
	reports      = "build/reports"
	programs     = "build/bench"
)

func main() {
	if err := command(os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	suite
	command  string
	base     string
	count    int
	rewrite  bool
	packages []string
}

func command(args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("usage: bench run|check|compare [FLAGS] [PACKAGE...]")
	}
	o := options{suite: suite{out: out}, command: args[0]}
	f := flag.NewFlagSet("bench "+args[0], flag.ContinueOnError)
	f.StringVar(&o.pattern, "bench", ".", "the benchmarks, as of go test")
	f.StringVar(&o.skip, "skip", "", "the benchmarks to leave out, as of go test")
	f.StringVar(&o.time, "benchtime", "1s", "how long each runs")
	f.IntVar(&o.count, "count", 1, "how often each runs")
	f.BoolVar(&o.rewrite, "rewrite", false, "run: write the allocations into the baseline in place of comparing them")
	f.StringVar(&o.base, "base", "", "compare: the other revision")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	var err error
	if o.root, err = os.Getwd(); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(o.root, "go.mod")); err != nil {
		return fmt.Errorf("not in the folder of go.mod: %w", err)
	}
	for _, p := range f.Args() {
		o.packages = append(o.packages, strings.TrimPrefix(strings.TrimSuffix(p, "/"), "./"))
	}
	switch o.command {
	case "run":
		return o.runAll()
	case "check":
		return o.check()
	case "compare":
		return o.compare()
	default:
		return fmt.Errorf("unknown command %q; legal are run, check and compare", o.command)
	}
}

// measure builds and runs the benchmarks of packages, all of them for each count, and goes on after one that fails.
func (o *options) measure(packages []string) ([]result, error) {
	var results []result
	var errs []error
	for n := range o.count {
		for i, pkg := range packages {
			fmt.Fprintf(o.out, "[%d/%d] %s\n", n*len(packages)+i+1, o.count*len(packages), pkg)
			program := filepath.Join(o.root, programs, o.command, strings.ReplaceAll(pkg, "/", "-")+".test")
			if n == 0 {
				if err := o.build(pkg, program); err != nil {
					errs = append(errs, err)
					continue
				}
			}
			got, err := o.run(pkg, program, io.Discard)
			results = append(results, got...)
			if err != nil {
				errs = append(errs, err)
			}
		}
	}
	return results, errors.Join(errs...)
}

// runAll measures, writes the report, and compares allocations with the baseline.
func (o *options) runAll() error {
	packages, err := o.selected()
	if err != nil {
		return err
	}
	results, err := o.measure(packages)
	if err != nil {
		return err
	}
	if len(results) == 0 {
		return fmt.Errorf("no benchmark of %d packages matches %q; the first part of a pattern is of the function: Engine/one-process", len(packages), o.pattern)
	}
	report := filepath.Join(reports, "bench.json")
	if err := writeJSON(report, medians(results)); err != nil {
		return err
	}
	fmt.Fprintf(o.out, "%d results in %s\n", len(medians(results)), report)
	baseline, err := readAllocations(baselineFile)
	if o.rewrite {
		return o.accept(baseline, results, packages)
	}
	if err != nil {
		return err
	}
	return o.judge(baseline, results, packages)
}

// selected are the packages of the command line, or all with benchmarks.
func (o *options) selected() ([]string, error) {
	if len(o.packages) > 0 {
		return o.packages, nil
	}
	return o.suite.packages()
}

// accept writes the baseline: what was measured in place of what was there for these packages. A benchmark that was left out by -bench or -skip keeps its line.
func (o *options) accept(baseline allocations, results []result, packages []string) error {
	next, all := most(results), o.pattern == "." && o.skip == ""
	for b, n := range baseline {
		if _, ok := next[b]; !ok && !(all && (len(o.packages) == 0 || slices.Contains(packages, b.pkg))) {
			next[b] = n
		}
	}
	if err := next.write(baselineFile); err != nil {
		return err
	}
	fmt.Fprintf(o.out, "%d benchmarks in %s\n", len(next), baselineFile)
	return nil
}

// check runs the benchmarks of the baseline for a short time and compares allocations only. Benchmarks of whole processes are left to run: in a short time
// what the processes allocate beside requests would count.
func (o *options) check() error {
	baseline, err := readAllocations(baselineFile)
	if err != nil {
		return err
	}
	packages := o.packages
	if len(packages) == 0 {
		packages = baseline.packages("allocs/op")
	}
	results, err := o.measure(packages)
	if err != nil {
		return err
	}
	return o.judge(baseline, results, packages)
}

// judge compares. What has grown is measured once more, for a second: only what remains is the code's.
func (o *options) judge(baseline allocations, results []result, packages []string) error {
	c := baseline.compare(least(results))
	if len(c.grown) > 0 {
		fmt.Fprintf(o.out, "once more, because of\n  %s\n", strings.Join(c.grown, "\n  "))
		o.time = "1s"
		again, err := o.measure(c.packages)
		if err != nil {
			return err
		}
		c = baseline.compare(least(append(results, again...)))
	}
	for _, line := range c.fresh {
		fmt.Fprintf(o.out, "new: %s\n", line)
	}
	for _, line := range c.fallen {
		fmt.Fprintf(o.out, "less: %s\n", line)
	}
	var errs []string
	for _, line := range c.grown {
		errs = append(errs, "grown: "+line)
	}
	if o.pattern == "." && o.skip == "" {
		for _, line := range baseline.missing(least(results), packages) {
			errs = append(errs, "gone: "+line)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("allocations differ from %s; if that is meant: make bench-rewrite\n  %s", baselineFile, strings.Join(errs, "\n  "))
	}
	fmt.Fprintf(o.out, "allocations: none of %d benchmarks has grown\n", len(least(results)))
	return nil
}
