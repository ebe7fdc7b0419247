package compare

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/chart"
	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/loadtest/rig"
)

// Options are those of a run.
type Options struct {
	Rounds      int
	Duration    time.Duration // of one measurement of a row
	Connections int
	Rows        []string // all if empty
	Clients     int      // keys and tokens among which requests rotate
	Table       bool     // the second table, of several numbers of connections
	Turns       int      // pairs of turns that measure what tracing costs, if its row is measured

	Programs    rig.Programs
	Credentials string // folder where they are kept
	Reports     string // folder of what is written
	Out         io.Writer
}

const (
	// warmUp is what a measurement does not count: connections, caches, the collector's pace.
	warmUp = time.Second
	// coldPerSecond is for how many requests a second there are tokens that nobody has seen; a row that is faster ends sooner.
	coldPerSecond = 11_000
)

// manyConnections are those of the second table, and tableRounds and tableDuration how it is measured.
var manyConnections = []int{1, 4, 512}

const (
	tableRounds   = 2
	tableDuration = 2 * time.Second
)

// Run measures, prints the tables, and writes the reports.
func Run(ctx context.Context, o Options) error {
	names := o.Rows
	all := Rows()
	if len(names) == 0 {
		for _, r := range all {
			names = append(names, r.Name)
		}
	}
	rows, err := choose(all, names)
	if err != nil {
		return err
	}
	c, err := makeCredentials(&o, rows)
	if err != nil {
		return err
	}
	samples, err := rounds(ctx, &o, rows, c)
	if err != nil {
		return err
	}
	results := make([]Result, len(rows))
	for i, r := range rows {
		results[i] = newResult(r.Name, samples[i])
	}
	table(o.Out, tableRows(results))
	if err := writeJSON(o.Reports, "compare.json", results); err != nil {
		return err
	}
	if err := write(o.Reports, "compare.svg", chart.Standalone(throughput(results))); err != nil {
		return err
	}
	var byConnections []Result
	if o.Table {
		if byConnections, err = connectionTable(ctx, &o, rows, c); err != nil {
			return err
		}
	}
	var traced *Turns
	if i := slices.IndexFunc(rows, func(r Row) bool { return r.Name == tracedRow }); i >= 0 && o.Turns > 0 {
		if traced, err = turns(ctx, &o, rows[i], c); err != nil {
			return fmt.Errorf("row %s, by turns: %w", tracedRow, err)
		}
		if err := writeJSON(o.Reports, "compare-tracing.json", traced); err != nil {
			return err
		}
	}
	printDisturbance(o.Out, results)
	printGoals(o.Out, results, byConnections)
	if traced != nil {
		printTurns(o.Out, traced)
	}
	return write(o.Reports, "compare.html", page(&o, results, byConnections))
}

// makeCredentials makes what the rows send.
func makeCredentials(o *Options, rows []Row) (*credentials.Set, error) {
	tokens := o.Clients
	if slices.ContainsFunc(rows, func(r Row) bool { return r.Cold }) {
		tokens += int(o.Duration.Seconds() * coldPerSecond)
	}
	c, err := credentials.Load(o.Credentials, o.Clients, tokens, time.Now(), func(signed, of int) {
		if signed%5000 == 0 || signed == of {
			fmt.Fprintf(o.Out, "signed %d of %d tokens\n", signed, of)
		}
	})
	if err != nil {
		return nil, err
	}
	c.Tokens = c.Tokens[:tokens]
	return c, nil
}

// rounds measures each row once a round, so that what else the machine does meets all rows alike.
func rounds(ctx context.Context, o *Options, rows []Row, c *credentials.Set) ([][]*Sample, error) {
	samples := make([][]*Sample, len(rows))
	for round := range o.Rounds {
		for i, row := range rows {
			fmt.Fprintf(o.Out, "round %d/%d  %-24s", round+1, o.Rounds, row.Name)
			s, err := one(ctx, o, row, c)
			if err != nil {
				fmt.Fprintln(o.Out)
				return nil, fmt.Errorf("row %s: %w", row.Name, err)
			}
			fmt.Fprintf(o.Out, "%8.0f/s  P50 %7s  P99 %7s\n", s.RPS, millis(s.P50), millis(s.P99))
			if s.Failed > 0 {
				fmt.Fprintf(o.Out, "  %d requests failed; the first: %s\n", s.Failed, s.First)
			}
			samples[i] = append(samples[i], s)
		}
	}
	return samples, nil
}

// one starts a row anew and measures it.
func one(ctx context.Context, o *Options, row Row, c *credentials.Set) (*Sample, error) {
	b, err := open(ctx, row, o.Programs, c)
	if err != nil {
		return nil, err
	}
	defer b.rig.Stop()
	return b.measure(ctx, o.Connections, warmUp, o.Duration)
}

// connectionTable measures some rows with few connections and with many.
func connectionTable(ctx context.Context, o *Options, rows []Row, c *credentials.Set) ([]Result, error) {
	rows = slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return !slices.Contains(connectionRows, r.Name) })
	samples := make(map[string][]*Sample)
	name := func(row Row, n int) string { return fmt.Sprintf("%s/%d", row.Name, n) }
	for round := range tableRounds {
		for _, row := range rows {
			fmt.Fprintf(o.Out, "connections %d/%d  %-20s", round+1, tableRounds, row.Name)
			b, err := open(ctx, row, o.Programs, c)
			if err != nil {
				return nil, fmt.Errorf("row %s: %w", row.Name, err)
			}
			for _, n := range manyConnections {
				s, err := b.measure(ctx, n, warmUp/2, tableDuration)
				if err != nil {
					b.rig.Stop()
					return nil, fmt.Errorf("row %s with %d connections: %w", row.Name, n, err)
				}
				samples[name(row, n)] = append(samples[name(row, n)], s)
				fmt.Fprintf(o.Out, "  %d: %.0f/s", n, s.RPS)
			}
			fmt.Fprintln(o.Out)
			b.rig.Stop()
		}
	}
	var results []Result
	for _, n := range manyConnections {
		for _, row := range rows {
			r := newResult(row.Name, samples[name(row, n)])
			r.Connections = n
			results = append(results, r)
		}
	}
	table(o.Out, connectionRowsOf(results))
	return results, writeJSON(o.Reports, "compare-connections.json", results)
}

// median is that of the rounds: one that the machine disturbed doesn't count. Of an even number it is the mean of the middle two.
func median(of func(*Sample) float64, samples []*Sample) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
