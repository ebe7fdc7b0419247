package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/config"
)

var rewrite = flag.Bool("rewrite", false, "write what is found into the files of expected output")

var testNow = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// zeros is a source of randomness for tests.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// result is what a run of the program left.
type result struct {
	status         int
	stdout, stderr string
}

// run runs policyctl with the standard input and arguments.
func run(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p := &program{
		stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr,
		getenv: func(string) string { return "" }, now: func() time.Time { return testNow }, random: zeros{},
	}
	status := p.run(args)
	return result{status, stdout.String(), stderr.String()}
}

// succeed runs policyctl and returns its output.
func succeed(t *testing.T, args ...string) string {
	t.Helper()
	r := run(t, "", args...)
	if r.status != exitOK || r.stderr != "" {
		t.Fatalf("policyctl %q: status %d\n%s", args, r.status, r.stderr)
	}
	return r.stdout
}

func writeFile(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// expect compares with the file of expected output, or writes it.
func expect(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

func TestCommands(t *testing.T) {
	tests := []struct {
		name           string
		args           []string
		status         int
		stdout, stderr string // parts
	}{
		{"nothing", nil, exitUsage, "", "a command is missing; legal are validate, diff, envoy, explain, keys, jwks, token, schema, version, help"},
		{"unknown", []string{"nonsense"}, exitUsage, "", `policyctl: unknown command "nonsense"; legal are validate, diff, envoy, explain, keys, jwks, token, schema, version, help`},
		{"help", []string{"help"}, exitOK, "usage: policyctl COMMAND [FLAGS]", ""},
		{"--help", []string{"--help"}, exitOK, "validate   check", ""},
		{"help of a command", []string{"help", "envoy"}, exitOK, "usage: policyctl envoy --kernel FILE", ""},
		{"help of a command's command", []string{"help", "keys", "new"}, exitOK, "usage: policyctl keys new", ""},
		{"--help of a command", []string{"token", "--help"}, exitOK, "usage: policyctl token --sub SUBJECT", ""},
		{"version", []string{"version"}, exitOK, "unknown\n", ""},
		{"--version", []string{"--version"}, exitOK, "unknown\n", ""},
		{"keys alone", []string{"keys"}, exitUsage, "", "legal are new, digest, help"},
		{"unknown keys command", []string{"keys", "list"}, exitUsage, "", `unknown command "list"; legal are new, digest, help`},
		{"unknown flag", []string{"validate", "--loose"}, exitUsage, "", "flag provided but not defined: -loose; --help lists the flags"},
		{"unknown argument", []string{"version", "now"}, exitUsage, "", `unknown argument "now"`},
		{"unknown schema", []string{"schema", "envoy"}, exitUsage, "", `unknown command "envoy"; legal are kernel, worker, help`},
		{"validate nothing", []string{"validate"}, exitUsage, "", "--kernel is missing"},
		{"envoy for nothing", []string{"envoy"}, exitUsage, "", "--kernel is missing"},
		{"missing file", []string{"validate", "--kernel", "testdata/none.yaml"}, exitFailed, "", "read configuration file: open testdata/none.yaml"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := run(t, "", tt.args...)
			if r.status != tt.status || !strings.Contains(r.stdout, tt.stdout) || !strings.Contains(r.stderr, tt.stderr) {
				t.Errorf("got %+v", r)
			}
			if (r.stderr == "") != (r.status == exitOK) {
				t.Errorf("status %d with %q on the standard error", r.status, r.stderr)
			}
		})
	}
}

func TestSchema(t *testing.T) {
	if got := succeed(t, "schema", "kernel"); got != string(config.KernelSchema) || !strings.Contains(got, `"policy_kernel"`) {
		t.Errorf("got %s", got)
	}
	if got := succeed(t, "schema", "worker"); got != string(config.WorkerSchema) || !strings.Contains(got, `"policy_worker"`) {
		t.Errorf("got %s", got)
	}
}
