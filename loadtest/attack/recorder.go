package attack

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"github.com/policy-engine/policy-engine/loadtest/latency"
	"github.com/policy-engine/policy-engine/loadtest/rig"
	"github.com/policy-engine/policy-engine/test/process"
)

// interval is that of the lines of progress, and of the points of what is drawn over time.
const interval = time.Second

// moment is what an interval brought.
type moment struct {
	At       float64            // seconds since the start, at its end
	Answered uint64             // requests
	Failed   uint64             // of them
	P50      float64            // ms, of those that succeeded
	P99, Max float64            // ms
	CPU      map[string]float64 // cores that each process used
	Memory   map[string]float64 // MB at the end
}

// recorder takes down a measurement.
type recorder struct {
	o *Options
	s *system

	mu       sync.Mutex
	all      histogram
	now      histogram // of the interval
	answered uint64    // in the interval, as is failed
	failed   uint64
	total    uint64
	failures map[string]uint64 // by status or error
	begun    time.Time         // the first request
	ended    time.Time         // the last answer

	moments []moment
	before  map[string]process.Usage
	last    map[string]process.Usage
	lastAt  time.Time
	hits    float64
	misses  float64
}

func newRecorder(o *Options, s *system) (*recorder, error) {
	r := &recorder{o: o, s: s, failures: make(map[string]uint64)}
	if err := r.countCache(-1); err != nil {
		return nil, err
	}
	var err error
	r.before, err = s.processes.usage()
	r.last, r.lastAt = r.before, time.Now()
	return r, err
}

// countCache adds what the workers' cache of tokens has counted, with that sign.
func (r *recorder) countCache(sign float64) error {
	m, err := r.s.processes.metrics()
	if err != nil {
		return err
	}
	r.hits += sign * rig.CacheEvents(m, "cache_hit")
	r.misses += sign * rig.CacheEvents(m, "cache_miss")
	return nil
}

// add takes one result.
func (r *recorder) add(v *vegeta.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun.IsZero() || v.Timestamp.Before(r.begun) {
		r.begun = v.Timestamp
	}
	if end := v.Timestamp.Add(v.Latency); end.After(r.ended) {
		r.ended = end
	}
	r.total++
	r.answered++
	if succeeded(v) {
		r.all.Add(v.Latency)
		r.now.Add(v.Latency)
		return
	}
	r.failed++
	why := v.Error
	if v.Code != 0 {
		why = fmt.Sprintf("status %d", v.Code)
	}
	// An error of the network has the connection's port in it: without a bound, each would be a kind of its own.
	if r.failures[why] == 0 && len(r.failures) >= 20 {
		why = "other"
	}
	r.failures[why]++
}

// during takes samples while the load runs, and prints a line for each. When a process has ended, so does the load.
func (r *recorder) during(ctx context.Context, load func(context.Context) error) error {
	loaded, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		start := time.Now()
		for {
			select {
			case <-loaded.Done():
				return
			case <-tick.C:
				if err := r.sample(time.Since(start)); err != nil {
					cancel(err)
					return
				}
			}
		}
	}()
	err := load(loaded)
	cancel(err)
	<-ended
	if cause := context.Cause(loaded); cause != nil && cause != context.Canceled {
		err = cause
	}
	if err != nil {
		return err
	}
	return r.finish()
}

// sample ends an interval.
func (r *recorder) sample(since time.Duration) error {
	usage, err := r.s.processes.usage()
	if err != nil {
		return err
	}
	now := time.Now()
	m := moment{At: since.Seconds(), CPU: make(map[string]float64), Memory: make(map[string]float64)}
	for name, u := range usage {
		m.CPU[name] = (u.CPU - r.last[name].CPU).Seconds() / now.Sub(r.lastAt).Seconds()
		m.Memory[name] = megabytes(u.RSS)
	}
	r.last, r.lastAt = usage, now
	r.mu.Lock()
	m.Answered, m.Failed = r.answered, r.failed
	m.P50, m.P99, m.Max = millis(r.now.Percentile(50)), millis(r.now.Percentile(99)), millis(r.now.Max())
	r.answered, r.failed, r.now = 0, 0, latency.Histogram{}
	r.mu.Unlock()
	r.moments = append(r.moments, m)
	fmt.Fprintln(r.o.Out, m.String())
	return r.s.processes.check()
}

// String is a line of progress.
func (m *moment) String() string {
	var cpu strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m.CPU)) {
		fmt.Fprintf(&cpu, "  %s %.0f %%", name, m.CPU[name]*100)
	}
	return fmt.Sprintf("%4.0f s  %6d answered  %d failed  P50 %.2f ms  P99 %.2f ms %s", m.At, m.Answered, m.Failed, m.P50, m.P99, cpu.String())
}

// finish reads what was used in all.
func (r *recorder) finish() error {
	usage, err := r.s.processes.usage()
	if err != nil {
		return err
	}
	r.last = usage
	if err := r.s.processes.check(); err != nil {
		return err
	}
	return r.countCache(1)
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func megabytes(bytes int64) float64  { return float64(bytes) / 1e6 }
func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
