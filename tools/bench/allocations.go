package main

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// allocations is a checked-in baseline: how often each benchmark may allocate in one operation.
type allocations map[benchmark]int

type benchmark struct{ pkg, name, unit string }

func (b benchmark) String() string { return b.pkg + " " + b.name + " " + b.unit }

// allocated is what counts of a result: the allocations of the processes that it measures, if it tells them as "…-allocs/op", else its own. What is less than one
// allocation in an operation is the runtime's and that of pools that grow, and not the operation's.
func allocated(r result) (benchmark, int) {
	b, n := benchmark{r.Package, r.Name, "allocs/op"}, r.AllocsPerOp
	for unit, v := range r.Metrics {
		if strings.HasSuffix(unit, "-allocs/op") {
			b.unit, n = unit, v
		}
	}
	return b, int(math.Floor(n))
}

// slack is how much more is still no growth: from 8 on, an eighth, which is how much grpc-go and maps vary from run to run. What is on the hot path has 0.
func slack(n int) int { return n / 8 }

const baselineHead = `# How often each benchmark allocates in one operation: count, package, benchmark, unit.
# make bench fails when one allocates more, and so does make test. make bench-rewrite takes what is.
`

func readAllocations(path string) (allocations, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	base := allocations{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) != 4 {
			return nil, fmt.Errorf("%s:%d: %q is not a count, a package, a benchmark and a unit", path, n, line)
		}
		count, err := strconv.Atoi(fields[0])
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %q is not a count", path, n, fields[0])
		}
		base[benchmark{fields[1], fields[2], fields[3]}] = count
	}
	return base, lines.Err()
}

func (a allocations) write(path string) error {
	var lines []string
	for b, n := range a {
		lines = append(lines, fmt.Sprintf("%d %s", n, b))
	}
	slices.SortFunc(lines, func(a, b string) int {
		_, a, _ = strings.Cut(a, " ")
		_, b, _ = strings.Cut(b, " ")
		return strings.Compare(a, b)
	})
	if err := os.WriteFile(path, []byte(baselineHead+strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		return fmt.Errorf("write baseline: %w", err)
	}
	return nil
}

// packages are those with benchmarks of that unit.
func (a allocations) packages(unit string) []string {
	var out []string
	for b := range a {
		if b.unit == unit && !slices.Contains(out, b.pkg) {
			out = append(out, b.pkg)
		}
	}
	slices.Sort(out)
	return out
}

// least has the smallest count of each benchmark over all its runs: what a run allocates beyond another one of the same code is not the code's.
func least(results []result) allocations {
	out := allocations{}
	for _, r := range results {
		b, n := allocated(r)
		if was, ok := out[b]; !ok || n < was {
			out[b] = n
		}
	}
	return out
}

// most has the largest count of each benchmark over all its runs: what the baseline has to allow.
func most(results []result) allocations {
	out := allocations{}
	for _, r := range results {
		b, n := allocated(r)
		out[b] = max(out[b], n)
	}
	return out
}

// comparison is what differs from the baseline, one line each.
type comparison struct {
	grown, fresh, fallen []string
	// packages of what has grown.
	packages []string
}

func (a allocations) compare(measured allocations) comparison {
	var c comparison
	for b, n := range measured {
		was, known := a[b]
		switch {
		case !known:
			c.fresh = append(c.fresh, fmt.Sprintf("%s: %d, not in the baseline", b, n))
		case n > was+slack(was):
			c.grown = append(c.grown, fmt.Sprintf("%s: from %d to %d", b, was, n))
			if !slices.Contains(c.packages, b.pkg) {
				c.packages = append(c.packages, b.pkg)
			}
		case n < was-slack(was):
			c.fallen = append(c.fallen, fmt.Sprintf("%s: from %d to %d", b, was, n))
		}
	}
	for _, lines := range [][]string{c.grown, c.fresh, c.fallen, c.packages} {
		slices.Sort(lines)
	}
	return c
}

// missing are the benchmarks of the baseline that a run of those packages did not measure.
func (a allocations) missing(measured allocations, packages []string) []string {
	var out []string
	for b := range a {
		if _, ok := measured[b]; !ok && slices.Contains(packages, b.pkg) {
			out = append(out, b.String())
		}
	}
	slices.Sort(out)
	return out
}
