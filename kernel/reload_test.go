package kernel

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/telemetry"
)

// reloading is a kernel that follows a file.
type reloading struct {
	*running
	file    string
	hangups chan os.Signal
}

func launchFile(t *testing.T, text string) *reloading {
	t.Helper()
	r := &reloading{file: filepath.Join(t.TempDir(), "kernel.yaml"), hangups: make(chan os.Signal, 1)}
	r.put(t, text)
	r.running = launch(t, "/unused", func(cfg *config.Kernel, o *Options) {
		server, admin := cfg.Server, cfg.Admin
		loaded, err := config.LoadKernel(r.file)
		if err != nil {
			t.Fatal(err)
		}
		*cfg = *loaded
		cfg.Server, cfg.Admin = server, admin
		o.File, o.Hangups = r.file, r.hangups
	})
	return r
}

// put renames a file with the text over the configuration.
func (r *reloading) put(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(r.file+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(r.file+".new", r.file); err != nil {
		t.Fatal(err)
	}
}

// count is policy_kernel_config_reload_total with a status.
func (r *reloading) count(status string) string {
	return strings.TrimPrefix(r.metrics(`policy_kernel_config_reload_total{status="`+status), `policy_kernel_config_reload_total{status="`+status+`"} `)
}

// reload has the text taken over, or not, and waits for that.
func (r *reloading) reload(text, status string) {
	r.t.Helper()
	before := r.count(status)
	r.put(r.t, text)
	r.hangups <- syscall.SIGHUP
	eventually(r.t, "the reload is a "+status, func() bool { return r.count(status) != before })
}

func workerText(path string) string {
	return fmt.Sprintf("    - {name: worker-1, socket_path: %s, timeout: 300ms, health_check: {interval: 20ms, timeout: 2s}}\n", path)
}

const guardedRoute = "    - route_name: %s\n      request_flow: {policy_chain: [{policy: guard}]}\n"

func kernelText(more, workers string, routes ...string) string {
	text := "policy_kernel:\n" + more + "  workers:\n" + workers + "  route_policies:\n    - {route_name: open}\n"
	for _, r := range routes {
		text += fmt.Sprintf(guardedRoute, r)
	}
	return text
}

func TestReload(t *testing.T) {
	path := socketPath(t)
	f := &fakeWorker{name: "worker-1", policies: []string{"guard"}}
	f.start(t, path)
	w := workerText(path)
	r := launchFile(t, kernelText("", w, "a", "b"))
	r.ready()
	expect := func(when string, want map[string]int) {
		t.Helper()
		for route, status := range want {
			if got := r.ask(route); got != status {
				t.Errorf("%s: route %q: %d, want %d", when, route, got, status)
			}
		}
	}
	expect("at first", map[string]int{"open": 0, "a": 0, "b": 0, "c": 500})

	r.reload(kernelText("  unknown_route: continue\n", w, "a", "c"), "success")
	expect("with other routes", map[string]int{"open": 0, "a": 0, "b": 0, "c": 0})
	if got := r.ask("c", "x", "deny"); got != 403 {
		t.Errorf("the new route's policy did not run: %d", got)
	}

	r.reload(kernelText("", strings.Replace(w, "300ms", "299ms", 1), "a", "c"), "success")
	eventually(t, "the worker is connected anew, and the old tables are retired", func() bool { return f.held() == 1 })
	expect("with another timeout", map[string]int{"open": 0, "a": 0, "b": 500, "c": 0})

	path2 := socketPath(t)
	(&fakeWorker{name: "worker-2", policies: []string{"guard"}}).start(t, path2)
	r.reload(kernelText("", strings.ReplaceAll(strings.Replace(w, "worker-1", "worker-2", 1), path, path2), "a"), "success")
	expect("with another worker", map[string]int{"open": 0, "a": 0, "c": 500})
	r.ready()

	r.reload(kernelText("  worker_unavailable_response: {status_code: 599}\n", workerText("/nowhere/w.sock")), "success")
	r.reload(kernelText("  worker_unavailable_response: {status_code: 598}\n  observability: {log_level: warn}\n", workerText("/nowhere/w.sock")), "success")
	if code, _ := r.get("/health/ready"); code != 503 {
		t.Errorf("readiness without a worker is %d", code)
	}
	if n := len(r.log.lines("the configuration is taken over")); n != 4 { // The last is below the level.
		t.Errorf("%d lines of good reloads", n)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// TestBadReload: whatever becomes of the file, the last good configuration stays, each mistake is told with its place, and the next good file is taken over.
func TestBadReload(t *testing.T) {
	path := socketPath(t)
	f := &fakeWorker{name: "worker-1", policies: []string{"guard"}}
	f.start(t, path)
	w := workerText(path)
	good := kernelText("", w, "a")
	tests := []struct {
		name  string
		put   func(file string) error // what stands in the file's place
		text  string
		wants []string
	}{
		{"mistakes", nil, "policy_kernel:\n  wrong: 1\n  limits: {max_body_size: 9GiB}\n", []string{"kernel.yaml:2: policy_kernel.wrong: ", "kernel.yaml:3: policy_kernel.limits.max_body_size: "}},
		{"half", nil, good[:len(good)-9], []string{"kernel.yaml:"}},
		{"empty", nil, "", []string{"kernel.yaml: the file is empty"}},
		{"binary", nil, "\x7fELF\x00\x01\xff", []string{"kernel.yaml:1: the text is not UTF-8"}},
		{"restart", nil, kernelText("  server: {port: 1}\n  admin: {port: 2}\n", w, "a"), []string{"kernel.yaml:2: policy_kernel.server.port: ", "kernel.yaml:3: policy_kernel.admin.port: "}},
		{
			"a policy that nobody offers", nil, kernelText("", w, "a") + "    - route_name: typo\n      request_flow:\n        policy_chain:\n          - {policy: gaurd}\n          - {policy: guard}\n",
			[]string{`kernel.yaml:11: policy_kernel.route_policies[2].request_flow.policy_chain[0]: no worker offers policy "gaurd"; legal are those of policy_kernel.workers`},
		},
		{"a worker that is not there", nil, kernelText("", "    - {name: worker-9, socket_path: /nowhere/w.sock}\n", "a"), []string{`no worker offers policy "guard"`, "not heard of yet: worker-9"}},
		{"missing", func(string) error { return nil }, "", []string{"no such file"}},
		{"folder", func(file string) error { return os.Mkdir(file, 0o700) }, "", []string{"not a regular file"}},
		{"pipe", func(file string) error { return syscall.Mkfifo(file, 0o600) }, "", []string{"not a regular file"}},
		{"device", func(file string) error { return os.Symlink("/dev/zero", file) }, "", []string{"not a regular file"}},
		{"huge", func(file string) error {
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				return err
			}
			return os.Truncate(file, 1<<40)
		}, "", []string{"too large"}},
	}
	r := launchFile(t, good)
	r.ready()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			failures, lines := r.count("failure"), len(r.log.lines("is not taken over"))
			if tt.put != nil {
				if err := os.RemoveAll(r.file); err != nil {
					t.Fatal(err)
				}
				if err := tt.put(r.file); err != nil {
					t.Fatal(err)
				}
			} else {
				r.put(t, tt.text)
			}
			r.hangups <- syscall.SIGHUP
			eventually(t, "the failure is counted", func() bool { return r.count("failure") != failures })
			if got := r.metrics("policy_kernel_config_last_reload_successful"); !strings.HasSuffix(got, " 0\n") {
				t.Error(got)
			}
			eventually(t, fmt.Sprintf("a line with %q", tt.wants), func() bool { // The follower may have found the file gone, between two.
				_ = r.logger.Flush()
				return slices.ContainsFunc(r.log.lines("is not taken over")[lines:], func(line string) bool {
					return !slices.ContainsFunc(tt.wants, func(want string) bool { return !strings.Contains(line, strings.ReplaceAll(want, `"`, `\"`)) })
				})
			})
			if a, x := r.ask("a"), r.ask("a", "x", "deny"); a != 0 || x != 403 {
				t.Errorf("the last good configuration is gone: %d, %d", a, x)
			}
			r.ready()
			_ = os.RemoveAll(r.file)
			r.reload(good+"# "+tt.name, "success")
			if got := r.metrics("policy_kernel_config_last_reload_successful"); !strings.HasSuffix(got, " 1\n") {
				t.Error(got)
			}
		})
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// TestRejectedReload: a worker's mistakes are the file's, and what it did not accept is taken over when it is asked again.
func TestRejectedReload(t *testing.T) {
	path := socketPath(t)
	f := &fakeWorker{name: "worker-1", policies: []string{"guard"}}
	f.start(t, path)
	r := launchFile(t, kernelText("", workerText(path), "a"))
	r.ready()
	f.mu.Lock()
	f.rejectRoute = "b" // A replica that connects anew may have what it had.
	f.mu.Unlock()
	f.setReject(&workerv1.ConfigError{Chain: 1, Path: "policy_kernel.route_policies[1].request_flow.policy_chain[0].params.key_store", Message: `there is no key store "x"`})
	r.reload(kernelText("", workerText(path), "a", "b"), "failure")
	eventually(t, "it is logged", func() bool { _ = r.logger.Flush(); return len(r.log.lines("is not taken over")) == 1 })
	if line := r.log.lines("is not taken over")[0]; !strings.Contains(line, `kernel.yaml:7: policy_kernel.route_policies[1].request_flow.policy_chain[0].params.key_store: there is no key store \"x\" (says worker worker-1)`) {
		t.Error(line)
	}
	if got := r.ask("b"); got != 500 {
		t.Errorf("a rejected route is there: %d", got)
	}
	r.ready()
	f.setReject()
	r.hangups <- syscall.SIGHUP
	eventually(t, "the route is there", func() bool { return r.ask("b") == 0 })
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// TestFileIsFollowed: no signal is needed.
func TestFileIsFollowed(t *testing.T) {
	path := socketPath(t)
	(&fakeWorker{name: "worker-1", policies: []string{"guard"}}).start(t, path)
	r := launchFile(t, kernelText("", workerText(path), "a"))
	r.ready()
	r.put(t, kernelText("", workerText(path), "b"))
	eventually(t, "it is taken over", func() bool { return r.ask("b") == 0 && r.ask("a") == 500 })
	r.put(t, "policy_kernel: {wrong: 1}\n")
	eventually(t, "its mistake is told", func() bool { return r.count("failure") == "1\n" })
	if r.ask("b") != 0 {
		t.Error("the last good configuration is gone")
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// TestReloadIsTriedAgain: what only the workers had something against is tried again, quietly, until they take it or the file says something else.
func TestReloadIsTriedAgain(t *testing.T) {
	path := socketPath(t)
	f := &fakeWorker{name: "worker-1", policies: []string{"guard"}}
	f.start(t, path)
	text := func(routes ...string) []byte { return []byte(kernelText("", workerText(path), routes...)) }
	cfg, err := config.ParseKernel("kernel.yaml", text("a"))
	if err != nil {
		t.Fatal(err)
	}
	log := &journal{}
	logger, err := telemetry.NewLogger("kernel", "info", log)
	if err != nil {
		t.Fatal(err)
	}
	defer logger.Close()
	k, err := build(cfg, Options{Log: logger, File: "kernel.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	k.registry.Start()
	go func() { ended <- k.distributor.run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		k.registry.Close()
	}()
	eventually(t, "the first table is complete", func() bool { return k.distributor.state() == "" && k.registry.Status()[0].Available })
	r := k.reloader
	take := func(content []byte) {
		r.attempt.Lock()
		defer r.attempt.Unlock()
		r.take(ctx, "file", content, nil)
	}
	expect := func(when, status, cause string, failures uint64) {
		t.Helper()
		if o := r.outcome(); o == nil || o.Status != status || o.Cause != cause || r.failed.Get() != failures {
			t.Errorf("%s: %+v, %d failures", when, o, r.failed.Get())
		}
	}
	r.again(ctx)
	if r.outcome() != nil {
		t.Error("there was nothing to try again")
	}
	f.setReject(mistake("policy_kernel.route_policies[1]"))
	take(text("b"))
	expect("rejected", statusRefused, "file", 1)
	r.again(ctx)
	expect("rejected for the same reason", statusRefused, "file", 1)
	f.setReject(mistake("policy_kernel.route_policies[0]"))
	r.again(ctx)
	expect("rejected for another reason", statusRefused, "retry", 2)
	f.setReject()
	r.again(ctx)
	expect("taken", statusApplied, "retry", 2)
	if k.distributor.routes.Current().Lookup("b") == nil {
		t.Error("it is not in use")
	}
	r.again(ctx)
	expect("nothing is left to try", statusApplied, "retry", 2)

	f.setReject(mistake("policy_kernel.route_policies[1]"))
	take(text("c"))
	f.setReject()
	take([]byte("policy_kernel: {wrong: 1}"))
	r.again(ctx)
	expect("the file says something else", statusRefused, "file", 4)
	if k.distributor.routes.Current().Lookup("c") != nil {
		t.Error("what the file does not say any more is in use")
	}
}

// TestStaleContentIsNotTaken: a content that the follower found counts only while the file still has it.
func TestStaleContentIsNotTaken(t *testing.T) {
	path := socketPath(t)
	(&fakeWorker{name: "worker-1", policies: []string{"guard"}}).start(t, path)
	file := filepath.Join(t.TempDir(), "kernel.yaml")
	old, next := []byte(kernelText("", workerText(path), "a")), []byte(kernelText("", workerText(path), "b"))
	if err := os.WriteFile(file, next, 0o600); err != nil {
		t.Fatal(err)
	}
	r := &reloader{file: file}
	r.changed(t.Context(), old, nil) // It would need a distributor to take it.
	r.changed(t.Context(), nil, os.ErrNotExist)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	r.changed(t.Context(), next, nil)
	if r.outcome() != nil {
		t.Errorf("taken: %+v", r.outcome())
	}
}
