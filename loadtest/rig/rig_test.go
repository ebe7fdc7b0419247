package rig

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/test/harness"
	"github.com/policy-engine/policy-engine/test/process"
)

func TestMain(m *testing.M) { harness.Main(m) }

func testCredentials(t *testing.T) *credentials.Set {
	t.Helper()
	c, err := credentials.Load(t.TempDir(), 4, 4, time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCheck(t *testing.T) {
	for name, tt := range map[string]struct {
		spec Spec
		says string
	}{
		"nothing":               {Spec{}, ""},
		"the default":           {Spec{Asked: Engine, Chain: DefaultChain, Workers: 2}, ""},
		"an unknown policy":     {Spec{Chain: []string{"tenantGuard"}}, `"tenantGuard" has no configuration for a load; legal are apiKeyAuth`},
		"a policy twice":        {Spec{Chain: []string{"rateLimit", "rateLimit"}}, "twice"},
		"an unknown transport":  {Spec{Transport: "quic"}, "legal are fast and grpc"},
		"three workers":         {Spec{Chain: DefaultChain, Workers: 3}, "legal are 1 and 2"},
		"one policy for two":    {Spec{Chain: DefaultChain[:1], Workers: 2}, "can't be divided"},
		"two in one process":    {Spec{Chain: DefaultChain, Workers: 2, OneProcess: true}, "legal is 1 worker"},
		"more routes than that": {Spec{Routes: maxRoutes + 1}, "routes are not legal"},
	} {
		err := tt.spec.Check()
		if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: error %v, want %q", name, err, tt.says)
		}
	}
}

// TestRoutes: requests go to routes that are spread over the table, and Envoy has those first.
func TestRoutes(t *testing.T) {
	for _, n := range []int{1, 2, 15, 16, 17, 1000, 100_000} {
		s := Spec{Routes: n}
		all, loaded := s.routes()
		names := map[string]bool{}
		for _, r := range all {
			names[r.name], names[r.prefix] = true, true
		}
		if len(all) != n || len(names) != 2*n || len(loaded) != min(n, maxLoaded) {
			t.Errorf("%d routes: there are %d with %d names, %d of them loaded", n, len(all), len(names), len(loaded))
		}
		for _, r := range loaded {
			if !slices.Contains(all, r) || len(r.prefix) <= len("/r/000000") {
				t.Errorf("%d routes: the loaded route %v is not one of them, or Envoy has it late", n, r)
			}
		}
	}
}

// TestEnvoyTakesIt: the real Envoy takes the configuration of everything that can be measured.
func TestEnvoyTakesIt(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts Envoy")
	}
	envoy, c := harness.Envoy(t), testCredentials(t)
	programs := Programs{Bin: filepath.Dir(harness.Program(t, "policyctl")), Envoy: envoy}
	for name, tt := range map[string]struct {
		spec        Spec
		has, hasNot []string
	}{
		"nothing":        {Spec{}, []string{"direct_response"}, []string{"ext_proc.v3", "api_key_auth", "typed_per_filter_config"}},
		"native":         {Spec{Asked: Native}, []string{"api_key_auth", "jwt_authn", "local_ratelimit"}, []string{"ext_proc.v3", "jwt_cache_config"}},
		"native, cached": {Spec{Asked: NativeCached}, []string{"jwt_cache_config"}, []string{"ext_proc.v3"}},
		"no-op":          {Spec{Asked: NoOp, Program: "noop-fast"}, []string{"ext_proc.v3.ExternalProcessor", "direct_response"}, []string{"jwt_authn"}},
		"engine":         {Spec{Asked: Engine, Chain: DefaultChain}, []string{"ext_proc.v3.ExternalProcessor", "route-000000"}, []string{"jwt_authn"}},
		"both flows":     {Spec{Asked: Engine, Chain: []string{"rateLimit", "securityHeaders"}}, []string{`"response_header_mode": "SEND"`}, nil},
		"an upstream":    {Spec{Asked: Engine, Chain: DefaultChain, Upstream: "127.0.0.1:8080"}, []string{"upstream_127.0.0.1_8080"}, []string{"inline_string"}},
		"many routes":    {Spec{Asked: Engine, Chain: DefaultChain, Routes: 300}, []string{"route-000299", "/loaded/"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := tt.spec.Check(); err != nil {
				t.Fatal(err)
			}
			r := &Rig{spec: tt.spec, programs: programs, dir: t.TempDir(), ports: ports{listen: 1, envoyAdmin: 2, upstream: 3, server: 4, admin: 5}}
			if err := c.Publish(r.dir); err != nil {
				t.Fatal(err)
			}
			config, err := r.envoyConfig(c)
			if err != nil {
				t.Fatal(err)
			}
			file, err := writeConfig(r.dir, "envoy.yaml", config)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := exec.CommandContext(t.Context(), envoy, "--mode", "validate", "--config-path", file).CombinedOutput(); err != nil {
				t.Errorf("%v:\n%s", err, out)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.has {
				if !strings.Contains(string(text), want) {
					t.Errorf("it has no %s", want)
				}
			}
			for _, not := range tt.hasNot {
				if strings.Contains(string(text), not) {
					t.Errorf("it has %s", not)
				}
			}
		})
	}
}

// TestVerify: what lets requests through that must not pass is found before it is measured.
func TestVerify(t *testing.T) {
	c := testCredentials(t)
	known := map[string]int{}
	for i, key := range c.Keys {
		known[key] = i
	}
	bearer := func(r *http.Request) string { return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") }
	// right is what an engine does.
	right := func(r *http.Request) (string, int) {
		i, ok := known[r.Header.Get("X-Api-Key")]
		if !ok || bearer(r) != c.Tokens[i] {
			return "", http.StatusUnauthorized
		}
		return credentials.Identity(i), http.StatusOK
	}
	own := func(r *http.Request) string { return r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:] }
	for name, tt := range map[string]struct {
		decide func(r *http.Request) (string, int)
		says   string
	}{
		"right":                {right, ""},
		"lets everything pass": {func(r *http.Request) (string, int) { return own(r), http.StatusOK }, "status 200, want 401"},
		"refuses everything":   {func(*http.Request) (string, int) { return "", http.StatusUnauthorized }, "status 401, want 200"},
		"does not look at keys": {func(r *http.Request) (string, int) {
			if bearer(r) != c.Tokens[0] && own(r) == credentials.Identity(0) {
				return "", http.StatusUnauthorized
			}
			return own(r), http.StatusOK
		}, "key: 0 of 1"},
		"does not look at tokens": {func(r *http.Request) (string, int) {
			i, ok := known[r.Header.Get("X-Api-Key")]
			if !ok {
				return "", http.StatusUnauthorized
			}
			return credentials.Identity(i), http.StatusOK
		}, "token: 0 of 1"},
		"believes the client": {func(r *http.Request) (string, int) {
			identity, status := right(r)
			if claimed := r.Header.Get("X-User-Id"); claimed != "" {
				identity = claimed
			}
			return identity, status
		}, "another's identity: 0 of 1"},
		"forgets one": {func(r *http.Request) (string, int) {
			identity, status := right(r)
			return strings.Replace(identity, credentials.Identity(2), "", 1), status
		}, "3 of 4"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			go answerAll(l, tt.decide)
			r := &Rig{spec: Spec{Asked: Engine, Chain: DefaultChain}, Target: netip.MustParseAddrPort(l.Addr().String())}
			err = r.Verify(t.Context(), c)
			if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("error %v, want %q", err, tt.says)
			}
		})
	}
}

// answerAll answers as Envoy would with its own upstream, header names in small letters.
func answerAll(l net.Listener, decide func(*http.Request) (string, int)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			for in := bufio.NewReader(conn); ; {
				r, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				identity, status := decide(r)
				if _, err := fmt.Fprintf(conn, "HTTP/1.1 %d -\r\nx-identity: %s\r\ncontent-length: 0\r\n\r\n", status, identity); err != nil {
					return
				}
			}
		}()
	}
}

// TestFailedStart: whatever fails at the start, no process and no file stay behind.
func TestFailedStart(t *testing.T) {
	c := testCredentials(t)
	t.Setenv("TMPDIR", t.TempDir())
	for name, tt := range map[string]struct {
		kernel string // what the program of that name does
		cancel bool
		says   string
	}{
		"the kernel ends":       {"echo no such thing >&2; exit 2", false, "no such thing"},
		"the kernel is missing": {"", false, "no such file"},
		"it is cancelled":       {"exit 2", true, "context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			bin := t.TempDir()
			pid := filepath.Join(bin, "pid")
			script(t, bin, "policy-worker-1", "echo $$ >"+pid+"; while :; do sleep 0.01; done")
			if tt.kernel != "" {
				// Only when the worker runs: what is to be seen is that it ends.
				script(t, bin, "policy-kernel", "while [ ! -s "+pid+" ]; do sleep 0.01; done; "+tt.kernel)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tt.cancel {
				cancel()
			}
			_, err := Start(ctx, Spec{Asked: Engine, Chain: DefaultChain}, Programs{Bin: bin, Bench: bin, Envoy: "/bin/false"}, c)
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %q", err, tt.says)
			}
			if text, err := os.ReadFile(pid); err == nil {
				var worker int
				if _, err := fmt.Sscan(string(text), &worker); err != nil {
					t.Fatal(err)
				}
				if _, err := process.UsageOf(worker); err == nil {
					t.Error("the worker still runs")
				}
			}
			if left, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "loadtest-*")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
	if _, err := Start(t.Context(), Spec{}, Programs{}, c); err == nil || !strings.Contains(err.Error(), "there is no Envoy") {
		t.Errorf("without Envoy: %v", err)
	}
}

func script(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestKernelConfig: a rate limit before any policy that identifies counts by route, or it would fail each request.
func TestKernelConfig(t *testing.T) {
	for want, chain := range map[string][]string{`"key":"route"`: {"rateLimit", "apiKeyAuth"}, `{"policy":"apiKeyAuth"`: DefaultChain} {
		s := Spec{Asked: Engine, Chain: chain}
		text, err := json.Marshal(s.kernelConfig(1, 2, "/run"))
		if err != nil || strings.Contains(string(text), `"key":"route"`) != strings.Contains(want, "route") {
			t.Errorf("%v: %s, %v", chain, text, err)
		}
		s.version = 2
		if text, err := json.Marshal(s.kernelConfig(1, 2, "/run")); err != nil || !strings.Contains(string(text), `"requests":1000002`) {
			t.Errorf("%v: the next version is %s, %v", chain, text, err)
		}
	}
}
