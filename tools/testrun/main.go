// Command testrun runs `go test` and the fuzz targets of the packages that it is given, and ends with one line: N passed, N failed.
// A test counts when it has no subtests of its own; a package that doesn't build, or that ends without naming a failed test, counts as a failure.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

func main() {
	timeout := flag.String("timeout", "10m", "per package")
	parallel := flag.String("p", "2", "packages at the same time")
	fuzzTime := flag.String("fuzztime", "5s", "per fuzz target; 0 leaves fuzzing out, the seeds run all the same")
	var again runs
	flag.Var(&again, "again", "`'NAME=VALUE PACKAGE...'`: run these packages once more with this variable; may be repeated")
	flag.Parse()

	total := newTally(os.Stdout)
	flags := []string{"test", "-json", "-race", "-count=1", "-p", *parallel, "-timeout", *timeout}
	run := func(test *exec.Cmd) {
		before := total.failed
		if err := stream(test, total.read); err != nil && total.failed == before {
			total.fail("go test", err.Error())
		}
	}
	run(goCommand(append(flags, flag.Args()...)...))
	for _, more := range again {
		fmt.Println("again with", more.variable)
		clear(total.failedInPackage) // Of the run before.
		test := goCommand(append(flags[:len(flags):len(flags)], more.packages...)...)
		test.Env = append(os.Environ(), more.variable)
		run(test)
	}
	if *fuzzTime != "0" {
		fuzzAll(total, *fuzzTime, *parallel, flag.Args())
	}
	total.print()
	if total.failed > 0 || total.passed == 0 {
		os.Exit(1)
	}
}

// runs are the values of -again.
type runs []struct {
	variable string
	packages []string
}

// String implements flag.Value.
func (r *runs) String() string { return fmt.Sprint(*r) }

// Set implements flag.Value.
func (r *runs) Set(value string) error {
	words := strings.Fields(value)
	if len(words) < 2 || !strings.Contains(words[0], "=") {
		return fmt.Errorf("%q; legal is a variable with its value, and packages", value)
	}
	*r = append(*r, struct {
		variable string
		packages []string
	}{words[0], words[1:]})
	return nil
}

func goCommand(args ...string) *exec.Cmd {
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	return cmd
}

// stream runs the command and hands each line of its output to read.
func stream(cmd *exec.Cmd, read func(line []byte)) error {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("open pipe of %q: %w", cmd.Args, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %q: %w", cmd.Args, err)
	}
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			read(line)
		}
		if err != nil {
			break
		}
	}
	return cmd.Wait()
}

// fuzzTarget is one Fuzz function.
type fuzzTarget struct{ pkg, name string }

// fuzzAll runs every fuzz target for a while; each counts as a test.
func fuzzAll(total *tally, fuzzTime, parallel string, patterns []string) {
	targets, err := findFuzzTargets(patterns)
	if err != nil {
		total.fail("fuzz targets", err.Error())
		return
	}
	for _, t := range targets {
		args := []string{"test", "-run", "^$", "-fuzz", "^" + t.name + "$", "-fuzztime", fuzzTime, "-parallel", parallel, t.pkg}
		out, err := exec.Command("go", args...).CombinedOutput()
		if err != nil && endedLate(out) {
			out, err = exec.Command("go", args...).CombinedOutput()
		}
		name := fmt.Sprintf("%s %s, fuzzed for %s", t.pkg, t.name, fuzzTime)
		if err != nil {
			total.fail(name, string(out))
			continue
		}
		total.passed++
		fmt.Fprintf(total.out, "ok    %s\n", name)
	}
}

// endedLate tells whether the fuzzing itself ran over its time, which go test reports as a failure although no input failed.
func endedLate(out []byte) bool {
	return bytes.Contains(out, []byte("context deadline exceeded")) && !bytes.Contains(out, []byte("Failing input written"))
}

func findFuzzTargets(patterns []string) ([]fuzzTarget, error) {
	var targets []fuzzTarget
	// With -json each line names its package; without, the names come before their package.
	cmd := goCommand(append([]string{"test", "-json", "-list", "^Fuzz"}, patterns...)...)
	err := stream(cmd, func(line []byte) {
		var e event
		if json.Unmarshal(line, &e) != nil || e.Action != "output" {
			return
		}
		if name := strings.TrimSpace(e.Output); strings.HasPrefix(name, "Fuzz") {
			targets = append(targets, fuzzTarget{pkg: e.Package, name: name})
		}
	})
	return targets, err
}

// event is a line of go test -json; see `go doc test2json`.
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64
}

// tally counts tests. It holds back each test's output until it is known whether the test failed.
type tally struct {
	out             io.Writer
	passed, failed  int
	output          map[[2]string]*bytes.Buffer // by package (or import path of a build) and test
	parents         map[[2]string]bool
	failedInPackage map[string]bool
	skipped, faults []string
}

func newTally(out io.Writer) *tally {
	return &tally{
		out:             out,
		output:          map[[2]string]*bytes.Buffer{},
		parents:         map[[2]string]bool{},
		failedInPackage: map[string]bool{},
	}
}

func (t *tally) read(line []byte) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		fmt.Fprintf(t.out, "%s", line)
		return
	}
	if e.ImportPath != "" {
		e.Package = e.ImportPath
	}
	key := [2]string{e.Package, e.Test}
	switch e.Action {
	case "run":
		if i := strings.LastIndexByte(e.Test, '/'); i >= 0 {
			t.parents[[2]string{e.Package, e.Test[:i]}] = true
		}
	case "output", "build-output":
		b := t.output[key]
		if b == nil {
			b = &bytes.Buffer{}
			t.output[key] = b
		}
		b.WriteString(e.Output)
	case "pass", "fail", "skip", "build-fail":
		t.end(e, key)
	}
}

// end counts a test or a package that has ended.
func (t *tally) end(e event, key [2]string) {
	var output string
	if b := t.output[key]; b != nil {
		output = b.String()
		delete(t.output, key)
	}
	switch {
	case e.Action == "build-fail":
		fmt.Fprint(t.out, output)
	case e.Test == "" && e.Action == "fail":
		// A parent that failed, a panic, a timeout and a failed build are the package's failure when no test of its own carried it.
		if !t.failedInPackage[e.Package] {
			t.fail(e.Package, output)
		}
		fmt.Fprintf(t.out, "FAIL  %s %.1fs\n", e.Package, e.Elapsed)
	case e.Test == "" && e.Action == "pass":
		fmt.Fprintf(t.out, "ok    %s %.1fs\n", e.Package, e.Elapsed)
	case e.Test == "":
	case e.Action == "skip":
		t.skipped = append(t.skipped, e.Package+" "+e.Test)
	case t.parents[key] && e.Action == "fail":
		fmt.Fprint(t.out, output)
	case t.parents[key]:
	case e.Action == "pass":
		t.passed++
	case e.Action == "fail":
		t.failedInPackage[e.Package] = true
		t.fail(e.Package+" "+e.Test, output)
	}
}

func (t *tally) fail(name, output string) {
	t.failed++
	t.faults = append(t.faults, name)
	fmt.Fprintf(t.out, "FAIL  %s\n%s\n", name, strings.TrimRight(output, "\n"))
}

// print ends the report; the counts are its last line.
func (t *tally) print() {
	for _, name := range t.skipped {
		fmt.Fprintf(t.out, "skipped: %s\n", name)
	}
	for _, name := range t.faults {
		fmt.Fprintf(t.out, "failed: %s\n", name)
	}
	fmt.Fprintf(t.out, "%d passed, %d failed\n", t.passed, t.failed)
}
