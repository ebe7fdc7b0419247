package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
	"github.com/policy-engine/policy-engine/test/stage"
)

// TestPlantedLeak: a worker that leaks is found, in memory and goroutines; and the kernel, which does not, is not blamed. Reloads and restarts lose nothing.
func TestPlantedLeak(t *testing.T) {
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	if err := harness.NoteSources(root); err != nil {
		t.Fatal(err)
	}
	programs, err := stage.Build(root, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	transport := os.Getenv("POLICY_ENGINE_TRANSPORT")
	if transport == "" {
		transport = "fast"
	}
	r, err := run(t.Context(), plan{
		duration: 20 * time.Second, rate: 200, transport: transport, memory: 1 << 30, tell: func(line string) { t.Log(line) },
		prepare: func(st *stage.Stage) error { return st.Trouble(2, "leak") },
	}, programs)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r)
	for name, tr := range r.Trends {
		leaks := name == stage.Worker2+" memory MiB" || name == stage.Worker2+" goroutines"
		if tr.Grew != leaks {
			t.Errorf("%s: %v", name, tr)
		}
	}
	c := &r.Requests
	if c.Bypassed > 0 || c.Lost > 0 || c.Hung > 0 || c.Passed == 0 {
		t.Errorf("%+v", c)
	}
	if page := string(r.page()); !strings.Contains(page, "grows") || !strings.Contains(page, "<svg") {
		t.Error("the page does not show it")
	}
}
