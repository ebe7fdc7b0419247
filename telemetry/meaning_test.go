package telemetry

import (
	"os"
	"strings"
	"testing"
)

// TestMetricsPage: each metric is on the page that operators read.
func TestMetricsPage(t *testing.T) {
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range meanings {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/metrics.md has no %s", name)
		}
	}
}

func TestMeaning(t *testing.T) {
	for name, want := range map[string]string{
		"policy_kernel_streams":         "Streams of Envoy's that are open: requests under way.",
		"go_memstats_heap_inuse_bytes":  "Of the Go runtime: memstats heap inuse bytes.",
		"process_resident_memory_bytes": "Of the process: resident memory bytes.",
		"somebody_elses_total":          "",
	} {
		if got := meaning(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
