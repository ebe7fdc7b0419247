package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The demo's configuration has no mistakes, and neither has the Envoy configuration that its script makes of it.
func TestDemoIsValid(t *testing.T) {
	const demo = "../../deploy/demo"
	dir := t.TempDir()
	succeed(t, "token", "init", "--dir", dir)
	t.Setenv("DEMO_ISSUER_DIR", dir)
	t.Setenv("POLICY_ENGINE_ETC_DIR", demo)
	kernel := filepath.Join(demo, "kernel-config.yaml")
	envoy := writeFile(t, filepath.Join(dir, "envoy.yaml"), succeed(t, "envoy", "--kernel", kernel))
	got := succeed(t, "validate", "--kernel", kernel, "--worker", demo+"/worker-config-1.yaml", "--worker", demo+"/worker-config-2.yaml", "--envoy", envoy)
	if !strings.HasPrefix(got, "valid: ") || strings.Contains(got, "note") {
		t.Errorf("got %s", got)
	}
}

// Every policy of this repository is known to validate.
func TestCatalogueIsComplete(t *testing.T) {
	source, err := os.ReadFile("catalogue.go")
	if err != nil {
		t.Fatal(err)
	}
	folders, err := filepath.Glob("../../policies/*/README.md")
	if err != nil || len(folders) < 3 {
		t.Fatalf("%d policies, %v", len(folders), err)
	}
	for _, readme := range folders {
		name := filepath.Base(filepath.Dir(readme))
		if !strings.Contains(string(source), name+".Definition(),") {
			t.Errorf("policy folder %s is not in the catalogue", name)
		}
	}
}
