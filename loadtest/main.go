// Command loadtest measures the engine as its users have it: the built programs, the real Envoy, and a load from outside.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/attack"
	"github.com/policy-engine/policy-engine/loadtest/burst"
	"github.com/policy-engine/policy-engine/loadtest/compare"
	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/loadtest/profile"
	"github.com/policy-engine/policy-engine/loadtest/reload"
	"github.com/policy-engine/policy-engine/loadtest/rig"
	"github.com/policy-engine/policy-engine/loadtest/upstream"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // A second signal ends this process at once, and the others with it.
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "loadtest: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("a command is missing, expected one of attack, burst, compare, credentials, profile, reload, upstream")
	}
	switch args[0] {
	case "attack":
		return runAttack(ctx, args[1:])
	case "burst":
		return runBurst(ctx, args[1:])
	case "compare":
		return runCompare(ctx, args[1:])
	case "credentials":
		return runCredentials(args[1:])
	case "profile":
		return runProfile(ctx, args[1:])
	case "reload":
		return runReload(ctx, args[1:])
	case "upstream":
		return runUpstream(ctx, args[1:])
	}
	return fmt.Errorf("unknown command %q, expected one of attack, burst, compare, credentials, profile, reload, upstream", args[0])
}

// places are where things are, below the repository.
type places struct {
	programs    rig.Programs
	credentials string
	reports     string
}

func (p *places) flags(f *flag.FlagSet) {
	f.StringVar(&p.programs.Bin, "bin", "bin", "`folder` of the engine's programs")
	f.StringVar(&p.programs.Bench, "bench", "build/bench", "`folder` of the programs made for measurements")
	f.StringVar(&p.programs.Envoy, "envoy", os.Getenv("ENVOY"), "the Envoy to `run`")
	f.StringVar(&p.credentials, "credentials", "build/loadtest", "`folder` in which keys and tokens are kept")
	f.StringVar(&p.reports, "reports", "build/reports", "`folder` of the reports")
}

func runBurst(ctx context.Context, args []string) error {
	var o burst.Options
	var p places
	f := flag.NewFlagSet("loadtest burst", flag.ContinueOnError)
	p.flags(f)
	sizes := f.String("sizes", "1000,3000,9000,20000", "requests in flight, one burst each, separated by commas")
	forms := f.String("forms", "two,one", "two: kernel and worker are processes of their own; one: the one process policy-engine; separated by commas")
	f.StringVar(&o.Transport, "transport", "fast", "transport to Envoy: fast or grpc")
	f.IntVar(&o.Rate, "rate", 0, "requests sent per second until all are in flight; 0 sends all at once")
	f.DurationVar(&o.Patience, "patience", 30*time.Second, "how long requests may take to be in flight after the last one was sent, and answers after the upstream has sent them")
	f.IntVar(&o.Clients, "clients", 1024, "keys among which requests rotate")
	if err := f.Parse(args); err != nil {
		return err
	}
	for _, text := range list(*sizes) {
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("unknown size %q, expected a number of requests", text)
		}
		o.Sizes = append(o.Sizes, n)
	}
	o.Forms = list(*forms)
	o.Programs, o.Credentials, o.Reports, o.Out = p.programs, p.credentials, p.reports, os.Stdout
	return burst.Run(ctx, o)
}

func runCompare(ctx context.Context, args []string) error {
	var o compare.Options
	var p places
	var rows string
	f := flag.NewFlagSet("loadtest compare", flag.ContinueOnError)
	p.flags(f)
	f.IntVar(&o.Rounds, "rounds", 3, "how often each row is measured")
	f.DurationVar(&o.Duration, "duration", 4*time.Second, "how long a row is measured in a round")
	f.IntVar(&o.Connections, "connections", 32, "connections of the load")
	f.IntVar(&o.Clients, "clients", 1024, "keys and tokens among which requests rotate")
	f.StringVar(&rows, "rows", "", "names of rows, separated by commas (default: all)")
	f.IntVar(&o.Turns, "turns", 100, "pairs of turns, of about a second, that measure what tracing costs, if its row is measured; 0 for none")
	f.BoolVar(&o.Table, "connections-table", true, "measure some rows with 1, 4 and 512 connections too")
	if err := f.Parse(args); err != nil {
		return err
	}
	o.Rows = list(rows)
	o.Programs, o.Credentials, o.Reports, o.Out = p.programs, p.credentials, p.reports, os.Stdout
	return compare.Run(ctx, o)
}

// engineFlags are those of the engine that is measured.
type engineFlags struct {
	spec        rig.Spec
	chain, form string
}

func (e *engineFlags) flags(f *flag.FlagSet) {
	f.StringVar(&e.chain, "chain", strings.Join(rig.DefaultChain, ","), "policies of each route, separated by commas")
	f.IntVar(&e.spec.Routes, "routes", 1, "routes of kernel and Envoy")
	f.IntVar(&e.spec.Workers, "workers", 1, "workers among which the policies are divided: 1 or 2")
	f.StringVar(&e.form, "form", "two", "two: kernel and workers are processes of their own; one: the one process policy-engine")
	f.StringVar(&e.spec.Transport, "transport", "fast", "transport to Envoy: fast or grpc")
}

func (e *engineFlags) engine() (rig.Spec, error) {
	if e.form != "two" && e.form != "one" {
		return rig.Spec{}, fmt.Errorf("form %q is not legal; legal are two and one", e.form)
	}
	e.spec.OneProcess, e.spec.Chain = e.form == "one", list(e.chain)
	return e.spec, nil
}

func runAttack(ctx context.Context, args []string) error {
	var o attack.Options
	var p places
	var e engineFlags
	f := flag.NewFlagSet("loadtest attack", flag.ContinueOnError)
	p.flags(f)
	e.flags(f)
	f.IntVar(&o.Rate, "rate", 10_000, "requests a second")
	f.DurationVar(&o.Duration, "duration", time.Minute, "how long the rate is held")
	f.IntVar(&o.Clients, "clients", 1024, "keys and tokens among which requests rotate")
	f.DurationVar(&o.WarmUp, "warm-up", 3*time.Second, "how long the rate is held before what counts")
	f.IntVar(&o.Workers, "max-workers", 512, "the most requests under way, and connections")
	at := attack.Compose{Docker: "docker", Cgroups: "/sys/fs/cgroup", Proc: "/proc"}
	target := f.String("target", "local", "local: the programs, started here; compose: the containers of docker-compose.yaml, which must run")
	f.StringVar(&at.Envoy, "compose-envoy", "127.0.0.1:10000", "`address` of Envoy, of -target compose")
	f.StringVar(&at.Prefix, "compose-prefix", "/orders", "`prefix` of the paths, of -target compose")
	f.StringVar(&at.Upstream, "compose-upstream", "127.0.0.1:10001", "`address` of the upstream, of -target compose")
	f.StringVar(&at.Admin, "compose-admin", "127.0.0.1:9090", "`address` of the kernel's admin listener, of -target compose")
	if err := f.Parse(args); err != nil {
		return err
	}
	var err error
	if o.Engine, err = e.engine(); err != nil {
		return err
	}
	o.Programs, o.Credentials, o.Reports, o.Out = p.programs, p.credentials, p.reports, os.Stdout
	switch *target {
	case "local":
		return attack.Run(ctx, o)
	case "compose":
		for _, name := range []string{"chain", "routes", "workers", "form", "transport"} {
			if flagSet(f, name) {
				return fmt.Errorf("-%s is not legal with -target compose; deploy/compose/kernel-config.yaml says it", name)
			}
		}
		return attack.RunCompose(ctx, o, at)
	}
	return fmt.Errorf("target %q is not legal; legal are local and compose", *target)
}

// flagSet reports whether a flag was given.
func flagSet(f *flag.FlagSet, name string) (given bool) {
	f.Visit(func(g *flag.Flag) { given = given || g.Name == name })
	return given
}

// runCredentials makes keys and tokens, and publishes what containers need to verify them.
func runCredentials(args []string) error {
	var p places
	f := flag.NewFlagSet("loadtest credentials", flag.ContinueOnError)
	p.flags(f)
	clients := f.Int("clients", 1024, "keys and tokens")
	dir := f.String("publish", "build/loadtest/compose", "`folder` for what verifies them")
	if err := f.Parse(args); err != nil {
		return err
	}
	c, err := credentials.Load(p.credentials, *clients, *clients, time.Now(), nil)
	if err != nil {
		return err
	}
	return c.Publish(*dir)
}

func runProfile(ctx context.Context, args []string) error {
	var o profile.Options
	var p places
	var e engineFlags
	f := flag.NewFlagSet("loadtest profile", flag.ContinueOnError)
	p.flags(f)
	e.flags(f)
	f.DurationVar(&o.Duration, "duration", 10*time.Second, "how long the CPU profile is taken")
	f.IntVar(&o.Connections, "connections", 32, "connections of the load")
	f.IntVar(&o.Clients, "clients", 1024, "keys and tokens among which requests rotate")
	if err := f.Parse(args); err != nil {
		return err
	}
	var err error
	if o.Engine, err = e.engine(); err != nil {
		return err
	}
	o.Programs, o.Credentials, o.Reports, o.Out = p.programs, p.credentials, p.reports, os.Stdout
	return profile.Run(ctx, o)
}

func runReload(ctx context.Context, args []string) error {
	var o reload.Options
	var p places
	var e engineFlags
	f := flag.NewFlagSet("loadtest reload", flag.ContinueOnError)
	p.flags(f)
	e.flags(f)
	f.StringVar(&o.Target, "target", reload.TargetKernel, "who asks the engine: kernel (this program asks the kernel, as Envoy speaks) or envoy")
	f.IntVar(&o.Rate, "rate", 5000, "requests a second")
	f.DurationVar(&o.Duration, "duration", 30*time.Second, "how long the rate is held")
	f.DurationVar(&o.WarmUp, "warm-up", 3*time.Second, "how long the rate is held before what counts")
	f.IntVar(&o.Reloads, "reloads", 6, "reloads in that time, each of which changes every route")
	f.IntVar(&o.Clients, "clients", 1024, "keys and tokens among which requests rotate")
	if err := f.Parse(args); err != nil {
		return err
	}
	var err error
	if o.Engine, err = e.engine(); err != nil {
		return err
	}
	if !flagSet(f, "routes") {
		o.Engine.Routes = 10_000
	}
	o.Programs, o.Credentials, o.Reports, o.Out = p.programs, p.credentials, p.reports, os.Stdout
	return reload.Run(ctx, o)
}

func runUpstream(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("loadtest upstream", flag.ContinueOnError)
	address := f.String("listen", "127.0.0.1:0", "`address` to listen on")
	identity := f.Bool("identity", true, "refuse requests without the identity that their path ends with")
	if err := f.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s := &upstream.Server{}
	if *identity {
		s.Header = rig.IdentityHeader
	}
	return s.Serve(ctx, l)
}

// list splits at commas.
func list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}
