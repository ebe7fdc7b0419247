package trace

import (
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// sampler decides which requests are traced.
//
// The client's traceparent counts, as the ParentBased sampler of OpenTelemetry has it: what it samples is traced, and what it does not is not. But the client may be anybody,
// and a traced request costs several times another one; so only so many a second are traced on a client's word. Beyond that, and where there is no traceparent, the rate decides.
type sampler struct {
	// threshold is compared with 63 bits of the trace's id, as TraceIDRatioBased does it: those who have the same rate trace the same requests.
	threshold atomic.Uint64
	limit     atomic.Int64
	now       func() time.Time

	// second is the one in which taken counts. A few more are taken when it changes under load.
	second, taken atomic.Int64
}

func (s *sampler) set(rate float64, limit int) {
	threshold := uint64(1 << 63)
	if rate < 1 {
		threshold = uint64(rate * (1 << 63))
	}
	s.threshold.Store(threshold)
	s.limit.Store(int64(limit))
}

// SetSampling has requests from now on be traced at another rate.
func (t *Tracer) SetSampling(rate float64, parentLimit int) { t.sampler.set(rate, parentLimit) }

// sample decides. joined: the request belongs to the parent's trace.
func (s *sampler) sample(traceparent []byte) (p parent, joined, sampled bool) {
	p, joined = parseParent(traceparent)
	limit := s.limit.Load()
	switch {
	case !joined:
		return p, false, rand.Uint64()>>1 < s.threshold.Load()
	case limit > 0 && !p.sampled:
		return p, true, false
	case limit > 0 && s.admit(limit):
		return p, true, true
	}
	return p, true, binary.BigEndian.Uint64(p.trace[8:])>>1 < s.threshold.Load()
}

// admit counts a request that its client wants traced.
func (s *sampler) admit(limit int64) bool {
	now := s.now().Unix()
	if second := s.second.Load(); second != now && s.second.CompareAndSwap(second, now) {
		s.taken.Store(0)
	}
	return s.taken.Add(1) <= limit
}

// Sample decides whether a request with these headers, nil if absent, is traced, and gives the parent of its span: none that is valid if it begins a trace. If the request is not
// traced, Sample does not allocate.
func (t *Tracer) Sample(traceparent, tracestate []byte) (remote trace.SpanContext, sampled bool) {
	p, joined, sampled := t.sampler.sample(traceparent)
	if !sampled || !joined {
		return trace.SpanContext{}, sampled
	}
	return p.context(tracestate), true
}
