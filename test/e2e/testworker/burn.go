package main

import (
	"context"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/policy-engine/policy-engine/policies"
)

// burn uses as much processor time as the header says, such as 50ms, inline, and does not look at its context.
type burn struct{}

func newBurn(policies.Env, noParams) (*burn, error) { return &burn{}, nil }

func (*burn) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	value, n := r.Header(order)
	if n == 0 {
		return policies.Continue(), nil
	}
	d, err := time.ParseDuration(string(value))
	if err != nil {
		return policies.Continue(), err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for end := threadTime() + d; threadTime() < end; {
		for range 10_000 { //nolint:revive // It burns processor time.
		}
	}
	return policies.Continue(), nil
}

// threadTime is the processor time of the calling thread.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err)
	}
	return time.Duration(t.Nano())
}
