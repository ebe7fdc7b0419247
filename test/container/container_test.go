package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOutcome(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	one := func(refused bool, status int, took time.Duration) result {
		return result{begin: start, end: start.Add(took), refused: refused, status: status}
	}
	for name, tt := range map[string]struct {
		results []result
		lost    int
		bad     bool
	}{
		"nothing":            {nil, 0, true},
		"as it should be":    {[]result{one(false, 200, 1), one(true, 401, 1)}, 0, false},
		"lost":               {[]result{one(false, 503, 1), one(true, 503, 1)}, 1, false},
		"passed unchecked":   {[]result{one(false, 200, 1), one(true, 200, 1)}, 0, true},
		"a request hung":     {[]result{one(false, 503, time.Minute)}, 1, true},
		"a connection broke": {[]result{{refused: false, err: http.ErrServerClosed}}, 1, false},
	} {
		o := outcome{results: tt.results}
		if lost, _ := o.lost(); lost != tt.lost || (o.verdict() != nil) != tt.bad {
			t.Errorf("%s: %d lost, verdict %v", name, lost, o.verdict())
		}
	}
	o := outcome{results: []result{one(false, 200, time.Second), one(false, 500, 3*time.Second)}}
	if n, _ := o.before(start.Add(2 * time.Second)).lost(); n != 0 {
		t.Errorf("%d lost before the failure", n)
	}
	if _, last := o.lost(); !last.Equal(start.Add(3 * time.Second)) {
		t.Errorf("the last was lost at %v", last)
	}
}

// TestUpstream: what comes unchecked is noticed, and what was checked is not taken for it.
func TestUpstream(t *testing.T) {
	for name, tt := range map[string]struct {
		path    string
		headers map[string]string
		bad     bool
	}{
		"public":          {"/public", nil, false},
		"no user":         {"/orders", nil, true},
		"user":            {"/orders", map[string]string{"X-User-Id": "bob"}, false},
		"made up":         {"/accounts", map[string]string{"X-User-Id": "admin"}, true},
		"wrong tenant":    {"/custom", map[string]string{"X-User-Id": "alice", "X-Tenant": "initech"}, true},
		"right tenant":    {"/custom", map[string]string{"X-User-Id": "alice", "X-Tenant": "acme"}, false},
		"must not arrive": {"/public", map[string]string{mustNotArrive: "so"}, true},
	} {
		u := &upstream{}
		r := httptest.NewRequest(http.MethodGet, tt.path, http.NoBody)
		for k, v := range tt.headers {
			r.Header.Set(k, v)
		}
		u.ServeHTTP(httptest.NewRecorder(), r)
		if n, err := u.verdict(); n != 1 || (err != nil) != tt.bad {
			t.Errorf("%s: %d arrived, %v", name, n, err)
		}
		if n, err := u.verdict(); n != 0 || err != nil {
			t.Errorf("%s: the next time %d arrived, %v", name, n, err)
		}
	}
}

// TestRestrictions: the container is tested under those of docker-compose.yaml, all of them.
func TestRestrictions(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	r, err := readRestrictions()
	if err != nil {
		t.Fatal(err)
	}
	flags := strings.Join(r.flags(), " ")
	for _, want := range []string{"--read-only", "--memory 1g", "--cpus 2", "--pids-limit ", "--tmpfs /var/run", "--tmpfs /var/log", "--cap-drop ALL", "--security-opt no-new-privileges"} {
		if !strings.Contains(flags, want) {
			t.Errorf("%q lacks %q", flags, want)
		}
	}
	text, err := os.ReadFile("docker-compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	for _, line := range []string{"    mem_limit: 1g\n", "    cpus: 2\n", "    pids_limit: 500\n"} {
		if err := os.WriteFile("docker-compose.yaml", []byte(strings.Replace(string(text), line, "", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readRestrictions(); err == nil {
			t.Errorf("without %q nothing is missed", line)
		}
	}
}

// TestNoEngine: without a container engine there is an error, which says so, and never a skip.
func TestNoEngine(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"docker", "podman", "apt-get"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("#!/bin/sh\necho 'Cannot connect to the daemon' >&2\nexit 1\n"), 0o700); err != nil { //nolint:gosec // It has to run.
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", folder)
	if e, err := findEngine(context.Background()); err == nil || !strings.Contains(err.Error(), "no container engine works here") {
		t.Errorf("engine %v, error %v", e, err)
	}
}

func TestSupervisorLines(t *testing.T) {
	logs := `{"timestamp": "2026-01-02T03:04:05.678Z", "component": "supervisor", "message": "spawned: 'x' with pid 2"}` + "\nother\n" + `{"component":"kernel","message":"m"}` + "\n"
	got := supervisorLines(logs)
	if len(got) != 1 || got[0].Message != "spawned: 'x' with pid 2" || got[0].Timestamp.Second() != 5 {
		t.Errorf("%+v", got)
	}
	if !slices.IsSorted(ours) {
		t.Error("the names of our files are compared in order")
	}
}
