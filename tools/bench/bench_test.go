package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseLine(t *testing.T) {
	for _, tc := range []struct {
		name, line string
		want       result
		ok         bool
	}{
		{
			"all", "BenchmarkEngine/one-process/streams=64-2   200  16281 ns/op  0.5 engine-allocs/op  60226 req/core-s  12 B/op  3 allocs/op\n",
			result{
				Package: "p", Name: "Engine/one-process/streams=64", NsPerOp: 16281, BytesPerOp: 12, AllocsPerOp: 3,
				Metrics: map[string]float64{"engine-allocs/op": 0.5, "req/core-s": 60226},
			},
			true,
		},
		{"one processor", "BenchmarkLookup/10 5 2.5 ns/op", result{Package: "p", Name: "Lookup/10", NsPerOp: 2.5, Metrics: map[string]float64{}}, true},
		{"only the name, as before a log line", "BenchmarkLookup/10-2\n", result{}, false},
		{"a log line", "BenchmarkLookup says that something is so", result{}, false},
		{"another line", "PASS\n", result{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := parseLine("p", tc.line)
			if ok != tc.ok || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %+v, %v", got, ok)
			}
		})
	}
}

func TestMedians(t *testing.T) {
	of := func(name string, ns, metric float64) result {
		return result{Package: "p", Name: name, NsPerOp: ns, Metrics: map[string]float64{"m": metric}}
	}
	got := medians([]result{of("a", 1, 30), of("b", 7, 0), of("a", 9, 10), of("a", 2, 20), of("b", 8, 1)})
	want := []result{of("a", 2, 20), of("b", 7.5, 0.5)}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestCompare(t *testing.T) {
	b := func(name string) benchmark { return benchmark{"p", name, "allocs/op"} }
	base := allocations{b("same"): 0, b("grown"): 0, b("less"): 3, b("noise"): 100, b("more-than-noise"): 100, b("gone"): 1}
	var results []result
	for name, allocs := range map[string]float64{"same": 0, "grown": 1, "less": 2, "noise": 112, "more-than-noise": 113, "fresh": 0} {
		results = append(results, result{Package: "p", Name: name, AllocsPerOp: allocs})
	}
	results = append(results, result{Package: "p", Name: "same", AllocsPerOp: 5}) // Another run of the same code had less.
	got := base.compare(least(results))
	want := comparison{
		grown:    []string{"p grown allocs/op: from 0 to 1", "p more-than-noise allocs/op: from 100 to 113"},
		fresh:    []string{"p fresh allocs/op: 0, not in the baseline"},
		fallen:   []string{"p less allocs/op: from 3 to 2"},
		packages: []string{"p"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := most(results)[b("same")]; got != 5 {
		t.Errorf("the most of two runs is %d", got)
	}
	if got := fmt.Sprint(base.missing(least(results), []string{"p"}), base.missing(least(results), []string{"q"})); got != "[p gone allocs/op] []" {
		t.Errorf("missing are %s", got)
	}
}

// TestAllocatedByProcesses: where a benchmark measures processes, theirs count, and the driver's own don't.
func TestAllocatedByProcesses(t *testing.T) {
	b, n := allocated(result{Package: "p", Name: "n", AllocsPerOp: 40, Metrics: map[string]float64{"engine-allocs/op": 6.9, "req/s": 99}})
	if (b != benchmark{"p", "n", "engine-allocs/op"}) || n != 6 {
		t.Errorf("got %v %d", b, n)
	}
}

func TestBaselineFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "allocations.txt")
	base := allocations{{"p", "a/b=1", "allocs/op"}: 0, {"q", "c", "engine-allocs/op"}: 12}
	if err := base.write(path); err != nil {
		t.Fatal(err)
	}
	got, err := readAllocations(path)
	if err != nil || !reflect.DeepEqual(got, base) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, text := range []string{"1 p a", "x p a allocs/op"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readAllocations(path); err == nil || !strings.Contains(err.Error(), "allocations.txt:1") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// module is a module with a benchmark that allocates so many times, in a repository of git, and the current folder.
func module(t *testing.T, allocs int) *bytes.Buffer {
	t.Helper()
	t.Chdir(t.TempDir())
	writeFile(t, "go.mod", "module m\n\ngo 1.26\n")
	writeFile(t, ".gitignore", "/build/\n")
	writeFile(t, "a/a.go", "package a\n")
	setAllocations(t, allocs)
	git(t, "init", "--quiet")
	return new(bytes.Buffer)
}

func setAllocations(t *testing.T, allocs int) {
	t.Helper()
	writeFile(t, "a/a_test.go", fmt.Sprintf(`package a

import "testing"

var sink []byte

func BenchmarkA(b *testing.B) {
	b.Run("x", func(b *testing.B) {
		for b.Loop() {
			for range %d {
				sink = make([]byte, 64)
			}
		}
	})
}
`, allocs))
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func git(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "commit.gpgsign=false"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// TestGrowthFails goes the whole way: a baseline is written, a benchmark comes to allocate, the check fails and says from what to what, and the growth is accepted.
func TestGrowthFails(t *testing.T) {
	out := module(t, 0)
	writeFile(t, baselineFile, "")
	run := func(args ...string) error { return command(append(args, "-benchtime", "100x"), out) }
	if err := run("run", "-rewrite"); err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"run", "check"} {
		if err := run(how); err != nil {
			t.Fatalf("%s without a change: %v", how, err)
		}
	}
	setAllocations(t, 2)
	for _, how := range []string{"run", "check"} {
		if err := run(how); err == nil || !strings.Contains(err.Error(), "grown: a A/x allocs/op: from 0 to 2") {
			t.Fatalf("%s with growth: %v\n%s", how, err, out)
		}
	}
	if err := run("run", "-rewrite"); err != nil {
		t.Fatal(err)
	}
	if err := run("check"); err != nil {
		t.Fatalf("check after the growth was accepted: %v", err)
	}
	writeFile(t, "a/a_test.go", "package a\n\nimport \"testing\"\n\nfunc BenchmarkOther(b *testing.B) {\n\tfor b.Loop() {\n\t}\n}\n")
	if err := run("check"); err == nil || !strings.Contains(err.Error(), "gone: a A/x allocs/op") {
		t.Fatalf("check without the benchmark: %v", err)
	}
	writeFile(t, "a/a_test.go", "package a\n\nimport \"testing\"\n\nfunc BenchmarkOther(b *testing.B) {\n\tb.Error(\"no\")\n}\n")
	if err := run("run"); err == nil || !strings.Contains(err.Error(), "run the benchmarks of a") {
		t.Fatalf("run of a benchmark that fails: %v", err)
	}
}

// TestComparison: the base is a revision, the change is what is on the disk, committed or not, and nothing is left behind.
func TestComparison(t *testing.T) {
	out := module(t, 1)
	git(t, "add", "-A")
	git(t, "commit", "--quiet", "-m", "base")
	setAllocations(t, 3)
	writeFile(t, "build/tools/benchstat", "#!/bin/sh\necho table \"$@\"\ncat build/reports/bench-base.txt build/reports/bench-change.txt\n")
	if err := os.Chmod("build/tools/benchstat", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := command([]string{"compare", "-base", "HEAD", "-count", "2", "-benchtime", "10x"}, out); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"[2/2] a, base", "[1/2] a, change", "table base=build/reports/bench-base.txt change=build/reports/bench-change.txt", "1 allocs/op", "3 allocs/op"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not printed:\n%s", want, out)
		}
	}
	report, err := os.ReadFile("build/reports/bench-compare.json")
	if err != nil || strings.Count(string(report), `"side"`) != 2 {
		t.Errorf("the report is %s, %v", report, err)
	}
	if left, err := os.ReadDir("build/bench/base-tree"); !os.IsNotExist(err) {
		t.Errorf("the base's tree is still there: %v, %v", left, err)
	}
	for _, how := range [][]string{{"compare", "-base", "HEAD"}, {"run"}} {
		if err := command(append(how, "-bench", "x"), out); err == nil || !strings.Contains(err.Error(), "matches \"x\"") {
			t.Errorf("%v of nothing: %v", how, err)
		}
	}
	if err := command([]string{"compare", "-base", "nowhere"}, out); err == nil {
		t.Error("a revision that is none was compared")
	}
}
