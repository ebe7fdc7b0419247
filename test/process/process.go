// Package process runs programs as processes that end with their starter, and tells what they use: for tests of the whole system, and for measurements.
package process

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a started program.
type Process struct {
	Name   string
	cmd    *exec.Cmd
	output *output
	exited chan struct{} // closed when it has ended and all its output is there
}

// Start starts a program. It ends with this process at the latest, however this one ends.
func Start(name, program string, env []string, args ...string) (*Process, error) {
	return launch(name, program, env, syscall.SIGKILL, args)
}

// StartParent is Start for a program that has programs of its own: when this process ends, it is asked to end, so that it can end these.
func StartParent(name, program string, env []string, args ...string) (*Process, error) {
	return launch(name, program, env, syscall.SIGTERM, args)
}

func launch(name, program string, env []string, last syscall.Signal, args []string) (*Process, error) {
	p := &Process{Name: name, output: &output{}, exited: make(chan struct{})}
	p.cmd = exec.Command(program, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.WaitDelay = time.Second
	// A group of its own: Ctrl-C at a terminal reaches the starter alone, which ends the others in their order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: last, Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState has the status.
		close(p.exited)
	}()
	return p, nil
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Program is the name of the file that runs.
func (p *Process) Program() string { return filepath.Base(p.cmd.Path) }

// Signal sends a signal to a process that runs.
func (p *Process) Signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("signal %s with %v: %w", p.Name, s, err)
	}
	return nil
}

// Suspend stops the process with SIGSTOP and waits until all of its threads have: the signal alone says nothing of when.
func (p *Process) Suspend(timeout time.Duration) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return Within(timeout, func() error {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID()))
		if err != nil || len(tasks) == 0 {
			return fmt.Errorf("%s has no threads", p.Name)
		}
		for _, task := range tasks {
			stat, err := os.ReadFile(task)
			// The state follows the name, which is in parentheses (proc(5)).
			if _, state, ok := strings.Cut(string(stat), ") "); err != nil || !ok || !strings.HasPrefix(state, "T") {
				return fmt.Errorf("%s did not stop", p.Name)
			}
		}
		return nil
	})
}

// Kill ends the process without asking, if it still runs, and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// Stop asks the process to end, and kills it if it does not within the time.
func (p *Process) Stop(timeout time.Duration) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // It fails when the process has ended.
	select {
	case <-p.exited:
	case <-time.After(timeout):
		p.Kill()
	}
}

// Wait waits for the end of the process and returns its exit status, -1 if a signal ended it.
func (p *Process) Wait(timeout time.Duration) (int, error) {
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(timeout):
		return 0, fmt.Errorf("%s still runs after %v", p.Name, timeout)
	}
}

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// End tells how the process ended. It is for one that has.
func (p *Process) End() string { return p.cmd.ProcessState.String() }

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

// Tail returns the last n bytes of a text, from the beginning of a line.
func Tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	return fmt.Sprintf("…%s", s[strings.IndexByte(s, '\n')+1:])
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
