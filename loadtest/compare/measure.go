package compare

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/policy-engine/policy-engine/loadtest/closedloop"
	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/loadtest/rig"
	"github.com/policy-engine/policy-engine/test/process"
)

// loadProcess is this process, which makes the load.
const loadProcess = "load"

// Sample is what one measurement of a row found.
type Sample struct {
	RPS    float64
	P50    time.Duration
	P99    time.Duration
	CPU    map[string]time.Duration // of each process, for a request
	Memory map[string]int64         // of each process at the end, resident, in bytes
	Hits   float64                  // of the workers' cache of tokens
	Misses float64
	Count  uint64
	Failed uint64 // requests that were refused, though they are right, or not answered
	First  string // of those
	// Others is how much of the machine's processors others used, or the machine did not get, as a ratio: what disturbs the measurement.
	Others float64
}

// bench is a row that runs.
type bench struct {
	row  Row
	rig  *rig.Rig
	warm []closedloop.Request // of every client, sent in turn
	cold []closedloop.Request // tokens that were not sent yet; nil if the row is not cold
}

// open starts a row, and sees that it does what it has to.
func open(ctx context.Context, row Row, p rig.Programs, c *credentials.Set) (*bench, error) {
	r, err := rig.Start(ctx, row.Spec, p, c)
	if err != nil {
		return nil, err
	}
	b := &bench{row: row, rig: r, warm: r.Requests(c, 0, len(c.Keys))}
	if row.Cold {
		b.cold = r.Requests(c, len(c.Keys), len(c.Tokens)-len(c.Keys))
	}
	if err := r.Verify(ctx, c); err != nil {
		r.Stop()
		return nil, err
	}
	return b, nil
}

// measure sends the load, first for a while that does not count.
func (b *bench) measure(ctx context.Context, connections int, warmUp, duration time.Duration) (*Sample, error) {
	load := &closedloop.Load{Target: b.rig.Target, Connections: connections, Requests: b.warm}
	if _, err := b.run(ctx, load, warmUp); err != nil {
		return nil, err
	}
	if b.cold != nil {
		load.Requests, load.Once = b.cold, true
	}
	before, err := b.read()
	if err != nil {
		return nil, err
	}
	result, err := b.run(ctx, load, duration)
	if err != nil {
		return nil, err
	}
	after, err := b.read()
	if err != nil {
		return nil, err
	}
	if err := b.rig.Check(); err != nil {
		return nil, err
	}
	if b.cold != nil {
		b.cold = b.cold[min(result.Next, len(b.cold)):]
	}
	return newSample(result, before, after), nil
}

// run sends a load. A request that is refused is a figure; one that passes without its client's identity ends the comparison.
func (b *bench) run(ctx context.Context, load *closedloop.Load, d time.Duration) (*closedloop.Result, error) {
	result, err := closedloop.Run(ctx, load, d)
	switch {
	case err != nil:
		return nil, err
	case result.Wrong > 0:
		return nil, fmt.Errorf("%d requests passed without the identity of their client; the first: %s", result.Wrong, result.Mistake)
	case result.Latencies.Count() == 0:
		return nil, fmt.Errorf("no request was answered within %v as it has to be: %s", d, result.Failure)
	}
	return result, nil
}

// reading is what all processes have used at one moment, and what the engine has counted.
type reading struct {
	usage   map[string]process.Usage
	metrics process.Metrics
	machine process.Machine
}

func (b *bench) read() (*reading, error) {
	metrics, err := b.rig.Metrics()
	if err != nil {
		return nil, err
	}
	usage, err := b.rig.Usage()
	if err != nil {
		return nil, err
	}
	if usage[loadProcess], err = process.UsageOf(os.Getpid()); err != nil {
		return nil, err
	}
	machine, err := process.ReadMachine()
	return &reading{usage, metrics, machine}, err
}

func newSample(result *closedloop.Result, before, after *reading) *Sample {
	n := result.Latencies.Count()
	s := &Sample{
		RPS: result.PerSecond(), P50: result.Latencies.Percentile(50), P99: result.Latencies.Percentile(99), Count: n, Failed: result.Failed, First: result.Failure,
		CPU: make(map[string]time.Duration), Memory: make(map[string]int64),
	}
	var own time.Duration
	for name, u := range after.usage {
		own += u.CPU - before.usage[name].CPU
		s.CPU[name] = (u.CPU - before.usage[name].CPU) / time.Duration(n)
		s.Memory[name] = u.RSS
	}
	busy := after.machine.Busy - before.machine.Busy
	s.Others = max(0, float64(busy-own)/float64(max(after.machine.Total-before.machine.Total, 1)))
	s.Hits = rig.CacheEvents(after.metrics, "cache_hit") - rig.CacheEvents(before.metrics, "cache_hit")
	s.Misses = rig.CacheEvents(after.metrics, "cache_miss") - rig.CacheEvents(before.metrics, "cache_miss")
	return s
}
