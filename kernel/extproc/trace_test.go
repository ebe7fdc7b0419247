package extproc

import (
	"fmt"
	"strings"
	"testing"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// strictTracer traces every request, and panics when a machine breaks the rules of Trace. All scripts and random exchanges of the tests run with it.
type strictTracer struct{ open *int }

func (t strictTracer) Begin(_, _ []byte) Trace {
	if t.open != nil {
		*t.open++
	}
	return &strictTrace{open: t.open}
}

type strictTrace struct {
	open           *int
	calling, ended bool
	told           []string
}

func (t *strictTrace) must(ok bool, what string) {
	if t.ended || !ok {
		panic("trace: " + what)
	}
}

func (t *strictTrace) ID() string { return "id" }
func (t *strictTrace) Requested(method, path, _ []byte) {
	t.told = append(t.told, fmt.Sprintf("%s %s", method, path))
}

func (t *strictTrace) Calling(s *route.Segment, _ workerv1.Phase) []byte {
	t.must(!t.calling && s != nil, "a call within a call")
	t.calling = true
	return []byte("wire")
}

func (t *strictTrace) Called(c *route.Call, r *workerv1.Result, err error) {
	t.must(t.calling && (r != nil || err != nil) && string(c.Message.Trace) == "wire", "the end of no call")
	t.calling = false
}

func (t *strictTrace) Decided(d *Decision) {
	t.must(true, "a decision after the end")
	t.told = append(t.told, d.Status.String())
}

func (t *strictTrace) Answered(status int) { t.told = append(t.told, fmt.Sprint(status)) }

func (t *strictTrace) End() {
	t.must(!t.calling, "an end within a call")
	t.ended = true
	if t.open != nil {
		*t.open--
	}
}

// never samples nothing.
type never struct{ t testing.TB }

func (n never) Begin(traceparent, tracestate []byte) Trace {
	if string(traceparent) != "00-11-22-00" || string(tracestate) != "a=b" {
		n.t.Errorf("traceparent %q, tracestate %q", traceparent, tracestate)
	}
	return nil
}

// TestNotTracedDoesNotAllocate: neither a request that is not sampled costs an allocation, nor one without tracing (TestAllowPathDoesNotAllocate).
func TestNotTracedDoesNotAllocate(t *testing.T) {
	p := newAllowPath(t, "orders", true)
	p.m.settings.Tracer = never{t}
	p.request = mustMessage(t, "request_headers", words(":method=GET :path=/ traceparent=00-11-22-00 tracestate=a=b x-request-id=7 end_of_stream")...)
	if allocs := testing.AllocsPerRun(1000, func() { p.run(t) }); allocs != 0 {
		t.Errorf("%v allocations per request", allocs)
	}
}

// TestTraceOfARequest: what a trace is told of a request whose policies let it pass, and of one that they refuse.
func TestTraceOfARequest(t *testing.T) {
	open := 0
	p := newAllowPath(t, "orders", true)
	p.m.settings.Tracer, p.m.settings.Observer = strictTracer{&open}, nil
	p.m.Open("orders", 0)
	p.m.Complete(p.m.Message(p.request, 1).Call, p.requestOK, nil, 2)
	tr := p.m.trace.(*strictTrace)
	p.m.Complete(p.m.Message(p.response, 3).Call, p.responseOK, nil, 4)
	p.m.Close()
	if got := strings.Join(tr.told, ", "); got != "GET /orders/42?expand=items, allowed, 200, allowed" || open != 0 {
		t.Errorf("told %s; %d open", got, open)
	}
	deny := mustResult(t, "IMMEDIATE http=401 policy=auth reason=missing_key")
	deny.Phase = requestHeaders
	p.m.Open("orders", 0)
	e := p.m.Message(p.request, 1)
	tr = p.m.trace.(*strictTrace)
	p.m.Abort(2)
	p.m.Complete(e.Call, deny, nil, 3) // Nobody waits for it any more.
	p.m.Close()
	if got := strings.Join(tr.told, ", "); got != "GET /orders/42?expand=items, cancelled" || open != 0 {
		t.Errorf("told %s; %d open", got, open)
	}
	p.m.Open("orders", 0)
	e = p.m.Message(p.request, 1)
	tr = p.m.trace.(*strictTrace)
	p.m.Complete(e.Call, deny, nil, 2)
	p.m.Close()
	if got := strings.Join(tr.told, ", "); got != "GET /orders/42?expand=items, 401, denied" || open != 0 {
		t.Errorf("told %s; %d open", got, open)
	}
}

// TestTwoParents: a traceparent that is there twice is none.
func TestTwoParents(t *testing.T) {
	p := newAllowPath(t, "orders", false)
	found := "none was asked for"
	p.m.settings.Tracer = parents(func(parent []byte) { found = string(parent) })
	for want, headers := range map[string]string{"": "traceparent=a traceparent=b", "a": "traceparent=a"} {
		p.request = mustMessage(t, "request_headers", words(":method=GET :path=/ end_of_stream "+headers)...)
		p.run(t)
		if found != want {
			t.Errorf("%s: %q, want %q", headers, found, want)
		}
	}
}

type parents func([]byte)

func (p parents) Begin(parent, _ []byte) Trace {
	p(parent)
	return nil
}
