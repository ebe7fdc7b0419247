// Package burst measures what happens to many requests that are in flight at the same time, and whose upstream answers
// all of them at once: how many are lost, and how long the engine takes for the rest.
package burst

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/loadtest/rig"
	"github.com/policy-engine/policy-engine/test/burst"
	"github.com/policy-engine/policy-engine/test/process"
)

// Options are those of a run.
type Options struct {
	Sizes     []int    // requests in flight
	Forms     []string // two: kernel and worker are processes of their own; one: the one process policy-engine
	Transport string   // fast or grpc
	Rate      int      // requests a second until all are in flight; 0: all at once
	Patience  time.Duration
	Clients   int // keys among which requests rotate

	Programs    rig.Programs
	Credentials string // folder where they are kept
	Reports     string // folder of what is written
	Out         io.Writer
}

// chain has a policy in each flow: one whose work the upstream sees, and one whose work the client sees.
var chain = []string{"apiKeyAuth", "securityHeaders"}

// maxRequests bounds a burst: the limit of the engine's cluster in the printed configuration of Envoy.
const maxRequests = 65_536

func (o *Options) check() error {
	if len(o.Sizes) == 0 || len(o.Forms) == 0 {
		return fmt.Errorf("sizes and forms must not be empty, got %v and %v", o.Sizes, o.Forms)
	}
	for _, n := range o.Sizes {
		if n < 1 || n > maxRequests {
			return fmt.Errorf("sizes must be between 1 and %d, got %d", maxRequests, n)
		}
	}
	for _, form := range o.Forms {
		if form != "one" && form != "two" {
			return fmt.Errorf("unknown form %q, expected one or two", form)
		}
	}
	switch {
	case o.Rate < 0 || o.Rate > 1_000_000:
		return fmt.Errorf("the rate must be between 0 and 1000000, got %d", o.Rate)
	case o.Patience < time.Second || o.Patience > 10*time.Minute:
		return fmt.Errorf("the patience must be between 1s and 10m, got %v", o.Patience)
	case o.Clients < 1:
		return fmt.Errorf("clients must be at least 1, got %d", o.Clients)
	}
	return nil
}

// Run starts each form of the engine, with Envoy before it, and sends a burst of each size. It prints a table and writes
// a report. It returns an error when a request was lost or was not checked.
func Run(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	if err := raiseDescriptors(slices.Max(o.Sizes)); err != nil {
		return err
	}
	c, err := credentials.Load(o.Credentials, o.Clients, 1, time.Now(), nil)
	if err != nil {
		return err
	}
	report := &Report{Transport: o.Transport, Rate: o.Rate}
	var table strings.Builder
	out := io.MultiWriter(o.Out, &table)
	report.head(out)
	for _, form := range o.Forms {
		for _, n := range o.Sizes {
			row, err := o.measure(ctx, form, n, c)
			if err != nil {
				return fmt.Errorf("%d in flight, %s: %w", n, formName(form), err)
			}
			report.add(out, row)
		}
	}
	verdict := report.verdict(out)
	if err := report.write(o.Reports, table.String()); err != nil {
		return err
	}
	return verdict
}

// measure starts everything anew, so that no burst meets what the one before has left.
func (o *Options) measure(ctx context.Context, form string, n int, c *credentials.Set) (*Row, error) {
	held := &burst.Upstream{Checked: func(r *http.Request) bool {
		all := r.Header.Values(rig.IdentityHeader)
		return len(all) == 1 && path.Base(r.URL.Path) == all[0]
	}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{
		Handler: held, ReadHeaderTimeout: o.Patience, Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: rig.UpstreamStreams},
	}
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = server.Serve(l) }() // It ends with Close.
	defer server.Close()
	r, err := rig.Start(ctx, rig.Spec{
		Asked: rig.Engine, Chain: chain, Transport: o.Transport, OneProcess: form == "one", Routes: 1,
		Upstream: l.Addr().String(), UpstreamRequests: maxRequests,
	}, o.Programs, c)
	if err != nil {
		return nil, err
	}
	defer r.Stop()
	prefix := r.Paths()[0]
	b := &burst.Burst{
		Target: r.Target.String(), Requests: n, Rate: o.Rate, Patience: o.Patience, Upstream: held,
		Path: func(i int) string { return rig.Path(prefix, i%len(c.Keys)) },
		Fields: func(i int) []hpack.HeaderField {
			return []hpack.HeaderField{{Name: "x-api-key", Value: c.Keys[i%len(c.Keys)]}}
		},
		Check: func(name, value string) bool { return name == "x-content-type-options" && value == "nosniff" },
	}
	before, err := r.Metrics()
	if err != nil {
		return nil, err
	}
	result, err := b.Run(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.Check(); err != nil {
		return nil, err
	}
	after, err := r.Metrics()
	if err != nil {
		return nil, err
	}
	envoy, err := r.EnvoyCounts()
	if err != nil {
		return nil, err
	}
	row := &Row{
		Form: form, Result: result, Queued: queued(after) - queued(before),
		ResetsOfEngine: envoy["http2.rx_reset"], ResetsOfEnvoy: envoy["http2.tx_reset"],
	}
	if result.LostCount() > 0 {
		row.Counts = counts(envoy, before, after)
	}
	return row, nil
}

// counts are the metrics of the kernel and of Envoy that can tell why requests were lost.
func counts(envoy map[string]float64, before, after process.Metrics) map[string]float64 {
	all := make(map[string]float64)
	for name, v := range envoy {
		if strings.HasPrefix(name, "http2.") || strings.HasPrefix(name, "upstream_cx_") {
			all[name] = v
		}
	}
	for series, v := range after {
		for _, name := range []string{"connections_ended_total", "worker_breaker_", "worker_queue_refusals_total", "worker_retries_total"} {
			if more := v - before[series]; more > 0 && strings.HasPrefix(series, "policy_kernel_"+name) {
				all[series] = more
			}
		}
	}
	return all
}

// raiseDescriptors raises the limit of open files to the hard one, for this process and those it starts. It returns an
// error if that is too low for the burst: a missing descriptor must not be counted as a loss of the engine.
func raiseDescriptors(requests int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("get the limit of open files: %w", err)
	}
	if limit.Max < descriptors(requests) {
		return fmt.Errorf("the hard limit of open files must be at least %d for %d requests, got %d; raise it (ulimit -Hn) or ask for less with -sizes",
			descriptors(requests), requests, limit.Max)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit of open files to %d: %w", limit.Max, err)
	}
	return nil
}

// descriptors is how many files Envoy may open, which has both sides of each request: its client's connections and those
// to the upstream.
func descriptors(requests int) uint64 {
	const others = 256
	return uint64(requests/burst.Streams + requests/rig.UpstreamStreams + others)
}

// queued is how many calls have waited in the kernel for room.
func queued(m process.Metrics) float64 { return m.Sum("policy_kernel_worker_queued_total") }
