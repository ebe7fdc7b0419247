package compare

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/rig"
)

// Result is a row of the report: medians over the rounds.
type Result struct {
	Name        string             `json:"name"`
	Connections int                `json:"connections,omitempty"`
	RPS         float64            `json:"rps"`
	P50         float64            `json:"p50_ms"`
	P99         float64            `json:"p99_ms"`
	CPU         map[string]float64 `json:"cpu_us_per_request"`
	Memory      map[string]float64 `json:"memory_mb"`
	// CacheHitRatio is of the workers' cache of tokens; absent where there is none.
	CacheHitRatio *float64 `json:"cache_hit_ratio,omitempty"`
	// Spread is the difference between the fastest and the slowest round over the median: what the machine made of it.
	Spread float64 `json:"rps_spread"`
	// Failed is the ratio of requests that were refused, though they are right, or not answered.
	Failed float64 `json:"failed"`
	// Others is how much of the machine's processors others used.
	Others float64 `json:"others"`
}

func newResult(name string, samples []*Sample) Result {
	r := Result{
		Name: name,
		RPS:  median(func(s *Sample) float64 { return s.RPS }, samples),
		P50:  median(func(s *Sample) float64 { return toMillis(s.P50) }, samples),
		P99:  median(func(s *Sample) float64 { return toMillis(s.P99) }, samples),
		CPU:  make(map[string]float64), Memory: make(map[string]float64),
	}
	for process := range samples[0].CPU {
		r.CPU[process] = median(func(s *Sample) float64 { return float64(s.CPU[process]) / float64(time.Microsecond) }, samples)
		r.Memory[process] = median(func(s *Sample) float64 { return float64(s.Memory[process]) / 1e6 }, samples)
	}
	var hits, all, failed, sent float64
	slowest, fastest := samples[0].RPS, samples[0].RPS
	for _, s := range samples {
		hits += s.Hits
		all += s.Hits + s.Misses
		failed += float64(s.Failed)
		sent += float64(s.Failed + s.Count)
		slowest, fastest = min(slowest, s.RPS), max(fastest, s.RPS)
	}
	if all > 0 {
		ratio := hits / all
		r.CacheHitRatio = &ratio
	}
	r.Failed = failed / sent
	r.Others = median(func(s *Sample) float64 { return s.Others }, samples)
	r.Spread = (fastest - slowest) / r.RPS
	return r
}

// engineCPU is what all processes but Envoy and the load cost for a request, in microseconds, and their memory in MB.
func (r *Result) engine() (cpu, memory float64) {
	for process := range r.CPU {
		if process != "envoy" && process != loadProcess && process != rig.SpanSink {
			cpu += r.CPU[process]
			memory += r.Memory[process]
		}
	}
	return cpu, memory
}

func toMillis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func writeJSON(dir, name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return write(dir, name, append(text, '\n'))
}

func write(dir, name string, content []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
