package extproc

import (
	"bytes"

	"google.golang.org/grpc/codes"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// maxKept is the largest buffer that a machine keeps from one stream to the next, in bytes.
const maxKept = 64 * 1024

// Machine is the state of one ext_proc stream. It may be used for one stream after the other; Open begins each, Close ends it. It is not safe for concurrent
// use: the driver delivers one event after the other, and no Message while a call is outstanding.
//
// In steady state an allowed request costs no allocation.
type Machine struct {
	settings *Settings

	opened  bool // between Open and Close
	ended   bool // the last effect was given: nothing can be sent any more
	calling bool // a call is outstanding

	table     *route.Table
	route     *route.Route
	routeName string
	// owned are the headers that only policies may set; nil while they are not known.
	owned *route.OwnedHeaders
	// spellings are the owned headers that the client sent.
	spellings int

	// wanted are the phases that must be answered before the stream may end with OK. seen had a message, answered an answer.
	wanted, seen, answered phaseSet
	// requestDone and responseDone: nothing more follows in that direction.
	requestDone, responseDone bool
	// streamedAhead: Envoy sends body chunks without waiting for the answer to the headers.
	streamedAhead bool
	// lent: the message that is being taken outlives Message.
	lent bool
	// methodFixed: what Envoy would do for a change of the method throws away body chunks that are on their way.
	methodFixed bool
	// duplex: one direction at least is in Envoy's full duplex mode (duplex.go).
	duplex bool

	// request and response are what is known of the two directions.
	request, response direction
	// holding: policies hold bytes of bodies back, in the context.
	holding bool
	// undecided: the request's headers were let pass, and the decision on it waits for its body.
	undecided bool
	// asked is what Envoy was asked for with the request.
	asked asked

	// The phase under way, which is that of the message to be answered; 0 between two. What follows is of that phase.
	phase workerv1.Phase
	// stage is the phase that the workers run for it: the phase itself, or that of a body which has no message of its own.
	stage     workerv1.Phase
	body      body
	since     Instant
	next      int            // the index in the plan of the segment to call next
	segment   *route.Segment // the one called last
	tolerated Status
	changes   changes
	policy    string // that ended the chain, for the decision
	reason    string // valid during one event only
	detail    string // as reason

	call     route.Call
	trace    Trace // nil: the request is not traced
	decision Decision
	decoder  decoder
	fields   []headermap.Field

	// Of full duplex: the changes of headers that are withheld, and what has come of their body, which costs the budget gatheredCost; what is left to be sent.
	held changes
	// applied are the changes of the headers of a body that Envoy buffers, which may bring more.
	applied      changes
	gathered     []byte
	gatheredCost int
	outlet       outlet

	// Bytes that outlive the message or result that they came in.
	name            []byte
	sourceAddress   []byte // Envoy's attribute source.address; empty if Envoy did not send it
	requestMap      []byte
	responseMap     []byte
	trailerMap      []byte
	removedTrailers []string // owned headers and credentials that the client sent in trailers
	chunk           []byte   // of a body, or all of it
	made            []byte   // what the policies called last made of a body or of a piece
	edited          []byte   // what has become of the pieces before
	requestID       []byte   // of requestMap
	context         []byte
	subject         []byte
	out             []byte // the answer
	endOfStream     bool   // of the header message under way
	contextExpected bool   // by the call that is outstanding
}

// phaseSet has the bit 1<<phase for each phase.
type phaseSet uint8

func (s phaseSet) has(p workerv1.Phase) bool { return s&(1<<p) != 0 }
func (s *phaseSet) add(p workerv1.Phase)     { *s |= 1 << p }

// New makes a machine.
func New(s *Settings) *Machine { return &Machine{settings: s} }

// Open begins a stream. routeName is the initial metadata x-policy-route, "" if absent. It acquires the current table: the stream uses that one until it ends.
func (m *Machine) Open(routeName string, _ Instant) {
	if m.opened {
		panic("extproc: Open of a machine that is in use")
	}
	m.opened, m.ended = true, false
	m.table = m.settings.Routes.Acquire()
	m.route, m.routeName, m.owned = nil, routeName, nil
	m.wanted, m.seen, m.answered = 0, 0, 0
	m.wanted.add(requestHeaders)
	m.requestDone, m.responseDone, m.streamedAhead, m.methodFixed = false, false, false, false
	m.request, m.response, m.undecided, m.holding = direction{}, direction{}, false, false
	m.asked = asked{}
	m.context, m.subject, m.requestID = m.context[:0], m.subject[:0], nil
	m.sourceAddress = m.sourceAddress[:0]
	m.begin(0, 0)
}

// begin makes p the phase under way.
func (m *Machine) begin(p workerv1.Phase, now Instant) {
	m.phase, m.stage, m.since = p, p, now
	m.next, m.segment, m.tolerated = 0, nil, StatusNone
	m.policy, m.reason, m.detail = "", "", ""
	m.changes.reset()
	m.removedTrailers = m.removedTrailers[:0]
}

// Message takes one ProcessingRequest. The machine copies what it keeps of msg.
func (m *Machine) Message(msg []byte, now Instant) Effect {
	if !m.opened || m.ended || m.calling {
		return m.broken("message out of turn", now)
	}
	phase, err := m.decoder.decode(msg)
	m.begin(phase, now)
	e := m.message(phase, err, now)
	m.decoder.reset() // It aliases msg.
	return e
}

// Lend is Message of a msg that stays as it is until the next Message, Lend or Close, so that a body in it need not be copied.
func (m *Machine) Lend(msg []byte, now Instant) Effect {
	m.lent = true
	e := m.Message(msg, now)
	m.lent = false
	return e
}

func (m *Machine) message(phase workerv1.Phase, err error, now Instant) Effect {
	if err != nil {
		return m.fail(codes.InvalidArgument, StatusMalformedMessage, "malformed ProcessingRequest: "+err.Error(), now)
	}
	if m.decoder.message.ObservabilityMode {
		// Envoy ignores every answer in this mode and forwards the request.
		return m.fail(codes.FailedPrecondition, StatusUnsupportedMode, "observability_mode: policies can't be enforced", now)
	}
	if m.duplex && m.repeatsEnd(phase) {
		return m.wait()
	}
	if !m.inOrder(phase) {
		return m.fail(codes.InvalidArgument, StatusMalformedMessage, "ProcessingRequest out of order", now)
	}
	if phase == responseHeaders && m.request.mode == route.BodyBuffered && !m.requestDone && !m.request.bodySeen {
		// The upstream has answered a request whose body Envoy was to hold back: it has not done what it was asked for (allow_mode_override).
		return m.fail(codes.FailedPrecondition, StatusUnsupportedMode, "the response comes before the request's body, which was asked for as a whole", now)
	}
	m.seen.add(phase)
	if m.decoder.endOfStream(phase) {
		m.setDone(phase)
	}
	switch {
	case phase == requestHeaders:
		return m.requestHeaders(now)
	case phase == responseHeaders && m.wanted.has(phase):
		return m.responseHeaders(now)
	case isBody(phase) && m.direction(phase).mode != route.BodyNone:
		return m.bodyMessage(now)
	case isTrailers(phase) && (m.direction(phase).mode != route.BodyNone || m.wanted.has(phase)):
		return m.trailersMessage(now)
	case isBody(phase) && m.direction(phase).duplex:
		return m.echo()
	default:
		// No policy wants it, but Envoy waits for an answer. The request was allowed already, or this message would have been out of order.
		if m.duplex && isTrailers(phase) {
			m.answered.add(m.bodyPhase()) // They are its end.
		}
		if phase == requestTrailers {
			return m.unwantedTrailers(now)
		}
		m.out = appendEmptyAnswer(m.out[:0], phase)
		return m.answer(nil)
	}
}

// inOrder reports whether a message of phase p is legal now. A stray or repeated one must end the stream with an error, never in a silent pass.
func (m *Machine) inOrder(p workerv1.Phase) bool {
	if !m.answered.has(requestHeaders) {
		return p == requestHeaders && m.seen == 0 || m.request.withheld && (p == requestBody || p == requestTrailers)
	}
	if isBody(p) && m.direction(p).bodyDone {
		return false // The whole body came before, or its end.
	}
	switch p {
	case requestBody, requestTrailers:
		return !m.requestDone
	case responseHeaders:
		return m.seen&(1<<responseHeaders|1<<responseBody|1<<responseTrailers) == 0
	case responseBody, responseTrailers:
		// Behind response headers that a policy wants to see first, if there is one.
		return !m.responseDone && (!m.wanted.has(responseHeaders) || m.answered.has(responseHeaders) || m.response.withheld)
	default:
		return false
	}
}

func (m *Machine) setDone(p workerv1.Phase) {
	if p < responseHeaders {
		m.requestDone = true
	} else {
		m.responseDone = true
		if p == responseHeaders {
			m.wanted &^= 1 << responseBody // There is none, in full duplex too.
		}
	}
}

// HalfClose: Envoy ended its side.
func (m *Machine) HalfClose(now Instant) Effect {
	if !m.opened || m.ended {
		return Effect{}
	}
	if m.pending(now) {
		m.decide(StatusCancelled, now)
	}
	return m.close(codes.Canceled, "the stream was ended before every phase was answered")
}

// Drain: the kernel's drain deadline has passed.
func (m *Machine) Drain(now Instant) Effect {
	if !m.opened || m.ended {
		return Effect{}
	}
	if !m.pending(now) && m.seen != 0 {
		m.begin(responseHeaders, now) // The phase that is refused.
	}
	if m.phase != 0 {
		m.decide(StatusDraining, now)
	}
	return m.close(codes.Unavailable, "the policy kernel is shutting down")
}

// Abort: the stream is gone, and nothing can be sent any more.
func (m *Machine) Abort(now Instant) {
	if !m.opened || m.ended {
		return
	}
	if m.pending(now) {
		m.decide(StatusCancelled, now)
	}
	m.ended, m.phase = true, 0
}

// pending reports whether a phase is under way, or the decision on a request waits for its body, which is then the phase under way.
func (m *Machine) pending(now Instant) bool {
	if m.phase == 0 && m.undecided {
		m.begin(requestBody, now)
	}
	return m.phase != 0
}

// Close releases the table. It is legal only with no call outstanding: its outcome would reach the machine's next stream.
func (m *Machine) Close() {
	if !m.opened {
		return
	}
	if m.calling {
		panic("extproc: Close with a call outstanding")
	}
	m.endTrace()
	m.release()
	if m.duplex {
		m.closeDuplex()
	}
	m.table.Release()
	m.opened, m.ended = false, true
	m.table, m.route, m.owned, m.segment, m.routeName = nil, nil, nil, nil, ""
	m.requestID = nil
	clear(m.fields)
	for _, b := range []*[]byte{&m.name, &m.requestMap, &m.responseMap, &m.trailerMap, &m.chunk, &m.made, &m.edited, &m.context, &m.subject, &m.out, &m.changes.arena, &m.applied.arena} {
		if cap(*b) > maxKept {
			*b = nil
		}
	}
	m.changes.reset()
	m.applied.reset()
	if m.body.last || m.body.message != nil {
		m.body = body{}
	}
	c := &m.call.Message
	c.Headers, c.RequestHeaders, c.Context, c.Body, c.Trailers, c.Trace = nil, nil, nil, nil, nil, nil
	c.SourceAddress = nil
}

// answer gives m.out and then tail, and ends the stream if that was all that the route wants.
func (m *Machine) answer(tail []byte) Effect {
	m.phase = 0
	if m.answered&m.wanted != m.wanted {
		return Effect{Kind: KindAnswer, Answer: m.out, Tail: tail}
	}
	m.ended = true
	return Effect{Kind: KindFinish, Answer: m.out, Tail: tail}
}

// finish gives m.out, which holds an immediate response, and ends the stream: Envoy asks nothing more after one.
func (m *Machine) finish() Effect {
	m.phase, m.ended = 0, true
	return Effect{Kind: KindFinish, Answer: m.out}
}

// fail decides the phase under way, and ends the stream with an error: Envoy answers the client with status_on_error.
func (m *Machine) fail(code codes.Code, status Status, message string, now Instant) Effect {
	m.decide(status, now)
	return m.close(code, message)
}

func (m *Machine) close(code codes.Code, message string) Effect {
	m.phase, m.ended = 0, true
	return Effect{Kind: KindFail, Code: code, Message: message}
}

// broken is the answer to a driver that breaks the machine's rules.
func (m *Machine) broken(message string, now Instant) Effect {
	if m.opened && !m.ended && m.phase != 0 {
		m.decide(StatusInternal, now)
	}
	return m.close(codes.Internal, message)
}

// decide tells the observer how the phase under way ended.
func (m *Machine) decide(status Status, now Instant) {
	ofRequest := m.decidesRequest(status)
	if o := m.settings.Observer; o != nil || m.trace != nil {
		m.decision = Decision{
			Route: m.route, RouteName: m.routeName, Phase: m.phase, Status: status, Tolerated: m.tolerated, Worker: m.segment,
			Policy: m.policy, Reason: m.reason, RequestID: m.requestID, Elapsed: elapsed(m.since, now),
			OfRequest: ofRequest, Detail: m.detail,
		}
		if m.detail == "" {
			m.decision.Detail = detailOf(status)
		}
		if m.route == nil && m.phase == requestHeaders {
			path, _, _ := bytes.Cut(firstValue(m.fields, ":path"), []byte("?"))
			m.decision.Host, m.decision.Path = firstValue(m.fields, ":authority"), path
		}
		if m.trace != nil {
			m.decision.TraceID = m.trace.ID()
			m.trace.Decided(&m.decision)
		}
		if o != nil {
			o.Decided(&m.decision)
		}
		m.decision = Decision{}
	}
	m.policy, m.reason, m.detail = "", "", ""
	m.undecided = m.undecided && !ofRequest
}

// decidesRequest reports whether a decision is the one on the request: each has one, which waits for the body if a policy wants that.
func (m *Machine) decidesRequest(status Status) bool {
	switch m.phase {
	case 0:
		return m.route == nil
	case requestHeaders:
		return m.undecided || !m.answered.has(requestHeaders) // They may come again, which is an error.
	case requestBody, requestTrailers:
		return m.undecided && (status != StatusAllowed || m.body.last)
	default:
		return m.undecided && status != StatusAllowed
	}
}
