package rules

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

func TestImports(t *testing.T) {
	packages := list(t)
	for _, v := range CheckImports(ImportRules, packages) {
		t.Error(v)
	}
	for _, v := range CheckUnsafe(packages, []string{"fastpath/view", "fastpath/socket", "api/..."}) {
		t.Error(v)
	}
	const sdk = "whoever writes a policy compiles and audits all of this"
	for _, v := range CheckOnlyStandard(packages, "policies", sdk) {
		t.Error(v)
	}
	for _, problem := range CheckPackages(packages) {
		t.Error(problem)
	}
}

// TestImportRulesCanFail proves that the checks find what they are for.
func TestImportRulesCanFail(t *testing.T) {
	tests := []struct {
		name     string
		from     string
		imports  []string
		inTest   bool
		violates []string
	}{
		{name: "kernel uses the worker", from: "kernel/route", imports: []string{"worker"}, violates: []string{"worker"}},
		{name: "kernel uses a policy", from: "kernel/extproc", imports: []string{"policies/jwtvalidation"}, violates: []string{"policies/jwtvalidation"}},
		{name: "kernel uses the SDK", from: "kernel", imports: []string{"policies"}, violates: []string{"policies"}},
		{name: "kernel's test uses the worker", from: "kernel/workers", imports: []string{"worker"}, inTest: true, violates: []string{"worker"}},
		{name: "kernel within its rules", from: "kernel/extproc", imports: []string{"kernel/route", "config", "api/worker/v1", "fastpath/codec", "telemetry"}},
		{name: "worker uses the kernel", from: "worker/chain", imports: []string{"kernel/route"}, violates: []string{"kernel/route"}},
		{name: "worker core uses a policy", from: "worker", imports: []string{"policies/ratelimit"}, violates: []string{"policies/ratelimit"}},
		{name: "worker's test uses policytest", from: "worker/chain", imports: []string{"policies/policytest"}, inTest: true},
		{name: "worker uses policytest", from: "worker/chain", imports: []string{"policies/policytest"}, violates: []string{"policies/policytest"}},
		{name: "a policy uses the worker", from: "policies/apikeyauth", imports: []string{"worker/keystore", "policies"}, violates: []string{"worker/keystore"}},
		{name: "a policy uses another", from: "policies/apikeyauth", imports: []string{"policies/ratelimit"}, violates: []string{"policies/ratelimit"}},
		{name: "a policy's test uses policytest", from: "policies/apikeyauth", imports: []string{"policies/policytest"}, inTest: true},
		{name: "a policy uses policytest", from: "policies/apikeyauth", imports: []string{"policies/policytest"}, violates: []string{"policies/policytest"}},
		{name: "the SDK uses the protocol", from: "policies", imports: []string{"api/worker/v1"}, violates: []string{"api/worker/v1"}},
		{name: "configuration uses the kernel", from: "config", imports: []string{"kernel"}, violates: []string{"kernel"}},
		{name: "telemetry uses the configuration", from: "telemetry", imports: []string{"config"}, violates: []string{"config"}},
		{name: "fastpath uses the protocol", from: "fastpath/codec", imports: []string{"api/worker/v1"}, violates: []string{"api/worker/v1"}},
		{name: "fastpath uses fastpath", from: "fastpath/headermap", imports: []string{"fastpath/view"}},
		{name: "a program uses the inside of a room", from: "cmd/policy-kernel", imports: []string{"kernel/route"}, violates: []string{"kernel/route"}},
		{name: "a program puts rooms together", from: "cmd/policy-worker-1", imports: []string{"worker", "policies", "policies/apikeyauth", "telemetry"}},
		{name: "a whole-system test links the kernel", from: "test/e2e", imports: []string{"kernel"}, inTest: true, violates: []string{"kernel"}},
		{name: "the test worker is a worker", from: "test/e2e/testworker", imports: []string{"worker", "policies"}},
		{name: "the test worker is no kernel", from: "test/e2e/testworker", imports: []string{"kernel"}, violates: []string{"kernel"}},
		{name: "a room nobody knows", from: "extras", imports: nil, violates: []string{"anything"}},
		{name: "libraries are free", from: "kernel/workers", imports: []string{"google.golang.org/grpc"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := Package{ImportPath: Module + "/" + tt.from}
			for _, i := range tt.imports {
				if !strings.Contains(i, ".org/") {
					i = Module + "/" + i
				}
				if tt.inTest {
					p.XTestImports = append(p.XTestImports, i)
				} else {
					p.Imports = append(p.Imports, i)
				}
			}
			got := CheckImports(ImportRules, []Package{p})
			if len(got) != len(tt.violates) {
				t.Fatalf("got %v, want violations for %v", got, tt.violates)
			}
			for i, v := range got {
				if v.To != tt.violates[i] || v.Reason == "" || v.InTest != tt.inTest {
					t.Errorf("violation %d is %+v, want one for %s with a reason", i, v, tt.violates[i])
				}
			}
		})
	}
}

func TestOtherPackageRulesCanFail(t *testing.T) {
	packages := []Package{
		{ImportPath: "unsafe", Standard: true},
		{ImportPath: "strings", Standard: true},
		{ImportPath: "google.golang.org/grpc"},
		{ImportPath: Module + "/policies", Doc: "Package policies …", Imports: []string{"strings"}, Deps: []string{"strings", "google.golang.org/grpc"}},
		{ImportPath: Module + "/worker/util", Doc: "Package util …", Imports: []string{"unsafe"}},
		{ImportPath: Module + "/worker/silent", Imports: []string{"strings"}},
		{ImportPath: Module + "/fastpath/view", Doc: "Package view …", Imports: []string{"unsafe"}},
	}
	if got := CheckUnsafe(packages, []string{"fastpath/view"}); len(got) != 1 || got[0].From != "worker/util" {
		t.Errorf("CheckUnsafe: got %v, want one violation by worker/util", got)
	}
	if got := CheckOnlyStandard(packages, "policies", "reason"); len(got) != 1 || got[0].To != "google.golang.org/grpc" {
		t.Errorf("CheckOnlyStandard: got %v, want one violation for grpc", got)
	}
	if got := CheckPackages(packages); len(got) != 2 {
		t.Errorf("CheckPackages: got %v, want worker/util for its name and worker/silent for its silence", got)
	}
}

// list asks the go command for all our packages and all they depend on.
func list(t *testing.T) []Package {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Name,Dir,Doc,Standard,Imports,TestImports,XTestImports,Deps", "./...")
	cmd.Dir = root(t)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var packages []Package
	for dec := json.NewDecoder(out); ; {
		var p Package
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("decode the answer of go list: %v", err)
		}
		packages = append(packages, p)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	ours := 0
	for _, p := range packages {
		if _, ok := room(p.ImportPath); ok {
			ours++
		}
	}
	if ours < 10 {
		t.Fatalf("go list shows %d packages of ours; the check would prove nothing", ours)
	}
	return packages
}
