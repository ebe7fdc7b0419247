// Command faults breaks the engine in every way that operators meet, under traffic of valid and invalid requests at a constant rate through the real Envoy, and shows that nothing
// reached the upstream unchecked, that nothing was lost which somebody could have served, that each request ended in time, and that all was as before afterwards.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/policy-engine/policy-engine/test/stage"
)

func main() {
	rate := flag.Int("rate", 1000, "requests per `second`")
	only := flag.String("only", "", "only the faults whose names contain this `text`")
	on := flag.String("stages", "pair,single,wired,kernels,hostile,bursts", "the stages to play on")
	transport := flag.String("transport", "fast", "the kernel's")
	report := flag.String("report", "build/reports/faults.json", "the `file` that the results are written to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx, plan{rate: *rate, only: *only, stages: strings.Split(*on, ","), transport: *transport, report: *report})
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// plan is what is to be played.
type plan struct {
	rate      int
	only      string
	stages    []string
	transport string
	report    string
	brief     bool
}

// specs are the stages by their names.
func specs(transport string) map[string]stage.Spec {
	return map[string]stage.Spec{
		pair:    {Replicas: 2, Kernels: 1, Transport: transport},
		single:  {Replicas: 1, Kernels: 1, Transport: transport},
		wired:   {Replicas: 2, Kernels: 1, Transport: transport, Wired: true},
		kernels: {Replicas: 2, Kernels: 2, Transport: transport},
		hostile: hostileSpec(transport),
		bursts:  burstSpec(transport),
	}
}

func run(ctx context.Context, p plan) (ok bool, err error) {
	root, err := stage.Root()
	if err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "faults-bin-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	programs, err := stage.Build(root, dir)
	if err != nil {
		return false, err
	}
	all, err := p.play(ctx, programs, func(o *outcome) {
		fmt.Println(o.line())
		if o.logs == "" {
			return
		}
		file := strings.TrimSuffix(p.report, ".json") + fmt.Sprintf("-%s-%s.log", o.Stage, strings.ReplaceAll(o.Fault, " ", "-"))
		if err := write(file, []byte(o.logs)); err == nil {
			fmt.Println("      what the programs wrote is in", file)
		}
	})
	if err != nil {
		return false, err
	}
	t := total(all, p.rate)
	fmt.Println(t)
	return t.ok(), t.write(filepath.Clean(p.report))
}

// play plays all faults of the plan and tells of each when it is over.
func (p plan) play(ctx context.Context, programs *stage.Programs, tell func(*outcome)) ([]*outcome, error) {
	var all []*outcome
	for _, name := range p.stages {
		spec, known := specs(p.transport)[name]
		if !known {
			return nil, fmt.Errorf("unknown stage %q, expected one of pair, single, wired, kernels, hostile, bursts", name)
		}
		var chosen []*fault
		for i := range faults {
			f := &faults[i]
			switch {
			case !f.playsOn(name) || !strings.Contains(f.name, p.only) || p.brief && !slices.Contains(f.brief, name):
			case f.root && os.Geteuid() != 0:
				fmt.Printf("         %-7s %-34s is not played: only root can do that\n", name, f.name)
			default:
				chosen = append(chosen, f)
			}
		}
		if len(chosen) == 0 {
			continue
		}
		r, err := raise(ctx, name, programs, spec, p.rate, p.brief)
		if err != nil {
			return all, err
		}
		for _, f := range chosen {
			o := r.play(f)
			if ctx.Err() != nil {
				r.close()
				return all, ctx.Err()
			}
			all = append(all, o)
			tell(o)
		}
		r.close()
	}
	return all, nil
}

// started is when the program was.
var started = time.Now()
