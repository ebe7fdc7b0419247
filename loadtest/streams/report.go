package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/test/process"
)

// goal is how much of the throughput of the server that does nothing the engine has to have.
const goal = 0.7

// result is what was measured of one row.
type result struct {
	Row       server    `json:"row"`
	Mode      mode      `json:"mode"`
	Direction direction `json:"direction"`
	Rounds    []float64 `json:"mib_per_second"`
	Median    float64   `json:"median_mib_per_second"`
	// Ratio is of the median to that of the server that does nothing, in the same mode; 0 if that was not measured.
	Ratio float64 `json:"ratio"`
	// CPU is what Envoy and the processes that it asks used in all rounds, in seconds per GiB.
	CPU map[string]float64 `json:"cpu_seconds_per_gib"`

	bytes int64
	used  map[string]time.Duration
}

// name is what the row is called.
func (r *result) name() string { return fmt.Sprintf("%s, %s, %s", r.Mode, r.Direction, r.Row) }

// warmUp is not measured.
const warmUp = 500 * time.Millisecond

func (r *result) measure(ctx context.Context, o options, u *upstream) error {
	rig, err := start(o, r.Row, r.Direction, r.Mode, u.address)
	if err != nil {
		return err
	}
	defer rig.stop()
	warm, cancel := context.WithTimeout(ctx, warmUp)
	_, err = load(warm, rig.target, r.Direction, o.connections)
	cancel()
	if err != nil {
		return rig.explain(err)
	}
	before, err := rig.usage()
	if err != nil {
		return err
	}
	began := time.Now()
	measured, cancel := context.WithTimeout(ctx, o.duration)
	defer cancel()
	n, err := load(measured, rig.target, r.Direction, o.connections)
	if err != nil {
		return rig.explain(err)
	}
	elapsed := time.Since(began)
	after, err := rig.usage()
	if err != nil {
		return err
	}
	if r.used == nil {
		r.used = map[string]time.Duration{}
	}
	for name, cpu := range after {
		r.used[name] += cpu - before[name]
	}
	r.bytes += n
	r.Rounds = append(r.Rounds, float64(n)/(1<<20)/elapsed.Seconds())
	return nil
}

// usage is the CPU time of each process.
func (r *rig) usage() (map[string]time.Duration, error) {
	all := map[string]time.Duration{}
	for _, p := range r.started {
		u, err := process.UsageOf(p.PID())
		if err != nil {
			return nil, err
		}
		all[p.Name] = u.CPU
	}
	return all, nil
}

// report is what is written.
type report struct {
	Goal        float64       `json:"goal"`
	ChunkSize   int           `json:"chunk_size"`
	Connections int           `json:"connections"`
	Duration    time.Duration `json:"duration_ns"`
	Results     []*result     `json:"results"`
}

func newReport(results []*result, o options) *report {
	type column struct {
		mode      mode
		direction direction
	}
	base := map[column]float64{}
	for _, r := range results {
		sorted := slices.Sorted(slices.Values(r.Rounds))
		r.Median = sorted[len(sorted)/2]
		if r.Row == noop {
			base[column{r.Mode, r.Direction}] = r.Median
		}
		r.CPU = map[string]float64{}
		for name, used := range r.used {
			r.CPU[name] = used.Seconds() / (float64(r.bytes) / (1 << 30))
		}
	}
	for _, r := range results {
		if b := base[column{r.Mode, r.Direction}]; b > 0 {
			r.Ratio = r.Median / b
		}
	}
	return &report{goal, chunkSize, o.connections, o.duration, results}
}

func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-11s  %-9s  %-12s  %8s  %6s  %s\n", "mode", "direction", "row", "MiB/s", "ratio", "CPU seconds per GiB")
	for _, res := range r.Results {
		var cpu []string
		for name, seconds := range res.CPU {
			cpu = append(cpu, fmt.Sprintf("%s %.2f", name, seconds))
		}
		slices.Sort(cpu)
		verdict := ""
		if res.Row == engine && res.Ratio > 0 {
			verdict = fmt.Sprintf("  (goal %.1f: %s)", r.Goal, map[bool]string{true: "met", false: "missed"}[res.Ratio >= r.Goal])
		}
		fmt.Fprintf(&b, "%-11s  %-9s  %-12s  %8.0f  %6.2f  %s%s\n", res.Mode, res.Direction, res.Row, res.Median, res.Ratio, strings.Join(cpu, ", "), verdict)
	}
	return b.String()
}

func (r *report) write(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
