package worker

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
)

// TestKeyFilesAreWatched: a key file that is broken, and keys that are not valid, show in metrics and in the health check, while the worker serves.
func TestKeyFilesAreWatched(t *testing.T) {
	dir := t.TempDir()
	file, set := filepath.Join(dir, "keys.yaml"), filepath.Join(dir, "jwks.json")
	replace := func(file, content string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	key := func(id, more string) string {
		return fmt.Sprintf("  - {id: %s, sha256: \"%x\"%s}\n", id, sha256.Sum256([]byte(id)), more)
	}
	const keySet = `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	replace(file, "keys:\n"+key("a", "")+key("b", ", expires: 2020-01-01T00:00:00Z")+key("c", ", not_before: 2120-01-01T00:00:00Z"))
	replace(set, keySet)
	opts := Options{Log: slog.New(slog.DiscardHandler)}
	opts.setDefaults()
	cfg := &config.Worker{
		MaxConcurrentRequests: 1,
		KeyStores:             []config.KeyStore{{Name: "partners", File: file}},
		JWTIssuers:            []config.JWTIssuer{{Name: "corporate", Issuer: "https://a.example", JWKSFile: set}},
	}
	s, err := openSources(cfg, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close(opts.Log)
	registry, err := NewRegistry()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorker(cfg, registry, opts, s, nil)
	defer w.closeInstances()
	health := func() *workerv1.HealthCheckResponse {
		t.Helper()
		resp, err := w.service.HealthCheck(t.Context(), &workerv1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	metric := func(line string) {
		t.Helper()
		var b bytes.Buffer
		if err := w.service.core.meters.write(&b); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), line) {
			t.Errorf("no %s in the metrics", line)
		}
	}
	warnings := func(what string, want ...string) {
		t.Helper()
		var got []string
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			resp := health()
			if got = resp.Warnings; resp.Status != workerv1.HealthCheckResponse_STATUS_SERVING || strings.Contains(strings.Join(got, ""), dir) {
				t.Fatalf("%s: %v", what, resp)
			}
			ok := len(got) == len(want)
			for i := range min(len(got), len(want)) {
				ok = ok && strings.Contains(got[i], want[i])
			}
			if ok {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: the warnings are %q, want %q", what, got, want)
			}
		}
	}
	warnings("a good file")
	for _, line := range []string{
		`policy_worker_api_keys{key_store="partners",state="usable"} 1`, `policy_worker_api_keys{key_store="partners",state="expired"} 1`,
		`policy_worker_api_keys{key_store="partners",state="early"} 1`, `policy_worker_api_keys_failures_total{key_store="partners"} 0`,
		`policy_worker_api_keys_broken_seconds{key_store="partners"} 0`, `policy_worker_api_keys_age_seconds{key_store="partners"}`,
	} {
		metric(line)
	}

	replace(file, "keys: 1\n")
	warnings("a broken file", `the file of key store "partners" cannot be loaded since `)
	metric(`policy_worker_api_keys_failures_total{key_store="partners"} 1`)
	metric(`policy_worker_api_keys{key_store="partners",state="usable"} 1`)
	if err := os.Remove(set); err != nil {
		t.Fatal(err)
	}
	warnings("a missing key set", `the file of key store "partners"`, `the key set of JWT issuer "corporate" cannot be loaded since `)
	metric(`policy_worker_jwt_keys_failures_total{issuer="corporate"} 1`)

	replace(set, keySet)
	replace(file, "keys:\n"+key("b", ", expires: 2020-01-01T00:00:00Z"))
	warnings("expired keys", `no key of key store "partners" is valid now: 1 have expired, 0 are not valid yet`)
	metric(`policy_worker_api_keys_broken_seconds{key_store="partners"} 0`)
	replace(file, "keys: []\n")
	warnings("no keys at all")
}
