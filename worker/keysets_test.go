package worker

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/policy-engine/policy-engine/config"
)

// TestRequiredKeySets: the worker is not ready before the keys of required issuers were loaded once, and shows the state of all.
func TestRequiredKeySets(t *testing.T) {
	var up atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`)
	}))
	defer server.Close()
	opts := Options{Log: slog.New(slog.DiscardHandler), Clock: systemClock{}}
	s, err := openSources(&config.Worker{JWTIssuers: []config.JWTIssuer{
		{Name: "optional", Issuer: "https://a.example", JWKSURI: server.URL + "/a"},
		{Name: "corporate", Issuer: "https://b.example", JWKSURI: server.URL + "/b", Required: true},
	}}, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close(opts.Log)
	if got := s.keySets.unready(); !strings.Contains(got, `JWT issuer "corporate", which is required, was never loaded`) {
		t.Errorf("before the first load: %q", got)
	}
	if got := s.keySets[:1].unready(); got != "" {
		t.Errorf("an optional issuer: %q", got)
	}
	m := &meters{set: metrics.NewSet()}
	s.keySets.measure(m, time.Now)
	shown := func(line string) bool {
		var b bytes.Buffer
		m.set.WritePrometheus(&b)
		return strings.Contains(b.String(), line)
	}
	for deadline := time.Now().Add(10 * time.Second); !shown(`policy_worker_jwt_keys_failures_total{issuer="corporate"} 1`); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the failure is not counted within 10 s")
		}
	}
	if !shown(`policy_worker_jwt_keys_loaded{issuer="corporate"} 0`) || !shown(`policy_worker_jwt_keys_age_seconds{issuer="corporate"}`) {
		t.Error("the metrics do not show that the keys were not loaded")
	}
	up.Store(true)
	for deadline := time.Now().Add(20 * time.Second); s.keySets.unready() != ""; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not ready within 20 s of the server's return")
		}
	}
	if !shown(`policy_worker_jwt_keys_loaded{issuer="corporate"} 1`) || !shown(`policy_worker_jwt_keys{issuer="corporate"} 1`) {
		t.Error("the metrics do not show the loaded key")
	}
}
