package config

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/config/internal/strict"
)

const hidden = "hunter2-hunter2"

// TestSecretsOfParameters: what the parameters of the standard policies can hold of a credential is masked, and the rest is shown.
func TestSecretsOfParameters(t *testing.T) {
	for _, tt := range []struct {
		params string
		secret bool
	}{
		{`{set: {X-Upstream-Auth: VALUE}}`, true},
		{`{set: {x_upstream_auth: VALUE}}`, true},
		{`{append: {Authorization: VALUE}}`, true},
		{`{add_if_absent: {X-Api-Key: VALUE}}`, true},
		{`{set: {X.Api.Key: VALUE}}`, true},
		{`{set: {Ocp-Apim-Subscription-Key: VALUE}}`, true},
		{`{set: {X-Functions-Key: VALUE}}`, true},
		{`{set: {X-Vault-Token: VALUE}}`, true},
		{`{set: {X-Amz-Security-Token: VALUE}}`, true},
		{`{set: {Private-Token: VALUE}}`, true},
		{`{set: {Cookie: "a=VALUE"}}`, true},
		{`{set: {Proxy-Authorization: VALUE}}`, true},
		{`{set: {X-Forward: "Basic VALUE"}}`, true},
		{`{set: {X-Forward: "bearer VALUE"}}`, true},
		{`{set: {X-Signature: VALUE}}`, true},
		{`{set: {X-Backend: "https://user:VALUE@upstream.example/"}}`, true},
		{`{set: {X-Backend: "https://VALUE@upstream.example/"}}`, true},
		{`{set: {X-Backend: "redis://:VALUE@127.0.0.1:6379/0"}}`, true},
		{`{set: {X-Backend: "https://upstream.example/?api_key=VALUE"}}`, true},
		{`{set: {X-Backend: "https://upstream.example/?a=b&access-token=VALUE#c"}}`, true},
		{`{set: [{name: X-Upstream-Auth, value: VALUE}]}`, true},
		{`{set: [{header: X-Api-Key, values: [VALUE]}]}`, true},
		{`{headers: {Set-Cookie: "session=VALUE"}}`, true},
		{`{headers: {WWW-Auth: VALUE}}`, true},
		{`{body: "Authorization: Bearer VALUE"}`, true},
		{`{template: "/v1/x?token=VALUE"}`, true},
		{`{to: "/v1?password=VALUE"}`, true},
		{`{deep: {list: [{client_secret: VALUE}]}}`, true},
		{`{clientSecret: VALUE}`, true},
		{`{dbPassword: VALUE}`, true},
		{`{pwd: VALUE}`, true},
		{`{password: {value: VALUE}}`, true},
		{`{apiKey: VALUE}`, true},
		{`{signing_key: VALUE}`, true},
		{`{privateKey: VALUE}`, true},
		{`{otp: VALUE}`, true},
		{`{schema: {const: "eyJhbGciOiJub25lIn0.VALUE."}}`, true},
		{`{file: "-----BEGIN EC PRIVATE KEY-----VALUE"}`, true},

		{`{key_store: VALUE, header_name: X-Api-Key, cookie_name: session, query_param: api_key, identity_header: X-User-ID, scopes: [VALUE]}`, false},
		{`{issuer: VALUE, audience: [api], algorithms: [RS256], scheme: Bearer, required_scopes: [VALUE], claims_to_headers: {sub: X-User-ID}, leeway: 30s}`, false},
		{`{requests: 100, per: 1m, key: "header:VALUE", store: local, headers: draft}`, false},
		{`{tokens: 1000, per: 1h, key: identity, paths: [VALUE], estimate: 10}`, false},
		{`{remove: [VALUE], set: {X-Env: VALUE}}`, false},
		{`{strict_transport_security: "max-age=63072000; includeSubDomains", content_security_policy: "default-src VALUE"}`, false},
		{`{max_header_bytes: 10, max_header_count: 5, unannounced: VALUE}`, false},
		{`{prefix: /a, to: /VALUE, template: "/{a}/VALUE", regex: "^/token/([0-9]+)$", unmatched: deny}`, false},
		{`{patterns: ["[0-9]{16}"], replacement: VALUE, content_types: [application/json]}`, false},
		{`{file: /var/log/VALUE, redact: [query], claims: [sub], request_headers: [x-request-id]}`, false},
		{`{status: 503, reason: VALUE, content_type: text/plain, body: "not now, VALUE", grpc_status: 14}`, false},
		{`{tenant_header: X-Tenant, claim: tenant, path_prefix: /VALUE, scope_prefix: "tenant:"}`, false},
		{`{schema: {type: object, properties: {author: {const: VALUE}, monkey: {const: VALUE}}}, max_steps: 5}`, false},
	} {
		text := fmt.Sprintf("policy_kernel:\n  workers: [{name: w, socket_path: /run/w}]\n  route_policies: [{route_name: r, request_flow: {policy_chain: [{policy: p, params: %s}]}}]\n",
			strings.ReplaceAll(tt.params, "VALUE", hidden))
		shown, err := json.Marshal(tree(t, text))
		if err != nil {
			t.Fatal(err)
		}
		if got := !strings.Contains(string(shown), hidden); got != tt.secret {
			t.Errorf("%s: masked %t: %s", tt.params, got, shown)
		}
	}
}

// TestSecretsOfTheFile: keys outside of parameters hide credentials by their form too.
func TestSecretsOfTheFile(t *testing.T) {
	for _, text := range []string{
		"  worker_unavailable_response: {headers: {x-upstream-auth: VALUE}}\n",
		"  worker_unavailable_response: {body: \"Basic VALUE\"}\n",
		"  policy_not_supported_response: {headers: {location: \"https://a:VALUE@b.example\"}}\n",
	} {
		shown, err := json.Marshal(tree(t, "policy_kernel:\n"+strings.ReplaceAll(text, "VALUE", hidden)))
		if err != nil || strings.Contains(string(shown), hidden) {
			t.Errorf("%s: %s, %v", text, shown, err)
		}
	}
}

// TestMistakesNameVariables: a mistake in a value of a variable names the variable, and does not show its value.
func TestMistakesNameVariables(t *testing.T) {
	for _, text := range []string{
		"  server: {address: \"${CANARY} x\"}\n", "  server: {port: \"${CANARY}\"}\n", "  server: {port: \"1${DIGITS}\"}\n", "  server: {transport: \"${CANARY}\"}\n",
		"  server: {socket_path: \"${CANARY}\"}\n", "  server: {tls: {cert_file: \"${CANARY}\"}}\n", "  unknown_route: \"${CANARY}\"\n", "  admin: {token: \"${CANARY}!\"}\n",
		"  drain: {deadline: \"${CANARY}\"}\n", "  limits: {max_body_size: \"${CANARY}\"}\n", "  limits: {max_body_size: \"${DIGITS}GiB\"}\n", "  drain: {deadline: \"${DIGITS}h\"}\n",
		"  observability: {tracing: {endpoint: \"${CANARY}\"}}\n", "  observability: {tracing: {sampling_rate: \"${DIGITS}\"}}\n", "  observability: {tracing: {enabled: \"${CANARY}\"}}\n",
		"  worker_unavailable_response: {headers: {x-a: \"${CANARY}\\n\"}}\n", "  worker_unavailable_response: {status_code: \"${DIGITS}\"}\n",
		"  workers: [{name: \"${CANARY}\", socket_path: /a}, {name: \"${CANARY}\", socket_path: /b}]\n", "  workers: [{name: a, socket_path: \"${PATHS}\"}, {name: b, socket_path: \"${PATHS}\"}]\n",
		"  route_policies: [{route_name: \"${CANARY}\"}, {route_name: \"${CANARY}\"}]\n", "  route_policies: [{route_name: \"${LONG}\"}]\n",
		"  route_policies:\n  - route_name: r\n    request_flow:\n      policy_chain:\n      - policy: p\n        params:\n          n: ${OCTAL}\n",
	} {
		env := map[string]string{"CANARY": "hunter2 \"quoted\"", "DIGITS": "98765432", "PATHS": "/run/hunter2", "LONG": strings.Repeat("hunter2\t", 40), "OCTAL": "0x98765432"}
		_, err := parseKernel("k.yaml", []byte("policy_kernel:\n"+text), func(name string) (string, bool) { v, ok := env[name]; return v, ok })
		if err == nil {
			t.Errorf("%s: no mistake", text)
			continue
		}
		if found := err.Error(); strings.Contains(found, "hunter2") || strings.Contains(found, "98765432") || !strings.Contains(found, "${") && !strings.Contains(found, "token") && !strings.Contains(found, "missing") {
			t.Errorf("%s: %s", text, found)
		}
	}
}

// TestHide: messages of others about a value, such as those of policies about their parameters, do not show it either.
func TestHide(t *testing.T) {
	t.Setenv("SECRET", "Hunter2/x")
	t.Setenv("N", "7")
	k, err := ParseKernel("k.yaml", []byte(`policy_kernel:
  workers: [{name: w, socket_path: /run/w}]
  route_policies: [{route_name: r, request_flow: {policy_chain: [{policy: p, params: {a: {b: "${SECRET}"}, n: "${N}", c: plain}}]}}]
`))
	if err != nil {
		t.Fatal(err)
	}
	const params = "policy_kernel.route_policies[0].request_flow.policy_chain[0].params"
	for _, tt := range []struct{ path, message, want string }{
		{".a.b", `unknown value "Hunter2/x", expected one of "a", b; see "docs"`, `unknown value "${SECRET}", expected one of "a", b; see "docs"`},
		{".a.b", `parse "hunter2": bad`, `parse "${SECRET}": bad`},
		{".a.b", `"Hunter2 does not end`, `"${SECRET}"`},
		{".a", `Hunter2/x is wrong`, `${SECRET} is wrong`},
		{"", `b is Hunter2/x`, `b is ${SECRET}`},
		{".a.b.c", `Hunter2/x`, `${SECRET}`},
		{".n", `must be between 10 and 77, got 7`, `must be between 10 and 77, got ${N}`},
		{".c", `"plain" is wrong, Hunter2/x`, `"plain" is wrong, Hunter2/x`},
	} {
		if got := k.Hide(params+tt.path, tt.message); got != tt.want {
			t.Errorf("%s: %s: got %s, want %s", tt.path, tt.message, got, tt.want)
		}
	}
	var none strict.Origins
	if got := none.Hide("a", "text"); got != "text" {
		t.Error(got)
	}
}

// TestRestartNeededHidesVariables: a value of a variable that takes a restart is not shown, and is the same value as one that is written out.
func TestRestartNeededHidesVariables(t *testing.T) {
	t.Setenv("CANARY", "hunter2.example")
	parse := func(address string) *Kernel {
		t.Helper()
		k, err := ParseKernel("k.yaml", []byte("policy_kernel:\n  server: {address: \""+address+"\"}\n"))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	err := parse("127.0.0.1").RestartNeeded(parse("${CANARY}"))
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), `"${CANARY} (version `) {
		t.Error(err)
	}
	if err := parse("hunter2.example").RestartNeeded(parse("${CANARY}")); err != nil {
		t.Error(err)
	}
}
