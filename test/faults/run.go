package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/policy-engine/policy-engine/test/stage"
	"github.com/policy-engine/policy-engine/test/traffic"
)

// The stages.
const (
	pair    = "pair"    // two replicas of the worker
	single  = "single"  // one
	wired   = "wired"   // two, and a wire to cut between Envoy and the kernel
	kernels = "kernels" // two, and two kernels behind one Envoy
	hostile = "hostile" // two, expensive routes, and small bounds of the kernel's ports
	bursts  = "bursts"  // two, and an upstream that answers thousands of requests at once
)

// outcome is what came of a fault.
type outcome struct {
	Fault string        `json:"fault"`
	Stage string        `json:"stage"`
	Count traffic.Count `json:"requests"`
	// Counted is what the fault itself has counted.
	Counted map[string]float64 `json:"counted,omitempty"`
	// Outage is how long valid requests failed, from the fault on: until the last one that did was sent.
	Outage time.Duration `json:"outage_ns"`
	// Full is how long it took until all processes were there again, from the fault on, or from its end if it had to be taken away.
	Full time.Duration `json:"full_service_ns"`
	// Usage is what the processes took afterwards.
	Usage map[string]stage.Usage `json:"usage"`
	// Rate is how many requests were sent a second.
	Rate float64 `json:"rate"`
	// Stall is how long the machine stood still at most, for the sender of the requests.
	Stall time.Duration `json:"machine_stall_ns"`
	// Problems are what is wrong.
	Problems []string `json:"problems,omitempty"`
	// logs are what the programs wrote, if something is wrong.
	logs string
}

// played is a stage with traffic on it.
type played struct {
	name   string
	stage  *stage.Stage
	sender *traffic.Sender
	before map[string]stage.Usage
	brief  bool
	// counted is the first request that has not been counted.
	counted uint64

	ctx    context.Context
	cancel context.CancelFunc
	over   chan struct{}
}

// raise starts a stage, and traffic on it.
func raise(ctx context.Context, name string, p *stage.Programs, spec stage.Spec, rate int, brief bool) (*played, error) {
	st, err := stage.Start(p, spec)
	if err != nil {
		return nil, err
	}
	r := &played{name: name, stage: st, brief: brief, over: make(chan struct{})}
	r.sender = &traffic.Sender{Target: st.Target(), Rate: rate, Ledger: st.Ledger, Patience: patience}
	r.sender.Send(st.Kinds()...)
	r.ctx, r.cancel = context.WithCancel(ctx)
	go func() { defer close(r.over); r.sender.Run(r.ctx) }()
	if err := r.settle(); err != nil {
		r.close()
		return nil, fmt.Errorf("%w\n%s", err, st.Logs(3000))
	}
	return r, nil
}

// settle waits until the traffic passes, and notes what the processes take then.
func (r *played) settle() error {
	x := &exercise{Stage: r.stage, ctx: r.ctx, began: time.Now()}
	if err := x.served(); err != nil {
		return err
	}
	x.hold(2 * time.Second) // Connections and pools are as large as the traffic makes them.
	var err error
	if r.before, err = r.stage.Usages(); err != nil {
		return err
	}
	r.counted = r.stage.Ledger.Next()
	if err := r.stage.Ended(2*patience, r.counted); err != nil {
		return err
	}
	r.stage.Ledger.Forget(r.counted)
	return nil
}

func (r *played) close() {
	r.cancel()
	<-r.over
	r.stage.Close()
}

// play plays a fault, waits until all is as before, and judges.
func (r *played) play(f *fault) *outcome {
	x := &exercise{Stage: r.stage, ctx: r.ctx, sender: r.sender, brief: r.brief}
	o := &outcome{Fault: f.name, Stage: r.name}
	problem := func(err error) {
		if err != nil {
			o.Problems = append(o.Problems, err.Error())
		}
	}
	pids := r.stage.PIDs()
	r.sender.Stall()
	start, first := time.Now(), r.counted
	problem(f.play(x))
	x.sends()
	x.began = orNow(x.began)
	problem(x.whole())
	o.Full = time.Since(cmpTime(x.healed, x.began))
	problem(x.served())
	x.hold(600 * time.Millisecond)
	if !maps.Equal(pids, r.stage.PIDs()) {
		// What ends within the second after its start is started again only after a pause (supervisord's startsecs); the next fault shall not find it so.
		select {
		case <-time.After(1200 * time.Millisecond):
		case <-x.ctx.Done():
		}
	}
	end := r.stage.Ledger.Next()
	o.Stall = r.sender.Stall()
	o.Rate = float64(end-first) / time.Since(start).Seconds()
	problem(r.stage.Ended(2*patience, end))
	if x.excused.To.IsZero() {
		x.excused.To = time.Now()
	}
	o.Count = r.stage.Ledger.Count(first, end, x.excused, bound)
	r.stage.Ledger.Forget(end)
	r.counted = end
	if last := o.Count.LastFailure; last.After(x.began) {
		o.Outage = last.Sub(x.began)
	}
	var err error
	o.Usage, err = r.usageBack()
	problem(err)
	if f.full > 0 && o.Full > f.full && !r.brief {
		problem(fmt.Errorf("it took %.2f s to full service, and may take %v", o.Full.Seconds(), f.full))
	}
	o.Counted = x.noted
	o.judge()
	if len(o.Problems) > 0 {
		o.logs = r.stage.Logs(20_000)
	}
	return o
}

// judge adds what the counts show.
func (o *outcome) judge() {
	for _, c := range []struct {
		n    int
		what string
	}{
		{o.Count.Bypassed, "bypassed"}, {o.Count.Lost, "lost"}, {o.Count.Hung, "hung"}, {o.Count.Repeated, "reached the upstream more than once"},
	} {
		if c.n > 0 {
			o.Problems = append(o.Problems, fmt.Sprintf("%d requests %s", c.n, c.what))
		}
	}
	if o.Count.Valid == 0 || o.Count.Invalid == 0 {
		o.Problems = append(o.Problems, "there was no traffic of both kinds")
	}
}

// What a process may take more after a fault than before: of memory that the runtime has not given back yet, of goroutines and descriptors that come and go with the traffic.
const (
	moreMemory      = 48 << 20
	moreGoroutines  = 30
	moreDescriptors = 12
	// hostileMemory is moreMemory for bodies of 1 MB, 40 at a time: buffers that are kept for the next ones go with the
	// second collection of the runtime, minutes later.
	hostileMemory = 128 << 20
)

// usageBack waits until each process takes about what it did before.
func (r *played) usageBack() (map[string]stage.Usage, error) {
	var used map[string]stage.Usage
	memory := int64(moreMemory)
	if r.name == hostile {
		memory = hostileMemory
	}
	err := stage.Within(20*time.Second, func() (err error) {
		if used, err = r.stage.Usages(); err != nil {
			return err
		}
		for name, before := range r.before {
			now := used[name]
			switch {
			case now.Goroutines > before.Goroutines+moreGoroutines:
				return fmt.Errorf("%s has %d goroutines, and had %d", name, now.Goroutines, before.Goroutines)
			case now.Descriptors > before.Descriptors+moreDescriptors:
				return fmt.Errorf("%s has %d descriptors, and had %d", name, now.Descriptors, before.Descriptors)
			case now.RSS > before.RSS+memory:
				return fmt.Errorf("%s has %d MiB of memory, and had %d", name, now.RSS>>20, before.RSS>>20)
			}
		}
		return nil
	})
	return used, err
}

// playsOn reports whether a fault is played on a stage.
func (f *fault) playsOn(name string) bool {
	if f.on == nil {
		return name == pair || name == single
	}
	return slices.Contains(f.on, name)
}
