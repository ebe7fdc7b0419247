package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// trial is the test of one image.
type trial struct {
	suite  *suite
	engine *engine
	work   string // a folder for files
	part   string // run only this one, while it is worked on

	restrictions *restrictions
	issuer       string // the folder of the demo's issuer
}

func (t *trial) run(ctx context.Context) error {
	var err error
	if t.restrictions, err = readRestrictions(); err != nil {
		return err
	}
	t.issuer = filepath.Join(t.work, "issuer")
	if _, err := output(ctx, "bin/policyctl", "token", "init", "--dir", t.issuer); err != nil {
		return err
	}
	parts := []struct {
		name string
		run  func(context.Context) error
	}{{"unconfigured", t.unconfigured}, {"demo", t.demo}, {"replicas", t.replicas}, {"memory", t.memory}}
	// It takes a minute until supervisord gives up: the rest goes on meanwhile.
	var broken *container
	since := time.Now()
	if t.part == "" {
		if broken, err = t.startBroken(ctx); err != nil {
			return err
		}
	}
	for _, part := range parts {
		if t.part != "" && t.part != part.name {
			continue
		}
		if err := part.run(ctx); err != nil {
			t.suite.check(part.name, "", err)
		}
	}
	if broken != nil {
		t.fatal(ctx, broken, since)
	}
	return nil
}

// folder makes a folder of configuration files that the container's user can read, and the flags that mount it.
func (t *trial) folder(name string, files map[string]string) (dir string, flags []string, err error) {
	dir = filepath.Join(t.work, name)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // Nothing in it is secret.
		return "", nil, err
	}
	for file, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil { //nolint:gosec // As above.
			return "", nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil { //nolint:gosec // As above.
			return "", nil, err
		}
	}
	return dir, []string{"-v", dir + ":/etc/policy-engine:ro"}, nil
}

// unconfigured is the image as it comes: ready, and everything is denied.
func (t *trial) unconfigured(ctx context.Context) error {
	begin := time.Now()
	c, err := t.engine.start(ctx, t.restrictions)
	if err == nil {
		err = c.ready(ctx)
	}
	t.suite.check("docker run without files of one's own is ready", fmt.Sprintf("%d ms after the command", time.Since(begin).Milliseconds()), err)
	if err != nil {
		return err
	}
	t.suite.check("files and folders are exactly those of SPEC 2.3, and what supervises them", "3 programs, 3 configurations, 2 of supervision", c.files(ctx))
	t.suite.check("nothing in the image keeps the right to become another user", "no file with setuid or setgid", c.noSetuid(ctx))
	r, err := startRig(ctx, c, "deploy/demo/kernel-config.yaml", t.work)
	if err != nil {
		return err
	}
	defer r.stop()
	err = expect(ctx, r, 500, "UNKNOWN_ROUTE", &request{method: "GET", path: "/public", headers: []string{mustNotArrive + ": nobody has configured it"}})
	if err == nil {
		_, err = r.upstream.verdict()
	}
	t.suite.check("without configuration everything is denied", "500 UNKNOWN_ROUTE", err)
	err = c.signal(ctx, "TERM")
	status := -1
	if err == nil {
		if status, err = c.wait(ctx); err == nil && status != 0 {
			err = fmt.Errorf("exit status %d, want 0", status)
		}
	}
	t.suite.check("SIGTERM ends it with status 0", "0", err)
	return nil
}

// expect sends a request and holds status and body against what they should be.
func expect(ctx context.Context, r *rig, status int, text string, q *request) error {
	a, err := r.send(ctx, q.method, q.path, q.body, q.headers...)
	if err != nil {
		return err
	}
	if a.status != status || !strings.Contains(a.body, text) {
		return fmt.Errorf("%s %s: %d %s, want %d %s", q.method, q.path, a.status, a.body, status, text)
	}
	return nil
}

// demoFiles are those of deploy/demo, with the key set of its issuer.
func (t *trial) demoFiles() (map[string]string, error) {
	files := make(map[string]string)
	for _, name := range []string{"kernel-config.yaml", "worker-config-1.yaml", "worker-config-2.yaml", "api-keys.yaml"} {
		text, err := os.ReadFile(filepath.Join("deploy", "demo", name))
		if err != nil {
			return nil, err
		}
		files[name] = string(text)
	}
	keys, err := os.ReadFile(filepath.Join(t.issuer, "jwks.json"))
	if err != nil {
		return nil, err
	}
	files["jwks.json"] = string(keys)
	return files, nil
}

// token is one of the demo's issuer.
func (t *trial) token(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "bin/policyctl", append([]string{"token", "--key", filepath.Join(t.issuer, "issuer.key"), "--sub", "alice"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// startBroken starts a container in which a worker can never start: its file is wrong.
func (t *trial) startBroken(ctx context.Context) (*container, error) {
	files, err := t.demoFiles()
	if err != nil {
		return nil, err
	}
	files["worker-config-1.yaml"] = "policy_worker: {name: worker-1, wrong: 1}\n"
	_, flags, err := t.folder("broken", files)
	if err != nil {
		return nil, err
	}
	return t.engine.start(ctx, t.restrictions, flags...)
}

// fatal: the container does not go on with a part of itself, and whoever watches it learns that.
func (t *trial) fatal(ctx context.Context, c *container, since time.Time) {
	status, err := c.wait(ctx)
	seen := fmt.Sprintf("status %d after %.0f s", status, time.Since(since).Seconds())
	if err == nil && status == 0 {
		err = fmt.Errorf("it ended with status 0: nobody would start it again")
	}
	if err == nil {
		logs, lerr := c.logs(ctx)
		if err = lerr; err == nil && !strings.Contains(logs, "policy-worker-1 can't be started any more") {
			err = fmt.Errorf("its logs do not say why: %.2000s", logs)
		}
	}
	t.suite.check("a program that can't be started (FATAL) ends the container with an error", seen, err)
}
