// Command smoke starts the demo on free ports, runs the commands of the README as they stand there, compares what they print with what the README
// promises, stops the demo, and looks for what it left behind. `make smoke` builds what it needs and runs it from the top of the tree.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"time"
)

const commandTimeout = 30 * time.Second

// programs are what the demo consists of, and sockets how many workers listen on one; while it runs, all of them are found, so that finding none afterwards means
// something. FORM is what deploy/demo/run.sh takes.
var programs, sockets = form(os.Getenv("FORM"))

func form(name string) (programs []string, sockets int) {
	around := []string{"supervisord", "envoy", "upstream"}
	if name == "one" {
		return append(around, "policy-engine"), 0
	}
	return append(around, "policy-kernel", "policy-worker-1", "policy-worker-2"), 2
}

func main() {
	// Caught here, a signal has its default meaning in the demo, even where this program was started with SIGINT ignored.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)

	var s suite
	s.run(interrupted)
	fmt.Printf("smoke: %d passed, %d failed\n", s.passed, s.failed)
	if s.failed > 0 || s.passed == 0 {
		os.Exit(1)
	}
}

// suite counts.
type suite struct{ passed, failed int }

// check counts one promise; the error says how it was broken.
func (s *suite) check(name string, err error) {
	if err != nil {
		s.failed++
		fmt.Printf("FAIL  %s\n%v\n", name, err)
		return
	}
	s.passed++
	fmt.Printf("ok    %s\n", name)
}

func (s *suite) run(interrupted <-chan os.Signal) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		s.check("read README.md", err)
		return
	}
	steps := parseTranscript(string(readme))

	s.whileRunning("Ctrl-C", (*demo).interrupt, interrupted, func(d *demo) {
		s.check("the demo prints lines of the README", d.promised(steps))
		for _, step := range steps {
			s.check(fmt.Sprintf("README.md:%d: %s", step.line, step.command), d.try(&step))
		}
	})
	s.whileRunning("SIGTERM", (*demo).terminate, interrupted, func(*demo) {})
}

// whileRunning starts the demo, uses it, stops it, and looks for what is left.
func (s *suite) whileRunning(how string, stop func(*demo) error, interrupted <-chan os.Signal, use func(*demo)) {
	d, err := startDemo()
	s.check("the demo starts", err)
	if err != nil {
		return
	}
	defer d.kill()
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-interrupted:
			d.kill()
			os.Exit(1)
		case <-over:
		}
	}()
	failedBefore := s.failed
	use(d)

	s.check("all programs run", d.complete())
	found, err := d.sockets()
	if err == nil && len(found) != sockets {
		err = fmt.Errorf("sockets: %v, want %d", found, sockets)
	}
	s.check("the workers' sockets are there", err)
	s.check(how+" is accepted", stop(d))
	s.check(how+" ends the demo with status 0", d.stopped())
	s.check("no process is left after "+how, none(d.processes()))
	s.check("no port is left open after "+how, none(d.listening()))
	found, err = d.sockets()
	if err == nil {
		err = none(found)
	}
	s.check("no socket is left after "+how, err)
	_ = os.RemoveAll(d.temp)
	if s.failed == failedBefore {
		_ = os.RemoveAll(d.dir)
	} else {
		fmt.Printf("logs are in %s\n", d.dir)
	}
}

func none[T any](left []T) error {
	if len(left) > 0 {
		return fmt.Errorf("left: %v", left)
	}
	return nil
}

// complete tells which programs don't run.
func (d *demo) complete() error {
	running := fmt.Sprint(d.processes())
	for _, program := range programs {
		if !strings.Contains(running, program) {
			return fmt.Errorf("%s doesn't run; what runs: %s", program, running)
		}
	}
	return nil
}

// promised tells whether each command that the demo printed is one of the README, which try runs.
func (d *demo) promised(steps []step) error {
	count := 0
	for _, line := range d.printed {
		command := strings.TrimSpace(line)
		if !strings.HasPrefix(command, "curl ") {
			continue
		}
		count++
		if !slices.ContainsFunc(steps, func(s step) bool { return d.literal(s.command) == command }) {
			return fmt.Errorf("README.md has no step %q", command)
		}
	}
	if count == 0 {
		return fmt.Errorf("it printed no command: %q", d.printed)
	}
	return nil
}

// try runs a step of the README as it stands there, but for the ports.
func (d *demo) try(s *step) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "bash", "-c", d.literal(s.command))
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil || !s.matches(stdout.String()) {
		return fmt.Errorf("status: %v\nwant:\n%s\ngot:\n%s\n%s", err, strings.Join(s.want, "\n"), normalise(stdout.String()), stderr.String())
	}
	return nil
}
