package engine

import (
	"path/filepath"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

// recorded is the folder of the recordings and of the key set and keys that belong to them.
const recorded = "../recorded"

// kernelConfig has a route for each scene; a limit that nobody reaches is counted all the same.
const kernelConfig = `  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 5s}
  route_policies:
    - route_name: none
    - route_name: key
      request_flow: {policy_chain: [{policy: apiKeyAuth, params: {key_store: partners}}]}
    - route_name: chain
      request_flow:
        policy_chain:
          - {policy: apiKeyAuth, params: {key_store: partners}}
          - {policy: jwtValidation, params: {issuer: recorded, audience: [api]}}
          - {policy: rateLimit, params: {requests: 1000000000, per: 1s}}
    - route_name: chain-and-response
      request_flow:
        policy_chain:
          - {policy: apiKeyAuth, params: {key_store: partners}}
          - {policy: jwtValidation, params: {issuer: recorded, audience: [api]}}
          - {policy: rateLimit, params: {requests: 1000000000, per: 1s}}
      response_flow: {policy_chain: [{policy: securityHeaders}]}
`

const workerConfig = `  name: worker-1
  socket_path: ${RUN_DIR}/worker-1.sock
  key_stores: {partners: {file: "${RECORDED}/api-keys.yaml"}}
  jwt_issuers: {recorded: {issuer: "https://issuer.bench.example", jwks_file: "${RECORDED}/jwks.json"}}
`

// scenes are the routes of kernelConfig; each has a recording of its name.
var scenes = []string{"none", "key", "chain", "chain-and-response"}

func spec(t testing.TB) harness.Spec {
	t.Helper()
	dir, err := filepath.Abs(recorded)
	if err != nil {
		t.Fatal(err)
	}
	return harness.Spec{
		Kernel:  kernelConfig,
		Workers: []harness.WorkerSpec{{Name: "worker-1", Program: "policy-worker-1", Config: workerConfig}},
		Env:     []string{"RECORDED=" + dir},
	}
}

func recordingOf(t testing.TB, scene string) *Recording {
	t.Helper()
	r, err := LoadRecording(filepath.Join(recorded, scene+".h2.gz"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestMain(m *testing.M) { harness.Main(m) }
