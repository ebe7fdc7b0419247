package compare

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// table prints columns, the first to the left and the others to the right.
func table(out io.Writer, rows [][]string) {
	fmt.Fprintln(out)
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-len([]rune(cell)))
			if i == 0 || i == len(row)-1 {
				b.WriteString(cell + pad + "  ")
			} else {
				b.WriteString(pad + cell + "  ")
			}
		}
		fmt.Fprintln(out, strings.TrimRight(b.String(), " "))
	}
}

// tableRows are those of the first table.
func tableRows(results []Result) [][]string {
	rows := [][]string{{"row", "rps", "±", "P50 ms", "P99 ms", "CPU µs: Envoy", "load", "server", "MB: Envoy", "server", "cache hits", "failed", "others", "server's processes"}}
	for i := range results {
		r := &results[i]
		cpu, memory := r.engine()
		hits := ""
		if r.CacheHitRatio != nil {
			hits = fmt.Sprintf("%.1f %%", *r.CacheHitRatio*100)
		}
		rows = append(rows, []string{
			r.Name, fmt.Sprintf("%.0f", r.RPS), fmt.Sprintf("%.0f %%", r.Spread*50), fmt.Sprintf("%.2f", r.P50), fmt.Sprintf("%.2f", r.P99),
			fmt.Sprintf("%.1f", r.CPU["envoy"]), fmt.Sprintf("%.1f", r.CPU[loadProcess]), blank("%.1f", cpu),
			fmt.Sprintf("%.0f", r.Memory["envoy"]), blank("%.0f", memory), hits, blank("%.2f %%", r.Failed*100), fmt.Sprintf("%.0f %%", r.Others*100), servers(r),
		})
	}
	return rows
}

// servers lists what each of the server's processes costs.
func servers(r *Result) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(r.CPU)) {
		if name != "envoy" && name != loadProcess {
			parts = append(parts, fmt.Sprintf("%s %.1f µs %.0f MB", name, r.CPU[name], r.Memory[name]))
		}
	}
	return strings.Join(parts, ", ")
}

func blank(format string, v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf(format, v)
}

// connectionRowsOf are those of the second table.
func connectionRowsOf(results []Result) [][]string {
	rows := [][]string{{"row", "connections", "rps", "P50 ms", "P99 ms", "CPU µs: Envoy", "server", "failed", "others"}}
	for i := range results {
		r := &results[i]
		cpu, _ := r.engine()
		rows = append(rows, []string{
			r.Name, fmt.Sprint(r.Connections), fmt.Sprintf("%.0f", r.RPS), fmt.Sprintf("%.3f", r.P50), fmt.Sprintf("%.3f", r.P99),
			fmt.Sprintf("%.1f", r.CPU["envoy"]), blank("%.1f", cpu),
			blank("%.2f %%", r.Failed*100), fmt.Sprintf("%.0f %%", r.Others*100),
		})
	}
	return rows
}

func millis(d time.Duration) string { return fmt.Sprintf("%.2f ms", toMillis(d)) }

// find returns the row of that name, nil if it was not measured.
func find(results []Result, name string, connections int) *Result {
	i := slices.IndexFunc(results, func(r Result) bool { return r.Name == name && r.Connections == connections })
	if i < 0 {
		return nil
	}
	return &results[i]
}

// printDisturbance says that the machine was not free: then only ratios within the run mean something, and those little.
func printDisturbance(out io.Writer, results []Result) {
	const most = 0.1
	disturbed := 0
	for i := range results {
		if results[i].Others > most {
			disturbed++
		}
	}
	if disturbed > 0 {
		fmt.Fprintf(out, "\nIn %d of %d rows, others used more than %.0f %% of the machine (the column \"others\"): measure again when it is free.\n", disturbed, len(results), most*100)
	}
}

// printGoals prints the project's goals beside what was measured. They are figures: a run never fails for them.
func printGoals(out io.Writer, results, byConnections []Result) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	goal := func(what string, value, base float64, legal string) {
		if base > 0 {
			fmt.Fprintf(w, "%s\t%.2f ×\tgoal %s\n", what, value/base, legal)
		}
	}
	fmt.Fprintln(out)
	for _, base := range []string{"noop-grpc", "noop-grpc-plain"} {
		noop := find(results, base, 0)
		if noop == nil {
			continue
		}
		noopCPU, _ := noop.engine()
		for _, name := range []string{"engine-3-fast", "engine-3-one-process"} {
			if r := find(results, name, 0); r != nil {
				cpu, _ := r.engine()
				goal(name+" requests per second over "+base+"'s", r.RPS, noop.RPS, "≥ 1.15")
				goal(name+" CPU per request over "+base+"'s", cpu, noopCPU, "≤ 0.50")
			}
		}
	}
	alone, noop := find(byConnections, "envoy", 1), find(byConnections, "noop-grpc", 1)
	if alone != nil && noop != nil {
		for _, g := range [][2]string{{"engine-3-fast", "≤ 1.80"}, {"engine-3-one-process", "≤ 1.00"}} {
			if r := find(byConnections, g[0], 1); r != nil {
				goal(g[0]+" added P50 at 1 connection over noop-grpc's", r.P50-alone.P50, noop.P50-alone.P50, g[1])
			}
		}
	}
	_ = w.Flush()
}

// printTurns prints what tracing costs.
func printTurns(out io.Writer, t *Turns) {
	fmt.Fprintf(out, "%s: CPU per request over that without sampling, by turns (%d pairs; %.1f µs; sending %.2f µs)  %.3f × ± %.3f  goal < 1.03\n",
		tracedRow, t.Pairs, t.Without, t.Sending, t.Ratio, t.Error)
}
