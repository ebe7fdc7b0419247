package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/test/process"
)

// demo is the demo's configuration in the container, with both workers.
func (t *trial) demo(ctx context.Context) error {
	files, err := t.demoFiles()
	if err != nil {
		return err
	}
	dir, flags, err := t.folder("demo", files)
	if err != nil {
		return err
	}
	c, err := t.engine.start(ctx, t.restrictions, append(flags, "-e", "POLICY_ENGINE_WORKER_2=true", "-e", "DEMO_ISSUER_DIR=/etc/policy-engine")...)
	if err == nil {
		err = c.ready(ctx)
	}
	if err != nil {
		return err
	}
	seen, err := c.processes(ctx)
	t.suite.check("every process is user 1000, without capabilities or a way to new privileges", seen, err)
	t.suite.check("sockets have mode 0600 and belong to the user policy-engine", "2 sockets", c.sockets(ctx))
	t.suite.check("the root is read-only, except sockets and logs", "7 attempts to write", c.readOnly(ctx))
	seen, err = c.limits(ctx, 3)
	t.suite.check("memory and CPU limits are those of docker-compose.yaml, and are divided", seen, err)
	seen, err = c.health(ctx)
	t.suite.check("the image's health check", seen, err)

	r, err := startRig(ctx, c, filepath.Join(dir, "kernel-config.yaml"), t.work)
	if err != nil {
		return err
	}
	defer r.stop()
	scoped, err := t.token(ctx, "--scope", "accounts.read")
	if err != nil {
		return err
	}
	bare, err := t.token(ctx)
	if err != nil {
		return err
	}
	t.requests(ctx, r, scoped, bare)
	traffic := requests(scoped, bare)
	for _, program := range []string{"policy-worker-1", "policy-worker-2", "policy-kernel"} {
		seen, err := r.killed(ctx, program, program, traffic, false)
		t.suite.check(program+" killed under load: nothing unchecked, full service within 1 s", seen, err)
	}
	t.suite.check("process 1 takes in what is left of others: no zombie", "an orphan, and what was killed", c.noZombies(ctx))
	seen, err = c.output(ctx)
	t.suite.check("logs are on standard output, as JSON, and in files", seen, err)
	seen, err = r.terminated(ctx, traffic)
	t.suite.check("SIGTERM under load: nothing unchecked, drained, status 0", seen, err)
	return nil
}

// health runs the image's own health check, as the engine does.
func (c *container) health(ctx context.Context) (string, error) {
	command, err := c.engine.command(ctx, "image", "inspect", "--format", "{{index .Config.Healthcheck.Test 0}} {{index .Config.Healthcheck.Test 1}}", image)
	if err != nil {
		return "", fmt.Errorf("the image has no health check: %w", err)
	}
	shell, found := strings.CutPrefix(strings.TrimSpace(command), "CMD-SHELL ")
	if !found {
		return "", fmt.Errorf("the health check is %q, want one for the shell", command)
	}
	if _, err := c.engine.command(ctx, "exec", c.name, "/bin/sh", "-c", shell); err != nil {
		return "", err
	}
	if _, err := c.engine.command(ctx, "exec", "-e", "POLICY_ENGINE_ADMIN_PORT=1", c.name, "/bin/sh", "-c", shell); err == nil {
		return "", errors.New("it finds a kernel healthy where there is none")
	}
	return "healthy; and not where no kernel listens", nil
}

// requests are those of the README.
func (t *trial) requests(ctx context.Context, r *rig, scoped, bare string) {
	const refused, alice, bob = mustNotArrive + ": it has no right to", "X-API-Key: demo-key-alice", "X-API-Key: demo-key-bob"
	var problems []error
	n := 0
	try := func(status int, text, path string, headers ...string) *answer {
		n++
		a, err := r.send(ctx, "GET", path, "", headers...)
		switch {
		case err != nil:
			problems = append(problems, err)
			return &answer{}
		case a.status != status || !strings.Contains(a.body, text):
			problems = append(problems, fmt.Errorf("%s %q: %d %s, want %d %s", path, headers, a.status, a.body, status, text))
		}
		return a
	}
	want := func(what, got, want string) {
		if got != want {
			problems = append(problems, fmt.Errorf("%s is %q, want %q", what, got, want))
		}
	}
	try(200, "", "/public")
	try(401, "API_KEY_MISSING", "/orders", refused)
	try(401, "", "/orders", refused, "X-API-Key: demo-key-mallory")
	a := try(200, "", "/orders", alice, "X-User-ID: admin")
	want("the user of /orders", a.arrived.Get("X-User-Id"), "alice")
	want("the key at the upstream", a.arrived.Get("X-Api-Key"), "")
	want("x-frame-options", a.header.Get("X-Frame-Options"), "DENY")
	for range 5 {
		try(200, "", "/orders", bob)
	}
	try(429, "RATE_LIMITED", "/orders", refused, bob)
	try(401, "TOKEN_MISSING", "/accounts", refused)
	try(403, "SCOPE_MISSING", "/accounts", refused, "Authorization: Bearer "+bare)
	a = try(200, "", "/accounts", "Authorization: Bearer "+scoped)
	want("the user of /accounts", a.arrived.Get("X-User-Id"), "alice")
	a = try(200, "", "/custom", alice, "X-Tenant: initech")
	want("the tenant", a.arrived.Get("X-Tenant"), "acme")
	try(404, "ROUTE_NOT_FOUND", "/nowhere", refused)
	_, err := r.upstream.verdict()
	t.suite.check("the demo's requests, through the real Envoy", fmt.Sprintf("%d requests", n), errors.Join(append(problems, err)...))
}

// requests of the traffic: good ones and bad ones, of one worker and of both.
func requests(scoped, bare string) []request {
	return []request{
		{method: "GET", path: "/custom", headers: []string{"X-API-Key: demo-key-alice", "X-Tenant: initech"}},
		{method: "GET", path: "/custom", headers: []string{mustNotArrive + ": no key", "X-User-Id: alice", "X-Tenant: acme"}, refused: true},
		{method: "GET", path: "/accounts", headers: []string{"Authorization: Bearer " + scoped}},
		{method: "GET", path: "/accounts", headers: []string{mustNotArrive + ": no scope", "X-User-Id: alice", "Authorization: Bearer " + bare}, refused: true},
	}
}

const (
	// settled is how many good requests have to succeed in a row before and after what is done to the container.
	settled = 200
	// recovery is how long requests may be lost after a program has crashed.
	recovery = time.Second
)

// succeeds waits until that many good requests have begun and succeeded since a time.
func (t *traffic) succeeds(since time.Time) error {
	return process.Within(readyTimeout, func() error {
		if n := t.count(since); n < settled {
			return fmt.Errorf("%d requests succeeded", n)
		}
		return nil
	})
}

// goesOn waits until that many requests have begun and ended since a time, with whatever result.
func (t *traffic) goesOn(since time.Time) error {
	return process.Within(readyTimeout, func() error {
		t.mu.Lock()
		defer t.mu.Unlock()
		n := 0
		for i := range t.results {
			if t.results[i].begin.After(since) {
				n++
			}
		}
		if n < settled {
			return fmt.Errorf("%d requests ended", n)
		}
		return nil
	})
}

// killed kills a program under load, the one in whose command line the text stands. Without a replica of it, requests are lost, but soon they are not; with one, none is. None passes unchecked.
func (r *rig) killed(ctx context.Context, program, text string, requests []request, replica bool) (string, error) {
	// A program that has not been up for a second counts as one that fails to start: supervisord then waits.
	if err := r.container.steady(ctx); err != nil {
		return "", err
	}
	t := r.load(ctx, clients, requests)
	defer t.stopped()
	if err := t.succeeds(time.Now()); err != nil {
		return "", err
	}
	at, err := r.container.kill(ctx, text)
	if err != nil {
		return "", err
	}
	err = process.Within(readyTimeout, func() error { return r.again(program, at) })
	if err != nil {
		return "", err
	}
	if err := t.succeeds(time.Now().Add(recovery)); err != nil {
		return "", fmt.Errorf("service does not come back: %w", err)
	}
	o := t.stop()
	arrived, unchecked := r.upstream.verdict()
	if err := errors.Join(unchecked, o.verdict()); err != nil {
		return "", err
	}
	if arrived == 0 {
		return "", errors.New("nothing reached the upstream")
	}
	if first, _ := o.before(at).lost(); first > 0 {
		return "", fmt.Errorf("%d requests were lost before", first)
	}
	return o.loss(program, at, replica)
}

// loss tells whether no more requests were lost than may be.
func (o outcome) loss(program string, at time.Time, replica bool) (string, error) {
	lost, last := o.lost()
	took := time.Duration(0)
	if lost > 0 {
		took = last.Sub(at)
	}
	seen := fmt.Sprintf("%v; full service %d ms after the crash", o, took.Milliseconds())
	switch {
	case replica && lost > 0:
		return "", fmt.Errorf("%s, want none lost: there is a replica", seen)
	case !replica && lost == 0:
		return "", fmt.Errorf("no request was lost when the only %s died: was it killed? %s", program, seen)
	case took > recovery:
		return "", fmt.Errorf("%s, want at most %v", seen, recovery)
	}
	return seen, nil
}

// again is nil when supervisord has started a program again since.
func (r *rig) again(program string, at time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	logs, err := r.container.logs(ctx)
	if err != nil {
		return err
	}
	for _, line := range supervisorLines(logs) {
		if line.Timestamp.After(at.Add(-time.Second)) && strings.Contains(line.Message, "spawned: '"+program+"'") {
			return nil
		}
	}
	return fmt.Errorf("%s was not started again", program)
}

// terminated sends SIGTERM to the container under load: it takes its leave of Envoy, and ends well.
func (r *rig) terminated(ctx context.Context, requests []request) (string, error) {
	t := r.load(ctx, clients, requests)
	defer t.stopped()
	if err := t.succeeds(time.Now()); err != nil {
		return "", err
	}
	at := time.Now()
	if err := r.container.signal(ctx, "TERM"); err != nil {
		return "", err
	}
	status, err := r.container.wait(ctx)
	if err != nil {
		return "", err
	}
	took := time.Since(at)
	// Without an engine nothing passes.
	if err := t.goesOn(time.Now()); err != nil {
		return "", err
	}
	o := t.stop()
	arrived, unchecked := r.upstream.verdict()
	if err := errors.Join(unchecked, o.verdict()); err != nil {
		return "", err
	}
	if lost, _ := o.before(at).lost(); lost > 0 || arrived == 0 || status != 0 {
		return "", fmt.Errorf("%d requests were lost before the signal, %d reached the upstream, exit status %d", lost, arrived, status)
	}
	logs, err := r.container.logs(ctx)
	if err != nil {
		return "", err
	}
	for _, program := range []string{"policy-kernel", "policy-worker-1", "policy-worker-2"} {
		if !strings.Contains(logs, "stopped: "+program+" (exit status 0)") {
			return "", fmt.Errorf("%s did not end by itself with status 0: %s", program, process.Tail(logs, 2000))
		}
	}
	return fmt.Sprintf("%v; ended %d ms after SIGTERM, each program with status 0", o, took.Milliseconds()), nil
}
