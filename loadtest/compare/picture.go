package compare

import (
	"fmt"

	"github.com/policy-engine/policy-engine/loadtest/chart"
)

// throughput, cpu and memory draw the rows.
func throughput(results []Result) string {
	var bars []chart.Bar
	for _, r := range results {
		bars = append(bars, chart.Bar{Name: r.Name, Parts: []float64{r.RPS}, Note: fmt.Sprintf("%.0f/s, P99 %.1f ms", r.RPS, r.P99)})
	}
	return chart.Bars("Requests per second", nil, bars)
}

func cpu(results []Result) string {
	var bars []chart.Bar
	for i := range results {
		server, _ := results[i].engine()
		envoy := results[i].CPU["envoy"]
		bars = append(bars, chart.Bar{Name: results[i].Name, Parts: []float64{server, envoy}, Note: fmt.Sprintf("%.1f + %.1f µs", server, envoy)})
	}
	return chart.Bars("CPU per request, µs", []string{"what Envoy asks", "Envoy"}, bars)
}

func memory(results []Result) string {
	var bars []chart.Bar
	for i := range results {
		_, server := results[i].engine()
		bars = append(bars, chart.Bar{Name: results[i].Name, Parts: []float64{server}, Note: fmt.Sprintf("%.0f MB", server)})
	}
	return chart.Bars("Memory of what Envoy asks, MB", nil, bars)
}

// page is the report to look at.
func page(o *Options, results, byConnections []Result) []byte {
	sections := []string{
		chart.Text(fmt.Sprintf("Medians of %d rounds of %v with %d connections, Envoy with one thread, requests of %d clients.",
			o.Rounds, o.Duration, o.Connections, o.Clients)),
		chart.Figure(throughput(results)), chart.Figure(cpu(results)), chart.Figure(memory(results)),
		chart.Heading("All figures"), chart.Table(tableRows(results)),
	}
	if len(byConnections) > 0 {
		sections = append(sections, chart.Heading("By the number of connections"), chart.Table(connectionRowsOf(byConnections)))
	}
	return chart.Page("Comparison", sections...)
}
