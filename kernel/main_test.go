package kernel

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommand(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	rejecting := &fakeWorker{name: "worker-1", policies: []string{"guard"}}
	rejecting.setReject(mistake("policy_kernel.route_policies[0]"))
	socket := socketPath(t)
	rejecting.start(t, socket)
	good := file("good.yaml", fmt.Sprintf(configText, "/nowhere/w.sock"))
	rejected := file("rejected.yaml", "policy_kernel:\n  server: {socket_path: "+filepath.Join(dir, "k.sock")+"}\n  admin: {address: 127.0.0.1, port: "+freePort(t)+"}"+
		strings.TrimPrefix(fmt.Sprintf(configText, socket), "policy_kernel:"))
	tests := []struct {
		name   string
		args   []string
		want   int
		stderr string
	}{
		{"version", []string{"--version"}, 0, ""},
		{"help", []string{"--help"}, 0, "-config"},
		{"unknown flag", []string{"--nonsense"}, 2, "nonsense"},
		{"argument", []string{"nonsense"}, 2, "nonsense"},
		{"no file", []string{"--config", filepath.Join(dir, "missing.yaml")}, 2, "missing.yaml"},
		{"mistakes", []string{"--config", file("bad.yaml", "policy_kernel:\n  wrong: 1\n  server: {port: x}\n")}, 2, "bad.yaml:2: "},
		{"check", []string{"--check", "--config", good}, 0, ""},
		{"mistakes that a worker finds", []string{"--config", rejected}, 2, "rejected.yaml: policy_kernel.route_policies[0]: is wrong"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("GOGC", "100")
			var stdout, stderr bytes.Buffer
			if got := command(t.Context(), "v1", append([]string{"policy-kernel"}, tt.args...), &stdout, &stderr); got != tt.want {
				t.Errorf("exit status %d, want %d; %s", got, tt.want, stderr.String())
			}
			if !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("stderr %q", stderr.String())
			}
		})
	}
}

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
