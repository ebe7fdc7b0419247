package worker

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/config"
)

// TestWarningsAreLogged: what is valid in a worker's file and probably not meant is in its log.
func TestWarningsAreLogged(t *testing.T) {
	cfg, err := config.ParseWorker("w.yaml", []byte(`policy_worker:
  name: w
  socket_path: /run/w.sock
  jwt_issuers: {azure: {issuer: "https://login.example/{tenantid}", jwks_uri: "https://login.example/keys"}}
`))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	logWarnings(slog.New(slog.NewTextHandler(&log, nil)), cfg)
	if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), "w.yaml:4: policy_worker.jwt_issuers.azure.issuer") {
		t.Errorf("got %s", log.String())
	}
}
