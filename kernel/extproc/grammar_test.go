package extproc

import (
	"fmt"
	"strings"
	"testing"
	"time"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/test/grammar"
)

// envoySide plays Envoy for one stream: it sends what it was asked for, in an order that is legal, and strays from it now and then. The grammar judges the answers.
type envoySide struct {
	t      *rapid.T
	w      *world
	m      *Machine
	route  *route.Route
	stream grammar.Stream
	ended  bool
	mode   *filterv3.ProcessingMode
	// duplex are the directions in full duplex, as a word of envoyMessage; "" if none is.
	duplex string
	// requestEnd and responseEnd: nothing more follows there. stray: something illegal was sent.
	requestEnd, responseEnd, stray bool
	// Of the message that waits for its answer: the calls that came back, and whether one of them was a refusal.
	completed int
	refused   bool
	skipped   bool
}

// bodyOutcomes are outcomes of calls in any phase, by whether the message may pass after one.
var bodyOutcomes = []struct {
	text    string
	refuses bool
}{
	{"CONTINUE context=c", false},
	{"CONTINUE context=c", false},
	{"CONTINUE context=c", false},
	{"SKIP_REMAINING context=c reason=enough", false},
	{"IMMEDIATE http=403 reason=no", true},
	{"FAILED failure=POLICY_ERROR", true},
	{"FAILED failure=POLICY_TIMEOUT", true},
	{"FAILED failure=POLICY_OVERLOADED", true},
	{"FAILED failure=BODY_TOO_LARGE", true},
	{"FAILED failure=BODY_CODING", true},
}

// send sends a message and plays the calls that it leads to, until there is an answer.
func (e *envoySide) send(kind string, args ...string) {
	msg, err := envoyMessage(kind, args)
	if err != nil {
		e.t.Fatal(err)
	}
	request := &extprocv3.ProcessingRequest{}
	if err := proto.Unmarshal(msg, request); err != nil {
		e.t.Fatal(err)
	}
	e.w.now += 1000
	e.stream.Request(request, time.Unix(0, 0))
	e.completed, e.refused = 0, false
	effect := e.m.Message(msg, e.w.now)
	for calls := 0; effect.Kind == KindCall; calls++ {
		if calls > 100 {
			e.t.Fatal("calls without end")
		}
		if e.ended {
			e.t.Fatal("a call after the end")
		}
		effect = e.complete(effect)
	}
	for e.took(effect, kind); effect.More; e.took(effect, kind) {
		effect = e.m.Next(e.w.now)
	}
}

// complete gives the outcome of a call, or loses the stream meanwhile.
func (e *envoySide) complete(effect Effect) Effect {
	if rapid.IntRange(0, 49).Draw(e.t, "gone") == 0 {
		e.m.Abort(e.w.now)
		e.ended = true
		e.stream.EnvoyEnds(time.Unix(0, 0))
	}
	e.completed++
	n := rapid.IntRange(0, len(bodyOutcomes)+3).Draw(e.t, "outcome")
	c := effect.Call
	if n >= len(bodyOutcomes) {
		lost := []error{route.ErrUnavailable, route.ErrTimeout, route.ErrOverloaded, route.ErrIllegalResult}[n-len(bodyOutcomes)]
		e.skipped = e.skipped || strings.Contains(e.stream.Route, "skip_remaining") // on_failure decides
		return e.m.Complete(c, nil, lost, e.w.now)
	}
	out := bodyOutcomes[n]
	r, err := parseResult(words(out.text))
	if err != nil {
		e.t.Fatal(err)
	}
	r.Phase = c.Message.Phase
	if !c.Message.WantContext {
		r.Context = nil
	}
	switch {
	case r.Outcome == workerv1.Result_OUTCOME_SKIP_REMAINING:
		e.skipped = true
	case r.Outcome == workerv1.Result_OUTCOME_CONTINUE && isBody(r.Phase) && !c.Message.NoBody && len(c.Message.Body) > 0 && rapid.Bool().Draw(e.t, "replace"):
		r.BodyReplaced, r.Body = true, []byte(strings.Repeat("r", rapid.IntRange(0, maxTestBody).Draw(e.t, "length")))
	case r.Outcome == workerv1.Result_OUTCOME_CONTINUE && !isBody(r.Phase) && !isTrailers(r.Phase) && rapid.Bool().Draw(e.t, "change"):
		r.Mutations = []*workerv1.Mutation{{Kind: workerv1.Mutation_KIND_SET_HEADER, Name: "x-a", Value: []byte("1")}}
	}
	e.refused = e.refused || out.refuses
	return e.m.Complete(c, r, nil, e.w.now)
}

// took holds the answer against the grammar, and lets nothing pass that nobody has decided.
func (e *envoySide) took(effect Effect, kind string) {
	switch effect.Kind {
	case KindWait:
		if !e.ended && e.duplex == "" {
			e.t.Fatalf("%s: there is nothing to wait for", kind)
		}
		return
	case KindFail:
		if effect.Code == codes.OK {
			e.t.Fatal("failed with OK")
		}
		e.ended = true
		e.stream.ServerEnds(effect.Code, time.Unix(0, 0))
		return
	}
	answer := &extprocv3.ProcessingResponse{}
	if err := proto.Unmarshal(whole(effect), answer); err != nil {
		e.t.Fatalf("undecodable answer: %v", err)
	}
	e.stream.Answer(answer, time.Unix(0, 0))
	if answer.GetModeOverride() != nil {
		e.mode = answer.GetModeOverride()
	}
	if effect.Kind == KindFinish {
		e.ended = true
		e.stream.ServerEnds(codes.OK, time.Unix(0, 0))
	}
	if answer.GetImmediateResponse() != nil {
		return
	}
	if e.refused {
		e.t.Fatalf("%s passes although a call refused it: %v", kind, answer)
	}
	if e.route == nil || e.skipped || e.completed > 0 {
		return
	}
	plans := map[string][]route.Segment{
		"request_headers": e.route.Request.Headers, "request_body": e.route.Request.Body, "request_trailers": e.route.Request.Trailers,
		"response_headers": e.route.Response.Headers, "response_body": e.route.Response.Body, "response_trailers": e.route.Response.Trailers,
	}
	for _, s := range plans[kind] {
		// A segment that failed on a chunk under on_failure is not asked for the next.
		if s.HoldsUp {
			e.t.Fatalf("%s passes, and nobody was asked: %v", kind, answer)
		}
	}
}

// body sends what the mode of a direction asks for.
func (e *envoySide) body(direction string, mode filterv3.ProcessingMode_BodySendMode, trailers bool, end *bool) {
	chunk := func(last bool) {
		args := []string{"body=" + strings.Repeat("b", rapid.IntRange(0, maxTestBody+2).Draw(e.t, "size"))}
		if last {
			args = append(args, "end_of_stream")
		}
		*end = last
		e.send(direction+"_body", args...)
	}
	hasTrailers := trailers && rapid.Bool().Draw(e.t, "trailers")
	switch mode {
	case filterv3.ProcessingMode_BUFFERED:
		if !hasTrailers || rapid.Bool().Draw(e.t, "body before trailers") {
			chunk(!hasTrailers)
		}
	case filterv3.ProcessingMode_STREAMED, filterv3.ProcessingMode_FULL_DUPLEX_STREAMED:
		n := rapid.IntRange(0, 3).Draw(e.t, "chunks")
		for i := 0; i < n && !e.ended; i++ {
			chunk(false)
		}
		if !hasTrailers && !e.ended {
			chunk(true)
		}
	}
	if hasTrailers && !e.ended {
		*end = true
		e.send(direction+"_trailers", "x-t=1")
	}
}

// strayed sends something that is out of order, if it is time for that.
func (e *envoySide) strayed() {
	if e.ended || rapid.IntRange(0, 7).Draw(e.t, "stray") != 0 {
		return
	}
	e.stray = true
	kinds := []string{"request_headers", "request_body", "request_trailers", "response_headers", "response_body", "response_trailers", "empty"}
	kind := rapid.SampledFrom(kinds).Draw(e.t, "kind")
	e.completed = 1 // Nobody need be asked for what is not wanted.
	e.send(kind, "body=b", "x-a=1")
}

func (e *envoySide) headers(direction string, end *bool) {
	args := []string{":path=/"}
	if rapid.Bool().Draw(e.t, "content-length") {
		args = append(args, fmt.Sprintf("content-length=%d", rapid.IntRange(0, maxTestBody+1).Draw(e.t, "length")))
	}
	if *end = rapid.IntRange(0, 2).Draw(e.t, "no body") == 0; *end {
		args = append(args, "end_of_stream")
	}
	if direction == "request" && e.duplex != "" {
		args = append(args, e.duplex)
	}
	e.send(direction+"_headers", args...)
}

// drawDuplex draws which directions are in full duplex. Then nothing is asked for: what the configuration says is sent.
func (e *envoySide) drawDuplex() {
	if e.duplex = rapid.SampledFrom([]string{"", "", "full_duplex", "full_duplex", "request_duplex", "response_duplex"}).Draw(e.t, "duplex"); e.duplex == "" {
		return
	}
	e.mode = &filterv3.ProcessingMode{ResponseHeaderMode: filterv3.ProcessingMode_SEND}
	if e.duplex != "response_duplex" {
		e.mode.RequestBodyMode, e.mode.RequestTrailerMode = filterv3.ProcessingMode_FULL_DUPLEX_STREAMED, filterv3.ProcessingMode_SEND
	}
	if e.duplex != "request_duplex" {
		e.mode.ResponseBodyMode, e.mode.ResponseTrailerMode = filterv3.ProcessingMode_FULL_DUPLEX_STREAMED, filterv3.ProcessingMode_SEND
	}
}

// play plays a request and its response.
func (e *envoySide) play() {
	e.drawDuplex()
	e.headers("request", &e.requestEnd)
	e.strayed()
	if !e.ended && !e.requestEnd && e.mode != nil {
		e.body("request", e.mode.GetRequestBodyMode(), e.mode.GetRequestTrailerMode() == filterv3.ProcessingMode_SEND, &e.requestEnd)
	}
	e.strayed()
	if e.ended || e.mode.GetResponseHeaderMode() != filterv3.ProcessingMode_SEND {
		return
	}
	e.skipped = false // in the request flow
	e.headers("response", &e.responseEnd)
	e.strayed()
	if !e.ended && !e.responseEnd {
		e.body("response", e.mode.GetResponseBodyMode(), e.mode.GetResponseTrailerMode() == filterv3.ProcessingMode_SEND, &e.responseEnd)
	}
	e.strayed()
}

// TestGrammar plays random bodies, chunks and trailers, with outcomes of all kinds, on routes of all kinds: each message has the answer that its mode allows, as the
// grammar that also judges the engine before the real Envoy says; what a call refused does not pass, nor what nobody was asked about; and all is freed in the end.
func TestGrammar(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		for _, line := range []string{"worker w0 h@h b@hb c@c t@t", "worker w1 d@ct e@b f@hct"} {
			if err := w.setUp(words(line)); err != nil {
				t.Fatal(err)
			}
		}
		chain := rapid.Custom(func(t *rapid.T) string {
			return rapid.SampledFrom([]string{"h", "b", "c", "t", "d", "e", "f"}).Draw(t, "policy") + rapid.SampledFrom([]string{"", ":continue", ":skip_remaining"}).Draw(t, "on_failure")
		})
		line := append([]string{"route", "orders", "request"}, rapid.SliceOfN(chain, 0, 4).Draw(t, "request")...)
		line = append(append(line, "response"), rapid.SliceOfN(chain, 0, 3).Draw(t, "response")...)
		if err := w.setUp(line); err != nil {
			t.Fatal(err)
		}
		m := New(w.settings(t))
		for range rapid.IntRange(1, 2).Draw(t, "streams") {
			e := &envoySide{t: t, w: w, m: m, route: w.store.Current().Lookup("orders")}
			e.stream.Route = strings.Join(line, " ")
			m.Open("orders", w.now)
			e.play()
			if !e.ended && rapid.Bool().Draw(t, "half close") {
				if effect := m.HalfClose(w.now); effect.Kind == KindFinish || effect.Kind == KindFail && effect.Code == codes.OK {
					t.Fatalf("a stream that is not decided ends with %v", effect)
				}
			}
			m.Abort(w.now)
			m.Close()
			if len(e.stream.Violations()) > 0 && !e.stray {
				t.Fatalf("%q\n%s", e.stream.Violations(), e.stream.Transcript())
			}
		}
		if w.checkReleased(t); t.Failed() {
			t.FailNow()
		}
	})
}
