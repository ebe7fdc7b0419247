package process

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

const timeout = 30 * time.Second

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start("shell", "/bin/sh", []string{"WORD=hello"}, "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func TestEnds(t *testing.T) {
	const waits = `echo $WORD >&2; while :; do sleep 0.01; done`
	for name, tt := range map[string]struct {
		script string
		end    func(p *Process)
		status int
	}{
		"by itself":                   {"echo $WORD; exit 7", func(*Process) {}, 7},
		"asked to":                    {"trap 'exit 3' TERM; " + waits, func(p *Process) { p.Stop(timeout) }, 3},
		"killed, since it won't":      {"trap '' TERM; " + waits, func(p *Process) { p.Stop(20 * time.Millisecond) }, -1},
		"killed":                      {waits, (*Process).Kill, -1},
		"killed when it has ended":    {"echo $WORD; exit 4", func(p *Process) { <-p.Exited(); p.Kill(); p.Stop(timeout) }, 4},
		"killed while it is stopped":  {waits, func(p *Process) { _ = p.Suspend(timeout); p.Kill() }, -1},
		"asked to through its output": {"trap 'echo bye; exit 5' TERM; " + waits, func(p *Process) { p.Stop(timeout) }, 5},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, tt.script)
			if err := Within(timeout, func() error { return wantOutput(p) }); err != nil {
				t.Fatal(err)
			}
			tt.end(p)
			if status, err := p.Wait(timeout); status != tt.status || err != nil || p.Running() {
				t.Errorf("status %d, %v, want %d; running %v", status, err, tt.status, p.Running())
			}
			if _, err := UsageOf(p.PID()); err == nil {
				t.Error("what has ended uses something")
			}
		})
	}
}

func wantOutput(p *Process) error {
	if strings.Contains(p.Output(), "hello") {
		return nil
	}
	return os.ErrNotExist
}

func TestStartFails(t *testing.T) {
	if _, err := Start("nothing", "/nowhere/at/all", nil); err == nil || !strings.Contains(err.Error(), "start nothing") {
		t.Errorf("error %v", err)
	}
}

// TestUsage: a process that works has used CPU, and the unit is right: no process has had more than the time since its start on each processor.
func TestUsage(t *testing.T) {
	begun := time.Now()
	p := start(t, `while :; do :; done`)
	err := Within(timeout, func() error {
		u, err := UsageOf(p.PID())
		if err == nil && u.CPU < 50*time.Millisecond {
			err = os.ErrNotExist
		}
		if err == nil && (u.CPU > time.Since(begun) || u.RSS < 100<<10 || u.RSS > 1<<30) {
			t.Errorf("after %v it has used %v, and has %d bytes", time.Since(begun), u.CPU, u.RSS)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	// Both count the same, one of them in ticks.
	u, err := UsageOf(p.PID())
	ran, ranErr := RunTime(p.PID())
	after, afterErr := UsageOf(p.PID())
	if err != nil || ranErr != nil || afterErr != nil || ran < u.CPU-2*tick || ran > after.CPU+2*tick {
		t.Errorf("it has run %v by one count, and %v to %v by the other; %v, %v, %v", ran, u.CPU, after.CPU, err, ranErr, afterErr)
	}
	if _, err := RunTime(1 << 30); err == nil {
		t.Error("a process that is not there has run")
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	m, err := ReadMachine()
	if err != nil || m.Busy <= 0 || m.Busy > m.Total {
		t.Errorf("the machine: %+v, %v", m, err)
	}
}

func TestParseStat(t *testing.T) {
	page := int64(os.Getpagesize())
	for name, tt := range map[string]struct {
		text string
		want Usage
	}{
		"plain":         {"7 (sh) S 1 7 7 0 -1 4194304 100 0 0 0 12 34 0 0 20 0 1 0 100 2600000 250 18446744073709551615 1", Usage{460 * time.Millisecond, 250 * page}},
		"an odd name":   {"7 (a b) (c)) R 1 7 7 0 -1 4194304 100 0 0 0 1 0 0 0 20 0 1 0 100 2600000 3 18446744073709551615 1", Usage{10 * time.Millisecond, 3 * page}},
		"cut off":       {"7 (sh) S 1 7", Usage{}},
		"nothing":       {"", Usage{}},
		"not a number":  {"7 (sh) S 1 7 7 0 -1 4194304 100 0 0 0 x 34 0 0 20 0 1 0 100 2600000 250 18446744073709551615 1", Usage{}},
		"no such field": {"7 (sh", Usage{}},
	} {
		got, err := parseStat(tt.text)
		if got != tt.want || (err != nil) != (tt.want == Usage{}) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, tt.want)
		}
	}
	for _, bad := range []string{"", "cpu 1 2 3", "cpu 1 2 3 4 5 6 7 x", "intr 1 2 3 4 5 6 7 8"} {
		if _, err := parseMachine(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	m, err := parseMachine("cpu  10 20 30 400 5 6 7 8 90 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
	if want := (Machine{Busy: 810 * time.Millisecond, Total: 4860 * time.Millisecond}); err != nil || m != want {
		t.Errorf("the machine: %+v, %v, want %+v", m, err, want)
	}
}

func TestMetrics(t *testing.T) {
	m, err := ParseMetrics("# HELP a b\nevents{policy=\"jwt\",event=\"hit\"} 2\nevents{worker=\"w\",policy=\"jwt\",event=\"hit\"} 3\n" +
		"events{policy=\"key\",event=\"hit\"} 5\nevents_more{policy=\"jwt\",event=\"hit\"} 7\nplain 1e3\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		labels []string
		want   float64
		has    bool
	}{
		{"events", []string{`policy="jwt"`, `event="hit"`}, 5, true},
		{"events", nil, 10, true},
		{"events", []string{`olicy="jwt"`}, 0, false},
		{"plain", nil, 1000, true},
		{"event", nil, 0, false},
	} {
		if got := m.Sum(tt.name, tt.labels...); got != tt.want || m.Has(tt.name, tt.labels...) != tt.has {
			t.Errorf("%s %v: %v, there %v", tt.name, tt.labels, got, !tt.has)
		}
	}
	for _, bad := range []string{"a", "a x", "a 1\na 2"} {
		if _, err := ParseMetrics(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestFreePort(t *testing.T) {
	seen := map[int]bool{}
	for range 20 {
		port, err := FreePort()
		if err != nil || seen[port] || port < firstPort || port >= lastPort {
			t.Fatalf("port %d: %v", port, err)
		}
		seen[port] = true
	}
}
