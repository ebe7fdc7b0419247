package trace

import (
	"errors"

	"go.opentelemetry.io/otel/trace"
)

// A traceparent is version-traceid-spanid-flags in lower-case hex digits (W3C Trace Context, section 3.2): 00-…32…-…16…-01.
const (
	parentLength = 2 + 1 + 32 + 1 + 16 + 1 + 2
	flagsAt      = parentLength - 2
)

// parent is a traceparent.
type parent struct {
	trace   trace.TraceID
	span    trace.SpanID
	sampled bool
}

// parseParent reads a traceparent; ok is false if there is none that counts. It does not allocate.
func parseParent(text []byte) (p parent, ok bool) {
	if len(text) < parentLength || text[2] != '-' || text[35] != '-' || text[52] != '-' {
		return parent{}, false
	}
	var version, flags [1]byte
	if !unhex(version[:], text[:2]) || !unhex(p.trace[:], text[3:35]) || !unhex(p.span[:], text[36:52]) || !unhex(flags[:], text[flagsAt:parentLength]) {
		return parent{}, false
	}
	switch {
	case version[0] == 0xff, version[0] == 0 && len(text) > parentLength, len(text) > parentLength && text[parentLength] != '-':
		return parent{}, false
	case !p.trace.IsValid() || !p.span.IsValid():
		return parent{}, false
	}
	p.sampled = flags[0]&1 != 0
	return p, true
}

// unhex reads lower-case hex digits.
func unhex(dst, digits []byte) bool {
	for i := range dst {
		high, low := nibbles[digits[2*i]], nibbles[digits[2*i+1]]
		if high|low > 0xf {
			return false
		}
		dst[i] = high<<4 | low
	}
	return true
}

// nibbles are the values of the digits, or 0xff.
var nibbles = func() (all [256]byte) {
	for i := range all {
		all[i] = 0xff
	}
	for i, c := range []byte("0123456789abcdef") {
		all[c] = byte(i)
	}
	return all
}()

// maxState is the longest tracestate that is taken along, in bytes (W3C Trace Context, section 3.3.1.5: at least 512).
const maxState = 512

// context makes the library's form of it.
func (p parent) context(state []byte) trace.SpanContext {
	c := trace.SpanContextConfig{TraceID: p.trace, SpanID: p.span, TraceFlags: trace.FlagsSampled, Remote: true}
	if len(state) > 0 && len(state) <= maxState {
		c.TraceState, _ = trace.ParseTraceState(string(state)) // A malformed one is left out.
	}
	return trace.NewSpanContext(c)
}

// wireLength is how many bytes of Call.trace are the ids; the tracestate follows.
const wireLength = 16 + 8

var errWire = errors.New("trace context: not a trace id, a span id and a tracestate")

// AppendWire appends what Call.trace has of a span: the trace's id, the span's id, and the tracestate.
func AppendWire(dst []byte, c trace.SpanContext) []byte {
	id, span := c.TraceID(), c.SpanID()
	dst = append(append(dst, id[:]...), span[:]...)
	return append(dst, c.TraceState().String()...)
}

// FromWire reads it.
func FromWire(b []byte) (trace.SpanContext, error) {
	if len(b) < wireLength {
		return trace.SpanContext{}, errWire
	}
	p := parent{trace: trace.TraceID(b[:16]), span: trace.SpanID(b[16:wireLength])}
	if !p.trace.IsValid() || !p.span.IsValid() {
		return trace.SpanContext{}, errWire
	}
	return p.context(b[wireLength:]), nil
}
