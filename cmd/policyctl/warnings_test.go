package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestValidateWarns: what is valid and probably not meant is told by file, line and path, and fails only with --strict.
func TestValidateWarns(t *testing.T) {
	dir := t.TempDir()
	kernel := writeFile(t, filepath.Join(dir, "k.yaml"), `policy_kernel:
  workers:
  - {name: w, socket_path: /run/w.sock}
  route_policies:
  - route_name: httproute/default/web/*
    request_flow:
      policy_chain:
      - policy: jwtValidation
        params:
          issuer: corporate
          audience: ["api://{tenantid}"]
          required_claims: {realm_access.roles: [admin]}
`)
	worker := writeFile(t, filepath.Join(dir, "w.yaml"), `policy_worker:
  name: w
  socket_path: /run/w.sock
  jwt_issuers:
    corporate: {issuer: "https://idp.example", jwks_uri: "https://idp.example/keys"}
`)
	const at = "policy_kernel.route_policies[0]"
	want := `warning: k.yaml:5: ` + at + `.route_name: "httproute/default/web/*" looks like a pattern, and is taken as one name; expected exactly the name that Envoy's route has
warning: k.yaml:11: ` + at + `.request_flow.policy_chain[0].params.audience[0]: "api://{tenantid}" looks like a pattern, and is taken as it is; expected the exact value
warning: k.yaml:12: ` + at + `.request_flow.policy_chain[0].params.required_claims: claim "realm_access.roles" is taken as one name, dots included; for a nested claim, write /realm_access/roles
`
	for _, strict := range []bool{false, true} {
		args, status, more := []string{"validate", "--kernel", kernel, "--worker", worker}, exitOK, ""
		if strict {
			args, status, more = append(args, "--strict"), exitFailed, "policyctl: --strict: 3 warnings\n"
		}
		r := run(t, "", args...)
		if got := strings.ReplaceAll(r.stderr, dir+"/", ""); r.status != status || got != want+more || strict == strings.Contains(r.stdout, "valid") {
			t.Errorf("strict %v: status %d, output %q, errors\n%s", strict, r.status, r.stdout, got)
		}
	}
}

// TestValidateStrictWithoutWarnings: the files that the project comes with have none.
func TestValidateStrictWithoutWarnings(t *testing.T) {
	if r := validateEdited(t, nil, "--strict"); r.status != exitOK || r.stderr != "" {
		t.Errorf("got %+v", r)
	}
}
