package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/config"
)

// edit replaces text in one of the files of testdata/valid.
type edit struct{ file, old, new string }

// validateEdited checks copies of testdata/valid after the edits. Messages name the files without their folder.
func validateEdited(t *testing.T, edits []edit, args ...string) result {
	t.Helper()
	dir := t.TempDir()
	command := []string{"validate", "--assume-policy", "ourPolicy"}
	for _, name := range []string{"kernel.yaml", "worker-1.yaml", "worker-2.yaml", "envoy.yaml"} {
		data, err := os.ReadFile(filepath.Join("testdata/valid", name))
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		for _, e := range edits {
			if e.file != name {
				continue
			}
			if !strings.Contains(text, e.old) {
				t.Fatalf("%s does not have %q", name, e.old)
			}
			text = strings.Replace(text, e.old, e.new, 1)
		}
		kind, _, _ := strings.Cut(strings.TrimSuffix(name, ".yaml"), "-")
		command = append(command, "--"+kind, writeFile(t, filepath.Join(dir, name), text))
	}
	r := run(t, "", append(command, args...)...)
	r.stderr = strings.ReplaceAll(r.stderr, dir+"/", "")
	r.stdout = strings.ReplaceAll(r.stdout, dir+"/", "")
	return r
}

func TestValidateGoodFiles(t *testing.T) {
	r := validateEdited(t, nil)
	want := result{exitOK, "valid: 3 routes with 6 policies, 2 workers, and Envoy asks the engine on all its routes\n", ""}
	if r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
	// The kernel alone is checked too, when it has no workers.
	kernel := writeFile(t, filepath.Join(t.TempDir(), "k.yaml"), "policy_kernel: {route_policies: [{route_name: public}]}\n")
	if got := succeed(t, "validate", "--kernel", kernel); got != "valid: 1 routes with 0 policies, 0 workers\n" {
		t.Errorf("got %q", got)
	}
}

func TestValidateTellsMistakes(t *testing.T) {
	const k, w1, w2 = "kernel.yaml", "worker-1.yaml", "worker-2.yaml"
	at := func(line, path string) string { return "kernel.yaml:" + line + ": policy_kernel.route_policies" + path }
	tests := []struct {
		name  string
		edits []edit
		want  []string // the beginnings of lines
	}{
		{"mistake in a file", []edit{{k, "{route_name: public}", "{route_nam: public}"}, {w2, "name: worker-2", "nam: worker-2"}}, []string{
			at("6", "[0].route_nam: unknown key; did you mean route_name?"),
			at("6", "[0].route_name: the key is missing"),
			"worker-2.yaml:2: policy_worker.nam: unknown key; did you mean name?",
			"worker-2.yaml:2: policy_worker.name: the key is missing",
		}},
		{"no admin token", []edit{{k, "policy_kernel:\n", "policy_kernel:\n  admin: {token_file: /nowhere}\n"}}, []string{
			"kernel.yaml: policy_kernel.admin.token_file: the file can't be read: ",
		}},
		{"mistakes of one file don't hide those of another", []edit{{w2, "name: worker-2", "nam: worker-2"}, {k, "requests: 5", "requests: -5"}}, []string{
			"worker-2.yaml:2: policy_worker.nam",
			"worker-2.yaml:2: policy_worker.name",
			at("11", "[1].request_flow.policy_chain[1].params.requests: "),
		}},
		{"what a file with mistakes names is not called unknown", []edit{{w1, "key_stores:", "key_store:"}, {k, "issuer: corporate", "issuer: [corporate, other]"}}, []string{
			"worker-1.yaml:4: policy_worker.key_store: unknown key; did you mean key_stores?",
		}},
		{"unknown worker", []edit{{w2, "worker-2", "worker-3"}}, []string{
			`worker-2.yaml: policy_worker.name: "worker-3" is not a worker of kernel.yaml; legal are worker-1, worker-2`,
			`kernel.yaml:4: policy_kernel.workers[1]: no configuration of worker "worker-2" was given`,
		}},
		{"other socket", []edit{{w2, "w2b", "w2c"}}, []string{
			`worker-2.yaml: policy_worker.socket_path: "/run/pe/w2c.sock" is not a socket of worker "worker-2" in kernel.yaml; legal are /run/pe/w2a.sock, /run/pe/w2b.sock`,
		}},
		{"one socket for two", []edit{{w2, "w2b", "w1"}}, []string{
			`worker-2.yaml: policy_worker.socket_path: "/run/pe/w1.sock" is the socket of worker-1.yaml too`,
			`worker-2.yaml: policy_worker.socket_path: "/run/pe/w1.sock" is not a socket of worker "worker-2"`,
		}},
		{"unknown policy", []edit{{k, "policy: rateLimit", "policy: rateLimits"}}, []string{
			at("11", `[1].request_flow.policy_chain[1].policy: no worker that comes with the engine offers "rateLimits"; legal are `),
		}},
		{"policy in a flow without its phase", []edit{{k, "- {policy: ourPolicy}", "- {policy: apiKeyAuth, params: {key_store: partners}}"}}, []string{
			at("19", `[2].response_flow.policy_chain[0].policy: policy "apiKeyAuth" takes no part in the response flow; its phases are [request_headers]`),
		}},
		{"response policy on the request", []edit{{k, "- {policy: ourPolicy, params: {anything: true}}", "- {policy: securityHeaders}"}}, []string{
			at("12", `[1].request_flow.policy_chain[2].policy: policy "securityHeaders" takes no part in the request flow; its phases are [response_headers]`),
		}},
		{"unknown key store and issuer", []edit{{k, "key_store: partners", "key_store: friends"}, {k, "issuer: corporate", "issuer: other"}}, []string{
			at("10", `[1].request_flow.policy_chain[0].params.key_store: unknown key store "friends"; legal are partners (key_stores of the workers' configurations)`),
			at("16", `[2].request_flow.policy_chain[0].params.issuer: unknown token issuer "other"; legal are corporate, remote (jwt_issuers of the workers'`),
		}},
		{"unknown parameter, at its line", []edit{{k, "- {policy: jwtValidation, params: {issuer: corporate}}", "- policy: jwtValidation\n            params:\n              issuer: corporate\n              audiance: [api]"}}, []string{
			at("19", "[2].request_flow.policy_chain[0].params.audiance: unknown parameter"),
		}},
		{"missing parameter", []edit{{k, "params: {key_store: partners}", "params: {}"}}, []string{
			at("10", "[1].request_flow.policy_chain[0].params.key_store: "),
		}},
		{"key file is missing", []edit{{w1, "valid/keys.yaml", "valid/none.yaml"}}, []string{
			"worker-1.yaml:5: policy_worker.key_stores.partners.file: the file can't be read: read file: open testdata/valid/none.yaml",
		}},
		{"key file is another file", []edit{{w1, "valid/keys.yaml", "valid/jwks.json"}}, []string{
			"testdata/valid/jwks.json:1: keys[0].kty: unknown", "", "", "", "", "", "", "",
		}},
		{"key set is another file", []edit{{w1, "valid/jwks.json", "valid/keys.yaml"}}, []string{
			`worker-1.yaml:7: policy_worker.jwt_issuers.corporate.jwks_file: "testdata/valid/keys.yaml": read key set`,
		}},
		{"TLS files are missing", []edit{{k, "  workers:", "  server: {tls: {cert_file: testdata/none, key_file: testdata/none, client_ca_file: testdata/valid/keys.yaml}}\n  workers:"}}, []string{
			"kernel.yaml: policy_kernel.server.tls.cert_file: a file can't be read: open testdata/none",
			`kernel.yaml: policy_kernel.server.tls.client_ca_file: "testdata/valid/keys.yaml" has no certificate`,
		}},
		{"TLS files of another kind", []edit{{k, "  workers:", "  server: {tls: {cert_file: testdata/valid/keys.yaml, key_file: testdata/valid/keys.yaml}}\n  workers:"}}, []string{
			`kernel.yaml: policy_kernel.server.tls.cert_file: "testdata/valid/keys.yaml" and "testdata/valid/keys.yaml" are not a certificate and its key`,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			expectMistakes(t, validateEdited(t, tt.edits), tt.want)
		})
	}
}

// expectMistakes compares the lines of the standard error with the beginnings that they are to have.
func expectMistakes(t *testing.T, r result, want []string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(r.stderr, "\n"), "\n")
	if r.status != exitUsage || r.stdout != "" || len(lines) != len(want) {
		t.Fatalf("got %d, %q and\n%s", r.status, r.stdout, r.stderr)
	}
	for i := range want {
		if !strings.HasPrefix(lines[i], want[i]) {
			t.Errorf("got  %s\nwant %s…", lines[i], want[i])
		}
	}
}

func TestValidateReadsCertificates(t *testing.T) {
	certificate, key := selfSigned(t, t.TempDir())
	server := "  server: {tls: {cert_file: " + certificate + ", key_file: " + key + ", client_ca_file: " + certificate + "}}\n  workers:"
	if r := validateEdited(t, []edit{{"kernel.yaml", "  workers:", server}}); r.status != exitOK {
		t.Errorf("got %+v", r)
	}
	later := func() time.Time { return testNow.Add(2 * time.Hour) }
	v := &validation{now: later, kernel: &config.Kernel{File: "k.yaml", Server: config.Server{TLS: config.TLS{CertFile: certificate, KeyFile: key}}}}
	v.checkTLS()
	if want := "the certificate ended 2026-11-01T13:00:00Z"; len(v.found) != 1 || !strings.Contains(v.found[0], want) {
		t.Errorf("got %q, want %q", v.found, want)
	}
}
