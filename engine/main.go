package engine

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel"
	"github.com/policy-engine/policy-engine/limits"
	"github.com/policy-engine/policy-engine/telemetry"
	"github.com/policy-engine/policy-engine/worker"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1 // could not serve
	exitUsage  = 2 // mistakes in flags or configuration
)

// Main is the whole program of an engine in one process. The first --worker-config is of the worker that offers the first list of policies, and so on; a policy stands in
// one list, because it belongs to one worker. It does not return.
func Main(version string, offered ...Policies) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // A second signal ends the process at once.
	os.Exit(command(ctx, version, os.Args, os.Stdout, os.Stderr, offered))
}

// flags are the command line.
type commandLine struct {
	kernelFile          string
	workerFiles         files
	check, printVersion bool
}

// files are the values of a flag that may be repeated.
type files []string

func (f *files) String() string     { return strings.Join(*f, " ") }
func (f *files) Set(v string) error { *f = append(*f, v); return nil }

func parse(args []string, stderr io.Writer) (*commandLine, error) {
	c := &commandLine{}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&c.kernelFile, "kernel-config", "/etc/policy-engine/kernel-config.yaml", "the kernel's configuration `file`")
	flags.Var(&c.workerFiles, "worker-config", "the configuration `file` of a worker that runs in this process; may be repeated (default /etc/policy-engine/worker-config-1.yaml)")
	flags.BoolVar(&c.check, "check", false, "read the configuration, tell its mistakes, and exit")
	flags.BoolVar(&c.printVersion, "version", false, "print the version and exit")
	if err := flags.Parse(args[1:]); err != nil {
		return nil, err // It is told already.
	}
	if flags.NArg() > 0 {
		err := fmt.Errorf("unknown argument %q; legal are flags only", flags.Arg(0))
		fmt.Fprintln(stderr, err)
		return nil, err
	}
	if len(c.workerFiles) == 0 {
		c.workerFiles = files{"/etc/policy-engine/worker-config-1.yaml"}
	}
	return c, nil
}

// command is the program with everything that it touches as parameters. It logs to stdout.
func command(ctx context.Context, version string, args []string, stdout, stderr io.Writer, offered []Policies) int {
	c, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage
	case c.printVersion:
		fmt.Fprintln(stdout, version)
		return exitOK
	}
	registries, err := register(offered)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	cfg, ws, err := load(c, registries)
	if err == nil {
		err = disjoint(offered, ws)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	if c.check {
		return exitOK
	}
	err = serve(ctx, version, cfg, ws, stdout)
	var found config.Errors
	var source *sourceError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &found), errors.As(err, &source):
		fmt.Fprintln(stderr, err)
		return exitUsage
	default:
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
}

// register makes the registry of each list.
func register(offered []Policies) ([]*worker.Registry, error) {
	var registries []*worker.Registry
	var errs []error
	for _, list := range offered {
		r, err := worker.NewRegistry(list...)
		if err != nil {
			errs = append(errs, err)
		}
		registries = append(registries, r)
	}
	return registries, errors.Join(errs...)
}

// disjoint returns an error for each policy that two workers of the program have. Behind sockets, the kernel ignores the
// second worker's offer; in one program it is a mistake of its author.
func disjoint(offered []Policies, ws []Worker) error {
	owners := make(map[string]string)
	var errs []error
	for i := range ws {
		for _, p := range offered[i] {
			name := ws[i].Config.Name
			if first, twice := owners[p.Name()]; twice {
				errs = append(errs, fmt.Errorf("workers %q and %q both offer policy %q, expected one worker name for a policy", first, name, p.Name()))
				continue
			}
			owners[p.Name()] = name
		}
	}
	return errors.Join(errs...)
}

// load reads all files. The error tells all mistakes of all of them.
func load(c *commandLine, registries []*worker.Registry) (*config.Kernel, []Worker, error) {
	var errs []error
	cfg, err := config.LoadKernel(c.kernelFile)
	errs = append(errs, err)
	var ws []Worker
	for i, file := range c.workerFiles {
		if i >= len(registries) {
			errs = append(errs, fmt.Errorf("worker file %q: this program has the policies of %d workers; legal are as many files", file, len(registries)))
			break
		}
		w, err := config.LoadWorker(file)
		errs = append(errs, err)
		ws = append(ws, Worker{Config: w, Registry: registries[i]})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	return cfg, ws, matchWorkers(cfg, ws)
}

// serve runs the engine with its logs.
func serve(ctx context.Context, version string, cfg *config.Kernel, ws []Worker, stdout io.Writer) error {
	log, err := telemetry.NewLogger("kernel", cfg.Observability.LogLevel, stdout)
	if err != nil {
		return err
	}
	defer log.Close()
	for i := range ws {
		if ws[i].Log, err = telemetry.NewLogger("worker", ws[i].Config.Observability.LogLevel, stdout); err != nil {
			return err
		}
		defer ws[i].Log.Close()
	}
	hangups, stop := telemetry.Hangups()
	defer stop()
	for i := range ws {
		defer worker.FollowHangups(ws[i].Config, ws[i].Log)()
	}
	limits.Apply(log.Slog(), 1) // Kernel and workers are this one process.
	return Run(ctx, cfg, ws, kernel.Options{Log: log, Version: version, File: cfg.File, Hangups: hangups})
}
