package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

// secrets are what clients send in the places where credentials stand, and in those where people put them.
var secrets = []string{
	"Authorization: Bearer canary-bearer.canary-bearer.canary-bearer", "Authorization: Basic Y2FuYXJ5LWJhc2ljOmNhbmFyeQ==", "X-API-Key: canary-key", "Cookie: api-key=canary-cookie; session=canary-cookie",
	"Proxy-Authorization: Bearer canary-proxy", "X-Auth-Token: canary-token", "Referer: http://localhost/?token=canary-referer", "X-Forwarded-Access-Token: canary-forwarded",
}

// TestNoSecretInLogs: at level debug, on every way on which a request fails or passes, no line has a credential, a cookie or a query.
func TestNoSecretInLogs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeKeys(t, dir)
	i := newIssuer(t, dir)
	debug := "  observability: {log_level: debug}\n"
	w := testWorker("w", "worker-w", "W")
	w.Config += debug
	e := harness.StartEngine(t, harness.Spec{
		Kernel: standardRoutes + `    - route_name: broken
      request_flow: {policy_chain: [{policy: misbehaveW}]}
    - route_name: broken-response
      response_flow: {policy_chain: [{policy: misbehaveW}]}
    - route_name: slow
      request_flow: {policy_chain: [{policy: waitW, timeout: 20ms}]}
    - route_name: tolerant
      request_flow: {policy_chain: [{policy: misbehaveW, on_failure: continue}]}
    - route_name: unsupported
      request_flow: {policy_chain: [{policy: nobodys}]}
    - route_name: body
      request_flow: {policy_chain: [{policy: jsonSchemaValidation, params: {schema: {type: object, properties: {password: {type: integer}}}}}]}
` + debug,
		Workers: []harness.WorkerSpec{
			{Name: "worker-1", Program: "policy-worker-1", Config: `  name: worker-1
  socket_path: ${RUN_DIR}/worker-1.sock
  key_stores: {partners: {file: "${E2E_DIR}/keys.yaml"}}
  jwt_issuers: {corporate: {issuer: "` + issuerURL + `", jwks_file: "${E2E_DIR}/jwks.json"}}
` + debug},
			w,
		},
		Env: []string{"E2E_DIR=" + dir}, EnvoyKernel: "",
	})
	good := i.token(nil)
	lines := append([]string{"Authorization: Bearer " + good}, secrets...)
	routes := []string{"key", "key-scope", "key-optional", "token", "limit", "limit-without-identity", "key-witness", "broken", "broken-response", "slow", "tolerant", "unsupported", "nowhere"}
	send := func() {
		for _, route := range routes {
			target := "/" + route + "?api_key=canary-query&password=canary-query"
			for _, line := range append(lines, "X-Misbehave: panic", "X-Misbehave: error", "X-Misbehave: deny", "X-Misbehave: context") {
				_, _ = harness.TrySend(e.Listen, "GET", target, line, "X-Password: canary-header")
			}
			_, _ = harness.TrySend(e.Listen, "GET", target, secrets...)
			_, _ = harness.TrySend(e.Listen, "GET", target, harness.AnswerHeader+": x-misbehave panic", "X-API-Key: "+keyAlice)
		}
		_, _ = harness.TrySend(e.Listen, "POST", "/body?x=canary-query", append(secrets, "Content-Type: application/json")...)
	}
	send()
	harness.SendBody(t, e.Listen, "POST", "/body?x=canary-query", `{"password": "canary-body"}`, "Content-Type: application/json")
	harness.SendBody(t, e.Listen, "POST", "/body?x=canary-query", `{"password": canary-body}`, "Content-Type: application/json")
	if !harness.OneProcess() {
		for _, name := range []string{"worker-1", "w"} {
			e.Worker(name).Signal(syscall.SIGKILL)
			e.Worker(name).Wait()
		}
		e.WaitNotReady()
		send()
	}
	outputs := map[string]string{"kernel": e.Kernel.Output(), "worker-1": e.Worker("worker-1").Output(), "w": e.Worker("w").Output()}
	for name, output := range outputs {
		for line := range strings.Lines(output) {
			for _, secret := range []string{"canary", "Y2FuYXJ5", keyAlice, good[strings.LastIndexByte(good, '.'):], good[:strings.IndexByte(good, '.')]} {
				if at := strings.Index(line, secret); at >= 0 {
					t.Errorf("%s: the log has a secret: …%s", name, line[max(0, at-200):min(len(line), at+60)])
				}
			}
		}
		if n := strings.Count(output, `"level":"debug"`); name == "kernel" && n < 100 {
			t.Error(fmt.Sprint(name, " has only ", n, " lines of level debug: it was not tried"))
		}
	}
}
