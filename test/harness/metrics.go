package harness

import (
	"net/http"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/process"
)

// Metrics are the samples of one scrape: series with its labels, as it is written, to value.
type Metrics process.Metrics

// Scrape reads /metrics.
func (e *Engine) Scrape() Metrics {
	e.t.Helper()
	status, body := e.Health("/metrics")
	if status != http.StatusOK {
		e.t.Fatalf("/metrics says %d: %s", status, body)
	}
	m, err := ParseMetrics(body)
	if err != nil {
		e.t.Fatal(err)
	}
	return m
}

// ParseMetrics reads the Prometheus text format.
func ParseMetrics(text string) (Metrics, error) {
	m, err := process.ParseMetrics(text)
	return Metrics(m), err
}

// Want checks exact values. A series that is expected to be 0 may be missing.
func (m Metrics) Want(t testing.TB, want map[string]float64) {
	t.Helper()
	for series, value := range want {
		got, ok := m[series]
		if got != value || !ok && value != 0 {
			t.Errorf("%s is %v, want %v", series, got, value)
		}
	}
	if t.Failed() {
		for series, value := range m {
			if strings.HasPrefix(series, "policy_") && !strings.Contains(series, "_bucket") {
				t.Logf("%s %v", series, value)
			}
		}
	}
}
