package extproc

import (
	"strconv"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// Tracer decides which requests are traced. Its methods don't block, and borrow what they are given for the time of the call.
type Tracer interface {
	// Begin begins the span of a request with these headers, nil if absent. It returns nil for a request that is not traced, and then does not allocate.
	Begin(traceparent, tracestate []byte) Trace
}

// Trace is the span of one request, with spans of its calls below it. Its methods don't block, and borrow what they are given for the time of the call.
type Trace interface {
	// ID is the trace's id in 32 hex digits.
	ID() string
	// Requested tells what the request is. path has a query, perhaps.
	Requested(method, path, requestID []byte)
	// Calling begins the span of a call, and returns what the call tells the worker of it (Call.trace): nil if the call is not traced. It stays as it is until Called.
	Calling(s *route.Segment, phase workerv1.Phase) []byte
	// Called ends it. r and err are as Completer.Complete has them; a result that can't be used is route.ErrIllegalResult.
	Called(c *route.Call, r *workerv1.Result, err error)
	// Decided tells of a decision.
	Decided(*Decision)
	// Answered tells the HTTP status that the client gets.
	Answered(status int)
	// End ends the span of the request.
	End()
}

// startTrace begins the request's span, if it is traced.
func (m *Machine) startTrace() {
	// Fast path: nothing is.
	if m.settings.Tracer == nil {
		return
	}
	parent, many := onlyValue(m.fields, "traceparent")
	var state []byte
	switch {
	case many:
		parent = nil // W3C Trace Context, section 3.2: one that is there twice does not count.
	case parent != nil:
		state = m.combined("tracestate")
	}
	if m.trace = m.settings.Tracer.Begin(parent, state); m.trace != nil {
		m.trace.Requested(firstValue(m.fields, ":method"), firstValue(m.fields, ":path"), m.requestID)
	}
}

// combined is the value of a list header: of several lines, all, in their order with a comma between them (RFC 9110 section 5.3). It is valid until m.out is used.
func (m *Machine) combined(name string) []byte {
	first, many := onlyValue(m.fields, name)
	// Fast path: one line, or none.
	if !many {
		return first
	}
	m.out = m.out[:0]
	for i := range m.fields {
		if f := &m.fields[i]; string(f.Name) == name && len(f.Value) > 0 {
			if len(m.out) > 0 {
				m.out = append(m.out, ',')
			}
			m.out = append(m.out, f.Value...)
		}
	}
	return m.out
}

// onlyValue is the value of a header, and whether there is another one.
func onlyValue(fields []headermap.Field, name string) (value []byte, many bool) {
	found := false
	for i := range fields {
		if string(fields[i].Name) == name {
			many = many || found
			value, found = fields[i].Value, true
		}
	}
	return value, many
}

// traceStatus tells the status of the upstream's response.
func (m *Machine) traceStatus() {
	if m.trace == nil {
		return
	}
	if status, err := strconv.Atoi(string(firstValue(m.fields, ":status"))); err == nil {
		m.trace.Answered(status)
	}
}

// endTrace ends the request's span.
func (m *Machine) endTrace() {
	if m.trace != nil {
		m.trace.End()
		m.trace = nil
	}
}
