package extproc

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// way is one direction of an exchange, as Envoy keeps it.
type way struct {
	headers, body, trailers workerv1.Phase
	plan                    *route.Plan
	mode                    filterv3.ProcessingMode_BodySendMode
	sendHeaders             bool
	sendTrailers            bool
	withTrailers            bool
	begun, passed, ended    bool   // headers sent; headers answered; nothing more comes
	waits                   []byte // of a whole body
	sent, got               string // of the body: what came to Envoy, and what went on from it
	ends                    map[uint32]int
	said                    map[uint32]map[workerv1.Phase]bool
	chunks                  int
	noBody, gotEnd          bool // the headers end it; in full duplex, its end was given back
}

// exchange plays Envoy and its workers against a machine, and checks what the machine does.
type exchange struct {
	t      *rapid.T
	w      *world
	m      *Machine
	ways   [2]way
	over   bool
	denied bool
	// gone: a call failed or skipped others, so that not all policies have their say.
	gone bool
	// duplex says which ways are in full duplex, as a word of envoyMessage; "" if none is.
	duplex string
}

// lacksTrailers reports whether nothing but trailers was asked for, and none came: nobody tells the machine so.
func (d *way) lacksTrailers() bool {
	return d.sendTrailers && !d.withTrailers && d.mode == filterv3.ProcessingMode_NONE
}

// held is the context of the fake workers: what each chain holds back of the bodies.
type held map[string]string

// called is there so that no context is empty.
const called = "called"

func (x *exchange) way(p workerv1.Phase) *way {
	if p < responseHeaders {
		return &x.ways[0]
	}
	return &x.ways[1]
}

// deliver sends a message and plays the workers until the machine answers it. It returns the answer, or nil if there is none that lets it pass.
func (x *exchange) deliver(msg []byte, phase workerv1.Phase) *extprocv3.ProcessingResponse {
	e := x.m.Message(msg, x.w.now)
	clear(msg)
	for e.Kind == KindCall {
		x.w.now += 1000
		r, err := x.work(e.Call, phase)
		e = x.m.Complete(e.Call, r, err, x.w.now)
	}
	switch e.Kind {
	case KindFail:
		x.over, x.denied = true, true
		return nil
	case KindWait:
		x.t.Fatalf("%v has no answer", phase)
	}
	answer := new(extprocv3.ProcessingResponse)
	if err := proto.Unmarshal(whole(e), answer); err != nil {
		x.t.Fatal(err)
	}
	x.over = e.Kind == KindFinish
	if answer.GetImmediateResponse() != nil {
		if x.denied = true; !x.over {
			x.t.Fatal("an immediate response does not end the stream")
		}
		return nil
	}
	if got := phaseOfAnswer(answer); got != phase {
		x.t.Fatalf("%v is answered as %v", phase, got)
	}
	return answer
}

func phaseOfAnswer(a *extprocv3.ProcessingResponse) workerv1.Phase {
	switch a.Response.(type) {
	case *extprocv3.ProcessingResponse_RequestHeaders:
		return requestHeaders
	case *extprocv3.ProcessingResponse_RequestBody:
		return requestBody
	case *extprocv3.ProcessingResponse_RequestTrailers:
		return requestTrailers
	case *extprocv3.ProcessingResponse_ResponseHeaders:
		return responseHeaders
	case *extprocv3.ProcessingResponse_ResponseBody:
		return responseBody
	case *extprocv3.ProcessingResponse_ResponseTrailers:
		return responseTrailers
	}
	return 0
}

// work is a worker: a chain holds back a random tail of what it gets, and passes on the rest as it is.
func (x *exchange) work(c *route.Call, of workerv1.Phase) (*workerv1.Result, error) {
	m := &c.Message
	d := x.way(m.Phase)
	if (m.Phase >= responseHeaders) != (of >= responseHeaders) {
		x.t.Fatalf("%v is called for %v", m.Phase, of)
	}
	switch n := rapid.IntRange(0, 59).Draw(x.t, "outcome"); n {
	case 0:
		return &workerv1.Result{Phase: m.Phase, Outcome: workerv1.Result_OUTCOME_IMMEDIATE, Immediate: &workerv1.ImmediateResponse{Status: 403}}, nil
	case 1:
		x.gone = true
		return nil, route.ErrUnavailable
	}
	state := held{}
	if len(m.Context) > 0 {
		if err := json.Unmarshal(m.Context, &state); err != nil {
			x.t.Fatalf("context %q: %v", m.Context, err)
		}
	}
	r := &workerv1.Result{Phase: m.Phase, Outcome: workerv1.Result_OUTCOME_CONTINUE}
	key := fmt.Sprint(m.Chain)
	if isBody(m.Phase) {
		in := state[key] + string(m.Body)
		hold := 0
		if !m.EndOfStream {
			hold = rapid.IntRange(0, len(in)).Draw(x.t, "hold")
		}
		out := in[:len(in)-hold]
		if r.BodyReplaced = out != string(m.Body); r.BodyReplaced {
			r.Body = []byte(out)
		}
		state[key] = in[len(in)-hold:]
		if m.EndOfStream {
			d.ends[m.Chain]++
		}
	}
	for chain, bytes := range state {
		r.Holding = r.Holding || m.WantContext && bytes != "" && chain != called
	}
	if d.said[m.Chain] == nil {
		d.said[m.Chain] = map[workerv1.Phase]bool{}
	}
	d.said[m.Chain][m.Phase] = true
	if m.WantContext {
		state[called] = "yes"
		r.Context, _ = json.Marshal(state)
	}
	return r, nil
}

// headers sends the headers of a direction, if they are wanted.
func (x *exchange) headers(d *way) {
	d.begun = true
	args := []string{":path=/"}
	if d.ended = rapid.IntRange(0, 4).Draw(x.t, "no body") == 0; d.ended {
		args = append(args, "end_of_stream")
	}
	if rapid.IntRange(0, 4).Draw(x.t, "coded") == 0 {
		args = append(args, "content-encoding=gzip")
	}
	d.noBody = d.ended
	d.withTrailers = !d.ended && rapid.IntRange(0, 2).Draw(x.t, "trailers") == 0
	if !d.sendHeaders {
		d.passed = true
		return
	}
	if x.duplex != "" {
		if d.headers == requestHeaders {
			args = append(args, x.duplex)
		}
		x.deliverDuplex(x.message(d.headers, args...), "headers")
		return
	}
	answer := x.deliver(x.message(d.headers, args...), d.headers)
	if answer == nil {
		return
	}
	d.passed = true
	if o := answer.ModeOverride; o != nil {
		x.ways[0].mode, x.ways[0].sendTrailers = o.RequestBodyMode, o.RequestTrailerMode == filterv3.ProcessingMode_SEND
		x.ways[1].mode, x.ways[1].sendTrailers = o.ResponseBodyMode, o.ResponseTrailerMode == filterv3.ProcessingMode_SEND
		if o.ResponseHeaderMode == filterv3.ProcessingMode_SEND {
			x.ways[1].sendHeaders = true
		}
	}
	if x.over {
		x.ways[1].sendHeaders = false
	}
}

func (x *exchange) message(p workerv1.Phase, args ...string) []byte {
	msg, err := envoyMessage(strings.ToLower(strings.TrimPrefix(p.String(), "PHASE_")), args)
	if err != nil {
		x.t.Fatal(err)
	}
	return msg
}

// more sends what follows of a direction whose headers have passed: a piece of the body, its end, or the trailers.
func (x *exchange) more(d *way) {
	piece := ""
	for range rapid.IntRange(0, 3).Draw(x.t, "length") {
		d.chunks++
		piece += fmt.Sprintf("<%d>", d.chunks)
	}
	if rapid.IntRange(0, 9).Draw(x.t, "large") == 0 {
		piece += strings.Repeat("x", maxTestBody)
	}
	last := rapid.IntRange(0, 2).Draw(x.t, "last") == 0
	d.sent += piece
	switch d.mode {
	case fullDuplex:
		x.duplexMore(d, piece, last)
		return
	case filterv3.ProcessingMode_NONE:
		d.got += piece
	case filterv3.ProcessingMode_STREAMED:
		if eos := last && !d.withTrailers; piece != "" || eos {
			x.chunk(d, piece, eos)
		}
	case filterv3.ProcessingMode_BUFFERED:
		if d.waits = append(d.waits, piece...); last && (len(d.waits) > 0 || !d.withTrailers) {
			x.chunk(d, string(d.waits), !d.withTrailers)
		}
	}
	if !last || x.over {
		return
	}
	d.ended = true
	if d.withTrailers && d.sendTrailers {
		x.deliver(x.message(d.trailers, "x-sum=1"), d.trailers)
	}
}

func (x *exchange) chunk(d *way, piece string, eos bool) {
	args := []string{fmt.Sprintf("body=%q", piece)}
	if eos {
		args = append(args, "end_of_stream")
	}
	answer := x.deliver(x.message(d.body, args...), d.body)
	if answer == nil {
		return
	}
	common := answer.GetRequestBody().GetResponse()
	if common == nil {
		common = answer.GetResponseBody().GetResponse()
	}
	if mutation := common.GetBodyMutation(); mutation != nil {
		piece = string(mutation.GetBody())
	}
	d.got += piece
}

// stray sends a message that Envoy would not send now. The stream must fail, or the message be one that nobody wants.
func (x *exchange) stray() {
	phase := workerv1.Phase(rapid.IntRange(1, 6).Draw(x.t, "stray"))
	d := x.way(phase)
	legal := phase == d.body || phase == d.trailers || phase == responseHeaders && !d.begun
	if d.passed && !d.ended && legal || !d.passed && phase == requestHeaders {
		return
	}
	wanted := phase == d.headers && d.sendHeaders || phase == d.body && d.mode != filterv3.ProcessingMode_NONE || phase == d.trailers && d.sendTrailers
	x.gone = true // Of an answer nothing follows.
	if x.deliver(x.message(phase), phase) != nil && wanted && d.ended && d.mode != filterv3.ProcessingMode_NONE {
		x.t.Fatalf("%v passes after the end", phase)
	}
	if !x.over {
		x.m.Abort(x.w.now)
		x.over, x.denied = true, true
	}
}

// settle checks a stream that has ended.
func (x *exchange) settle() {
	decided := 0
	for _, d := range x.w.seen {
		if d.OfRequest {
			decided++
		}
	}
	if decided != 1 {
		x.t.Fatalf("%d decisions on one request: %v", decided, x.w.decisions)
	}
	if x.denied {
		return
	}
	if x.duplex != "" {
		x.settleDuplex()
	}
	for i := range x.ways {
		d := &x.ways[i]
		if d.got != d.sent {
			x.t.Fatalf("of %q went on %q", d.sent, d.got)
		}
		if x.gone || i == 1 && !d.begun {
			continue
		}
		for _, s := range d.plan.Headers {
			if !d.said[s.Chain][d.headers] {
				x.t.Fatalf("chain %d had no say on the headers", s.Chain)
			}
		}
		for _, s := range d.plan.Body {
			if d.ends[s.Chain] != 1 {
				x.t.Fatalf("chain %d has seen the end of the body %d times", s.Chain, d.ends[s.Chain])
			}
		}
		for _, s := range d.plan.Trailers {
			if d.withTrailers && !d.said[s.Chain][d.trailers] {
				x.t.Fatalf("chain %d had no say on the trailers", s.Chain)
			}
		}
	}
}

func drawExchange(t *rapid.T) *world {
	w := newWorld()
	w.bodies = NewBudget(8 * maxTestBody)
	if err := w.setUp(words("worker w0 h0@h h1@hb h2@c h3@hct h4@cr h5@t h6@cd")); err != nil {
		t.Fatal(err)
	}
	if err := w.setUp(words("worker w1 g0@h g1@b g2@hc g3@ct g4@bt g5@cdr")); err != nil {
		t.Fatal(err)
	}
	policy := rapid.Custom(func(t *rapid.T) string {
		name := rapid.SampledFrom([]string{"h0", "h1", "h2", "h3", "h4", "h5", "h6", "g0", "g1", "g2", "g3", "g4", "g5"}).Draw(t, "policy")
		return name + rapid.SampledFrom([]string{"", "", ":continue", ":skip_remaining"}).Draw(t, "on_failure")
	})
	line := append([]string{"route", "orders", "request"}, rapid.SliceOfN(policy, 0, 4).Draw(t, "request")...)
	line = append(append(line, "response"), rapid.SliceOfN(policy, 0, 4).Draw(t, "response")...)
	if err := w.setUp(line); err != nil {
		t.Fatal(err)
	}
	return w
}

// TestRandomExchanges plays exchanges as Envoy would, with bodies and trailers as the machine asks for them, in every order of the two directions that is possible: each message has one
// answer, of its phase; the stream ends with OK only when every policy has had its say on all that came; of the bodies nothing is lost, doubled or out of order; and
// nothing is kept in the end. Some streams break off, or get a message that is against the protocol.
func TestRandomExchanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawExchange(t)
		m := New(w.settings(t))
		for range rapid.IntRange(1, 3).Draw(t, "streams") {
			w.seen, w.decisions = nil, nil
			r := w.store.Current().Lookup("orders")
			x := &exchange{t: t, w: w, m: m}
			x.ways[0] = way{headers: requestHeaders, body: requestBody, trailers: requestTrailers, plan: &r.Request, sendHeaders: true}
			x.ways[1] = way{headers: responseHeaders, body: responseBody, trailers: responseTrailers, plan: &r.Response}
			for i := range x.ways {
				x.ways[i].ends, x.ways[i].said = map[uint32]int{}, map[uint32]map[workerv1.Phase]bool{}
			}
			m.Open("orders", w.now)
			x.drawDuplex()
			x.play()
			m.Close()
			x.settle()
		}
		if w.checkReleased(t); t.Failed() {
			t.FailNow()
		}
	})
}

// play goes on until the machine has ended the stream, or both directions have ended.
func (x *exchange) play() {
	request, response := &x.ways[0], &x.ways[1]
	x.headers(request)
	for !x.over && !x.denied {
		x.w.now += 1000
		// A whole body is held back: the upstream can't answer before it has come.
		answers := !response.begun && (request.ended || request.mode != filterv3.ProcessingMode_BUFFERED) && request.passed
		switch n := rapid.IntRange(0, 39).Draw(x.t, "event"); {
		case n == 0 && x.duplex == "":
			x.stray()
		case n == 1:
			x.m.Abort(x.w.now)
			x.over, x.denied = true, true
		case n == 2:
			if e := x.m.Drain(x.w.now); e.Kind != KindFail {
				x.t.Fatalf("drained: %v", e.Kind)
			}
			x.over, x.denied = true, true
		case answers && (request.ended || n < 12):
			x.headers(response)
		case !request.ended && (n < 25 || response.ended || !response.begun):
			x.more(request)
		case response.begun && !response.ended:
			x.more(response)
		case request.ended && response.begun && response.ended:
			if !request.lacksTrailers() && !response.lacksTrailers() {
				x.t.Fatal("both directions have ended, and the stream has not")
			}
			x.m.Abort(x.w.now) // As Envoy does.
			x.over = true
		}
	}
	if !x.denied {
		return
	}
	if e := x.m.Message(x.message(requestBody), x.w.now); e.Kind != KindFail {
		x.t.Fatalf("a message after the end: %v", e.Kind)
	}
}
