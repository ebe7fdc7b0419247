package config

import (
	"strings"
	"testing"
)

func TestRestartNeeded(t *testing.T) {
	parse := func(text string) *Kernel {
		t.Helper()
		k, err := ParseKernel("k.yaml", []byte("policy_kernel:\n"+text))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	base := parse("  server: {port: 9001}\n")
	tests := []struct{ name, text, want string }{
		{"the same", "  server: {port: 9001}\n", ""},
		{"the default", "  unknown_route: deny\n", ""},
		{"all that a reload can change", `  unknown_route: continue
  workers: [{name: w, socket_path: /run/w.sock, timeout: 1s}]
  route_policies: [{route_name: r}]
  limits: {max_body_size: 1KiB}
  observability: {log_level: debug}
  admin: {token: 0123456789abcdef-}
  worker_unavailable_response: {status_code: 503}
  policy_not_supported_response: {status_code: 501}
`, ""},
		{"port", "  server:\n    address: 0.0.0.0\n    port: 9002\n", `k.yaml:4: policy_kernel.server.port: "9002" needs a restart; legal for a reload is "9001", as it is now`},
		{"socket", "  server: {socket_path: /run/k.sock}\n", `k.yaml:2: policy_kernel.server.socket_path: "/run/k.sock" needs a restart; legal for a reload is "", as it is now`},
		{"sampling", "  observability: {tracing: {sampling_rate: 0.5, parent_limit: 1}}\n", ""},
		{
			"endpoint of tracing", "  observability: {tracing: {endpoint: \"localhost:1\", headers: {x: hunter2}}}\n",
			"policy_kernel.observability.tracing.endpoint policy_kernel.observability.tracing.headers",
		},
		{
			"the rest", "  server: {transport: grpc, max_concurrent_streams: 5, tls: {cert_file: /c, key_file: /k, client_ca_file: /a}}\n  admin: {address: \"::1\", port: 9}\n",
			"policy_kernel.server.transport policy_kernel.server.max_concurrent_streams policy_kernel.server.tls.cert_file policy_kernel.server.tls.key_file policy_kernel.server.tls.client_ca_file policy_kernel.admin.address policy_kernel.admin.port",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if err := base.RestartNeeded(parse(tt.text)); err != nil {
				got = err.Error()
			}
			if strings.Contains(got, "hunter2") {
				t.Errorf("a secret is told: %s", got)
			}
			if tt.name == "the rest" || tt.name == "endpoint of tracing" {
				var paths []string
				for line := range strings.Lines(got) {
					paths = append(paths, strings.TrimSuffix(strings.Fields(line)[1], ":"))
				}
				got = strings.Join(paths, " ")
			}
			if got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// TestSecretsAreCompared: a secret that changes takes a restart, one that only moves in the file does not, and none is told.
func TestSecretsAreCompared(t *testing.T) {
	parse := func(text string) *Kernel {
		t.Helper()
		k, err := ParseKernel("k.yaml", []byte("policy_kernel:\n"+text))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	base := parse("  observability: {tracing: {headers: {x: hunter2}}}\n")
	if err := base.RestartNeeded(parse("\n  observability:\n    tracing:\n      headers: {x: hunter2}\n")); err != nil {
		t.Errorf("the same: %v", err)
	}
	err := base.RestartNeeded(parse("  observability: {tracing: {headers: {x: hunter3}}}\n"))
	if err == nil || !strings.Contains(err.Error(), "tracing.headers") || strings.Contains(err.Error(), "hunter") {
		t.Errorf("another one: %v", err)
	}
}
