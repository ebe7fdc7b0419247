package extproc

import (
	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// Driven is what a transport drives: a Machine, whose methods say what each call means. A machine's calls come one after the other.
type Driven interface {
	Open(routeName string, now Instant)
	Message(msg []byte, now Instant) Effect
	Lend(msg []byte, now Instant) Effect
	Next(now Instant) Effect
	Complete(c *route.Call, r *workerv1.Result, err error, now Instant) Effect
	HalfClose(now Instant) Effect
	Drain(now Instant) Effect
	Abort(now Instant)
	Close()
}

var _ Driven = (*Machine)(nil)
