package config

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestWarnings: names that look like patterns are valid, and tell that they are taken as they are, by line.
func TestWarnings(t *testing.T) {
	kernel := `policy_kernel:
  route_policies:
  - {route_name: orders}
  - {route_name: httproute/default/web/*}
  - {route_name: "orders-{id}"}
  - {route_name: ^/api/}
`
	k, err := ParseKernel("k.yaml", []byte(kernel))
	if err != nil {
		t.Fatal(err)
	}
	const name = "looks like a pattern, and is taken as one name; expected exactly the name that Envoy's route has"
	want := []string{
		`k.yaml:4: policy_kernel.route_policies[1].route_name: "httproute/default/web/*" ` + name,
		`k.yaml:5: policy_kernel.route_policies[2].route_name: "orders-{id}" ` + name,
		`k.yaml:6: policy_kernel.route_policies[3].route_name: "^/api/" ` + name,
	}
	if got := lines(k.Warnings); !slices.Equal(got, want) {
		t.Errorf("kernel:\n%s", strings.Join(got, "\n"))
	}
	worker := `policy_worker:
  name: w
  socket_path: /run/w.sock
  jwt_issuers:
    good: {issuer: "https://login.example/{tenant}/v2.0", tenants: [a, b], jwks_uri: "https://login.example/{tenant}/keys"}
    azure:
      issuer: https://login.example/{tenantid}/v2.0
      jwks_uri: https://login.example/{tenantid}/keys
    all: {issuer: "https://login.example/{tenant}", tenants: ["*"], jwks_uri: "https://login.example/keys"}
`
	w, err := parseWorker("w.yaml", []byte(worker), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	const template = "looks like a template, and is taken as it is; expected the issuer's exact URL, or {tenant} with tenants"
	want = []string{
		`w.yaml:7: policy_worker.jwt_issuers.azure.issuer: "https://login.example/{tenantid}/v2.0" ` + template,
		`w.yaml:8: policy_worker.jwt_issuers.azure.jwks_uri: "https://login.example/{tenantid}/keys" ` + template,
		`w.yaml:9: policy_worker.jwt_issuers.all.tenants: "*" looks like a pattern, and is taken as one tenant; expected the names of tenants`,
	}
	if got := lines(w.Warnings); !slices.Equal(got, want) {
		t.Errorf("worker:\n%s", strings.Join(got, "\n"))
	}
}

// TestWarningsHideVariables: a warning shows the name of a variable, as a mistake does.
func TestWarningsHideVariables(t *testing.T) {
	k, err := parseKernel("k.yaml", []byte("policy_kernel:\n  route_policies: [{route_name: \"${ROUTE}\"}]\n"), func(string) (string, bool) { return "secret-*", true })
	if err != nil {
		t.Fatal(err)
	}
	if got := k.Warnings.Error(); len(k.Warnings) != 1 || strings.Contains(got, "secret") {
		t.Errorf("got %q", got)
	}
}

func lines(e Errors) (all []string) {
	for i := range e {
		all = append(all, e[i].Error())
	}
	return all
}
