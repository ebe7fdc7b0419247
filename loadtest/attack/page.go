package attack

import (
	"fmt"
	"maps"
	"slices"

	"github.com/policy-engine/policy-engine/loadtest/chart"
)

// page is the report to look at.
func (o *Outcome) page() []byte {
	pairs := [][2]string{
		{"success", fmt.Sprintf("%.3f %%", o.Success*100)},
		{"throughput", fmt.Sprintf("%.0f/s", o.Throughput)},
		{"P50", fmt.Sprintf("%.2f ms", o.P50)},
		{"P90", fmt.Sprintf("%.2f ms", o.P90)},
		{"P99", fmt.Sprintf("%.2f ms", o.P99)},
		{"P99.9", fmt.Sprintf("%.2f ms", o.P999)},
	}
	if len(o.CPU) > 0 {
		pairs = append(
			pairs,
			[2]string{"engine's CPU per request", fmt.Sprintf("%.1f µs", o.EngineCPU)},
			[2]string{"engine's memory", fmt.Sprintf("%.0f MB", o.EngineMemory)},
		)
	}
	sections := []string{
		chart.Text(fmt.Sprintf("%d requests at %d a second in %.0f s: %s.", o.Requests, o.Rate, o.Seconds, o.System)),
		chart.Figures(pairs),
		chart.Figure(o.distribution()),
		chart.Figure(chart.Lines("Latency over time, ms", "seconds", []chart.Series{
			o.line("P50", func(m *moment) float64 { return m.P50 }),
			o.line("P99", func(m *moment) float64 { return m.P99 }),
			o.line("longest", func(m *moment) float64 { return m.Max }),
		})),
		chart.Figure(chart.Lines("Requests per second over time", "seconds", []chart.Series{
			o.line("answered", func(m *moment) float64 { return float64(m.Answered) }),
			o.line("failed", func(m *moment) float64 { return float64(m.Failed) }),
		})),
	}
	if len(o.CPU) > 0 {
		sections = append(
			sections,
			chart.Figure(chart.Lines("CPU over time, cores", "seconds", o.lines(func(m *moment, name string) float64 { return m.CPU[name] }))),
			chart.Figure(chart.Lines("Memory over time, MB", "seconds", o.lines(func(m *moment, name string) float64 { return m.Memory[name] }))),
			chart.Heading("Processes"), chart.Table(o.table()),
		)
	} else {
		sections = append(sections, chart.Text("CPU and memory are not available: "+o.Unavailable))
	}
	return chart.Page("Load test", sections...)
}

func (o *Outcome) distribution() string {
	shares := make([]chart.Share, len(o.bars))
	for i, b := range o.bars {
		shares[i] = chart.Share{From: millis(b.From), To: millis(b.To), Count: b.Count}
	}
	return chart.Distribution("Distribution of latencies", "ms, logarithmic", shares, []chart.Mark{
		{Name: "P50", Value: o.P50}, {Name: "P90", Value: o.P90}, {Name: "P99", Value: o.P99}, {Name: "P99.9", Value: o.P999},
	})
}

func (o *Outcome) line(name string, of func(*moment) float64) chart.Series {
	s := chart.Series{Name: name}
	for i := range o.moments {
		s.Points = append(s.Points, chart.Point{X: o.moments[i].At, Y: of(&o.moments[i])})
	}
	return s
}

// lines are one of each process.
func (o *Outcome) lines(of func(*moment, string) float64) []chart.Series {
	var all []chart.Series
	for _, name := range slices.Sorted(maps.Keys(o.CPU)) {
		all = append(all, o.line(name, func(m *moment) float64 { return of(m, name) }))
	}
	return all
}

func (o *Outcome) table() [][]string {
	rows := [][]string{{"process", "CPU µs per request", "memory MB"}}
	for _, name := range slices.Sorted(maps.Keys(o.CPU)) {
		rows = append(rows, []string{name, fmt.Sprintf("%.1f", o.CPU[name]), fmt.Sprintf("%.1f", o.Memory[name])})
	}
	return append(rows, []string{"engine in all", fmt.Sprintf("%.1f", o.EngineCPU), fmt.Sprintf("%.1f", o.EngineMemory)})
}
