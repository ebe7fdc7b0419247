package workers

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/codec"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// read completes calls with their results until the stream ends.
func (c *conn) read() error {
	var frame codec.Frame
	var result workerv1.Result
	for {
		if err := c.stream.RecvMsg(&frame); err != nil {
			return err
		}
		if len(frame.B) > 0 {
			c.hear()
		}
		if err := c.complete(&result, frame.B); err != nil {
			return fmt.Errorf("%w: %w", route.ErrIllegalResult, err)
		}
		c.worker.pump()
		if c.afterBatch != nil {
			c.afterBatch()
		}
		if cap(frame.B) > maxKept {
			frame, result = codec.Frame{}, workerv1.Result{} // A reset result keeps a capacity that aliases the frame.
		}
	}
}

// complete completes the calls of an encoded ResultBatch. It decodes one result at a time, so that memory doesn't depend on how many a worker invents. The
// result aliases the batch, which is why it is valid only during Complete.
func (c *conn) complete(r *workerv1.Result, batch []byte) error {
	results := 0
	defer func() { c.batches.received(results) }()
	for len(batch) > 0 {
		field, wire, n := protowire.ConsumeTag(batch)
		if n < 0 {
			return protowire.ParseError(n)
		}
		batch = batch[n:]
		if field == 2 && wire == protowire.VarintType && c.draining != nil {
			if v, _ := protowire.ConsumeVarint(batch); v != 0 {
				c.draining()
			}
		}
		if field != 1 || wire != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(field, wire, batch); n < 0 {
				return protowire.ParseError(n)
			}
			batch = batch[n:]
			continue
		}
		encoded, n := protowire.ConsumeBytes(batch)
		if n < 0 {
			return protowire.ParseError(n)
		}
		batch = batch[n:]
		r.ResetVT()
		if err := r.UnmarshalVTUnsafe(encoded); err != nil {
			return err
		}
		if call, h := c.take(r.Id); call != nil {
			results++
			c.outcome(call, h, r)
		} else {
			c.unmatched()
		}
	}
	return nil
}

// outcome takes the result of an attempt.
func (c *conn) outcome(call *route.Call, h *hedge, r *workerv1.Result) {
	why, refused := refused(r)
	if h == nil && c.breaker != nil {
		c.breaker.success()
	}
	if h.ends(!refused) && !(refused && c.worker.again(call, why)) {
		call.Done.Complete(call, r, nil)
	}
}

// hear notes that the replica has said something.
func (c *conn) hear() {
	c.received.Add(1)
	if c.silent.Load() {
		c.silent.Store(false)
	}
	if c.dead.Load() {
		c.dead.Store(false)
	}
}
