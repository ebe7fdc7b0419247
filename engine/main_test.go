package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
)

// freePort is a port that nobody listens on just now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// kernelFile is the rig's configuration with ports of its own.
func kernelFile(t *testing.T, dir, adminPort string) string {
	text := fmt.Sprintf(kernelText, transport(), dir)
	text = strings.Replace(text, "port: 9001", "port: "+freePort(t), 1)
	return file(t, dir, "kernel.yaml", strings.Replace(text, "  workers:\n", "  admin: {address: 127.0.0.1, port: "+adminPort+"}\n  workers:\n", 1))
}

func workerFile(t *testing.T, dir, name, more string) string {
	return file(t, dir, name+".yaml", "policy_worker:\n  name: "+name+"\n  socket_path: "+dir+"/"+name+".sock\n"+more)
}

func TestCommandRefuses(t *testing.T) {
	t.Setenv("GOGC", "100")
	t.Setenv("GOMAXPROCS", "2")
	dir := t.TempDir()
	k, a, b := kernelFile(t, dir, freePort(t)), workerFile(t, dir, "a", ""), workerFile(t, dir, "b", "")
	bad := file(t, dir, "bad.yaml", "policy_kernel:\n  wrong: 1\n")
	worse := workerFile(t, dir, "worse", "  wrong: 1\n")
	unreadable := file(t, dir, "unreadable.yaml", "policy_worker: {name: a, socket_path: "+dir+"/a.sock, key_stores: {k: {file: "+dir+"/none.yaml}}}\n")
	unread := file(t, dir, "unread.yaml", "policy_worker: {name: b, socket_path: "+dir+"/b.sock, key_stores: {k: {file: "+dir+"/nothing.yaml}}}\n")
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		stderr []string
	}{
		{"help", []string{"--help"}, 0, []string{"-kernel-config", "-worker-config"}},
		{"unknown flag", []string{"--nonsense"}, 2, []string{"nonsense"}},
		{"argument", []string{"nonsense"}, 2, []string{`unknown argument "nonsense"`}},
		{"the default files", nil, 2, []string{"/etc/policy-engine/kernel-config.yaml", "/etc/policy-engine/worker-config-1.yaml"}},
		{"check", []string{"--check", "--kernel-config", k, "--worker-config", a, "--worker-config", b}, 0, nil},
		{"mistakes in all files", []string{"--kernel-config", bad, "--worker-config", worse}, 2, []string{"bad.yaml:2: policy_kernel.wrong", "worse.yaml:4: policy_worker.wrong"}},
		{"too many files", []string{"--kernel-config", k, "--worker-config", a, "--worker-config", b, "--worker-config", a}, 2, []string{"the policies of 2 workers"}},
		{"a worker twice", []string{"--kernel-config", k, "--worker-config", a, "--worker-config", a}, 2, []string{"one file for a worker"}},
		{"no key files", []string{"--kernel-config", k, "--worker-config", unreadable, "--worker-config", unread}, 2, []string{"none.yaml", "nothing.yaml"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			got := command(t.Context(), "v1", append([]string{"policy-engine"}, tt.args...), &stdout, &stderr, (&gate{}).lists())
			if got != tt.status {
				t.Errorf("exit status %d, want %d", got, tt.status)
			}
			for _, want := range tt.stderr {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("stderr has no %s: %s", want, stderr.String())
				}
			}
		})
	}
	t.Run("version", func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		if got := command(t.Context(), "v1", []string{"policy-engine", "--version"}, &stdout, &stderr, nil); got != 0 || stdout.String() != "v1\n" {
			t.Errorf("exit status %d, stdout %q", got, stdout.String())
		}
	})
	t.Run("a policy twice", func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		twice := Policies{policies.Define("p", "1", func(policies.Env, none) (deny, error) { return deny{}, nil })}
		if got := command(t.Context(), "v1", []string{"policy-engine"}, &stdout, &stderr, []Policies{append(twice, twice...)}); got != 1 || !strings.Contains(stderr.String(), "two of that name") {
			t.Errorf("exit status %d, stderr %q", got, stderr.String())
		}
	})
	t.Run("a policy of two workers", func(t *testing.T) {
		var stderr bytes.Buffer
		var stdout journal
		p := Policies{policies.Define("p", "1", func(policies.Env, none) (deny, error) { return deny{}, nil })}
		args := []string{"policy-engine", "--kernel-config", k, "--worker-config", a, "--worker-config", b}
		if got := command(t.Context(), "v1", args, &stdout, &stderr, []Policies{p, p}); got != 2 || !strings.Contains(stderr.String(), `workers "a" and "b" both offer policy "p"`) {
			t.Errorf("exit status %d, stderr %q", got, stderr.String())
		}
	})
}

// TestCommand runs the program, and reads its log.
func TestCommand(t *testing.T) {
	t.Setenv("GOGC", "100")
	t.Setenv("GOMAXPROCS", "2")
	dir, port := t.TempDir(), freePort(t)
	args := []string{"policy-engine", "--kernel-config", kernelFile(t, dir, port), "--worker-config", workerFile(t, dir, "a", ""), "--worker-config", workerFile(t, dir, "b", "  observability: {log_level: error}\n")}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var stdout, stderr journal
	ended := make(chan int, 1)
	go func() { ended <- command(ctx, "v1", args, &stdout, &stderr, (&gate{}).lists()) }()
	eventually(t, "the program is ready", func() bool {
		resp, err := http.Get("http://127.0.0.1:" + port + "/health/ready")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	http.DefaultClient.CloseIdleConnections()
	if found, _ := filepath.Glob(dir + "/*.sock"); len(found) > 0 {
		t.Errorf("sockets nobody needs: %v", found)
	}
	stop()
	if status := <-ended; status != 0 || stderr.String() != "" {
		t.Errorf("exit status %d, stderr %q", status, stderr.String())
	}
	lines := map[string]int{}
	for text := range strings.Lines(stdout.String()) {
		var line struct {
			Component string         `json:"component"`
			Metadata  map[string]any `json:"metadata"`
		}
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Errorf("%v: %s", err, text)
		}
		name, _ := line.Metadata["worker"].(string)
		if line.Component == "kernel" {
			name = ""
		}
		lines[line.Component+name]++
	}
	if lines["kernel"] == 0 || lines["workera"] == 0 || lines["workerb"] != 0 || len(lines) != 2 {
		t.Errorf("lines of the kernel and of worker a, none of b below its level: %v", lines)
	}
}
