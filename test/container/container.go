package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/test/process"
)

const (
	// readyTimeout bounds waits for a container that starts or comes back.
	readyTimeout = 30 * time.Second
	// endTimeout is above what kernel and workers get to drain, one after the other.
	endTimeout = 60 * time.Second
)

// container is a running one.
type container struct {
	engine *engine
	name   string
	kernel int // the port for Envoy
	admin  int // the port for metrics and health
}

// start runs the image. It has the host's network, so its ports are free ones of this machine.
func (e *engine) start(ctx context.Context, r *restrictions, flags ...string) (*container, error) {
	c := &container{engine: e, name: fmt.Sprintf("policy-engine-test-%d-%d", os.Getpid(), len(e.started))}
	var err error
	if c.kernel, err = process.FreePort(); err != nil {
		return nil, err
	}
	if c.admin, err = process.FreePort(); err != nil {
		return nil, err
	}
	e.started = append(e.started, c.name)
	args := slices.Concat(
		[]string{"run", "-d", "--name", c.name, "--network", "host"}, e.limits, r.flags(), c.ports(), flags, []string{image},
	)
	_, err = e.command(ctx, args...)
	return c, err
}

// ports are variables of the image's own configuration, and of the demo's.
func (c *container) ports() []string {
	kernel, admin := strconv.Itoa(c.kernel), strconv.Itoa(c.admin)
	return []string{
		"-e", "POLICY_ENGINE_PORT=" + kernel, "-e", "POLICY_ENGINE_ADMIN_PORT=" + admin, "-e", "PORT_KERNEL=" + kernel, "-e", "PORT_ADMIN=" + admin,
	}
}

func (c *container) url(path string) string {
	return fmt.Sprintf("http://127.0.0.1:%d%s", c.admin, path)
}

// ready waits until the kernel says that it is.
func (c *container) ready(ctx context.Context) error {
	err := process.Within(readyTimeout, func() error {
		status, body, err := process.Get(c.url("/health/ready"))
		if err == nil && status != 200 {
			err = fmt.Errorf("status %d: %s", status, body)
		}
		return err
	})
	if err != nil {
		logs, _ := c.logs(ctx)
		return fmt.Errorf("the container is not ready: %w\n%s", err, process.Tail(logs, 3000))
	}
	return nil
}

// python runs a script in the container, which has Python because supervisord is written in it.
func (c *container) python(ctx context.Context, script string, args ...string) (string, error) {
	return c.engine.command(ctx, slices.Concat([]string{"exec", c.name, "python3", "-c", script}, args)...)
}

// inspect asks the engine for a value.
func (c *container) inspect(ctx context.Context, format string) (string, error) {
	out, err := c.engine.command(ctx, "inspect", "--format", format, c.name)
	return strings.TrimSpace(out), err
}

// logs is what came to the container's standard output.
func (c *container) logs(ctx context.Context) (string, error) {
	return c.engine.command(ctx, "logs", c.name)
}

// kill is SIGKILL to the engine's program in whose command line the text stands. It returns when that was, by this machine's clock.
func (c *container) kill(ctx context.Context, text string) (time.Time, error) {
	out, err := c.python(ctx, `
import os, signal, sys, time
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        name = open("/proc/%s/comm" % pid).read()
        line = open("/proc/%s/cmdline" % pid).read()
    except OSError:
        continue
    if name.startswith("policy-") and sys.argv[1] in line:
        print(time.time_ns())
        os.kill(int(pid), signal.SIGKILL)
`, text)
	if err != nil {
		return time.Time{}, err
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("the container runs not one program with %q: %q", text, out)
	}
	return time.Unix(0, ns), nil
}

// signal sends a signal to process 1.
func (c *container) signal(ctx context.Context, name string) error {
	_, err := c.engine.command(ctx, "kill", "--signal", name, c.name)
	return err
}

// wait waits for the end and returns the exit status.
func (c *container) wait(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	out, err := output(ctx, c.engine.program, slices.Concat(c.engine.global, []string{"wait", c.name})...)
	if err != nil {
		return 0, fmt.Errorf("the container does not end: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

// components counts the lines of standard output by who wrote them. Each has to be a log line of ours.
func (c *container) components(ctx context.Context) (map[string]int, error) {
	logs, err := c.logs(ctx)
	if err != nil {
		return nil, err
	}
	count := make(map[string]int)
	for line := range strings.Lines(logs) {
		var l struct{ Timestamp, Level, Component, Message string }
		if json.Unmarshal([]byte(line), &l) != nil || l.Timestamp == "" || l.Level == "" || l.Message == "" {
			count["others"]++
			continue
		}
		count[l.Component]++
	}
	return count, nil
}
