package engine

import (
	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/kernel/workers"
	"github.com/policy-engine/policy-engine/worker"
)

// local is a worker as the kernel calls it.
type local struct {
	workerv1.PolicyWorkerServer
	core *worker.Embedded
}

// Evaluate implements workers.Local.
func (l local) Evaluate(c *route.Call, afterBatch func()) {
	l.core.ExecuteOn(c.Lane, &c.Message, (*call)(c), afterBatch)
}

// Room implements workers.Local.
func (l local) Room(c *route.Call) (ofChain, free int64) {
	return l.core.Room(c.Message.Generation, c.Message.Chain)
}

// call is a route.Call that takes its result.
type call route.Call

// Result implements worker.Receiver.
func (c *call) Result(r *workerv1.Result) {
	done := (*route.Call)(c)
	if r == nil {
		done.Done.Complete(done, nil, route.ErrUnavailable)
		return
	}
	done.Done.Complete(done, r, nil)
}

// Late implements worker.Receiver.
func (c *call) Late() {
	done := (*route.Call)(c)
	done.Done.Complete(done, nil, route.ErrTimeout)
}

var (
	_ workers.Local       = local{}
	_ worker.LateReceiver = (*call)(nil)
)
