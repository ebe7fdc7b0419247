package worker

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/limits"
	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/telemetry"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1 // could not serve
	exitUsage  = 2 // mistakes in flags or configuration
)

// Main is the whole program of a worker that offers the given policies. It does not return.
func Main(version string, definitions ...policies.Definition) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // A second signal ends the process at once.
	os.Exit(command(ctx, version, os.Args, os.Stdout, os.Stderr, definitions))
}

// command is the program with everything that it touches as parameters. It logs to stdout.
func command(ctx context.Context, version string, args []string, stdout, stderr io.Writer, definitions []policies.Definition) int {
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("config", "/etc/policy-engine/worker-config-1.yaml", "the configuration `file`")
	printVersion := flags.Bool("version", false, "print the version and exit")
	switch err := flags.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "unknown argument %q; legal are flags only\n", flags.Arg(0))
		return exitUsage
	}
	if *printVersion {
		fmt.Fprintln(stdout, version)
		return exitOK
	}
	registry, err := NewRegistry(definitions...)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	cfg, err := config.LoadWorker(*file)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	log, err := telemetry.NewLogger("worker", cfg.Observability.LogLevel, stdout)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	defer log.Close()
	defer FollowHangups(cfg, log)()
	limits.Apply(log.Slog(), limits.Apart)
	err = Run(ctx, cfg, registry, Options{Version: version, Log: log.Slog(), LogLost: log.Lost})
	var source *sourceError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &source):
		fmt.Fprintln(stderr, err)
		return exitUsage
	default:
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
}
