package worker

import (
	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// ownCall is a call with bytes of its own: a policy that overruns its timeout goes on reading them when the caller uses its own again.
type ownCall struct {
	call  workerv1.Call
	bytes []byte
}

// copy makes it a copy of the call. It doesn't allocate once the buffer has grown.
func (o *ownCall) copy(from *workerv1.Call) *workerv1.Call {
	size := len(from.Headers) + len(from.RequestHeaders) + len(from.Context) + len(from.Body) + len(from.Trailers)
	size += len(from.Trace) + len(from.SourceAddress)
	if cap(o.bytes) < size || cap(o.bytes) > maxOwn {
		o.bytes = make([]byte, 0, max(size, minOwn))
	}
	o.bytes = o.bytes[:0]
	c := &o.call
	c.Id, c.Generation, c.Chain, c.Phase, c.TimeoutUs = from.Id, from.Generation, from.Chain, from.Phase, from.TimeoutUs
	c.EndOfStream, c.WantContext = from.EndOfStream, from.WantContext
	c.Headers, c.RequestHeaders = o.add(from.Headers), o.add(from.RequestHeaders)
	c.Context, c.Body, c.Trailers = o.add(from.Context), o.add(from.Body), o.add(from.Trailers)
	c.Trace, c.SourceAddress = o.add(from.Trace), o.add(from.SourceAddress)
	c.WholeBody, c.NoBody, c.Limit = from.WholeBody, from.NoBody, from.Limit
	return c
}

// add copies b. There is room.
func (o *ownCall) add(b []byte) []byte {
	start := len(o.bytes)
	o.bytes = append(o.bytes, b...)
	return o.bytes[start:len(o.bytes):len(o.bytes)]
}

const (
	// minOwn is the smallest buffer in bytes: most calls fit.
	minOwn = 2 << 10
	// maxOwn is the largest buffer that is kept for the next call, in bytes.
	maxOwn = 64 << 10
)
