// Command streams measures what bodies cost that pass a policy chunk by chunk, against a server of ext_proc that does nothing with them.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// options are what the command line says.
type options struct {
	bin, bench, envoy, reports string
	only                       string
	rounds, connections        int
	duration                   time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "`folder` of the engine's programs")
	flag.StringVar(&o.bench, "bench", "build/bench", "`folder` of the programs made for measurements")
	flag.StringVar(&o.envoy, "envoy", os.Getenv("ENVOY"), "the Envoy to `run`")
	flag.StringVar(&o.reports, "reports", "build/reports", "`folder` of the report")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each row is measured, by turns")
	flag.IntVar(&o.connections, "connections", 4, "how many bodies are under way at a time")
	flag.DurationVar(&o.duration, "duration", 4*time.Second, "how long a row is measured in a round")
	flag.StringVar(&o.only, "only", "", "measure the rows whose name (mode, direction, server) has this `text` in it")
	flag.Parse()
	if err := run(ctx, o); err != nil {
		fmt.Fprintf(os.Stderr, "streams: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	u, err := startUpstream()
	if err != nil {
		return err
	}
	defer u.close()
	var results []*result
	for _, m := range []mode{streamed, fullDuplex} {
		for _, d := range []direction{upload, download} {
			for _, s := range servers {
				if r := (&result{Row: s, Mode: m, Direction: d}); strings.Contains(r.name(), o.only) {
					results = append(results, r)
				}
			}
		}
	}
	if len(results) == 0 {
		return fmt.Errorf("no row has %q in its name, such as %q", o.only, (&result{Row: engine, Mode: fullDuplex, Direction: upload}).name())
	}
	for round := range o.rounds {
		for _, r := range results {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := r.measure(ctx, o, u); err != nil {
				return fmt.Errorf("measure %s: %w", r.name(), err)
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %s: %.0f MiB/s\n", round+1, o.rounds, r.name(), r.Rounds[round])
		}
	}
	report := newReport(results, o)
	fmt.Print(report)
	return report.write(filepath.Join(o.reports, "compare-streams.json"))
}
