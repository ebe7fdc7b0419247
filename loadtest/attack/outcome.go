package attack

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/policy-engine/policy-engine/loadtest/latency"
)

// Outcome is the report of a run: build/reports/loadtest.json.
type Outcome struct {
	Rate       int     `json:"rate"`       // requests that were to be sent each second
	Throughput float64 `json:"throughput"` // requests that succeeded each second
	Success    float64 `json:"success"`    // ratio
	P50        float64 `json:"p50_ms"`
	P90        float64 `json:"p90_ms"`
	P99        float64 `json:"p99_ms"`
	P999       float64 `json:"p999_ms"`
	// CPU and Memory are of each process; memory is the most that was resident. Both are empty where they can't be told.
	CPU    map[string]float64 `json:"cpu_us_per_request"`
	Memory map[string]float64 `json:"memory_mb"`

	// EngineCPU and EngineMemory are of the engine's processes together: all but Envoy, the upstream and the load.
	EngineCPU     float64           `json:"engine_cpu_us_per_request"`
	EngineMemory  float64           `json:"engine_memory_mb"`
	Requests      uint64            `json:"requests"`
	Seconds       float64           `json:"seconds"`
	Mean          float64           `json:"mean_ms"`
	Max           float64           `json:"max_ms"`
	CacheHitRatio *float64          `json:"cache_hit_ratio,omitempty"`
	WrongIdentity uint64            `json:"wrong_identity"`
	Failures      map[string]uint64 `json:"failures"`
	System        string            `json:"system"`
	// Unavailable says why CPU and memory are empty.
	Unavailable string `json:"unavailable,omitempty"`

	successes uint64
	bars      []latency.Bar
	moments   []moment
}

func (r *recorder) outcome() *Outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := &r.all
	o := &Outcome{
		Rate: r.o.Rate, Requests: r.total, successes: h.Count(), Seconds: r.ended.Sub(r.begun).Seconds(),
		P50: millis(h.Percentile(50)), P90: millis(h.Percentile(90)), P99: millis(h.Percentile(99)), P999: millis(h.Percentile(99.9)),
		Mean: millis(h.Mean()), Max: millis(h.Max()), CPU: make(map[string]float64), Memory: make(map[string]float64),
		Failures: r.failures, System: r.s.description, Unavailable: r.s.processes.unavailable(), bars: h.Bars(), moments: r.moments,
	}
	if r.total > 0 {
		o.Success = float64(h.Count()) / float64(r.total)
	}
	if o.Seconds > 0 {
		o.Throughput = float64(h.Count()) / o.Seconds
	}
	for name, u := range r.last {
		if r.total > 0 {
			o.CPU[name] = micros(u.CPU-r.before[name].CPU) / float64(r.total)
		}
		o.Memory[name] = megabytes(u.RSS)
		for _, m := range r.moments {
			o.Memory[name] = max(o.Memory[name], m.Memory[name])
		}
		if name != envoyProcess && name != upstreamProcess && name != loadProcess && name != redisProcess {
			o.EngineCPU += o.CPU[name]
			o.EngineMemory += o.Memory[name]
		}
	}
	if all := r.hits + r.misses; all > 0 {
		ratio := r.hits / all
		o.CacheHitRatio = &ratio
	}
	return o
}

func (o *Outcome) print(out io.Writer) {
	fmt.Fprintf(out, "\n%s\n%d requests in %.1f s\n\n", o.System, o.Requests, o.Seconds)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	line("success", "%.4f %%", o.Success*100)
	line("throughput", "%.1f/s of %d/s", o.Throughput, o.Rate)
	line("P50", "%.2f ms", o.P50)
	line("P90", "%.2f ms", o.P90)
	line("P99", "%.2f ms", o.P99)
	line("P99.9", "%.2f ms", o.P999)
	line("longest", "%.2f ms", o.Max)
	for _, name := range slices.Sorted(maps.Keys(o.CPU)) {
		line(name, "%.1f µs of CPU per request\t%.1f MB", o.CPU[name], o.Memory[name])
	}
	if len(o.CPU) > 0 {
		line("engine in all", "%.1f µs of CPU per request\t%.1f MB", o.EngineCPU, o.EngineMemory)
	}
	if o.CacheHitRatio != nil {
		line("token cache", "%.2f %% hits", *o.CacheHitRatio*100)
	}
	if o.Unavailable != "" {
		line("CPU and memory", "not available: %s", o.Unavailable)
	}
	for _, why := range slices.Sorted(maps.Keys(o.Failures)) {
		line("failed", "%d × %s", o.Failures[why], why)
	}
	_ = w.Flush() // It fails when the terminal is gone.
}

func (o *Outcome) write(dir string) error {
	text, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "loadtest.json"), append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "loadtest.html"), o.page(), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
