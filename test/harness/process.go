package harness

import (
	"os"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/process"
)

// Timeout bounds every wait for something that has to happen. It is generous: it only costs time when a test fails.
const Timeout = 30 * time.Second

// Process is a started program whose failures are the test's.
type Process struct {
	*process.Process
	t testing.TB
}

// Start runs a program until the end of the test at the latest. Its output is shown when the test fails.
func Start(t testing.TB, name, program string, env []string, args ...string) *Process {
	t.Helper()
	started, err := process.Start(name, program, env, args...)
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{Process: started, t: t}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("output of %s (%s, %s):\n%s", name, p.Program(), p.End(), process.Tail(p.Output(), 6000))
		}
	})
	return p
}

// Signal sends a signal to a process that runs.
func (p *Process) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// Suspend stops the process with SIGSTOP and waits until all of its threads have: the signal alone says nothing of when.
func (p *Process) Suspend() {
	p.t.Helper()
	if err := p.Process.Suspend(Timeout); err != nil {
		p.t.Fatal(err)
	}
}

// Wait waits for the end of the process and returns its exit status, -1 if a signal ended it.
func (p *Process) Wait() int {
	p.t.Helper()
	status, err := p.Process.Wait(Timeout)
	if err != nil {
		p.t.Fatal(err)
	}
	return status
}

// Eventually waits until the condition holds; the test fails if it does not within Timeout. The condition says what it still waits for.
func Eventually(t testing.TB, what string, condition func() error) {
	t.Helper()
	if err := process.Within(Timeout, condition); err != nil {
		t.Fatalf("%s: not within %v: %v", what, Timeout, err)
	}
}

// Within waits until the condition holds and returns its last error if that takes too long.
func Within(timeout time.Duration, condition func() error) error {
	return process.Within(timeout, condition)
}
