package kernel

import (
	"fmt"
	"strings"
	"testing"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/view"
	"github.com/policy-engine/policy-engine/kernel/extproc"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/telemetry/trace"
	"github.com/policy-engine/policy-engine/test/collector"
)

const sampledParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// record has f make spans, and returns those that arrive.
func record(t *testing.T, f func(extproc.Tracer)) []collector.Span {
	t.Helper()
	c, err := collector.Start("127.0.0.1:0", true)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tracer, err := trace.New(trace.Options{Service: "test", Endpoint: c.Address(), Insecure: true, Timeout: 5 * time.Second, QueueSize: 1000, ParentLimit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	f(spans{tracer})
	if err := tracer.Close(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	return c.Spans()
}

// TestSpansKeepNothingBorrowed: decisions, results and headers are valid only during the calls.
func TestSpansKeepNothingBorrowed(t *testing.T) {
	borrowed := [][]byte{}
	bytes := func(s string) []byte {
		b := []byte(s)
		borrowed = append(borrowed, b)
		return b
	}
	text := func(s string) string { return view.String(bytes(s)) }
	s := &route.Segment{Worker: &namedEvaluator{"w"}, Policies: []route.PolicyRef{{Name: "p"}}}
	got := record(t, func(tracer extproc.Tracer) {
		tr := tracer.Begin(bytes(sampledParent), bytes("a=b"))
		tr.Requested(bytes("GET"), bytes("/path?query"), bytes("id-1"))
		tr.Calling(s, workerv1.Phase_PHASE_REQUEST_HEADERS)
		tr.Called(&route.Call{Progress: route.Progress{Attempts: 2}}, &workerv1.Result{Outcome: workerv1.Result_OUTCOME_IMMEDIATE, Policy: text("p"), Reason: text("because")}, nil)
		tr.Decided(&extproc.Decision{RouteName: text("route-1"), Status: extproc.StatusDenied, OfRequest: true, Policy: text("p"), Reason: text("because")})
		for _, b := range borrowed {
			clear(b)
		}
		tr.End()
	})
	want := "[map[policy_engine.attempts:2 policy_engine.chain:0 policy_engine.outcome:immediate policy_engine.phase:request_headers policy_engine.policies:p policy_engine.policy:p " +
		"policy_engine.reason:because policy_engine.worker:w] map[http.request.method:GET policy_engine.policy:p policy_engine.reason:because " +
		"policy_engine.request_id:id-1 policy_engine.route:route-1 policy_engine.status:denied url.path:/path]]"
	all := []map[string]string{}
	for _, span := range got {
		all = append(all, span.Attributes)
	}
	if fmt.Sprint(all) != want || got[1].State != "a=b" {
		t.Errorf("got %v, tracestate %q\nwant %s", all, got[1].State, want)
	}
}

// TestFailedSpans: an error is what the engine could not do, and not what a policy refused.
func TestFailedSpans(t *testing.T) {
	fine := map[extproc.Status]bool{
		extproc.StatusNone: true, extproc.StatusAllowed: true, extproc.StatusDenied: true, extproc.StatusResponded: true, extproc.StatusCancelled: true,
		extproc.StatusTooLarge: true, extproc.StatusRouteNotFound: true, extproc.StatusBodyCoding: true,
	}
	for _, s := range extproc.Statuses() {
		got := record(t, func(tracer extproc.Tracer) {
			tr := tracer.Begin([]byte(sampledParent), nil)
			tr.Answered(500)
			tr.Decided(&extproc.Decision{Status: s, OfRequest: true})
			tr.End()
		})
		if len(got) != 1 || got[0].Failed == fine[s] || got[0].Attributes["policy_engine.status"] != s.String() || got[0].Name != "ext_proc unknown" {
			t.Errorf("%v: %+v", s, got)
		}
	}
	for _, s := range []extproc.Status{extproc.StatusUnknownRoute, extproc.StatusUnnamedRoute} {
		got := record(t, func(tracer extproc.Tracer) {
			tr := tracer.Begin([]byte(sampledParent), nil)
			tr.Decided(&extproc.Decision{Status: s, OfRequest: true}) // And passes.
			tr.End()
		})
		if got[0].Failed {
			t.Errorf("%+v", got)
		}
	}
}

// TestCallSpansAreBounded: a body in chunks makes a call for each.
func TestCallSpansAreBounded(t *testing.T) {
	s := &route.Segment{Worker: &namedEvaluator{"w"}}
	got := record(t, func(tracer extproc.Tracer) {
		tr := tracer.Begin([]byte(sampledParent), nil)
		for i := range 3 * maxCallSpans {
			if wire := tr.Calling(s, workerv1.Phase_PHASE_REQUEST_BODY); (wire == nil) != (i >= maxCallSpans) {
				t.Errorf("call %d has %d bytes", i, len(wire))
			}
			tr.Called(&route.Call{}, nil, route.ErrTimeout)
		}
		tr.End()
	})
	if len(got) != maxCallSpans+1 || got[maxCallSpans].Attributes["policy_engine.calls_without_span"] != fmt.Sprint(2*maxCallSpans) {
		t.Errorf("%d spans, the last is %+v", len(got), got[len(got)-1])
	}
	if call := got[0]; !call.Failed || !strings.Contains(call.Message, "timeout") {
		t.Errorf("%+v", call)
	}
}
