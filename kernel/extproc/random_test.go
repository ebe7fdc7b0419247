package extproc

import (
	"fmt"
	"strings"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// verdict is what an outcome means for the flow, worked out without the machine's code.
type verdict int

const (
	goesOn verdict = iota
	skipsRest
	stops
)

// outcome is a call's outcome that a worker, broken or not, could bring about.
type outcome struct {
	name   string
	result func(phase workerv1.Phase, policy string) (*workerv1.Result, error)
	// lost: nothing came of the call, so that the policies' on_failure decides. Else verdict does.
	lost    bool
	verdict verdict
}

func resultOf(text string) func(workerv1.Phase, string) (*workerv1.Result, error) {
	return func(phase workerv1.Phase, policy string) (*workerv1.Result, error) {
		r, err := parseResult(words(strings.ReplaceAll(text, "@", policy)))
		if err != nil {
			panic(err)
		}
		if r.Phase == 0 {
			r.Phase = phase
		}
		return r, nil
	}
}

func errorOf(err error) func(workerv1.Phase, string) (*workerv1.Result, error) {
	return func(workerv1.Phase, string) (*workerv1.Result, error) { return nil, err }
}

var outcomes = []outcome{
	{"continue", resultOf("CONTINUE context=c"), false, goesOn},
	{"continue with changes", resultOf("CONTINUE set:x-a=1 append:x-b=2 remove:x-c context=c subject=alice"), false, goesOn},
	{"skip", resultOf("SKIP_REMAINING set:x-a=1 context=c policy=@ reason=enough"), false, skipsRest},
	{"deny", resultOf("IMMEDIATE http=403 policy=@ reason=no body=x"), false, stops},
	{"respond", resultOf("IMMEDIATE http=200 set:x-a=1"), false, stops},
	{"policy error", resultOf("FAILED failure=POLICY_ERROR policy=@"), false, stops},
	{"policy panic", resultOf("FAILED failure=POLICY_PANIC"), false, stops},
	{"policy timeout", resultOf("FAILED failure=POLICY_TIMEOUT"), false, stops},
	{"policy overloaded", resultOf("FAILED failure=POLICY_OVERLOADED"), false, stops},
	{"draining", resultOf("FAILED failure=DRAINING"), true, 0},
	{"too large", resultOf("FAILED failure=TOO_LARGE"), true, 0},
	{"unavailable", errorOf(route.ErrUnavailable), true, 0},
	{"timeout", errorOf(route.ErrTimeout), true, 0},
	{"overloaded", errorOf(route.ErrOverloaded), true, 0},
	{"route overloaded", errorOf(route.ErrRouteOverloaded), true, 0},
	{"neither", errorOf(nil), true, 0},
	{"no outcome", resultOf("UNSPECIFIED context=c"), true, 0},
	{"other phase", resultOf("CONTINUE phase=request_body context=c"), true, 0},
	{"status below 200", resultOf("IMMEDIATE http=100"), true, 0},
	{"line break", resultOf(`CONTINUE set:x-a="a\nb" context=c`), true, 0},
	{"failed in no way", resultOf("FAILED"), true, 0},
	{"foreign policy", resultOf("SKIP_REMAINING policy=nobody context=c"), true, 0},
	{"too many changes", resultOf("CONTINUE many:101 context=c"), true, 0},
}

func (o *outcome) of(s *route.Segment) verdict {
	if !o.lost {
		return o.verdict
	}
	for _, p := range s.Policies {
		switch p.OnFailure {
		case workerv1.OnFailure_ON_FAILURE_DENY:
			return stops
		case workerv1.OnFailure_ON_FAILURE_SKIP_REMAINING:
			return skipsRest
		}
	}
	return goesOn
}

// model follows a stream from outside, and says what may happen.
type model struct {
	t        *rapid.T
	w        *world
	m        *Machine
	route    *route.Route
	ended    bool
	calling  bool
	phase    workerv1.Phase
	segment  int                     // of the phase's plan, the one called last
	allowed  map[workerv1.Phase]bool // phases that may be answered with "go on"
	answered map[workerv1.Phase]bool
}

func (o *model) plan() route.Plan {
	if o.phase == responseHeaders {
		return o.route.Response
	}
	return o.route.Request
}

// check holds an effect against the rules.
func (o *model) check(e Effect) {
	switch e.Kind {
	case KindWait:
	case KindCall:
		if o.ended || o.calling {
			o.t.Fatalf("a call while ended=%v, calling=%v", o.ended, o.calling)
		}
		o.calling, o.w.call = true, e.Call
		s := &o.plan().Headers[o.segment]
		if c := &e.Call.Message; c.Chain != s.Chain || e.Worker != s.Worker || c.Phase != o.phase {
			o.t.Fatalf("call of chain %d in %v, should be %d in %v", c.Chain, c.Phase, s.Chain, o.phase)
		}
	case KindFail:
		if e.Code == codes.OK {
			o.t.Fatalf("failed with OK")
		}
		o.ended = true
	case KindAnswer, KindFinish:
		o.checkAnswer(e)
	}
}

func (o *model) checkAnswer(e Effect) {
	if o.ended || o.calling {
		o.t.Fatalf("an answer while ended=%v, calling=%v", o.ended, o.calling)
	}
	answer := new(extprocv3.ProcessingResponse)
	if err := proto.Unmarshal(whole(e), answer); err != nil {
		o.t.Fatalf("undecodable answer: %v", err)
	}
	o.ended = e.Kind == KindFinish
	if i := answer.GetImmediateResponse(); i != nil {
		if e.Kind != KindFinish || i.GetStatus().GetCode() < 200 {
			o.t.Fatalf("%v %v", e.Kind, i)
		}
		return
	}
	phase := map[bool]workerv1.Phase{answer.GetRequestHeaders() != nil: requestHeaders, answer.GetResponseHeaders() != nil: responseHeaders}[true]
	if phase == 0 {
		if e.Kind == KindFinish {
			o.t.Fatalf("the stream ends with %v", answer)
		}
		return // A body or trailers.
	}
	if !o.allowed[phase] || o.answered[phase] {
		o.t.Fatalf("%v was let through; allowed %v, answered %v", phase, o.allowed, o.answered)
	}
	o.answered[phase] = true
	wanted := o.route != nil && len(o.route.Response.Headers) > 0
	if done := o.answered[requestHeaders] && (!wanted || o.answered[responseHeaders]); done != (e.Kind == KindFinish) {
		o.t.Fatalf("%v with answered %v, response wanted %v", e.Kind, o.answered, wanted)
	}
}

func (o *model) message(kind string) {
	answers := len(o.answered)
	msg, err := envoyMessage(kind, []string{":path=/", "body=b", "x-request-id=r"}[:2])
	if err != nil {
		o.t.Fatal(err)
	}
	if !o.ended && !o.calling {
		o.arrive(map[string]workerv1.Phase{"request_headers": requestHeaders, "response_headers": responseHeaders}[kind])
	}
	o.check(o.m.Message(msg, o.w.now))
	if len(o.answered) > answers+1 {
		o.t.Fatal("two answers to one message")
	}
}

// arrive notes what a legal header message would make legal.
func (o *model) arrive(phase workerv1.Phase) {
	switch {
	case phase == requestHeaders && o.phase == 0:
		o.phase, o.segment = phase, 0
		if o.route == nil || o.route.Undiscovered || len(o.route.Unsupported) > 0 {
			o.allowed[phase] = o.route == nil && o.w.kernel.UnknownRoute == "continue"
			return
		}
		for _, p := range []route.Plan{o.route.Request, o.route.Response} {
			for _, s := range p.Headers {
				if s.HoldsUp && !s.Worker.Available() {
					return
				}
			}
		}
		o.allowed[phase] = len(o.route.Request.Headers) == 0
	case phase == responseHeaders && o.phase == requestHeaders && o.answered[requestHeaders]:
		o.phase, o.segment = phase, 0
		o.allowed[phase] = len(o.route.Response.Headers) == 0
	}
}

// complete delivers the outcome of the call that is outstanding.
func (o *model) complete(out *outcome) {
	s := &o.plan().Headers[o.segment]
	r, err := out.result(o.phase, s.Policies[0].Name)
	o.calling = false
	verdict := out.of(s)
	if !o.ended {
		o.segment++
		last := o.segment == len(o.plan().Headers)
		o.allowed[o.phase] = verdict == skipsRest || verdict == goesOn && last
		if verdict == goesOn && !last {
			defer func() {
				if !o.calling {
					o.t.Fatalf("%s: the next segment was not called", out.name)
				}
			}()
		}
	}
	ended := o.ended
	e := o.m.Complete(o.w.call, r, err, o.w.now)
	switch {
	case ended && e.Kind != KindWait:
		o.t.Fatalf("%s after the end: %v", out.name, e.Kind)
	case !ended && verdict == stops && (e.Kind != KindFinish || o.allowed[o.phase]):
		o.t.Fatalf("%s of %v: %v", out.name, s.Policies, e.Kind)
	}
	o.check(e)
}

func drawWorld(t *rapid.T) *world {
	w := newWorld()
	w.kernel.UnknownRoute = "deny"
	if rapid.Bool().Draw(t, "continue unknown") {
		w.kernel.UnknownRoute = "continue"
	}
	for i, policies := range []string{"a b c", "d", "e"} {
		line := fmt.Sprintf("worker w%d %s", i, policies)
		if rapid.IntRange(0, 9).Draw(t, "down") == 0 {
			line += " down"
		}
		if err := w.setUp(words(line)); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"a", "b", "c", "d", "e"}
	if rapid.IntRange(0, 9).Draw(t, "ghosts") == 0 {
		names = append(names, "ghost")
	}
	chain := rapid.Custom(func(t *rapid.T) string {
		return rapid.SampledFrom(names).Draw(t, "policy") + rapid.SampledFrom([]string{"", ":deny", ":continue", ":skip_remaining"}).Draw(t, "on_failure")
	})
	line := []string{"route", "orders", "request"}
	line = append(line, rapid.SliceOfN(chain, 0, 5).Draw(t, "request")...)
	line = append(append(line, "response"), rapid.SliceOfN(chain, 0, 3).Draw(t, "response")...)
	if err := w.setUp(line); err != nil {
		t.Fatal(err)
	}
	return w
}

// TestRandomStreams plays random events, legal and illegal ones, against a machine and holds what it does against the model: nothing is let through
// without the explicit verdict of every policy that counts, the stream ends with OK only after that, and the table is released in the end.
func TestRandomStreams(t *testing.T) {
	kinds := []string{"request_headers", "response_headers", "request_body", "request_trailers", "response_body", "response_trailers", "empty"}
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		m := New(w.settings(t))
		for range rapid.IntRange(1, 3).Draw(t, "streams") {
			o := &model{t: t, w: w, m: m, allowed: map[workerv1.Phase]bool{}, answered: map[workerv1.Phase]bool{}}
			name := rapid.SampledFrom([]string{"orders", "orders", "orders", "nowhere"}).Draw(t, "route")
			o.route = w.store.Current().Lookup(name)
			m.Open(name, w.now)
			o.play(kinds)
			if o.calling {
				m.Abort(w.now)
				o.ended = true
				o.complete(&outcomes[0])
			}
			m.Close()
		}
		if w.checkReleased(t); t.Failed() {
			t.FailNow()
		}
		for _, d := range w.seen {
			if d.Elapsed < 0 || d.Status == StatusNone || d.Status == StatusAllowed && d.Route == nil {
				t.Fatalf("decision %+v", d)
			}
		}
	})
}

// play delivers random events, most of which follow the protocol.
func (o *model) play(kinds []string) {
	for range rapid.IntRange(1, 14).Draw(o.t, "events") {
		o.w.now += 1000
		switch n := rapid.IntRange(0, 39).Draw(o.t, "event"); {
		case n == 0:
			o.check(o.m.HalfClose(o.w.now))
		case n == 1:
			o.check(o.m.Drain(o.w.now))
		case n == 2:
			o.m.Abort(o.w.now)
			o.ended = true
		case n == 3:
			o.message(rapid.SampledFrom(kinds).Draw(o.t, "stray"))
		case n == 4 && !o.calling:
			e := o.m.Complete(o.w.call, &workerv1.Result{Outcome: 1, Phase: 1}, nil, o.w.now)
			if e.Kind != KindFail && !o.ended {
				o.t.Fatalf("an outcome without a call: %v", e.Kind)
			}
			o.check(e)
		case o.calling && n < 25:
			o.complete(&outcomes[rapid.IntRange(0, 1).Draw(o.t, "good outcome")])
		case o.calling:
			o.complete(&outcomes[rapid.IntRange(0, len(outcomes)-1).Draw(o.t, "outcome")])
		case o.phase == 0:
			o.message("request_headers")
		case n < 12:
			o.message(rapid.SampledFrom([]string{"request_body", "request_trailers"}).Draw(o.t, "more"))
		default:
			o.message("response_headers")
		}
	}
}
