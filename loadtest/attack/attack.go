// Package attack holds a constant rate of requests against the engine through Envoy, and tells how it took it.
package attack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/loadtest/latency"
	"github.com/policy-engine/policy-engine/loadtest/rig"
)

// Options are those of a run.
type Options struct {
	Rate     int
	Duration time.Duration
	WarmUp   time.Duration // at the full rate, before what counts
	Clients  int           // keys and tokens among which requests rotate
	Workers  int           // of vegeta: the most requests under way
	Engine   rig.Spec

	Programs    rig.Programs
	Credentials string // folder where they are kept
	Reports     string // folder of what is written
	Out         io.Writer
}

const (
	// requestTimeout is for one request; later it is a failure.
	requestTimeout = 10 * time.Second
	// drainTimeout is for what is under way at the end.
	drainTimeout = requestTimeout + 5*time.Second
)

func (o *Options) check() error {
	switch {
	case o.Rate < 1:
		return fmt.Errorf("a rate of %d is not legal; legal is at least 1 request a second", o.Rate)
	case o.WarmUp < 0 || o.Duration < time.Second:
		return fmt.Errorf("a duration of %v is not legal; legal is at least 1s", o.Duration)
	case o.Clients < 1 || o.Workers < 1:
		return fmt.Errorf("%d clients and %d workers are not legal; legal is at least one of each", o.Clients, o.Workers)
	}
	return o.Engine.Check()
}

// Run starts the engine, Envoy and an upstream, measures, prints the outcome and writes the reports. It fails when a request reached the upstream without the identity of
// its client, or with another's.
func Run(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	c, err := credentials.Load(o.Credentials, o.Clients, o.Clients, time.Now(), nil)
	if err != nil {
		return err
	}
	o.Engine.Asked = rig.Engine
	up, err := startUpstream(o.Programs, o.Engine.Identifies())
	if err != nil {
		return err
	}
	defer up.process.Kill()
	o.Engine.Upstream = up.address
	fmt.Fprintf(o.Out, "starting the engine (%s) and Envoy\n", o.Engine.Describe())
	r, err := rig.Start(ctx, o.Engine, o.Programs, c)
	if err != nil {
		return err
	}
	defer r.Stop()
	if err := r.Verify(ctx, c); err != nil {
		return err
	}
	local := &local{rig: r, upstream: up}
	return measure(ctx, &o, &system{
		target: r.Target.String(), paths: r.Paths(), identifies: o.Engine.Identifies(), processes: local, count: up.count, description: o.Engine.Describe(),
	}, c)
}

// system is what is measured, wherever it runs.
type system struct {
	target     string // HOST:PORT of Envoy
	paths      []string
	identifies bool
	processes  processes
	count      func() (right, wrong uint64, first string, err error)
	// description tells what it is.
	description string
}

// measure makes the load.
func measure(ctx context.Context, o *Options, s *system, c *credentials.Set) error {
	targeter := vegeta.NewStaticTargeter(targets(s, c)...)
	if o.WarmUp > 0 {
		fmt.Fprintf(o.Out, "warming up for %v\n", o.WarmUp)
		if err := hold(ctx, o, targeter, o.WarmUp, func(*vegeta.Result) {}); err != nil {
			return err
		}
	}
	right, wrong, first, err := s.count()
	if err != nil {
		return err
	}
	if wrong > 0 {
		return fmt.Errorf("%d requests reached the upstream without their identity; the first: %s", wrong, first)
	}
	rec, err := newRecorder(o, s)
	if err != nil {
		return err
	}
	err = rec.during(ctx, func(ctx context.Context) error { return hold(ctx, o, targeter, o.Duration, rec.add) })
	if err != nil {
		return err
	}
	rightAfter, wrong, first, err := s.count()
	if err != nil {
		return err
	}
	outcome := rec.outcome()
	outcome.WrongIdentity = wrong
	outcome.print(o.Out)
	if err := outcome.write(o.Reports); err != nil {
		return err
	}
	switch arrived := rightAfter - right; {
	case wrong > 0:
		return fmt.Errorf("%d requests reached the upstream without the identity of their client; the first: %s", wrong, first)
	case outcome.successes == 0:
		return errors.New("no request succeeded")
	case arrived < outcome.successes:
		return fmt.Errorf("%d requests succeeded, but only %d reached the upstream with the identity of their client", outcome.successes, arrived)
	}
	return nil
}

// targets are one request of each client.
func targets(s *system, c *credentials.Set) []vegeta.Target {
	out := make([]vegeta.Target, len(c.Keys))
	for i := range out {
		out[i] = vegeta.Target{
			Method: http.MethodGet,
			URL:    "http://" + s.target + rig.Path(s.paths[i%len(s.paths)], i),
			Header: http.Header{"X-Api-Key": {c.Keys[i]}, "Authorization": {"Bearer " + c.Tokens[i]}},
		}
	}
	return out
}

// hold holds the rate for a time above 0, and hands each result over, from one goroutine.
func hold(ctx context.Context, o *Options, targeter vegeta.Targeter, d time.Duration, add func(*vegeta.Result)) error {
	attacker := vegeta.NewAttacker(
		vegeta.Workers(min(uint64(o.Workers), 64)), vegeta.MaxWorkers(uint64(o.Workers)),
		// As many as workers: vegeta would open a connection per request for those beyond, and the measurement would be of sockets.
		vegeta.Connections(o.Workers), vegeta.KeepAlive(true), vegeta.HTTP2(false), vegeta.Redirects(vegeta.NoFollow), vegeta.Timeout(requestTimeout),
	)
	results := attacker.Attack(targeter, vegeta.Rate{Freq: o.Rate, Per: time.Second}, d, "loadtest")
	interrupted := ctx.Done()
	overdue := time.After(d + drainTimeout)
	for {
		select {
		case r, more := <-results:
			if !more {
				return ctx.Err()
			}
			add(r)
		case <-interrupted:
			attacker.Stop()
			interrupted = nil
			overdue = time.After(time.Second)
		case <-overdue:
			attacker.Stop()
			go func() { // What is left ends with its timeout.
				for range results {
				}
			}()
			if err := ctx.Err(); err != nil {
				return err
			}
			return fmt.Errorf("the load did not end within %v of its time", drainTimeout)
		}
	}
}

// succeeded: the upstream has answered.
func succeeded(r *vegeta.Result) bool { return r.Code == http.StatusOK && r.Error == "" }

// histogram is that of the latencies of what succeeded.
type histogram = latency.Histogram
