package main

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// TestGuardedSocket: the kernel's pages are read from a Unix socket too.
func TestGuardedSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "localhost" || r.URL.Path != "/routes" {
			http.Error(w, r.Host, http.StatusForbidden)
			return
		}
		_, _ = w.Write([]byte(`{"routes":[{"name":"orders"}]}`))
	}))
	_ = server.Listener.Close()
	server.Listener = l
	server.Start()
	defer server.Close()
	var stdout, stderr bytes.Buffer
	p := &program{stdout: &stdout, stderr: &stderr, getenv: func(string) string { return "" }}
	if got := p.run([]string{"explain", "--admin", "unix:" + socket, "orders"}); got != 0 || !strings.HasPrefix(stdout.String(), "route orders\n") {
		t.Errorf("%d: %s%s", got, stdout.String(), stderr.String())
	}
}
