package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/test/process"
)

// supervisorLine is one of process 1.
type supervisorLine struct {
	Timestamp time.Time
	Component string
	Message   string
}

func supervisorLines(logs string) []supervisorLine {
	var found []supervisorLine
	for line := range strings.Lines(logs) {
		var l supervisorLine
		if json.Unmarshal([]byte(line), &l) == nil && l.Component == "supervisor" {
			found = append(found, l)
		}
	}
	return found
}

// steady waits until each program that was started has been up for as long as supervisord wants (startsecs).
func (c *container) steady(ctx context.Context) error {
	return process.Within(readyTimeout, func() error {
		logs, err := c.logs(ctx)
		if err != nil {
			return err
		}
		up := make(map[string]bool)
		for _, l := range supervisorLines(logs) {
			if rest, found := strings.CutPrefix(l.Message, "spawned: '"); found {
				name, _, _ := strings.Cut(rest, "'")
				up[name] = false
			}
			if rest, found := strings.CutPrefix(l.Message, "success: "); found {
				name, _, _ := strings.Cut(rest, " ")
				up[name] = true
			}
		}
		for name, running := range up {
			if !running {
				return fmt.Errorf("%s is not up yet", name)
			}
		}
		if len(up) == 0 {
			return fmt.Errorf("supervisord has started nothing")
		}
		return c.complete()
	})
}

// complete is nil when the kernel is ready and has every replica of every worker.
func (c *container) complete() error {
	for _, path := range []string{"/health/ready", "/metrics"} {
		status, text, err := process.Get(c.url(path))
		if err != nil || status != 200 {
			return fmt.Errorf("%s: status %d, error %w", path, status, err)
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "policy_kernel_worker_replica_up{") && !strings.HasSuffix(line, " 1\n") {
				return fmt.Errorf("a replica is down: %s", line)
			}
		}
	}
	return nil
}

// output: standard output has lines of all, in the form of SPEC 6.2; so have the files.
func (c *container) output(ctx context.Context) (string, error) {
	count, err := c.components(ctx)
	if err != nil {
		return "", err
	}
	for _, component := range []string{"kernel", "worker", "supervisor"} {
		if count[component] == 0 {
			return "", fmt.Errorf("there is no line of component %q: %v", component, count)
		}
	}
	lines, err := ask[map[string]int](ctx, c, `
import json, os
folder = "/var/log/policy-engine"
print(json.dumps({f: open(os.path.join(folder, f)).read().count("\n") for f in os.listdir(folder)}))
`)
	if err != nil {
		return "", err
	}
	for _, file := range []string{"policy-kernel.log", "policy-worker-1.log", "policy-worker-2.log", "supervisord.log"} {
		if lines[file] == 0 {
			return "", fmt.Errorf("%s has no line: %v", file, lines)
		}
	}
	total := lines["policy-kernel.log"] + lines["policy-worker-1.log"] + lines["policy-worker-2.log"]
	if printed := count["kernel"] + count["worker"] + count["others"]; printed != total {
		return "", fmt.Errorf("%d lines of the programs are on standard output, %d in the files", printed, total)
	}
	return fmt.Sprintf("%d lines of the kernel, %d of workers, %d of the supervisor", count["kernel"], count["worker"], count["supervisor"]), nil
}
