package kernel

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestHealthy: the container's health check knows a kernel that is ready from one that is not, and from none.
func TestHealthy(t *testing.T) {
	var status atomic.Int64
	status.Store(http.StatusOK)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health/ready" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(int(status.Load()))
		_, _ = w.Write([]byte(`{"missing":["worker worker-1"]}`))
	}))
	defer server.Close()
	ask := func(address string) (int, string) {
		var stdout, stderr bytes.Buffer
		return command(t.Context(), "v1", []string{"policy-kernel", "--healthy", address}, &stdout, &stderr), stderr.String()
	}
	address := strings.TrimPrefix(server.URL, "http://")
	if got, why := ask(address); got != exitOK {
		t.Errorf("ready: exit status %d; %s", got, why)
	}
	status.Store(http.StatusServiceUnavailable)
	if got, why := ask(address); got != exitFailed || !strings.Contains(why, "worker worker-1") {
		t.Errorf("not ready: exit status %d; %s", got, why)
	}
	server.Close()
	for name, address := range map[string]string{"nobody": address, "no address": "%"} {
		if got, why := ask(address); got != exitFailed || why == "" {
			t.Errorf("%s: exit status %d; %s", name, got, why)
		}
	}
}
