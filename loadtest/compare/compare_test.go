package compare

import (
	"bytes"
	"encoding/json"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/chart"
	"github.com/policy-engine/policy-engine/loadtest/rig"
)

// TestRows: the names that reports promise, each row what its name says.
func TestRows(t *testing.T) {
	want := []string{
		"envoy", "envoy-native", "envoy-native-jwt-cache", "noop-grpc", "noop-grpc-plain", "noop-fast", "engine-0-fast", "engine-1-fast", "engine-3-fast", "engine-3-fast-traced", "engine-3-grpc",
		"engine-3-fast-2-workers", "engine-3-one-process", "engine-3-fast-cold",
	}
	var names []string
	for _, r := range Rows() {
		names = append(names, r.Name)
		spec := r.Spec
		engine := strings.HasPrefix(r.Name, "engine-")
		switch {
		case engine != (spec.Asked == rig.Engine), strings.HasPrefix(r.Name, "noop-") != (spec.Asked == rig.NoOp && spec.Program == r.Name):
			t.Errorf("%s asks %+v", r.Name, spec)
		case engine && len(spec.Chain) != int(r.Name[len("engine-")]-'0'):
			t.Errorf("%s has the chain %v", r.Name, spec.Chain)
		case strings.Contains(r.Name, "-grpc") != (spec.Transport == "grpc" || strings.HasPrefix(spec.Program, "noop-grpc")),
			strings.Contains(r.Name, "2-workers") != (spec.Workers == 2), strings.Contains(r.Name, "one-process") != spec.OneProcess,
			strings.Contains(r.Name, "cold") != r.Cold:
			t.Errorf("%s is %+v", r.Name, r)
		}
		if identifies := r.Spec.Identifies(); identifies != (engine && len(spec.Chain) > 0 || strings.Contains(r.Name, "native")) {
			t.Errorf("%s: the identity is checked: %v", r.Name, identifies)
		}
	}
	if !slices.Equal(names, want) {
		t.Errorf("rows %v, want %v", names, want)
	}
	for _, name := range connectionRows {
		if !slices.Contains(names, name) {
			t.Errorf("there is no row %q for the second table", name)
		}
	}
}

func TestChoose(t *testing.T) {
	rows, err := choose(Rows(), []string{"noop-fast", "envoy"})
	if err != nil || len(rows) != 2 || rows[0].Name != "envoy" || rows[1].Name != "noop-fast" {
		t.Errorf("%v, %v", rows, err)
	}
	if _, err := choose(Rows(), []string{"envoy", "nginx"}); err == nil || !strings.Contains(err.Error(), `no row "nginx"; legal are envoy, envoy-native`) {
		t.Errorf("error %v", err)
	}
}

// samples are rounds with that many requests a second.
func samples(rps ...float64) []*Sample {
	var out []*Sample
	for i, v := range rps {
		n := time.Duration(i + 1)
		out = append(out, &Sample{
			RPS: v, P50: n * time.Millisecond, P99: 10 * n * time.Millisecond, Count: 90, Failed: 10, Hits: 3, Misses: 1, Others: 0.25,
			CPU:    map[string]time.Duration{"envoy": 50 * n * time.Microsecond, "kernel": 6 * n * time.Microsecond, "worker-1": 4 * n * time.Microsecond, "load": time.Microsecond},
			Memory: map[string]int64{"envoy": 50e6, "kernel": 20e6, "worker-1": 30e6, "load": 10e6},
		})
	}
	return out
}

func TestResult(t *testing.T) {
	for name, tt := range map[string]struct {
		samples          []*Sample
		rps, p50, spread float64
	}{
		"one":   {samples(100), 100, 1, 0},
		"two":   {samples(100, 300), 200, 1.5, 1},
		"three": {samples(9000, 100, 8000), 8000, 2, 8900.0 / 8000},
	} {
		r := newResult("row", tt.samples)
		if r.RPS != tt.rps || r.P50 != tt.p50 || r.Spread != tt.spread || r.P99 != 10*tt.p50 || *r.CacheHitRatio != 0.75 || r.Failed != 0.1 || r.Others != 0.25 {
			t.Errorf("%s: %+v", name, r)
		}
		if cpu, memory := r.engine(); cpu != 10*tt.p50 || memory != 50 {
			t.Errorf("%s: the engine has %v µs and %v MB", name, cpu, memory)
		}
	}
}

// TestReport: the keys that are promised, and a page that needs nothing from elsewhere.
func TestReport(t *testing.T) {
	results := []Result{newResult("envoy", samples(1000)), newResult("noop-grpc", samples(500)), newResult("engine-3-fast", samples(600, 600))}
	dir := t.TempDir()
	if err := writeJSON(filepath.Join(dir, "new"), "compare.json", results); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "new", "compare.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(text, &got); err != nil || len(got) != 3 {
		t.Fatalf("%v: %s", err, text)
	}
	for _, key := range []string{"name", "rps", "p50_ms", "p99_ms", "cpu_us_per_request", "memory_mb"} {
		if _, ok := got[2][key]; !ok {
			t.Errorf("%q is missing in %v", key, slices.Sorted(maps.Keys(got[2])))
		}
	}
	if cpu, ok := got[2]["cpu_us_per_request"].(map[string]any); !ok || cpu["kernel"] != 9.0 || got[2]["rps"] != 600.0 {
		t.Errorf("values %v", got[2])
	}
	html := string(page(&Options{Rounds: 1}, results, results))
	svg := string(chart.Standalone(throughput(results)))
	for _, want := range []string{"engine-3-fast", "prefers-color-scheme: dark", "<svg"} {
		if !strings.Contains(html, want) || !strings.Contains(svg, want) {
			t.Errorf("page or picture has no %q", want)
		}
	}
	if rest := strings.ReplaceAll(html+svg, "http://www.w3.org/2000/svg", ""); strings.Contains(rest, "http") || strings.Contains(rest, "src=") {
		t.Error("page or picture needs something from elsewhere")
	}
}

// TestGoals: ratios to noop-grpc, as far as it was measured.
func TestGoals(t *testing.T) {
	results := []Result{newResult("noop-grpc", samples(500)), newResult("engine-3-fast", samples(600))}
	at := func(name string, p50 float64) Result { return Result{Name: name, Connections: 1, P50: p50} }
	var out bytes.Buffer
	printGoals(&out, results, []Result{at("envoy", 1), at("noop-grpc", 3), at("engine-3-fast", 4), at("engine-3-one-process", 2)})
	for _, want := range []string{
		"engine-3-fast requests per second over noop-grpc's  1.20 ×", "engine-3-fast CPU per request over noop-grpc's  1.00 ×",
		"engine-3-fast added P50 at 1 connection over noop-grpc's  1.50 ×  goal ≤ 1.80", "engine-3-one-process added P50 at 1 connection over noop-grpc's  0.50 ×  goal ≤ 1.00",
	} {
		if squeezed := squeeze(out.String()); !strings.Contains(squeezed, squeeze(want)) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	out.Reset()
	if printGoals(&out, results[1:], nil); strings.TrimSpace(out.String()) != "" {
		t.Errorf("without noop-grpc: %s", out.String())
	}
}

// TestTurns: a machine that is slower in one turn, or disturbs one pair, does not matter.
func TestTurns(t *testing.T) {
	turns := newTurns([]pair{
		{turn{10, 100}, turn{10.2, 100}}, {turn{10, 100}, turn{20.4, 200}}, {turn{10, 100}, turn{30, 100}}, {turn{10, 100}, turn{10.1, 100}}, {turn{40, 400}, turn{10.3, 100}},
	}, 0.05)
	if math.Abs(turns.Ratio-1.025) > 1e-9 || turns.Without != 10 || turns.Pairs != 5 || turns.Error <= 0 || turns.Error > 0.02 {
		t.Errorf("%+v", turns)
	}
	var out bytes.Buffer
	printTurns(&out, turns)
	if want := "(5 pairs; 10.0 µs; sending 0.05 µs)  1.025 ×"; !strings.Contains(out.String(), want) {
		t.Errorf("no %q in %s", want, out.String())
	}
	if alone := newTurns([]pair{{turn{10, 1}, turn{11, 1}}}, 0); math.Abs(alone.Ratio-1.1) > 1e-9 || alone.Error != 0 {
		t.Errorf("%+v", alone)
	}
}

// squeeze makes one space of several.
func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }
