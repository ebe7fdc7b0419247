package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/test/process"
)

const (
	loopback = "127.0.0.1"
	// startTimeout bounds the start of one program. Envoy takes long for 100,000 routes.
	startTimeout = 3 * time.Minute
	// stopTimeout is for a program that drains when it is asked to end; then it is killed.
	stopTimeout = 3 * time.Second
)

// Programs says where programs are.
type Programs struct {
	Bin   string // folder of the engine's programs
	Bench string // folder of those for measurements
	Envoy string
}

func (p Programs) engine() string { return filepath.Join(p.Bin, "policy-engine") }
func (p Programs) kernel() string { return filepath.Join(p.Bin, "policy-kernel") }
func (p Programs) worker() string { return filepath.Join(p.Bin, "policy-worker-1") }
func (p Programs) ctl() string    { return filepath.Join(p.Bin, "policyctl") }
func (p Programs) profiledKernel() string {
	return filepath.Join(p.Bench, "profiledkernel")
}
func (p Programs) partWorker() string { return filepath.Join(p.Bench, "partworker") }

// Rig is a system that runs.
type Rig struct {
	// Target is where clients send their requests.
	Target netip.AddrPort

	spec     Spec
	programs Programs
	dir      string
	ports    ports
	started  []*process.Process // in the order of their start
}

type ports struct {
	listen, envoyAdmin, upstream int // Envoy's
	server, admin                int // the kernel's, or the no-op server's
	sink                         int // of spans
}

// Start starts the system and returns when it is ready. End it with Stop. When the context ends meanwhile, or something can't be started, all that was
// started ends.
func Start(ctx context.Context, spec Spec, programs Programs, c *credentials.Set) (*Rig, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	if programs.Envoy == "" && !spec.Alone {
		return nil, errors.New("there is no Envoy; set $ENVOY to one, as make does: ENVOY=$(tools/fetch.sh envoy)")
	}
	// Short: a socket's path has at most 107 bytes (unix(7)).
	dir, err := os.MkdirTemp("", "loadtest-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	r := &Rig{spec: spec, programs: programs, dir: dir}
	if err := r.startAll(ctx, c); err != nil {
		err = errors.Join(err, r.outputs())
		r.Stop()
		return nil, err
	}
	return r, nil
}

// At is a system that others have started: its paths are below the prefix.
func At(target netip.AddrPort, spec Spec, prefix string) *Rig {
	spec.prefixes = []string{prefix}
	return &Rig{Target: target, spec: spec}
}

func (r *Rig) startAll(ctx context.Context, c *credentials.Set) error {
	for _, port := range []*int{
		&r.ports.listen, &r.ports.envoyAdmin, &r.ports.upstream, &r.ports.server, &r.ports.admin, &r.ports.sink,
	} {
		var err error
		if *port, err = process.FreePort(); err != nil {
			return err
		}
	}
	r.Target = netip.AddrPortFrom(netip.MustParseAddr(loopback), uint16(r.ports.listen))
	if err := os.Mkdir(filepath.Join(r.dir, "workers"), 0o700); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	if err := c.Publish(r.dir); err != nil {
		return err
	}
	steps := []func() error{r.startAsked}
	if !r.spec.Alone {
		steps = append(steps, func() error { return r.startEnvoy(c) })
	}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// startAsked starts what Envoy asks, if it asks.
func (r *Rig) startAsked() error {
	switch r.spec.Asked {
	case NoOp:
		return r.startListener(r.spec.Program, net.JoinHostPort(loopback, strconv.Itoa(r.ports.server)))
	case Engine:
		if r.spec.Traced > 0 {
			if err := r.startListener(SpanSink, r.sink()); err != nil {
				return err
			}
		}
		return r.startEngine()
	}
	return nil
}

// SpanSink is the program, and the process, that takes spans: it is no part of the engine.
const SpanSink = "span-sink"

func (r *Rig) sink() string { return net.JoinHostPort(loopback, strconv.Itoa(r.ports.sink)) }

// startListener starts one of the programs for measurements, which listens on the address.
func (r *Rig) startListener(program, address string) error {
	if err := r.start(program, filepath.Join(r.programs.Bench, program), nil, "--listen", address); err != nil {
		return err
	}
	return r.await(program, func() error {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

func (r *Rig) start(name, program string, env []string, args ...string) error {
	if _, err := os.Stat(program); err != nil {
		return fmt.Errorf("start %s: %w; make build makes the programs", name, err)
	}
	p, err := process.Start(name, program, env, args...)
	if err != nil {
		return err
	}
	r.started = append(r.started, p)
	return nil
}

// await waits until the condition holds, as long as the process lives.
func (r *Rig) await(name string, condition func() error) error {
	p := r.started[len(r.started)-1]
	var ended error
	err := process.Within(startTimeout, func() error {
		if !p.Running() {
			ended = fmt.Errorf("%s has ended: %s", name, p.End())
			return nil
		}
		return condition()
	})
	if err = errors.Join(ended, err); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	return nil
}

func (r *Rig) awaitReady(name string) error {
	url := fmt.Sprintf("http://%s:%d/health/ready", loopback, r.ports.admin)
	return r.await(name, func() error { return wantOK(url) })
}

func wantOK(url string) error {
	status, body, err := process.Get(url)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s says %d: %.1000s", url, status, body)
	}
	return err
}

// Stop ends all processes, Envoy first, and removes the files.
func (r *Rig) Stop() {
	for _, p := range slices.Backward(r.started) {
		p.Stop(stopTimeout)
	}
	_ = os.RemoveAll(r.dir)
}

// Check tells of a process that has ended though nobody asked it to.
func (r *Rig) Check() error {
	for _, p := range r.started {
		if !p.Running() {
			return fmt.Errorf("%s has ended: %s\n%s", p.Name, p.End(), process.Tail(p.Output(), 2000))
		}
	}
	return nil
}

// outputs is what the programs have written, for a start that failed.
func (r *Rig) outputs() error {
	var b strings.Builder
	for _, p := range r.started {
		if out := p.Output(); out != "" {
			fmt.Fprintf(&b, "output of %s:\n%s", p.Name, process.Tail(out, 3000))
		}
	}
	if b.Len() == 0 {
		return nil
	}
	return errors.New(b.String())
}

// Usage is what each process has used so far.
func (r *Rig) Usage() (map[string]process.Usage, error) {
	all := make(map[string]process.Usage, len(r.started))
	for _, p := range r.started {
		u, err := process.UsageOf(p.PID())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		all[p.Name] = u
	}
	return all, nil
}

// RunTimes are how long the engine's processes, together, and Envoy have run so far.
func (r *Rig) RunTimes() (engine, envoy time.Duration, err error) {
	for _, p := range r.started {
		t, err := process.RunTime(p.PID())
		switch {
		case err != nil:
			return 0, 0, fmt.Errorf("%s: %w", p.Name, err)
		case p.Name == "envoy":
			envoy += t
		case p.Name != SpanSink:
			engine += t
		}
	}
	return engine, envoy, nil
}

// metricsTimeout is for a scrape that has all: a worker that is too busy to answer the kernel in time is left out of one.
const metricsTimeout = 10 * time.Second

// Metrics are those of the engine, its workers' included; none if there is no engine.
func (r *Rig) Metrics() (process.Metrics, error) {
	if r.spec.Asked != Engine {
		return nil, nil
	}
	var m process.Metrics
	err := process.Within(metricsTimeout, func() error {
		status, body, err := process.Get(fmt.Sprintf("http://%s:%d/metrics", loopback, r.ports.admin))
		if err != nil {
			return fmt.Errorf("read the metrics: %w", err)
		}
		if status != http.StatusOK {
			return fmt.Errorf("read the metrics: status %d: %.1000s", status, body)
		}
		m, err = process.ParseMetrics(body)
		if err != nil {
			return err
		}
		if r.spec.enforces("jwtValidation") && !m.Has("policy_worker_policy_events_total", `policy="jwtValidation"`) {
			return errors.New("read the metrics: a worker's are missing")
		}
		return nil
	})
	return m, err
}

// CacheEvents is how often the workers' cache of tokens had that event.
func CacheEvents(m process.Metrics, event string) float64 {
	return m.Sum("policy_worker_policy_events_total", `policy="jwtValidation"`, `event="`+event+`"`)
}
