package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/policies"
)

// output is what a program writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func TestCommandRefuses(t *testing.T) {
	folder := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	bad := write("bad.yaml", "policy_worker:\n  name: worker-1\n  socket: x\n")
	store := write("store.yaml", "policy_worker:\n  name: worker-1\n  socket_path: "+filepath.Join(folder, "s")+"\n  key_stores:\n    k: {file: "+filepath.Join(folder, "missing.yaml")+"}\n")
	tests := []struct {
		name   string
		args   []string
		status int
		stderr string
	}{
		{"unknown flag", []string{"--x"}, 2, "flag provided but not defined"},
		{"argument", []string{"x"}, 2, `unknown argument "x"`},
		{"no file", []string{"--config", filepath.Join(folder, "none.yaml")}, 2, "none.yaml"},
		{"mistakes", []string{"--config", bad}, 2, "bad.yaml:3: policy_worker.socket"},
		{"key store", []string{"--config", store}, 2, "missing.yaml"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr output
			got := command(context.Background(), "v1", append([]string{"w"}, tt.args...), &stdout, &stderr, newWorld().definitions())
			if got != tt.status || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("status %d, stderr %q", got, stderr.String())
			}
		})
	}
	t.Run("policies", func(t *testing.T) {
		var stderr output
		d := newWorld().definitions()
		if got := command(context.Background(), "v1", []string{"w"}, io.Discard, &stderr, append(d, d[0])); got != 1 || !strings.Contains(stderr.String(), "there are two of that name") {
			t.Errorf("status %d, stderr %q", got, stderr.String())
		}
	})
	t.Run("version", func(t *testing.T) {
		var stdout output
		if got := command(context.Background(), "v1", []string{"w", "--version"}, &stdout, io.Discard, nil); got != 0 || stdout.String() != "v1\n" {
			t.Errorf("status %d, stdout %q", got, stdout.String())
		}
	})
}

// TestCommand runs the program, and reads its log.
func TestCommand(t *testing.T) {
	folder := socketFolder(t)
	socketPath := filepath.Join(folder, "w.sock")
	keys := filepath.Join(folder, "keys.yaml")
	if err := os.WriteFile(keys, []byte("keys:\n  - {id: alice, sha256: \""+strings.Repeat("ab", 32)+"\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := filepath.Join(folder, "w.yaml")
	content := fmt.Sprintf("policy_worker:\n  name: worker-1\n  socket_path: %s\n  key_stores:\n    partners: {file: %s}\n", socketPath, keys)
	if err := os.WriteFile(cfg, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var stdout, stderr output
	status := make(chan int, 1)
	go func() {
		status <- command(ctx, "v1", []string{"w", "--config", cfg}, &stdout, &stderr, newWorld().definitions())
	}()
	conn, err := grpc.NewClient("unix:"+socketPath, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w := &running{client: workerv1.NewPolicyWorkerClient(conn)}
	eventually(t, "serving", func() bool { _, err := os.Lstat(socketPath); return err == nil })

	resp, err := w.client.PushConfig(ctx, &workerv1.PushConfigRequest{KernelId: testKernel, Generation: 1, Chains: []*workerv1.Chain{requestChain(1, policy("stores", `{"store":"partners"}`))}}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Errors) != 1 || !strings.HasPrefix(resp.Errors[0].Message, "unknown token issuer") { // The store was found.
		t.Errorf("errors %v", resp.Errors)
	}
	w.push(t, 2, requestChain(1, policy("bad", "")))
	for range 3 {
		if r := w.execute(t, requestCall(1, 2, 1)); r.Failure != workerv1.Result_FAILURE_POLICY_PANIC {
			t.Errorf("result %v", r)
		}
	}
	stop()
	if got := receive(t, status); got != 0 || stderr.String() != "" {
		t.Errorf("status %d, stderr %q", got, stderr.String())
	}

	panics := 0
	for line := range strings.Lines(stdout.String()) {
		var entry struct {
			Component string
			Message   string
			Metadata  map[string]any
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Component != "worker" {
			t.Errorf("line %q: %v", line, err)
		}
		if entry.Message == "policy failed" {
			panics++
			if m := entry.Metadata; m["policy"] != "bad" || m["route"] != "route-1" || m["reason"] != "panic" || !strings.Contains(m["stack"].(string), "harness_test.go") {
				t.Errorf("line %q", line)
			}
		}
	}
	if panics != 1 {
		t.Errorf("%d lines for 3 panics, want 1: they are throttled", panics)
	}
	if !strings.Contains(stdout.String(), "close of a policy panicked") {
		t.Error("the panic of Close is not logged")
	}
}

func TestEnv(t *testing.T) {
	var out output
	g := &generation{using: map[sharedKey]*sharedValue{}, freed: make(chan struct{})}
	registry, err := NewRegistry(newWorld().definitions()...)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(&out, nil))
	e := &env{environment: &environment{
		log: log, clock: systemClock{}, meters: newMeters(registry), shared: newSharedValues(log),
		keyStores: map[string]policies.KeyStore{"b": nil, "a": nil},
	}, generation: g, policy: "set", route: "orders", instance: "orders/request/set/0"}

	t.Run("logger", func(t *testing.T) {
		e.Logger().Info("hello")
		if !strings.Contains(out.String(), "msg=hello policy=set route=orders") {
			t.Errorf("log %q", out.String())
		}
	})
	t.Run("names", func(t *testing.T) {
		if _, err := e.KeyStore("c"); err == nil || err.Error() != `unknown key store "c"; legal are a, b (key_stores of the worker's configuration)` {
			t.Error(err)
		}
		if _, err := e.KeyStore("a"); err != nil {
			t.Error(err)
		}
	})
	t.Run("shared", func(t *testing.T) {
		g.log, g.shared = log, e.shared
		if _, err := e.Shared("k", func() (io.Closer, error) { return nil, io.ErrUnexpectedEOF }); err != io.ErrUnexpectedEOF {
			t.Error(err)
		}
		if _, err := e.Shared("k", func() (io.Closer, error) { return nil, nil }); err == nil {
			t.Error("nil was taken")
		}
		if _, err := e.Shared("k", func() (io.Closer, error) { panic("oh") }); err == nil || !strings.Contains(err.Error(), "panic: oh") {
			t.Error(err)
		}
		closed := 0
		open := func() (io.Closer, error) { return closeFunc(func() error { closed++; return nil }), nil }
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if v, err := e.Shared("k", open); v == nil || err != nil {
					t.Error(v, err)
				}
			})
		}
		wg.Wait()
		if closed != 0 || len(e.shared.values) != 1 {
			t.Errorf("closed %d, values %v", closed, e.shared.values)
		}
		g.free()
		if closed != 1 || len(e.shared.values) != 0 {
			t.Errorf("closed %d, values %v", closed, e.shared.values)
		}
		if _, err := e.Shared("k", open); err != errFreed {
			t.Errorf("after the end: %v", err)
		}
	})
}
