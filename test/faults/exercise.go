package main

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/policy-engine/policy-engine/test/stage"
	"github.com/policy-engine/policy-engine/test/traffic"
)

const (
	// bound is how long a request may take, whatever happens; patience how long one is waited for.
	bound    = 6 * time.Second
	patience = 10 * time.Second
	// recovery bounds how long it may take until all is as it was after a fault has been healed. supervisord waits some seconds before it starts again what did not stay up.
	recovery = 45 * time.Second
	// steady is how long valid requests have to pass one after the other before they count as passing.
	steady = 400 * time.Millisecond
)

// exercise is a fault under way on a stage.
type exercise struct {
	*stage.Stage
	ctx    context.Context
	sender *traffic.Sender
	// brief is for the short form: faults are held for a shorter time.
	brief bool

	// began is when the fault was injected, healed when it was taken away: zero if it heals by itself, as a process that supervisord starts again.
	began, healed time.Time
	// excused is the time in which nobody was there who could serve valid requests.
	excused traffic.Span

	mu    sync.Mutex
	noted map[string]float64
}

// note adds to what the fault has counted, for the report.
func (x *exercise) note(what string, n float64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.noted == nil {
		x.noted = map[string]float64{}
	}
	x.noted[what] += n
}

// inject notes that the fault begins now. With outage, valid requests may fail until they are served again.
func (x *exercise) inject(outage bool) {
	x.began = time.Now()
	if outage {
		x.outage()
	}
}

// outage notes that from now on nobody can serve valid requests, until served says so.
func (x *exercise) outage() {
	if x.excused.From.IsZero() {
		x.excused.From = time.Now()
	}
	x.excused.To = time.Time{}
}

// hold keeps the fault for a time.
func (x *exercise) hold(d time.Duration) {
	if x.brief {
		d /= 2
	}
	select {
	case <-time.After(d):
	case <-x.ctx.Done():
	}
}

// heal takes the fault away, by what it is given.
func (x *exercise) heal(by func() error) error {
	err := by()
	x.healed = time.Now()
	return err
}

// served waits until valid requests pass, and ends an outage.
func (x *exercise) served() error {
	from := cmpTime(x.healed, x.began)
	since, err := x.Passing(recovery, steady, from)
	if err == nil && !x.excused.From.IsZero() && x.excused.To.IsZero() {
		x.excused.To = since
	}
	return err
}

func cmpTime(a, b time.Time) time.Time {
	if a.IsZero() {
		return b
	}
	return a
}

// whole waits until all processes are there and know each other.
func (x *exercise) whole() error {
	if err := stage.Within(recovery, x.Whole); err != nil {
		return fmt.Errorf("the engine is not whole again: %w", err)
	}
	return nil
}

// sends says what is sent beside the usual requests.
func (x *exercise) sends(more ...*traffic.Kind) {
	x.sender.Send(append(x.Kinds(), more...)...)
}

// alone reports whether there is one replica of the worker only: then its loss is an outage.
func (x *exercise) alone() bool { return x.Replicas() == 1 }

// workers are the processes of all replicas.
func (x *exercise) workers() []string {
	return []string{stage.Worker1, stage.Worker2}[:x.Replicas()]
}

// orNow is a time, or now if it is none.
func orNow(t time.Time) time.Time { return cmp.Or(t, time.Now()) }
