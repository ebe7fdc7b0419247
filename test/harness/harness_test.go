package harness

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// witness is a test that only remembers whether it failed, so that the harness can be shown to fail tests.
type witness struct {
	testing.TB
	failures []string
}

func (w *witness) Helper()                   {}
func (w *witness) Errorf(f string, a ...any) { w.failures = append(w.failures, fmt.Sprintf(f, a...)) }
func (w *witness) Failed() bool              { return len(w.failures) > 0 }
func (w *witness) Logf(string, ...any)       {}

func TestMain(m *testing.M) { Main(m) }

// TestUpstreamFailsTheTest: a request that must not arrive fails the test when it does.
func TestUpstreamFailsTheTest(t *testing.T) {
	w := &witness{TB: t}
	u := StartUpstream(w, nil)
	if r := Send(t, u.Address, "GET", "/fine?x=1", "X_Odd: 1"); r.Status != 200 || !strings.Contains(r.Body, `"path":"/fine?x=1"`) {
		t.Errorf("%v", r)
	}
	if len(w.failures) > 0 || u.Count() != 1 || u.Received()[0].Path != "/fine?x=1" {
		t.Errorf("after a legal request: failures %q, received %v", w.failures, u.Received())
	}
	Send(t, u.Address, "GET", "/bad", MustNotArrive+": for this test")
	if len(w.failures) != 1 || !strings.Contains(w.failures[0], "for this test") || u.Count() != 2 {
		t.Errorf("after an illegal request: failures %q, received %v", w.failures, u.Received())
	}
	if r := Send(t, u.Address, "GET", "/", Answer+": 418", AnswerHeader+": x-a b"); r.Status != 418 || r.Header.Get("X-A") != "b" {
		t.Errorf("an answer on order: %v", r)
	}
}

func TestMetrics(t *testing.T) {
	m, err := ParseMetrics("# HELP a b\na 1\nb{x=\"y z\"} 2.5\n\nc 1e3\n")
	if err != nil || m["a"] != 1 || m[`b{x="y z"}`] != 2.5 || m["c"] != 1000 {
		t.Errorf("got %v, error %v", m, err)
	}
	for _, bad := range []string{"a", "a x", "a 1\na 2"} {
		if _, err := ParseMetrics(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	for name, tt := range map[string]struct {
		want     map[string]float64
		failures int
	}{
		"right":             {map[string]float64{"a": 1, "none": 0}, 0},
		"another value":     {map[string]float64{"a": 2}, 1},
		"missing":           {map[string]float64{"none": 1}, 1},
		"one too many":      {map[string]float64{"a": 0}, 1},
		"each is looked at": {map[string]float64{"a": 2, "c": 1}, 2},
	} {
		w := &witness{TB: t}
		m.Want(w, tt.want)
		if len(w.failures) != tt.failures {
			t.Errorf("%s: failures %q, want %d", name, w.failures, tt.failures)
		}
	}
}

func TestParseLog(t *testing.T) {
	const good = `{"timestamp":"2026-01-02T03:04:05.678Z","level":"info","component":"kernel","request_id":"","message":"m","metadata":{"a":1}}`
	for name, tt := range map[string]struct {
		output   string
		problems int
	}{
		"good":              {good + "\n", 0},
		"nothing":           {"", 0},
		"text":              {good + "\npanic: told to\n", 1},
		"another component": {strings.Replace(good, "kernel", "worker", 1), 1},
		"a field is gone":   {strings.Replace(good, `"request_id":"",`, "", 1), 1},
		"a field more":      {strings.Replace(good, `"request_id":"",`, `"request_id":"","x":1,`, 1), 1},
		"no time":           {strings.Replace(good, "2026-01-02T", "2026-01-02 ", 1), 1},
		"unknown level":     {strings.Replace(good, "info", "notice", 1), 1},
		"metadata is text":  {strings.Replace(good, `{"a":1}`, `"a"`, 1), 1},
	} {
		if _, problems := ParseLog(tt.output, "kernel"); len(problems) != tt.problems {
			t.Errorf("%s: %q, want %d problems", name, problems, tt.problems)
		}
	}
}

func TestProcess(t *testing.T) {
	p := Start(t, "shell", "/bin/sh", []string{"WORD=hello"}, "-c", `echo $WORD; echo oops >&2; trap 'exit 7' TERM; while :; do sleep 0.01; done`)
	Eventually(t, "its output", func() error {
		if out := p.Output(); !strings.Contains(out, "hello") || !strings.Contains(out, "oops") {
			return fmt.Errorf("so far %q", out)
		}
		return nil
	})
	if !p.Running() {
		t.Error("it has ended")
	}
	p.Signal(syscall.SIGTERM)
	if status := p.Wait(); status != 7 || p.Running() {
		t.Errorf("exit status %d, running %v", status, p.Running())
	}
	p.Kill() // a second end is none

	q := Start(t, "sleeper", "/bin/sh", nil, "-c", "trap '' TERM; while :; do sleep 0.01; done")
	q.Kill()
	if q.Running() || q.Wait() != -1 {
		t.Errorf("after Kill: %s", q.End())
	}
	if err := syscall.Kill(q.PID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is left: %v", err)
	}
}

func TestWithin(t *testing.T) {
	calls := 0
	if err := Within(time.Minute, func() error {
		if calls++; calls < 3 {
			return errors.New("not yet")
		}
		return nil
	}); err != nil || calls != 3 {
		t.Errorf("error %v after %d calls", err, calls)
	}
	if err := Within(20*time.Millisecond, func() error { return errors.New("never") }); err == nil {
		t.Error("no error for a condition that never holds")
	}
}

func TestFreePorts(t *testing.T) {
	seen := map[int]bool{}
	for range 50 {
		p := FreePort(t)
		if seen[p] {
			t.Errorf("port %d: twice", p)
		}
		seen[p] = true
	}
}

// TestNoEnvoy: without the right Envoy there is an error, and never a skip.
func TestNoEnvoy(t *testing.T) {
	other := t.TempDir() + "/envoy"
	if err := os.WriteFile(other, []byte("#!/bin/sh\necho 'envoy  version: 0/1.30.0/Clean/RELEASE/BoringSSL'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"another version": other, "no file": other + "-none"} {
		t.Setenv("ENVOY", path)
		if _, err := findEnvoy(); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
}
