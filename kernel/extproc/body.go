package extproc

import (
	"math"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// asked is what Envoy was asked for.
type asked struct {
	responseHeaders                   bool
	request, response                 route.BodyMode
	requestTrailers, responseTrailers bool
}

func isBody(p workerv1.Phase) bool     { return p == requestBody || p == responseBody }
func isTrailers(p workerv1.Phase) bool { return p == requestTrailers || p == responseTrailers }

func (m *Machine) direction(p workerv1.Phase) *direction {
	if p < responseHeaders {
		return &m.request
	}
	return &m.response
}

// bodyPhase and trailersPhase are those of the direction of the phase under way.
func (m *Machine) bodyPhase() workerv1.Phase {
	if m.phase < responseHeaders {
		return requestBody
	}
	return responseBody
}

func (m *Machine) trailersPhase() workerv1.Phase { return m.bodyPhase() + 1 }

// skipAfter leaves out the policies of the flow after the one at index of the segment's chain; an index below 0 keeps the whole chain.
func (m *Machine) skipAfter(s *route.Segment, index int) {
	if index < 0 {
		index = math.MaxInt32
	}
	d := m.direction(m.phase)
	d.limited, d.limitPosition, d.limitIndex = true, s.Position, index
}

// limitOf returns Call.limit of a segment, and whether it is called. body says that the call is one of the body phase.
func (m *Machine) limitOf(s *route.Segment, body bool) (limit uint32, runs bool) {
	d := m.direction(m.phase)
	// Fast path.
	if !d.limited && d.lost|d.skipped == 0 {
		return 0, true
	}
	if body && (d.lost&(1<<s.Position) != 0 || d.skipped != 0 && d.allSkip(s)) {
		return 0, false
	}
	switch {
	case !d.limited || s.Position < d.limitPosition:
		return 0, true
	case s.Position > d.limitPosition:
		// Its policies may hold bytes back, of chunks before.
		return 1, body && m.holding
	case d.limitIndex == math.MaxInt32:
		return 0, true
	}
	return uint32(d.limitIndex) + 2, s.Policies[0].Index <= d.limitIndex || body && m.holding
}

// runsAny reports whether a policy of the segments of the trailers is left to run.
func (m *Machine) runsAny(segments []route.Segment) bool {
	for i := range segments {
		if _, runs := m.limitOf(&segments[i], false); runs {
			return true
		}
	}
	return false
}

// contextNeededLater reports whether a call after this stage may need the context.
func (m *Machine) contextNeededLater() bool {
	switch r := m.route; m.stage {
	case requestHeaders:
		return len(r.Request.Body)+len(r.Request.Trailers) > 0 || !r.Response.Empty()
	case responseHeaders:
		return len(r.Response.Body)+len(r.Response.Trailers) > 0 || m.request.mode != route.BodyNone && !m.answered.has(requestBody)
	default:
		return true
	}
}

// openBody settles, when the headers are about to pass, what of the body and the trailers is wanted.
func (m *Machine) openBody() (refused bool, because *refusal) {
	// Fast path: the route takes no part in them.
	if !m.route.Bodies {
		return false, nil
	}
	p, d := m.plan(), m.direction(m.phase)
	d.headersSeen(m.fields)
	bodies, replaced, decoded := m.bodyUse()
	if m.request.upgrade && (bodies || len(m.route.Response.Body) > 0) {
		return true, &upgradeRefused // What follows is no body: Envoy would hold it back for ever.
	}
	if m.endOfStream {
		return false, nil
	}
	if m.runsAny(p.Trailers) {
		m.wanted.add(m.trailersPhase())
	}
	if bodies {
		m.wanted.add(m.bodyPhase())
		if d.mode = p.BodyMode; d.coded {
			d.mode = p.CodedBodyMode
		}
	}
	d.replaces = replaced
	switch {
	case decoded && d.unknownCoding:
		return true, m.unknownCoding()
	case d.mode == route.BodyBuffered && d.length > int64(m.table.Terms().MaxBodySize):
		return true, m.bodyTooLarge()
	case m.changes.method && (bodies || m.wanted.has(m.trailersPhase())):
		// CONTINUE_AND_REPLACE, which it takes, ends what Envoy sends of this request (processor_state.cc, handleHeaderContinueAndReplace).
		m.detail = "a policy sets the method of a request whose body or trailers policies read"
		return true, &illegalResult
	}
	return false, nil
}

// nextStage begins the stage that follows when all policies of one have run, or lets the phase pass.
func (m *Machine) nextStage(now Instant) Effect {
	switch {
	case isBody(m.stage) && !m.pieceDone():
		m.next = 0
		m.nextPiece()
		return m.advance(now)
	case m.stage == m.phase && (m.phase == requestHeaders || m.phase == responseHeaders) && m.endOfStream && len(m.plan().Body) > 0:
		m.stage, m.next = m.bodyPhase(), 0
		m.body = body{whole: true, none: true, last: true}
		return m.advance(now)
	case isTrailers(m.phase) && isBody(m.stage):
		m.stage, m.next = m.phase, 0
		if m.direction(m.phase).withheld {
			m.held, m.changes = m.changes, m.held // The trailers have an answer of their own.
		}
		return m.advance(now)
	}
	return m.pass(StatusAllowed, now)
}

// bodyMessage runs the policies on a body, or on a chunk of one.
func (m *Machine) bodyMessage(now Instant) Effect {
	d, b := m.direction(m.phase), &m.decoder.body
	d.bodySeen = true
	if d.withheld {
		return m.gather(now)
	}
	whole := d.mode == route.BodyBuffered
	if whole && len(b.Body) > m.table.Terms().MaxBodySize || !m.settings.Bodies.Take(len(b.Body)) {
		return m.refuse(m.bodyTooLarge(), now)
	}
	message := m.kept(b.Body)
	m.body = body{message: message, whole: whole, last: whole || b.EndOfStream, counted: len(b.Body)}
	if whole {
		m.body.bytes, m.body.end = message, len(message)
	} else {
		m.nextPiece()
	}
	m.endOfStream = b.EndOfStream
	return m.advance(now)
}

// kept gives bytes of the message that is being taken, to be used after it.
func (m *Machine) kept(bytes []byte) []byte {
	// Fast path: they outlive it.
	if m.lent {
		return bytes
	}
	m.chunk = append(m.chunk[:0], bytes...)
	return m.chunk
}

// trailersMessage runs the policies on trailers, and before that on the end of the body.
func (m *Machine) trailersMessage(now Instant) Effect {
	d := m.direction(m.phase)
	var err error
	m.trailerMap = append(m.trailerMap[:0], m.decoder.trailers.Trailers...)
	if m.fields, err = headermap.Parse(m.fields[:0], m.trailerMap); err != nil || m.phase == requestTrailers && !m.removeOwnedTrailers() {
		return m.refuse(m.malformed(), now)
	}
	m.endOfStream = true
	switch {
	case d.mode == route.BodyNone || d.bodyDone:
	case d.withheld:
		m.stage = m.bodyPhase()
		m.whole(!d.bodySeen)
	default:
		m.stage = m.bodyPhase()
		m.body = body{whole: d.mode == route.BodyBuffered || !d.bodySeen, none: !d.bodySeen, last: true}
	}
	return m.advance(now)
}

// unwantedTrailers lets the request's trailers pass, of which no policy wants to know.
func (m *Machine) unwantedTrailers(now Instant) Effect {
	var err error
	m.trailerMap = append(m.trailerMap[:0], m.decoder.trailers.Trailers...)
	if m.fields, err = headermap.Parse(m.fields[:0], m.trailerMap); err != nil || !m.removeOwnedTrailers() {
		return m.refuse(&malformedRequest, now)
	}
	m.out = m.appendTrailersAnswer(m.out[:0], m.phase)
	return m.answer(nil)
}

// takeBody takes over what a result makes of the body. It reports whether there is room for it.
func (m *Machine) takeBody(r *workerv1.Result) bool {
	if !r.BodyReplaced {
		return true
	}
	m.made = append(m.made[:0], r.Body...)
	m.body.bytes, m.body.replaced = m.made, true
	return m.grow()
}

// maxResultBody is the most that a worker may make of what it was given, in bytes: of a piece, what policies have held back of those before comes with it.
func (m *Machine) maxResultBody() int {
	if m.body.whole {
		return m.table.Terms().MaxBodySize
	}
	return max(m.table.Terms().MaxBodySize, maxPiece+maxContext)
}

// checkBody checks what a result says of the body, and that the headers can still be changed if it changes them.
func (m *Machine) checkBody(r *workerv1.Result) error {
	d, trailers := m.direction(m.phase), isTrailers(m.phase)
	switch {
	case !isBody(m.stage):
		if r.BodyReplaced || len(r.Body) > 0 || r.Holding && !m.route.Bodies {
			return errBody
		}
		return nil
	case len(r.Mutations) > 0 && (!m.body.whole || trailers && !d.withheld):
		return errMutationKind
	case !r.BodyReplaced && len(r.Body) > 0, r.Holding && m.nobodyHolds(), len(r.Body) > m.maxResultBody():
		return errBody
	case r.BodyReplaced && m.body.none, trailers && len(r.Body) > 0 && !d.duplex:
		return errBody // There is no message to put it into.
	}
	return nil
}

// nobodyHolds reports whether no policy can hold bytes back after the call: it is the last one of the body, and there are no chunks in the other direction.
func (m *Machine) nobodyHolds() bool {
	other := &m.response
	if m.phase >= responseHeaders {
		other = &m.request
	}
	return m.body.lastPiece() && m.next == len(m.segments()) && (!other.bodySeen || other.bodyDone)
}

// loseSegment lets the body go on without the segment called last, of which nothing came; it reports whether it can.
func (m *Machine) loseSegment() bool {
	if m.body.whole {
		return true
	}
	d := m.direction(m.phase)
	if m.holding || m.segment.Position >= 64 {
		return false // What it held back of the body is lost with it.
	}
	d.lost |= 1 << m.segment.Position
	return true
}

// passBody lets a body message pass.
func (m *Machine) passBody(status Status, now Instant) Effect {
	d := m.direction(m.phase)
	if !m.bodyHeadersFit() {
		return m.refuse(m.tooManyHeaders(), now)
	}
	if !m.lengthStays() {
		return m.refuse(&illegalResult, now)
	}
	if m.body.last {
		d.bodyDone = true
		m.answered.add(m.phase)
		if m.endOfStream {
			m.wanted &^= 1 << m.trailersPhase()
		} else {
			m.wanted.add(m.trailersPhase())
		}
	}
	var tail []byte
	if m.body.replaced {
		tail = m.body.bytes
	}
	m.out = m.appendBodyAnswer(m.out[:0], tail)
	m.release()
	if m.body.last || m.tolerated != StatusNone {
		m.decide(status, now)
	}
	return m.answer(tail)
}

// passTrailers lets a trailers message pass.
func (m *Machine) passTrailers(status Status, now Instant) Effect {
	if !m.headersFit(m.fields, len(m.trailerMap), &m.changes) {
		return m.refuse(m.tooManyHeaders(), now)
	}
	m.direction(m.phase).bodyDone = true
	m.answered.add(m.phase)
	m.answered.add(m.bodyPhase())
	m.out = m.appendTrailersAnswer(m.out[:0], m.phase)
	m.decide(status, now)
	return m.answer(nil)
}

// release gives back what the budget gave for the body, of which nothing is left to be done.
func (m *Machine) release() {
	// Fast path: no body is under way.
	if m.body.counted == 0 {
		return
	}
	m.settings.Bodies.Give(m.body.counted)
	m.body.counted = 0
	m.body.message, m.body.bytes = nil, nil // They may be lent.
}

func (m *Machine) bodyTooLarge() *refusal {
	m.detail = "the body is longer than max_body_size of the kernel or the worker, or all bodies together take all their memory"
	if m.phase >= responseHeaders {
		return &responseBodyTooLarge
	}
	return &requestBodyTooLarge
}

func (m *Machine) unknownCoding() *refusal {
	if m.phase >= responseHeaders {
		return &responseCoding
	}
	return &requestCoding
}

func (m *Machine) malformed() *refusal {
	if m.phase >= responseHeaders {
		return &malformedResponse
	}
	return &malformedRequest
}
