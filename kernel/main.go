package kernel

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/limits"
	"github.com/policy-engine/policy-engine/telemetry"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1 // could not serve
	exitUsage  = 2 // mistakes in flags or configuration
)

// Main is the whole program. It does not return.
func Main(version string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // A second signal ends the process at once.
	os.Exit(command(ctx, version, os.Args, os.Stdout, os.Stderr))
}

// command is the program with everything that it touches as parameters. It logs to stdout.
func command(ctx context.Context, version string, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("config", "/etc/policy-engine/kernel-config.yaml", "the configuration `file`")
	check := flags.Bool("check", false, "read the configuration, tell its mistakes, and exit")
	printVersion := flags.Bool("version", false, "print the version and exit")
	healthy := flags.String("healthy", "", "ask the kernel whose admin port is at `HOST:PORT` whether it is ready, and exit with 0 if it is")
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
	if *healthy != "" {
		if err := askHealthy(ctx, *healthy); err != nil {
			fmt.Fprintln(stderr, err)
			return exitFailed
		}
		return exitOK
	}
	cfg, err := config.LoadKernel(*file)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	if *check {
		return exitOK
	}
	log, err := telemetry.NewLogger("kernel", cfg.Observability.LogLevel, stdout)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	defer log.Close()
	hangups, stop := telemetry.Hangups()
	defer stop()
	limits.Apply(log.Slog(), limits.Apart)
	err = Run(ctx, cfg, Options{Log: log, Version: version, File: *file, Hangups: hangups})
	var found config.Errors
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &found):
		fmt.Fprintln(stderr, err)
		return exitUsage
	default:
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
}

// newKernelID is never 0, which is nobody's.
func newKernelID() uint64 { return rand.Uint64() | 1 }
