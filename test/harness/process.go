package harness

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Timeout bounds every wait for something that has to happen. It is generous: it only costs time when a test fails.
const Timeout = 30 * time.Second

// Process is a started program.
type Process struct {
	Name   string
	t      testing.TB
	cmd    *exec.Cmd
	output *output
	exited chan struct{} // closed when it has ended and all its output is there
}

// Start runs a program until the end of the test at the latest. Its output is shown when the test fails.
func Start(t testing.TB, name, program string, env []string, args ...string) *Process {
	t.Helper()
	p := &Process{Name: name, t: t, output: &output{}, exited: make(chan struct{})}
	p.cmd = exec.Command(program, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.WaitDelay = time.Second
	// The process ends with this one, however this one ends.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState has the status.
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("output of %s (%s, %v):\n%s", name, filepath.Base(program), p.cmd.ProcessState, tail(p.Output(), 6000))
		}
	})
	return p
}

// PID is the process's id, also after its end.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to a process that runs.
func (p *Process) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("signal %s with %v: %v", p.Name, s, err)
	}
}

// Suspend stops the process with SIGSTOP and waits until all of its threads have: the signal alone says nothing of when.
func (p *Process) Suspend() {
	p.t.Helper()
	p.Signal(syscall.SIGSTOP)
	stopped := func() bool {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		if err != nil || len(tasks) == 0 {
			return false
		}
		for _, task := range tasks {
			stat, err := os.ReadFile(task)
			// The state follows the name, which is in parentheses (proc(5)).
			if _, state, ok := strings.Cut(string(stat), ") "); err != nil || !ok || !strings.HasPrefix(state, "T") {
				return false
			}
		}
		return true
	}
	for deadline := time.Now().Add(Timeout); !stopped(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s did not stop", p.Name)
		}
	}
}

// Kill ends the process without asking, if it still runs, and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// Wait waits for the end of the process and returns its exit status, -1 if a signal ended it.
func (p *Process) Wait() int {
	p.t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(Timeout):
		p.t.Fatalf("%s still runs after %v", p.Name, Timeout)
		return 0
	}
}

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Output is what the process has written to standard output and standard error.
func (p *Process) Output() string { return p.output.String() }

// output collects what is written to it.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	return fmt.Sprintf("…%s", s[strings.IndexByte(s, '\n')+1:])
}

// Eventually waits until the condition holds; the test fails if it does not within Timeout. The condition says what it still waits for.
func Eventually(t testing.TB, what string, condition func() error) {
	t.Helper()
	if err := Within(Timeout, condition); err != nil {
		t.Fatalf("%s: not within %v: %v", what, Timeout, err)
	}
}

// Within waits until the condition holds and returns its last error if that takes too long.
func Within(timeout time.Duration, condition func() error) error {
	deadline := time.Now().Add(timeout)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}
