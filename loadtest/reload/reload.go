// Package reload changes the configuration of many routes again and again under a constant rate of requests, and tells whether one failed and what the others felt of it.
package reload

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/loadtest/rig"
	"github.com/policy-engine/policy-engine/test/process"
)

// Who asks the engine.
const (
	TargetKernel = "kernel" // this process, as Envoy speaks
	TargetEnvoy  = "envoy"
)

// Options are those of a run.
type Options struct {
	Target   string
	Rate     int // requests a second
	Duration time.Duration
	WarmUp   time.Duration // at the full rate, before what counts
	Reloads  int           // evenly spread over the duration; each changes every route
	Clients  int           // keys and tokens among which requests rotate
	Engine   rig.Spec

	Programs    rig.Programs
	Credentials string // folder where they are kept
	Reports     string // folder of what is written
	Out         io.Writer
}

func (o *Options) check() error {
	switch {
	case o.Target != TargetKernel && o.Target != TargetEnvoy:
		return fmt.Errorf("target %q is not legal; legal are %s and %s", o.Target, TargetKernel, TargetEnvoy)
	case o.Rate < 1 || o.Rate > 1_000_000:
		return fmt.Errorf("a rate of %d is not legal; legal are 1 to 1000000 requests a second", o.Rate)
	case o.WarmUp < 0 || o.Duration < time.Second || o.Duration > time.Hour:
		return fmt.Errorf("a duration of %v is not legal; legal are 1s to 1h", o.Duration)
	case o.Reloads < 1 || o.Reloads > 1000:
		return fmt.Errorf("%d reloads are not legal; legal are 1 to 1000", o.Reloads)
	case o.Clients < 1:
		return fmt.Errorf("%d clients are not legal; legal is at least 1", o.Clients)
	case !slices.Equal(o.Engine.Chain, rig.DefaultChain):
		return fmt.Errorf("the chain %v is not legal; legal is %v, whose answers are checked", o.Engine.Chain, rig.DefaultChain)
	}
	o.Engine.Asked, o.Engine.Alone, o.Engine.Routes = rig.Engine, o.Target == TargetKernel, max(o.Engine.Routes, 1)
	return o.Engine.Check()
}

// run is a system under load.
type run struct {
	o *Options
	r *rig.Rig
	c *credentials.Set
}

// Run starts the engine, and Envoy if it is the target, holds the load, reloads, prints the report and writes it. It fails when a request did not get what it has to.
func Run(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	c, err := credentials.Load(o.Credentials, o.Clients, o.Clients, time.Now(), nil)
	if err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "starting the engine (%s), asked by %s\n", o.Engine.Describe(), o.Target)
	r, err := rig.Start(ctx, o.Engine, o.Programs, c)
	if err != nil {
		return err
	}
	defer r.Stop()
	if err := r.Prepare(o.Reloads); err != nil {
		return err
	}
	u := &run{o: &o, r: r, c: c}
	if o.Target == TargetEnvoy {
		if err := r.Verify(ctx, c); err != nil {
			return err
		}
	}
	if o.WarmUp > 0 {
		fmt.Fprintf(o.Out, "warming up for %v\n", o.WarmUp)
		if err := u.hold(ctx, o.WarmUp, newAccount()); err != nil {
			return err
		}
	}
	return u.measure(ctx)
}

// hold holds the rate.
func (u *run) hold(ctx context.Context, d time.Duration, a *account) error {
	if u.o.Target == TargetEnvoy {
		all, err := targets(u.r.Target.String(), u.r.Paths(), u.c)
		if err != nil {
			return err
		}
		return holdEnvoy(ctx, all, u.o.Rate, d, a)
	}
	s, err := dial(ctx, u.r.Server(), u.o.Engine.Routes, u.c, a)
	if err != nil {
		return err
	}
	return s.hold(ctx, u.o.Rate, d)
}

// measure holds the rate, reloads meanwhile, and reports.
func (u *run) measure(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	before, err := u.usage()
	if err != nil {
		return err
	}
	a := newAccount()
	loaded, ended := context.WithCancel(ctx)
	var beside sync.WaitGroup
	for _, do := range []func(context.Context, *account) error{u.reload, u.progress} {
		beside.Go(func() {
			if err := do(loaded, a); err != nil {
				cancel(err)
			}
		})
	}
	start := time.Now()
	err = u.hold(ctx, u.o.Duration, a)
	took := time.Since(start)
	ended()
	beside.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	after, usageErr := u.usage()
	if usageErr != nil {
		return usageErr
	}
	report := a.report(u.o, took)
	report.use(before, after)
	report.print(u.o.Out)
	if err := report.write(u.o.Reports); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	return report.verdict(u.o.Reloads)
}

// reload makes all reloads at their times, the next one at once where one took longer, until the load has ended.
func (u *run) reload(loaded context.Context, a *account) error {
	start, every := time.Now(), u.o.Duration/time.Duration(u.o.Reloads+1)
	for version := 1; version <= u.o.Reloads; version++ {
		due := time.NewTimer(time.Until(start.Add(time.Duration(version) * every)))
		select {
		case <-loaded.Done():
			due.Stop()
			return nil
		case <-due.C:
		}
		if err := a.reload(func() error { return u.r.Reload(version) }); err != nil {
			return err
		}
	}
	return nil
}

// progress prints a line each second, and ends the run when a process has ended.
func (u *run) progress(loaded context.Context, a *account) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for start := time.Now(); ; {
		select {
		case <-loaded.Done():
			return nil
		case <-tick.C:
		}
		fmt.Fprintf(u.o.Out, "%4.0f s  %s\n", time.Since(start).Seconds(), a.take())
		if err := u.r.Check(); err != nil {
			return err
		}
	}
}

// usage reads what was used so far, by this process too.
func (u *run) usage() (usage, error) {
	machine, err := process.ReadMachine()
	if err != nil {
		return usage{}, err
	}
	all, err := u.r.Usage()
	if err != nil {
		return usage{}, err
	}
	if all["load"], err = process.UsageOf(os.Getpid()); err != nil {
		return usage{}, err
	}
	return usage{at: time.Now(), machine: machine, processes: all}, nil
}
