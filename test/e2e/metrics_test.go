package e2e

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

// labelsOf are the labels of each metric: first those of SPEC 6.1, then those that operators need beside them.
var labelsOf = map[string]string{
	"policy_kernel_requests_total":             "route,status,worker",
	"policy_kernel_request_duration_seconds":   "le,route,worker",
	"policy_kernel_worker_health":              "worker",
	"policy_worker_executions_total":           "policy,status",
	"policy_worker_execution_duration_seconds": "le,policy",
	"policy_worker_policy_failures_total":      "policy,reason",

	"policy_kernel_build_info":                     "goversion,version",
	"policy_kernel_body_bytes":                     "",
	"policy_kernel_log_records_lost_total":         "",
	"policy_kernel_panics_total":                   "",
	"policy_kernel_response_failures_total":        "route,status,worker",
	"policy_kernel_streams":                        "",
	"policy_kernel_trace_spans_dropped_total":      "",
	"policy_kernel_trace_spans_total":              "",
	"policy_kernel_worker_batch_calls":             "le,worker",
	"policy_kernel_worker_batch_results":           "le,worker",
	"policy_kernel_worker_calls_in_flight":         "replica,worker",
	"policy_kernel_worker_breaker_state":           "replica,worker",
	"policy_kernel_worker_retries_total":           "reason,worker",
	"policy_kernel_worker_replica_up":              "replica,worker",
	"policy_kernel_worker_unmatched_results_total": "worker",
	"policy_worker_build_info":                     "component,goversion,replica,version,worker",
	"policy_worker_generations":                    "",
	"policy_worker_in_flight":                      "",
	"policy_worker_log_records_lost_total":         "",
	"policy_worker_panics_total":                   "",
	"policy_worker_stuck_policies_total":           "",
	"policy_worker_trace_spans_dropped_total":      "",
	"policy_worker_trace_spans_total":              "",
}

// canary is in everything that a client sends.
const canary = "canary7431"

// checkExposition checks that the scrape has each metric with exactly its labels, that each has a type and a meaning, and that nothing of a request is in it.
func checkExposition(t *testing.T, e *harness.Engine) {
	t.Helper()
	status, text := e.Health("/metrics")
	if status != http.StatusOK {
		t.Fatalf("/metrics says %d", status)
	}
	if i := strings.Index(text, canary); i >= 0 {
		t.Errorf("the metrics have what a client sent: …%s", text[max(0, i-100):i+len(canary)])
	}
	types, help := map[string]string{}, map[string]bool{}
	seen := map[string]map[string]bool{} // labels of each family
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			if types[name] != "" {
				t.Errorf("two types of %s", name)
			}
			types[name] = kind
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, meaning, _ := strings.Cut(rest, " ")
			help[name] = meaning != ""
			continue
		}
		series := line[:strings.LastIndexByte(line, ' ')]
		name, labels := family(types, series)
		if types[name] == "" || !help[name] {
			t.Errorf("%s has no type (%q) or no meaning", name, types[name])
		}
		if strings.HasSuffix(name, "_total") && types[name] != "counter" {
			t.Errorf("%s is a %s", name, types[name])
		}
		if seen[name] == nil {
			seen[name] = map[string]bool{}
		}
		for _, label := range labels {
			seen[name][label] = true
		}
	}
	for name, want := range labelsOf {
		got, ok := seen[name]
		if labels := strings.Join(slices.Sorted(maps.Keys(got)), ","); !ok || labels != want {
			t.Errorf("%s (there: %t) has the labels %q, want %q", name, ok, labels, want)
		}
	}
	m, err := harness.ParseMetrics(text)
	if err != nil {
		t.Fatal(err)
	}
	processes := []string{`component="kernel"`}
	if !harness.OneProcess() {
		processes = append(processes, `component="worker",worker="worker-a",replica="0"`, `component="worker",worker="worker-b",replica="0"`)
	}
	for _, process := range processes {
		for _, name := range []string{"go_goroutines", "process_start_time_seconds"} {
			if series := name + "{" + process + "}"; m[series] == 0 {
				t.Errorf("no %s", series)
			}
		}
	}
}

// family is the metric that a series belongs to, and the names of its labels.
func family(types map[string]string, series string) (name string, labels []string) {
	name, rest, _ := strings.Cut(series, "{")
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && (types[base] == "histogram" || types[base] == "summary") {
			name = base
		}
	}
	for _, pair := range strings.Split(strings.TrimSuffix(rest, "}"), ",") {
		if label, _, ok := strings.Cut(pair, "="); ok {
			labels = append(labels, strings.TrimSpace(label))
		}
	}
	return name, labels
}
