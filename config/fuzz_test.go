package config

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// seed adds the test files of one kind, each with the text of its mistakes or without.
func seed(f *testing.F, kind string) {
	f.Helper()
	paths, err := filepath.Glob("testdata/*/" + kind + "-*.yaml")
	if err != nil || len(paths) == 0 {
		f.Fatal("no seeds: ", err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}

// positioned fails unless err is nothing but mistakes with their positions, each on a line of its own.
func positioned(t *testing.T, err error) {
	t.Helper()
	var errs Errors
	if !errors.As(err, &errs) || len(errs) == 0 {
		t.Fatalf("got %v, want Errors", err)
	}
	for _, e := range errs {
		if e.Pos.File != "f.yaml" || e.Problem == "" || e.Pos.Line < 0 || strings.ContainsAny(e.Error(), "\n\r") {
			t.Fatalf("bad mistake %#v", e)
		}
	}
}

func FuzzParseKernel(f *testing.F) {
	seed(f, "kernel")
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := parseKernel("f.yaml", data, testEnv)
		if err != nil {
			positioned(t, err)
			return
		}
		validKernel(t, k)
	})
}

func FuzzParseWorker(f *testing.F) {
	seed(f, "worker")
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := parseWorker("f.yaml", data, testEnv)
		if err != nil {
			positioned(t, err)
			return
		}
		if w.Name == "" || !strings.HasPrefix(w.SocketPath, "/") || w.MaxConcurrentRequests < 1 ||
			w.ResourceLimits.MaxBodySize < 1 || w.ResourceLimits.MaxStateSize < 1 || w.Observability.LogLevel == "" {
			t.Fatalf("invalid worker %+v", w)
		}
		for _, s := range w.KeyStores {
			if s.Name == "" || s.File == "" {
				t.Fatalf("invalid key store %+v", s)
			}
		}
		for _, j := range w.JWTIssuers {
			if j.Name == "" || j.Issuer == "" || j.JWKSURI != "" && j.JWKSFile != "" || j.Timeout <= 0 || len(j.Tenants) > maxTenants {
				t.Fatalf("invalid issuer %+v", j)
			}
		}
	})
}

// validKernel checks what later code relies on.
func validKernel(t *testing.T, k *Kernel) {
	t.Helper()
	if (k.Server.SocketPath == "") == (k.Server.Port == 0) || k.Server.Transport != TransportGRPC && k.Server.Transport != TransportFast || k.Server.MaxConcurrentStreams < 1 {
		t.Fatalf("invalid server %+v", k.Server)
	}
	if (k.Server.TLS.CertFile == "") != (k.Server.TLS.KeyFile == "") {
		t.Fatalf("invalid TLS %+v", k.Server.TLS)
	}
	if k.UnknownRoute != UnknownRouteDeny && k.UnknownRoute != UnknownRouteContinue {
		t.Fatalf("invalid unknown_route %q", k.UnknownRoute)
	}
	for _, r := range []ImmediateResponse{k.PolicyNotSupported, k.WorkerUnavailable} {
		if r.Status < 200 || r.Status > 599 {
			t.Fatalf("invalid status %d", r.Status)
		}
	}
	sockets, workers, routes := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, w := range k.Workers {
		if w.Name == "" || workers[w.Name] || len(w.SocketPaths) == 0 || w.Timeout <= 0 || w.Connections < 1 || w.HealthCheck.Interval <= 0 {
			t.Fatalf("invalid worker %+v", w)
		}
		workers[w.Name] = true
		for _, p := range w.SocketPaths {
			if p == "" || sockets[p] {
				t.Fatalf("invalid socket %q of %+v", p, w)
			}
			sockets[p] = true
		}
	}
	for _, r := range k.Routes {
		if r.Name == "" || routes[r.Name] {
			t.Fatalf("invalid route %q", r.Name)
		}
		routes[r.Name] = true
		for _, p := range append(r.Request.Chain, r.Response.Chain...) {
			var params map[string]any
			if p.Name == "" || p.Pos.Line < 1 || p.OnFailure == "" || p.Timeout < 0 ||
				p.Params != nil && json.Unmarshal(p.Params, &params) != nil {
				t.Fatalf("invalid policy %+v", p)
			}
		}
	}
}
