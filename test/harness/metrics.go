package harness

import (
	"bufio"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// Metrics are the samples of one scrape: series with its labels, as it is written, to value.
type Metrics map[string]float64

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
	m := Metrics{}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		if i < 0 {
			return nil, fmt.Errorf("metrics: no value in %q", line)
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: value in %q: %w", line, err)
		}
		if _, twice := m[line[:i]]; twice {
			return nil, fmt.Errorf("metrics: %q comes twice", line[:i])
		}
		m[line[:i]] = v
	}
	return m, lines.Err()
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
