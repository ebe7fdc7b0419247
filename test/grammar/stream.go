// Package grammar is what Envoy 1.36 takes for a legal conversation with an ext_proc server: what a message may be answered with, and how a stream may end.
//
// Envoy forgives much of what is illegal by letting the request pass unprocessed, or with a part of the answer left out, so that no client
// sees it. A Stream follows one conversation from outside and says all that was wrong with it. It knows nothing of the engine.
package grammar

import (
	"fmt"
	"strings"
	"time"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
)

// Kind is the kind of a message, which is also that of its answer.
type Kind int

const (
	RequestHeaders Kind = iota + 1
	RequestBody
	RequestTrailers
	ResponseHeaders
	ResponseBody
	ResponseTrailers
)

var kindNames = [...]string{"nothing", "request_headers", "request_body", "request_trailers", "response_headers", "response_body", "response_trailers"}

func (k Kind) String() string { return kindNames[k] }

func (k Kind) response() bool { return k >= ResponseHeaders }
func (k Kind) headers() bool  { return k == RequestHeaders || k == ResponseHeaders }
func (k Kind) body() bool     { return k == RequestBody || k == ResponseBody }

// maxTranscript is how many lines of a conversation are kept.
const maxTranscript = 40

// Stream is one conversation. The caller tells what happened in the order in which it happened; it is not safe for concurrent use.
type Stream struct {
	// Route is for messages. Timeout is Envoy's message_timeout; 0 if it is not known, and then no answer is too late.
	Route   string
	Timeout time.Duration

	messages   int
	directions [2]direction // of the request, of the response
	responses  bool         // the response's headers were asked for
	responded  bool         // they came
	immediate  bool
	over       bool
	violations []string
	transcript []string
	skipped    int
}

// direction is the request's half of a conversation, or the response's.
type direction struct {
	// pending are the messages that have no answer yet, oldest first.
	pending []pending
	// answered has the kinds that were answered at least once.
	answered map[Kind]bool
	mode     filterv3.ProcessingMode_BodySendMode
	trailers bool
	// length: the headers have a content-length.
	length bool
	// bodies is how many messages of the body came. ended: no more message follows.
	bodies int
	ended  bool
	duplex duplex
}

type pending struct {
	kind  Kind
	since time.Time
}

func (s *Stream) direction(k Kind) *direction {
	if k.response() {
		return &s.directions[1]
	}
	return &s.directions[0]
}

// Violations are what was wrong.
func (s *Stream) Violations() []string { return s.violations }

// Over reports whether the stream has ended.
func (s *Stream) Over() bool { return s.over }

// Transcript is what happened, a line each.
func (s *Stream) Transcript() string {
	text := fmt.Sprintf("stream of route %q\n  %s", s.Route, strings.Join(s.transcript, "\n  "))
	if s.skipped > 0 {
		text += fmt.Sprintf("\n  and %d lines more", s.skipped)
	}
	return text
}

func (s *Stream) note(format string, args ...any) {
	if len(s.transcript) == maxTranscript {
		s.skipped++
		return
	}
	s.transcript = append(s.transcript, fmt.Sprintf(format, args...))
}

func (s *Stream) wrong(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.note("WRONG: %s", text)
	s.violations = append(s.violations, text)
}

// Request is a message from Envoy.
func (s *Stream) Request(m *extprocv3.ProcessingRequest, now time.Time) {
	kind, size, end := describeRequest(m)
	if s.over {
		s.note("%s after the end", kind)
		return // On its way when the stream ended.
	}
	s.note("Envoy: %s %d end_of_stream=%v", kind, size, end)
	if kind == 0 {
		return
	}
	if p := m.GetProtocolConfig(); p != nil && s.messages == 0 {
		s.directions[0].mode, s.directions[1].mode = p.GetRequestBodyMode(), p.GetResponseBodyMode()
	}
	s.messages++
	d := s.direction(kind)
	d.ended = d.ended || end
	if !kind.body() || !d.fullDuplex() { // In full duplex, no body message has an answer of its own.
		d.pending = append(d.pending, pending{kind, now})
	}
	switch {
	case kind.headers():
		d.duplex.headersEnd = end
		s.responded = s.responded || kind.response()
		for _, h := range headersOf(m).GetHeaders().GetHeaders() {
			d.length = d.length || h.GetKey() == "content-length"
		}
	case kind.body():
		d.bodies++
		d.duplex.bodyEnd = d.duplex.bodyEnd || end
	}
}

// Answer is a message from the server.
func (s *Stream) Answer(m *extprocv3.ProcessingResponse, now time.Time) {
	kind := kindOfAnswer(m)
	s.note("server: %s", describeAnswer(m, kind))
	switch {
	case s.over:
		s.wrong("an answer, %s, after the end of the stream", describeAnswer(m, kind))
		return
	case s.immediate:
		s.wrong("an answer, %s, after an immediate response", describeAnswer(m, kind))
		return
	case m.GetOverrideMessageTimeout() != nil:
		// Envoy reads nothing else of such a message (ext_proc.cc, onReceiveMessage), so it answers nothing.
		if kind != 0 || m.GetImmediateResponse() != nil || m.GetModeOverride() != nil || m.GetDynamicMetadata() != nil {
			s.wrong("override_message_timeout together with something else, which Envoy ignores")
		}
		return
	}
	s.checkMetadata(m)
	if i := m.GetImmediateResponse(); i != nil {
		s.immediateResponse(i, now)
		return
	}
	if kind == 0 {
		s.wrong("an answer without content")
		return
	}
	s.match(kind, now)
	s.checkContent(m, kind)
	s.override(m.GetModeOverride(), kind)
}

func (s *Stream) immediateResponse(i *extprocv3.ImmediateResponse, now time.Time) {
	if len(s.directions[0].pending)+len(s.directions[1].pending) == 0 && !s.directions[0].owed() && !s.directions[1].owed() {
		s.wrong("an immediate response while no message waits for an answer")
	}
	s.late(now)
	// Envoy sends 200 for what is missing or less (ext_proc.cc, sendImmediateResponse).
	if code := i.GetStatus().GetCode(); code < 200 || code > 599 {
		s.wrong("an immediate response of status %d", code)
	}
	s.checkValues(i.GetHeaders())
	s.immediate = true
	s.directions[0].pending, s.directions[1].pending = nil, nil
}

// match finds the message that an answer is for: the oldest of its direction.
func (s *Stream) match(kind Kind, now time.Time) {
	d := s.direction(kind)
	s.late(now)
	switch {
	case kind.body() && d.fullDuplex():
		return // Its content is judged.
	case len(d.pending) > 0 && d.pending[0].kind == kind:
		if d.answered == nil {
			d.answered = map[Kind]bool{}
		}
		d.answered[kind] = true
		d.pending = d.pending[1:]
		d.duplex.given = d.duplex.given || !kind.body() && !kind.headers()
	case len(d.pending) > 0:
		s.wrong("%s is answered with the wrong kind, %s", d.pending[0].kind, kind)
		d.pending = d.pending[1:]
	case d.answered[kind]:
		s.wrong("%s is answered twice", kind)
	default:
		s.wrong("an answer of the wrong kind, %s, for which no message came", kind)
	}
}

// late finds messages whose answer Envoy no longer waited for.
func (s *Stream) late(now time.Time) {
	if kind, waited := s.oldest(now); s.Timeout > 0 && waited >= s.Timeout {
		s.wrong("%s had no answer within Envoy's message_timeout: %v, legal are %v", kind, waited, s.Timeout)
	}
}

func (s *Stream) oldest(now time.Time) (kind Kind, waited time.Duration) {
	for i := range s.directions {
		d := &s.directions[i]
		// Full duplex has no timeout, for no kind of message (processor_state.cc, onStartProcessorCall).
		if len(d.pending) == 0 || d.fullDuplex() {
			continue
		}
		if w := now.Sub(d.pending[0].since); kind == 0 || w > waited {
			kind, waited = d.pending[0].kind, w
		}
	}
	return kind, waited
}

// ServerEnds: the server has sent its status. One that is not OK makes Envoy refuse; OK makes it go on without the server, whatever is undecided (ext_proc.cc,
// onGrpcClose).
func (s *Stream) ServerEnds(code codes.Code, now time.Time) {
	s.note("server ends the stream: %v", code)
	if s.over {
		return
	}
	s.over = true
	if code != codes.OK || s.immediate {
		return
	}
	for _, d := range s.directions {
		for _, p := range d.pending {
			s.wrong("closed with OK before %s was answered", p.kind)
		}
	}
	if s.messages == 0 {
		s.wrong("closed with OK before the first message")
		return
	}
	if s.responses && !s.responded {
		s.wrong("closed with OK before the %s that it asked for", ResponseHeaders)
	}
	for i, name := range []string{"request", "response"} {
		if why := s.directions[i].unfinished(i == 1 && !s.responses && !s.responded); why != "" {
			s.wrong("closed with OK before the %s's %s that it asked for", name, why)
		}
	}
}

// unfinished says what of a direction was asked for and has not come.
func (d *direction) unfinished(absent bool) string {
	whole := d.mode == filterv3.ProcessingMode_BUFFERED || d.mode == filterv3.ProcessingMode_BUFFERED_PARTIAL
	switch {
	case d.fullDuplex() && d.owed():
		return "body" // What comes while the stream is closed would be lost, though nobody asked for it.
	case d.ended || absent:
		return ""
	case d.mode != filterv3.ProcessingMode_NONE && (!whole || d.bodies == 0):
		return "body"
	case d.trailers:
		return "trailers"
	}
	return ""
}

// ServerResets: the server broke the stream off, or its connection is gone; Envoy refuses.
func (s *Stream) ServerResets() {
	s.note("server resets the stream")
	s.over = true
}

// EnvoyEnds: Envoy broke the stream off, as it does at the end of each, or its connection is gone.
func (s *Stream) EnvoyEnds(now time.Time) {
	s.note("Envoy ends the stream")
	if kind, waited := s.oldest(now); !s.over && !s.immediate && s.Timeout > 0 && waited >= s.Timeout-s.Timeout/10 {
		// Envoy's clock started a little before the message was seen here.
		s.wrong("%s had no answer within Envoy's message_timeout, %v: Envoy gave up after %v", kind, s.Timeout, waited)
	}
	s.over = true
}

// Check finds a message of a stream that goes on which should have had its answer by now.
func (s *Stream) Check(now time.Time) {
	if !s.over && !s.immediate {
		s.late(now)
	}
}
