package reload

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/policy-engine/policy-engine/test/process"
)

// goal is how much longer the P99 may be under reloads.
const goal = 2

// Report is what is written: build/reports/reload.json.
type Report struct {
	System   string  `json:"system"`
	Target   string  `json:"target"`
	Routes   int     `json:"routes"`
	Rate     int     `json:"rate"` // requests that were to be sent each second
	Seconds  float64 `json:"seconds"`
	Requests uint64  `json:"requests"`
	Refused  uint64  `json:"refused"` // those with a bad credential, as they have to be
	Failed   uint64  `json:"failed"`
	// Failures are by what was wrong.
	Failures map[string]uint64 `json:"failures"`
	// Windows are by what the engine did: quiet, reload, and the second after one.
	Windows map[string]Window `json:"windows"`
	// Ratio is how much longer the P99 was with a reload under way.
	Ratio   float64   `json:"p99_ratio"`
	Reloads []float64 `json:"reloads_ms"`
	// CPU is how many processors each process used; others are all other programs and the machine's host.
	CPU    map[string]float64 `json:"cpu_cores"`
	Memory map[string]float64 `json:"memory_mb"` // resident at the end
}

// Window is the requests of a phase.
type Window struct {
	Requests uint64  `json:"requests"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	Max      float64 `json:"max_ms"`
}

// otherProcesses is all that the machine does beside.
const otherProcesses = "others"

func (a *account) report(o *Options, took time.Duration) *Report {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &Report{
		System: o.Engine.Describe(), Target: o.Target, Routes: o.Engine.Routes, Rate: o.Rate, Seconds: took.Seconds(),
		Requests: a.failed, Refused: a.refused, Failed: a.failed, Failures: a.failures, Windows: make(map[string]Window), Reloads: []float64{},
	}
	for p := range phases {
		h := &a.latencies[p]
		r.Requests += h.Count()
		r.Windows[p.String()] = Window{Requests: h.Count(), P50: millis(h.Percentile(50)), P99: millis(h.Percentile(99)), Max: millis(h.Max())}
	}
	if p99 := r.Windows[quiet.String()].P99; p99 > 0 {
		r.Ratio = r.Windows[under.String()].P99 / p99
	}
	for _, took := range a.took {
		r.Reloads = append(r.Reloads, millis(took))
	}
	return r
}

// use takes down what was used between two readings.
func (r *Report) use(before, after usage) {
	r.CPU, r.Memory = make(map[string]float64), make(map[string]float64)
	took := after.at.Sub(before.at).Seconds()
	others := after.machine.Busy - before.machine.Busy
	for name, u := range after.processes {
		used := u.CPU - before.processes[name].CPU
		others -= used
		r.CPU[name] = used.Seconds() / took
		r.Memory[name] = float64(u.RSS) / 1e6
	}
	r.CPU[otherProcesses] = max(others.Seconds()/took, 0)
}

// usage is what was used so far.
type usage struct {
	at        time.Time
	machine   process.Machine
	processes map[string]process.Usage
}

func (r *Report) print(out io.Writer) {
	fmt.Fprintf(out, "\n%s, asked by %s\n%d requests in %.1f s, %.0f/s of %d/s; %d with a bad credential were refused\n\n",
		r.System, r.Target, r.Requests, r.Seconds, float64(r.Requests)/r.Seconds, r.Rate, r.Refused)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\trequests\tP50 ms\tP99 ms\tlongest ms")
	for p := range phases {
		v := r.Windows[p.String()]
		name := [...]string{"no reload", "a reload under way", "the second after one"}[p]
		fmt.Fprintf(w, "%s\t%d\t%.2f\t%.2f\t%.2f\n", name, v.Requests, v.P50, v.P99, v.Max)
	}
	_ = w.Flush() // It fails when the terminal is gone.
	fmt.Fprintf(out, "\nP99 under reloads: %.2f × (goal ≤ %d)\nreloads, ms:", r.Ratio, goal)
	for _, ms := range r.Reloads {
		fmt.Fprintf(out, " %.0f", ms)
	}
	fmt.Fprint(out, "\nCPU:")
	for _, name := range slices.Sorted(maps.Keys(r.CPU)) {
		fmt.Fprintf(out, "  %s %.0f %%", name, r.CPU[name]*100)
		if mb := r.Memory[name]; mb > 0 {
			fmt.Fprintf(out, " (%.0f MB)", mb)
		}
	}
	fmt.Fprintf(out, "\nreload-load: %d routes, %d reloads, %d requests, %d failed\n", r.Routes, len(r.Reloads), r.Requests, r.Failed)
	for _, why := range slices.Sorted(maps.Keys(r.Failures)) {
		fmt.Fprintf(out, "  failed: %d × %s\n", r.Failures[why], why)
	}
}

func (r *Report) write(dir string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "reload.json"), append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// verdict is an error if a request failed, or if the run shows nothing.
func (r *Report) verdict(reloads int) error {
	switch {
	case r.Failed > 0:
		return fmt.Errorf("%d of %d requests failed", r.Failed, r.Requests)
	case len(r.Reloads) < reloads:
		return fmt.Errorf("there was time for %d of %d reloads only; DURATION has to be longer", len(r.Reloads), reloads)
	case r.Windows[under.String()].Requests == 0 || r.Refused == 0:
		return fmt.Errorf("%d requests met a reload, %d were to be refused; the run shows nothing", r.Windows[under.String()].Requests, r.Refused)
	}
	return nil
}
