package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/policy-engine/policy-engine/test/stage"
	"github.com/policy-engine/policy-engine/test/traffic"
)

// plan is what is to be done.
type plan struct {
	duration  time.Duration
	rate      int
	transport string
	// memory is what a kernel and both workers may take together, in bytes.
	memory int64
	// prepare, if there is one, is done before it begins.
	prepare func(*stage.Stage) error
	tell    func(string)
}

const (
	patience = 10 * time.Second
	bound    = 6 * time.Second
	recovery = 45 * time.Second
)

// sample is what was measured at one time.
type sample struct {
	At     float64                `json:"seconds"`
	Usage  map[string]stage.Usage `json:"usage"`
	Series int                    `json:"series"`
	// Memory is that of kernel and workers.
	Memory int64 `json:"memory_bytes"`
}

// soak is one under way.
type soak struct {
	plan
	st      *stage.Stage
	start   time.Time
	samples []sample
	counted uint64
	result  result

	reloads, restarts atomic.Int64
}

// The processes that live through the whole of it, since all others are restarted: what leaks, leaks in them.
var lasting = []string{stage.Kernel, stage.Worker2}

// run soaks the engine.
func run(ctx context.Context, p plan, programs *stage.Programs) (*result, error) {
	st, err := stage.Start(programs, stage.Spec{Replicas: 2, Kernels: 2, Transport: p.transport})
	if err != nil {
		return nil, err
	}
	defer st.Close()
	if p.prepare != nil {
		if err := p.prepare(st); err != nil {
			return nil, err
		}
	}
	sender := &traffic.Sender{Target: st.Target(), Rate: p.rate, Ledger: st.Ledger, Patience: patience}
	sender.Send(append(st.Kinds(), stage.Body("64 KiB body", 64<<10, true, 1), stage.Body("1 MiB and more", 1<<20, false, 1))...)
	sending, stop := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() { defer close(over); sender.Run(sending) }()
	defer func() { stop(); <-over }()
	s := &soak{plan: p, st: st}
	if _, err := st.Passing(recovery, time.Second, time.Now()); err != nil {
		return nil, err
	}
	sender.Stall() // The start does not count.
	if err := s.soak(ctx); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, st.Logs(3000))
	}
	s.result.Stall = sender.Stall()
	s.judge()
	return &s.result, nil
}

// soak samples, disturbs and counts until the time is over.
func (s *soak) soak(ctx context.Context) error {
	s.start = time.Now()
	sampling := time.NewTicker(max(s.duration/240, 250*time.Millisecond))
	defer sampling.Stop()
	telling := time.NewTicker(min(max(s.duration/10, 5*time.Second), 30*time.Second))
	defer telling.Stop()
	disturbed := make(chan error, 1)
	over, end := context.WithTimeout(ctx, s.duration)
	defer end()
	go func() { disturbed <- s.disturb(over) }()
	for over.Err() == nil {
		select {
		case <-over.Done():
		case <-sampling.C:
			s.sample()
		case <-telling.C:
			if err := s.count(); err != nil {
				return err
			}
			s.tell(s.line())
		}
	}
	if err := <-disturbed; err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.count()
}

// sample measures. While a process is being started again, there is nothing to measure.
func (s *soak) sample() {
	usage, err := s.st.Usages()
	if err != nil {
		s.result.Gaps++
		return
	}
	m, err := s.st.Scrape(0)
	if err != nil {
		s.result.Gaps++
		return
	}
	one := sample{At: time.Since(s.start).Seconds(), Usage: usage, Series: len(m)}
	// The second kernel is there for its restarts only.
	for _, name := range []string{stage.Kernel, stage.Worker1, stage.Worker2} {
		one.Memory += usage[name].RSS
	}
	s.samples = append(s.samples, one)
}

// count counts all requests that were sent so far, when they have ended.
func (s *soak) count() error {
	next := s.st.Ledger.Next()
	if err := s.st.Ended(2*patience, next); err != nil {
		return err
	}
	s.result.add(s.st.Ledger.Count(s.counted, next, traffic.Span{}, bound))
	s.st.Ledger.Forget(next)
	s.counted = next
	return nil
}

// disturb does, in turn, what operators do and what happens to them; the kernel and the replica that are watched stay. Whatever ends, another one is there, and nothing may be lost.
func (s *soak) disturb(ctx context.Context) error {
	pause := min(max(s.duration/30, 2*time.Second), 15*time.Second)
	another := false
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		var err error
		switch i % 7 {
		case 0, 2, 4:
			// A route more, or less.
			more := ""
			if another = !another; another {
				more = "    - {route_name: another}\n"
			}
			err = errors.Join(s.st.WriteKernel(0, more), s.st.WriteKernel(1, more))
			s.reloads.Add(1)
		case 1:
			err = s.st.Restart(recovery, syscall.SIGKILL, stage.Worker1)
			s.restarts.Add(1)
		case 3:
			err = s.st.WriteKeys()
			s.reloads.Add(1)
		case 5:
			err = s.st.Restart(recovery, syscall.SIGTERM, stage.Worker1)
			s.restarts.Add(1)
		case 6:
			err = s.st.Restart(recovery, syscall.SIGTERM, stage.Kernel2)
			s.restarts.Add(1)
		}
		if err == nil {
			err = stage.Within(recovery, s.st.Whole)
		}
		if err != nil && ctx.Err() == nil {
			return errors.Join(fmt.Errorf("the engine did not recover after %v", time.Since(s.start)), err)
		}
	}
}
