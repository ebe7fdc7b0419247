// Command container builds the container image and holds it against what operators need of it: it runs under every restriction that the specification asks for, with the real
// Envoy outside, while programs are killed, memory runs out and the container is told to end. `make container-test` runs it from the top of the tree. Where no container engine
// works it fails, since then it has proven nothing.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"
)

// testTimeout bounds all of it, with builds that find no cache.
const testTimeout = 10 * time.Minute

// report is build/reports/container.json.
type report struct {
	Engine string  `json:"engine"`
	Base   string  `json:"base"`
	Checks []check `json:"checks"`
	Passed int     `json:"passed"`
	Failed int     `json:"failed"`
}

// check is one promise and what was seen of it.
type check struct {
	Name    string  `json:"name"`
	Passed  bool    `json:"passed"`
	Seen    string  `json:"seen"`
	Seconds float64 `json:"seconds"`
}

// suite collects.
type suite struct {
	report report
	since  time.Time
}

// check counts one promise; the error says how it was broken, seen what was measured.
func (s *suite) check(name, seen string, err error) {
	c := check{Name: name, Passed: err == nil, Seen: seen, Seconds: time.Since(s.since).Seconds()}
	s.since = time.Now()
	verdict := "ok  "
	if err != nil {
		verdict = "FAIL"
		c.Seen = err.Error()
		s.report.Failed++
	} else {
		s.report.Passed++
	}
	s.report.Checks = append(s.report.Checks, c)
	fmt.Fprintf(os.Stderr, "%s  %s: %s\n", verdict, name, c.Seen)
}

func main() {
	file := flag.String("report", "build/reports/container.json", "the `file` for the report")
	part := flag.String("part", "", "run only this `part`: unconfigured, demo, replicas or memory")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()

	s := &suite{since: time.Now()}
	if err := s.run(ctx, *part); err != nil {
		s.check("the test itself", "", err)
	}
	if err := s.write(*file); err != nil {
		fmt.Fprintln(os.Stderr, err)
		s.report.Failed++
	}
	s.print()
	fmt.Printf("container: %d passed, %d failed\n", s.report.Passed, s.report.Failed)
	if s.report.Failed > 0 || s.report.Passed == 0 {
		stop()
		cancel()
		os.Exit(1) //nolint:gocritic // Both were called.
	}
}

func (s *suite) run(ctx context.Context, part string) error {
	e, err := findEngine(ctx)
	if err != nil {
		return err
	}
	s.report.Engine = e.String()
	work, err := os.MkdirTemp("", "container-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	e.dir = work
	// The container's user reads its configuration here.
	if err := os.Chmod(work, 0o755); err != nil { //nolint:gosec // Nothing in it is secret.
		return err
	}
	defer e.clean()
	b, err := findBase(ctx, e)
	if err != nil {
		return err
	}
	s.report.Base = b.description
	start := time.Now()
	err = e.build(ctx, b)
	s.check("the image is built, in stages", fmt.Sprintf("%.0f s, on %s", time.Since(start).Seconds(), b.description), err)
	if err != nil {
		return errors.New("there is no image to test")
	}
	t := &trial{suite: s, engine: e, work: work, part: part}
	return t.run(ctx)
}

func (s *suite) write(file string) error {
	text, err := json.MarshalIndent(s.report, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644) //nolint:gosec // A report is for everyone.
}

func (s *suite) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, c := range s.report.Checks {
		verdict := "ok"
		if !c.Passed {
			verdict = "FAIL"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", verdict, c.Name, firstLine(c.Seen))
	}
	_ = w.Flush()
}
