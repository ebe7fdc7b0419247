package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// result is what one benchmark has measured.
type result struct {
	Package string `json:"package"`
	Name    string `json:"name"` // without "Benchmark" and the number of processors
	// Side is base or change in a comparison.
	Side        string             `json:"side,omitempty"`
	NsPerOp     float64            `json:"ns_per_op"`
	BytesPerOp  float64            `json:"bytes_per_op"`
	AllocsPerOp float64            `json:"allocs_per_op"`
	Metrics     map[string]float64 `json:"metrics"`
}

// processors is what go test appends to the name of a benchmark when GOMAXPROCS is not 1.
var processors = regexp.MustCompile(`-\d+$`)

// parseLine reads a line that go test prints for a benchmark: name, iterations, then pairs of a value and its unit.
func parseLine(pkg, line string) (result, bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 || len(fields)%2 != 0 || !strings.HasPrefix(fields[0], "Benchmark") {
		return result{}, false
	}
	if _, err := strconv.Atoi(fields[1]); err != nil {
		return result{}, false
	}
	r := result{Package: pkg, Name: strings.TrimPrefix(processors.ReplaceAllString(fields[0], ""), "Benchmark"), Metrics: map[string]float64{}}
	for i := 2; i < len(fields); i += 2 {
		v, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return result{}, false
		}
		switch unit := fields[i+1]; unit {
		case "ns/op":
			r.NsPerOp = v
		case "B/op":
			r.BytesPerOp = v
		case "allocs/op":
			r.AllocsPerOp = v
		default:
			r.Metrics[unit] = v
		}
	}
	return r, true
}

// medians makes one result of all those of the same benchmark, in the order of the first ones.
func medians(all []result) []result {
	type key struct{ pkg, name, side string }
	groups := map[key][]result{}
	var order []key
	for _, r := range all {
		k := key{r.Package, r.Name, r.Side}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], r)
	}
	out := make([]result, 0, len(order))
	for _, k := range order {
		group := groups[k]
		of := func(value func(r result) float64) float64 {
			values := make([]float64, len(group))
			for i, r := range group {
				values[i] = value(r)
			}
			slices.Sort(values)
			return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
		}
		r := result{Package: k.pkg, Name: k.name, Side: k.side, Metrics: map[string]float64{}}
		r.NsPerOp = of(func(r result) float64 { return r.NsPerOp })
		r.BytesPerOp = of(func(r result) float64 { return r.BytesPerOp })
		r.AllocsPerOp = of(func(r result) float64 { return r.AllocsPerOp })
		for unit := range group[0].Metrics {
			r.Metrics[unit] = of(func(r result) float64 { return r.Metrics[unit] })
		}
		out = append(out, r)
	}
	return out
}

// writeJSON writes a report.
func writeJSON(path string, results []result) error {
	b, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}
