// Command soak keeps the engine under load for a time, with reloads and restarts, and shows that nothing grows, that limits hold, and that nothing is lost or passes unchecked.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/policy-engine/policy-engine/test/stage"
)

func main() {
	duration := flag.Duration("duration", 10*time.Minute, "how long")
	rate := flag.Int("rate", 500, "requests per `second`")
	transport := flag.String("transport", "fast", "the kernel's")
	memory := flag.Int64("memory", 150, "what a kernel and both workers may take together, in `MiB`")
	report := flag.String("report", "build/reports/soak.json", "the `file` that the result is written to, and as a page next to it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := command(ctx, plan{duration: *duration, rate: *rate, transport: *transport, memory: *memory << 20, tell: func(line string) { fmt.Println(line) }})
	if err == nil {
		fmt.Println(r)
		err = r.write(*report)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(2)
	}
	if len(r.Problems) > 0 {
		os.Exit(1)
	}
}

func command(ctx context.Context, p plan) (*result, error) {
	if p.duration < 20*time.Second || p.rate < 1 {
		return nil, fmt.Errorf("%v at %d requests per second; legal are 20s or more, at 1 or more", p.duration, p.rate)
	}
	root, err := stage.Root()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "soak-bin-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	programs, err := stage.Build(root, dir)
	if err != nil {
		return nil, err
	}
	return run(ctx, p, programs)
}
