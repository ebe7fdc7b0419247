package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

// TestDemo runs the configuration files of deploy/demo as they are, and checks what the README promises of each route.
func TestDemo(t *testing.T) {
	t.Parallel()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	demo, issuerDir := filepath.Join(root, "deploy", "demo"), t.TempDir()
	ctl := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(harness.Program(t, "policyctl"), args...)
		cmd.Env = append(os.Environ(), "POLICYCTL_ISSUER_KEY="+filepath.Join(issuerDir, "issuer.key"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("policyctl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	ctl("token", "init", "--dir", issuerDir)
	e := harness.StartEngine(t, harness.Spec{
		KernelFile: filepath.Join(demo, "kernel-config.yaml"),
		Workers: []harness.WorkerSpec{
			{Name: "worker-1", Program: "policy-worker-1", File: filepath.Join(demo, "worker-config-1.yaml")},
			{Name: "worker-2", Program: "policy-worker-2", File: filepath.Join(demo, "worker-config-2.yaml")},
		},
		Env: []string{"POLICY_ENGINE_ETC_DIR=" + demo, "DEMO_ISSUER_DIR=" + issuerDir},
	})
	const alice, bob = "X-API-Key: demo-key-alice", "X-API-Key: demo-key-bob"

	t.Run("public", func(t *testing.T) { get(t, e, 200, "/public") })
	t.Run("no such route", func(t *testing.T) {
		// Envoy asks the kernel before it looks whether there is a route.
		wantCode(t, get(t, e, 404, "/nothing", mustNotArrive+"no route"), "ROUTE_NOT_FOUND")
	})
	t.Run("orders", func(t *testing.T) {
		if r := get(t, e, 401, "/orders", mustNotArrive+"no key"); r.Header.Get("Www-Authenticate") == "" {
			t.Error("401 without WWW-Authenticate")
		}
		get(t, e, 401, "/orders", "X-API-Key: demo-key-mallory", mustNotArrive+"unknown key")
		before := e.Upstream.Count()
		r := get(t, e, 200, "/orders", alice, "X-User-ID: admin")
		up := arrived(t, e, before)
		wantHeader(t, up.Header, "X-User-Id", "alice")
		wantHeader(t, up.Header, "X-Api-Key", "")
		wantHeader(t, r.Header, "X-Content-Type-Options", "nosniff")
		for range 5 {
			get(t, e, 200, "/orders", bob)
		}
		r = get(t, e, 429, "/orders", bob, mustNotArrive+"over the limit")
		if after, err := strconv.Atoi(r.Header.Get("Retry-After")); err != nil || after < 1 || after > 10 {
			t.Errorf("Retry-After is %q", r.Header.Get("Retry-After"))
		}
		get(t, e, 200, "/orders", alice)
	})
	t.Run("accounts", func(t *testing.T) {
		token := func(args ...string) string {
			return "Authorization: Bearer " + ctl(append([]string{"token", "--sub", "alice"}, args...)...)
		}
		get(t, e, 401, "/accounts", mustNotArrive+"no token")
		get(t, e, 401, "/accounts", alice, mustNotArrive+"a key is no token")
		get(t, e, 401, "/accounts", token("--scope", "accounts.read", "--ttl", "-1h"), mustNotArrive+"expired")
		get(t, e, 401, "/accounts", token("--scope", "accounts.read", "--issuer", "https://other.example"), mustNotArrive+"another issuer")
		get(t, e, 403, "/accounts", token(), mustNotArrive+"no scope")
		before := e.Upstream.Count()
		get(t, e, 200, "/accounts", token("--scope", "accounts.read"))
		wantHeader(t, arrived(t, e, before).Header, "X-User-Id", "alice")
	})
	t.Run("custom", func(t *testing.T) {
		get(t, e, 401, "/custom", mustNotArrive+"no key")
		before := e.Upstream.Count()
		get(t, e, 200, "/custom", alice)
		up := arrived(t, e, before)
		wantHeader(t, up.Header, "X-User-Id", "alice")
		wantHeader(t, up.Header, "X-Tenant", "acme")
		get(t, e, 200, "/custom", bob, "X-Tenant: acme")
		if all := e.Upstream.Received(); all[len(all)-1].Header.Get("X-Tenant") != "initech" {
			t.Errorf("bob's tenant at the upstream is %q", all[len(all)-1].Header.Values("X-Tenant"))
		}
	})
	checkLogs(t, e, []string{"worker-1", "worker-2"}, "demo-key-", "Bearer ", "eyJ")
}
