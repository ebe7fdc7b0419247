package extproc

import "testing"

// states is a tracer that traces nothing, and notes the tracestate.
type states func(state []byte)

func (s states) Begin(_, state []byte) Trace {
	s(state)
	return nil
}

// TestTraceStateLinesAreCombined: of several lines of tracestate, all count, in their order (RFC 9110 section 5.3, W3C Trace Context section 3.3.1).
func TestTraceStateLinesAreCombined(t *testing.T) {
	p := newAllowPath(t, "orders", false)
	found := ""
	p.m.settings.Tracer = states(func(state []byte) { found = string(state) })
	for headers, want := range map[string]string{
		"traceparent=p":                                             "",
		"traceparent=p tracestate=a=1":                              "a=1",
		"traceparent=p tracestate=a=1 tracestate=b=2":               "a=1,b=2",
		"traceparent=p tracestate=a=1,b=2 x=y tracestate=c=3":       "a=1,b=2,c=3",
		"traceparent=p tracestate= tracestate=c=3 tracestate=":      "c=3",
		"traceparent=p tracestate= tracestate=":                     "",
		"tracestate=a=1 tracestate=b=2":                             "",
		"traceparent=p traceparent=q tracestate=a=1 tracestate=b=2": "",
	} {
		p.request = mustMessage(t, "request_headers", words(":method=GET :path=/ end_of_stream "+headers)...)
		p.run(t)
		if found != want {
			t.Errorf("%s: tracestate %q, want %q", headers, found, want)
		}
	}
	p.m.settings.Tracer = states(func([]byte) {})
	p.request = mustMessage(t, "request_headers", words(":method=GET :path=/ traceparent=p tracestate=a=1 tracestate=b=2 end_of_stream")...)
	if allocs := testing.AllocsPerRun(100, func() { p.run(t) }); allocs != 0 {
		t.Errorf("%v allocations for a request that is not traced", allocs)
	}
}
