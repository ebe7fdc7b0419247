package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/config"
)

const diffConfig = `policy_kernel:
  admin: {token: "0123456789abcdef"}
  workers: [{name: w, socket_path: /run/w.sock}]
  route_policies:
    - route_name: orders
      request_flow: {policy_chain: [{policy: rateLimit, params: {requests: 100, per: 1m}}]}
`

func TestDiff(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	old := file("old.yaml", diffConfig)
	same := file("same.yaml", strings.Replace(diffConfig, "  workers:", "  unknown_route: deny\n  workers:", 1))
	next := file("new.yaml", strings.Replace(strings.Replace(diffConfig, "requests: 100", "requests: 200", 1), "0123456789abcdef", "fedcba9876543210", 1)+"    - {route_name: new}\n")
	restart := file("restart.yaml", strings.Replace(diffConfig, "  workers:", "  server: {port: 9009}\n  workers:", 1))
	longer := file("longer.yaml", strings.Replace(diffConfig, "/run/w.sock", "/run/w.sock, timeout: 9s", 1))
	bad := file("bad.yaml", "policy_kernel:\n  wrong: 1\n  other: 2\n")
	token := file("token", "0123456789abcdef\n")
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/config" || r.Header.Get("Authorization") != "Bearer 0123456789abcdef" {
			http.Error(w, "not the admin token", http.StatusUnauthorized)
			return
		}
		tree, err := config.EffectiveKernel("k.yaml", []byte(diffConfig))
		if err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"policy_kernel": tree})
	}))
	defer admin.Close()
	const changes = "~ admin: token: \"***\" → \"***\"\n+ route new: "
	tests := []struct {
		name           string
		args           []string
		want           int
		stdout, stderr string
	}{
		{"the same file", []string{old, old}, 0, "", ""},
		{"the same with a default written out", []string{old, same}, 0, "", ""},
		{"changes", []string{old, next}, 1, changes, ""},
		{"a longer timeout", []string{old, longer}, 1, "note: Envoy's message_timeout has to be ", ""},
		{"a restart", []string{old, restart}, 1, "~ server: port: 9001 → 9009 (needs a restart)\n", ""},
		{"JSON", []string{"--json", old, restart}, 1, `"restart": true`, ""},
		{"JSON of no changes", []string{"--json", old, same}, 0, "[]\n", ""},
		{"mistakes in both", []string{bad, bad}, 2, "", "bad.yaml:3: policy_kernel.other"},
		{"no file", []string{old, "/nowhere"}, 2, "", "/nowhere"},
		{"one file", []string{old}, 2, "", "1 files are given"},
		{"the running one", []string{"--admin", admin.URL, "--token-file", token, same}, 0, "", ""},
		{"the running one and changes", []string{"--admin", admin.URL + "/", "--token-file", token, next}, 1, "~ route orders: request_flow.policy_chain[0].params.requests: 100 → 200\n", ""},
		{"without a token", []string{"--admin", admin.URL, next}, 2, "", "401 Unauthorized: not the admin token"},
		{"no kernel", []string{"--admin", "http://127.0.0.1:1", next}, 2, "", "ask the kernel"},
		{"help", []string{"--help"}, 0, "Exit status", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			p := &program{stdout: &stdout, stderr: &stderr, getenv: func(string) string { return "" }}
			got := p.run(append([]string{"diff"}, tt.args...))
			if got != tt.want || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) || (tt.stderr == "") != (stderr.Len() == 0) {
				t.Errorf("exit status %d, stdout %q, stderr %q; want %d", got, stdout.String(), stderr.String(), tt.want)
			}
			if out := stdout.String() + stderr.String(); strings.Contains(out, "0123456789abcdef") || strings.Contains(out, "fedcba") {
				t.Errorf("a secret is shown: %s", out)
			}
		})
	}
}
