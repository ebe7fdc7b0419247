package config

import (
	"encoding/json"
	"strings"
	"testing"
)

const diffBase = `policy_kernel:
  admin: {token: "${TOKEN}"}
  workers:
    - {name: w1, socket_path: /run/1.sock}
    - {name: w2, socket_path: /run/2.sock}
  route_policies:
    - route_name: orders
      request_flow:
        policy_chain:
          - {policy: rateLimit, params: {requests: 100, per: 1m, deep: {client_secret: "old", other: "${PARAM}"}}}
    - {route_name: old}
`

func tree(t *testing.T, text string) Tree {
	t.Helper()
	v, err := EffectiveKernel("k.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func diffText(changes []Change) string {
	var lines []string
	for _, c := range changes {
		lines = append(lines, c.String())
	}
	return strings.Join(lines, "\n")
}

func TestDiff(t *testing.T) {
	t.Setenv("TOKEN", "0123456789abcdef")
	t.Setenv("PARAM", "from the environment")
	tests := []struct {
		name    string
		replace []string
		want    string
	}{
		{"nothing", nil, ""},
		{"a default written out, and routes in another order", []string{"policy_kernel:\n", "policy_kernel:\n  unknown_route: deny\n", "    - {route_name: old}\n", "", "  route_policies:\n", "  route_policies:\n    - {route_name: old}\n"}, ""},
		{"parameter", []string{"requests: 100", "requests: 200"}, `~ route orders: request_flow.policy_chain[0].params.requests: 100 → 200`},
		{"parameters come and go", []string{"per: 1m", "burst: 5"}, "+ route orders: request_flow.policy_chain[0].params.burst: 5\n- route orders: request_flow.policy_chain[0].params.per: \"1m\""},
		{"secret", []string{`client_secret: "old"`, `client_secret: "new"`}, `~ route orders: request_flow.policy_chain[0].params.deep.client_secret: "***" → "***"`},
		{"variable", []string{"${PARAM}", "${TOKEN}"}, `~ route orders: request_flow.policy_chain[0].params.deep.other: "***" → "***"`},
		{"token", []string{"${TOKEN}", "another-token-of-ours"}, `~ admin: token: "***" → "***"`},
		{"routes", []string{"{route_name: old}", "{route_name: new}"}, `+ route new: {"request_flow":{"policy_chain":[],"processing_mode":"auto"},"response_flow":{"policy_chain":[],"processing_mode":"auto"},"route_name":"new"}
- route old: {"request_flow":{"policy_chain":[],"processing_mode":"auto"},"response_flow":{"policy_chain":[],"processing_mode":"auto"},"route_name":"old"}`},
		{"worker", []string{"socket_path: /run/2.sock", "socket_path: /run/2.sock, timeout: 1m"}, `~ worker w2: timeout: "500ms" → "1m"`},
		{"restart", []string{"admin: {", "server: {port: 9}\n  admin: {port: 8, "}, "~ admin: port: 9090 → 8 (needs a restart)\n~ server: port: 9001 → 9 (needs a restart)"},
		{"header of an answer", []string{"policy_kernel:\n", "policy_kernel:\n  worker_unavailable_response: {headers: {retry-after: \"30\", content-type: application/json, authorization: \"Basic x\"}}\n"}, `+ worker_unavailable_response: headers.authorization: "***"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			next := diffBase
			for i := 0; i < len(tt.replace); i += 2 {
				next = strings.Replace(next, tt.replace[i], tt.replace[i+1], 1)
			}
			if got := diffText(Diff(tree(t, diffBase), tree(t, next))); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// TestTreeIsMasked: what a page shows has no secret, and can be compared with a file.
func TestTreeIsMasked(t *testing.T) {
	t.Setenv("TOKEN", "0123456789abcdef")
	t.Setenv("PARAM", "from the environment")
	text, err := json.Marshal(tree(t, diffBase))
	if err != nil {
		t.Fatal(err)
	}
	headers, err := json.Marshal(tree(t, "policy_kernel:\n  observability: {tracing: {headers: {x: hunter2}}}\n"))
	if err != nil || !strings.Contains(string(headers), `"x":"***"`) {
		t.Errorf("%s, %v", headers, err)
	}
	for _, secret := range []string{"0123456789abcdef", "from the environment", `"old","other"`} {
		if strings.Contains(string(text), secret) {
			t.Errorf("%q is shown: %s", secret, text)
		}
	}
	dec := json.NewDecoder(strings.NewReader(string(text)))
	dec.UseNumber()
	var page Tree
	if err := dec.Decode(&page); err != nil {
		t.Fatal(err)
	}
	if got := diffText(Diff(page, tree(t, diffBase))); got != "" {
		t.Errorf("page and file differ: %s", got)
	}
}

func TestAdminToken(t *testing.T) {
	t.Setenv("SHORT", "hunter2")
	t.Setenv("EMPTY_TOKEN", "")
	for text, want := range map[string]string{
		`{token: "${SHORT}"}`:                            "policy_kernel.admin.token: is 7 bytes that are not a token",
		`{token: "${EMPTY_TOKEN}"}`:                      "policy_kernel.admin.token: is 0 bytes that are not a token",
		`{token: "0123456789abcdef", token_file: /file}`: "policy_kernel.admin.token_file: stands beside token; legal is one of them",
	} {
		_, err := ParseKernel("k.yaml", []byte("policy_kernel:\n  admin: "+text+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
