package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/chart"
	"github.com/policy-engine/policy-engine/test/stage"
	"github.com/policy-engine/policy-engine/test/traffic"
)

// result is what came of it.
type result struct {
	Seconds  float64       `json:"seconds"`
	Rate     int           `json:"rate"`
	Requests traffic.Count `json:"requests"`
	Reloads  int           `json:"reloads"`
	Restarts int           `json:"restarts"`
	// Trends are those of each lasting process, and of the metrics' series.
	Trends map[string]trend `json:"trends"`
	// Peak is what a kernel and both workers took together at most, and MemoryLimit what they may.
	Peak        int64 `json:"peak_memory_bytes"`
	MemoryLimit int64 `json:"memory_limit_bytes"`
	// Stall is how long the machine stood still at most, for the sender of the requests.
	Stall time.Duration `json:"machine_stall_ns"`
	// Gaps are samples that could not be taken, because a process was being started again.
	Gaps     int      `json:"gaps"`
	Problems []string `json:"problems,omitempty"`
	Samples  []sample `json:"samples"`
}

func (r *result) add(c traffic.Count) {
	t := &r.Requests
	t.Sent += c.Sent
	t.Valid += c.Valid
	t.Passed += c.Passed
	t.Failed += c.Failed
	t.Excused += c.Excused
	t.Lost += c.Lost
	t.Invalid += c.Invalid
	t.Bypassed += c.Bypassed
	t.Hung += c.Hung
	t.Repeated += c.Repeated
	t.Slowest, t.P99 = max(t.Slowest, c.Slowest), max(t.P99, c.P99)
	if t.Statuses == nil {
		t.Statuses = map[string]int{}
	}
	for status, n := range c.Statuses {
		t.Statuses[status] += n
	}
	if room := 10 - len(t.Examples); room > 0 {
		t.Examples = append(t.Examples, c.Examples[:min(room, len(c.Examples))]...)
	}
}

func (s *soak) line() string {
	last := sample{}
	if len(s.samples) > 0 {
		last = s.samples[len(s.samples)-1]
	}
	parts := []string{fmt.Sprintf("%5.0f s  %d sent  %d bypassed  %d lost  %d reloads  %d restarts  %d MiB  %d series", time.Since(s.start).Seconds(), s.result.Requests.Sent,
		s.result.Requests.Bypassed, s.result.Requests.Lost, s.reloads.Load(), s.restarts.Load(), last.Memory>>20, last.Series)}
	for _, name := range lasting {
		u := last.Usage[name]
		parts = append(parts, fmt.Sprintf("%s %d MiB %d goroutines %d descriptors", name, u.RSS>>20, u.Goroutines, u.Descriptors))
	}
	return strings.Join(parts, "  ")
}

// quantities are what is watched of a process, with what may be more at the end: garbage that is not collected yet, connections and streams that come and go.
var quantities = []struct {
	name string
	of   func(stage.Usage) float64
	tolerance
}{
	{"memory MiB", func(u stage.Usage) float64 { return float64(u.RSS) / (1 << 20) }, tolerance{0.10, 8}},
	{"goroutines", func(u stage.Usage) float64 { return float64(u.Goroutines) }, tolerance{0.15, 15}},
	{"descriptors", func(u stage.Usage) float64 { return float64(u.Descriptors) }, tolerance{0.10, 8}},
}

// seriesTolerance is for the series of a route that is there or not.
var seriesTolerance = tolerance{0.02, 20}

// judge says what grew, and what else is wrong.
func (s *soak) judge() {
	r := &s.result
	r.Seconds, r.Rate, r.MemoryLimit, r.Samples, r.Trends = s.duration.Seconds(), s.rate, s.memory, s.samples, map[string]trend{}
	r.Reloads, r.Restarts = int(s.reloads.Load()), int(s.restarts.Load())
	problem := func(format string, a ...any) { r.Problems = append(r.Problems, fmt.Sprintf(format, a...)) }
	for _, name := range lasting {
		for _, q := range quantities {
			r.Trends[name+" "+q.name] = judge(s.values(func(one *sample) float64 { return q.of(one.Usage[name]) }), q.tolerance)
		}
	}
	r.Trends["series"] = judge(s.values(func(one *sample) float64 { return float64(one.Series) }), seriesTolerance)
	for name, t := range r.Trends {
		if t.Grew {
			problem("%s grows: %v", name, t)
		}
	}
	for i := range s.samples {
		r.Peak = max(r.Peak, s.samples[i].Memory)
	}
	if r.Peak > s.memory {
		problem("the engine took %d MiB, and may take %d", r.Peak>>20, s.memory>>20)
	}
	c := &r.Requests
	if c.Bypassed > 0 || c.Lost > 0 || c.Hung > 0 || c.Repeated > 0 {
		problem("%d requests bypassed, %d lost, %d hung, %d reached the upstream more than once; the machine stood still for %.2f s at most", c.Bypassed, c.Lost, c.Hung, c.Repeated, r.Stall.Seconds())
	}
	if len(s.samples) < 20 || r.Restarts == 0 || r.Reloads == 0 {
		problem("%d samples, %d restarts and %d reloads are too few to say anything", len(s.samples), r.Restarts, r.Reloads)
	}
}

func (s *soak) values(of func(*sample) float64) []float64 {
	values := make([]float64, len(s.samples))
	for i := range s.samples {
		values[i] = of(&s.samples[i])
	}
	return values
}

func (r *result) String() string {
	var b strings.Builder
	for _, name := range lasting {
		for _, q := range quantities {
			fmt.Fprintf(&b, "%-28s %v\n", name+" "+q.name, r.Trends[name+" "+q.name])
		}
	}
	fmt.Fprintf(&b, "%-28s %v\n%-28s %d MiB of %d\n", "series", r.Trends["series"], "most memory, three processes", r.Peak>>20, r.MemoryLimit>>20)
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "FAILED: %s\n", p)
	}
	for _, e := range r.Requests.Examples {
		fmt.Fprintf(&b, "  %s\n", e)
	}
	fmt.Fprintf(&b, "soak: %d requests in %.0f s, %d reloads, %d restarts, %d bypassed, %d lost", r.Requests.Sent, r.Seconds, r.Reloads, r.Restarts, r.Requests.Bypassed, r.Requests.Lost)
	return b.String()
}

// write writes the result as JSON, and next to it as a page.
func (r *result) write(file string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(strings.TrimSuffix(file, ".json")+".html", r.page(), 0o644)
}

func (r *result) page() []byte {
	verdict := "Nothing grows, nothing was lost, and nothing bypassed the engine."
	if len(r.Problems) > 0 {
		verdict = strings.Join(r.Problems, "; ")
	}
	sections := []string{chart.Text(verdict), chart.Figures([][2]string{
		{"requests", fmt.Sprint(r.Requests.Sent)},
		{"bypassed", fmt.Sprint(r.Requests.Bypassed)},
		{"lost", fmt.Sprint(r.Requests.Lost)},
		{"reloads", fmt.Sprint(r.Reloads)},
		{"restarts", fmt.Sprint(r.Restarts)},
		{"most memory", fmt.Sprintf("%d MiB", r.Peak>>20)},
	})}
	for _, q := range quantities {
		var lines []chart.Series
		for _, name := range []string{stage.Kernel, stage.Worker1, stage.Worker2} {
			line := chart.Series{Name: name}
			for i := range r.Samples {
				line.Points = append(line.Points, chart.Point{X: r.Samples[i].At, Y: q.of(r.Samples[i].Usage[name])})
			}
			lines = append(lines, line)
		}
		sections = append(sections, chart.Figure(chart.Lines(q.name, "seconds", lines)))
	}
	rows := [][]string{{"what", "second quarter", "last quarter", "verdict"}}
	for _, name := range lasting {
		for _, q := range quantities {
			rows = append(rows, r.row(name+" "+q.name))
		}
	}
	return chart.Page("Soak", append(sections, chart.Table(append(rows, r.row("series"))))...)
}

func (r *result) row(name string) []string {
	t := r.Trends[name]
	verdict := "flat"
	if t.Grew {
		verdict = "grows"
	}
	return []string{name, fmt.Sprintf("%.1f", t.Before), fmt.Sprintf("%.1f", t.After), verdict}
}
