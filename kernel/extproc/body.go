package extproc

import (
	"bytes"
	"math"
	"strconv"
	"sync/atomic"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/fastpath/view"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// Budget bounds what the bodies of all streams take together, in bytes. It is safe for concurrent use; nil has no bound.
type Budget struct {
	max  int64
	used atomic.Int64
}

// NewBudget makes a budget.
func NewBudget(max int) *Budget { return &Budget{max: int64(max)} }

// Used is what is taken now.
func (b *Budget) Used() int64 { return b.used.Load() }

// Take takes n bytes, if there are that many left.
func (b *Budget) Take(n int) bool {
	if b == nil || b.used.Add(int64(n)) <= b.max {
		return true
	}
	b.used.Add(-int64(n))
	return false
}

// Give gives n bytes back.
func (b *Budget) Give(n int) {
	if b != nil {
		b.used.Add(-int64(n))
	}
}

// direction is what is known of the request, or of the response.
type direction struct {
	// mode is what was asked of Envoy for the body.
	mode route.BodyMode
	// hasLength, coded, upgrade: of the headers.
	hasLength, coded, upgrade bool
	length                    int64 // -1 if there is none that can be read
	// bodySeen: a message of it has come. bodyDone: its policies have seen its end.
	bodySeen, bodyDone bool
	// limited: the policies after the one at limitIndex of the chain at limitPosition were skipped.
	limited                   bool
	limitPosition, limitIndex int
	// lost are the segments, by position, that failed on a chunk and are not called again for this body.
	lost uint64
}

// headersSeen notes what the body's phases need of the headers.
func (d *direction) headersSeen(fields []headermap.Field) {
	d.length = -1
	upgrade, connection := false, false
	for i := range fields {
		switch f := &fields[i]; string(f.Name) {
		case "content-length":
			d.hasLength = true
			if n, err := strconv.ParseInt(view.String(f.Value), 10, 64); err == nil {
				d.length = n
			}
		case "content-encoding":
			d.coded = d.coded || len(f.Value) > 0 && !bytes.EqualFold(f.Value, []byte("identity"))
		case "upgrade":
			upgrade = true
		case "connection":
			connection = connection || bytes.Contains(bytes.ToLower(f.Value), []byte("upgrade"))
		case ":method":
			d.upgrade = d.upgrade || string(f.Value) == "CONNECT"
		}
	}
	d.upgrade = d.upgrade || upgrade && connection
}

// body is the body, or the chunk of it, under way. Its bytes are the machine's.
type body struct {
	// message is what came. Policies are given it as a whole, or one piece after the other: the one under way is from begin to end of it.
	message    []byte
	begin, end int
	// bytes are the piece, or what the policies before have made of it, if replaced says so.
	bytes    []byte
	replaced bool
	// edited: the pieces before are not as they came. What has become of them is in Machine.edited.
	edited bool
	whole  bool
	none   bool
	last   bool // the body ends with the message
	// counted is what the budget has given for it.
	counted int
}

// maxPiece is the most of a chunk that policies are given at a time, in bytes. Envoy sends as one chunk what has come while it waited for the answer to the headers: as much
// as its buffer takes. That is no reason to refuse it, nor should each worker have to hold that much.
const maxPiece = 64 << 10

// nextPiece makes the next piece of the chunk the one under way.
func (m *Machine) nextPiece() {
	b := &m.body
	b.begin = b.end
	b.end = min(len(b.message), b.begin+min(maxPiece, m.settings.MaxBodySize))
	b.bytes, b.replaced = b.message[b.begin:b.end], false
}

// lastPiece reports whether the body ends with the piece under way.
func (b *body) lastPiece() bool { return b.last && b.end == len(b.message) }

// pieceDone notes what has become of the piece under way. It reports whether that was the last one of the message; then bytes and replaced are of all of it.
func (m *Machine) pieceDone() bool {
	b := &m.body
	// Fast path: there is but one.
	if b.begin == 0 && b.end == len(b.message) {
		return true
	}
	if b.replaced && !b.edited {
		b.edited = true
		m.edited = append(m.edited[:0], b.message[:b.begin]...)
	}
	if b.edited {
		m.edited = append(m.edited, b.bytes...)
	}
	if b.end < len(b.message) {
		return false
	}
	if b.edited {
		b.bytes, b.replaced = m.edited, true
	}
	return true
}

// grow counts what the body takes besides the message itself. It reports whether there is room.
func (m *Machine) grow() bool {
	b := &m.body
	size := len(b.message) + len(b.bytes)
	if b.edited {
		size += len(m.edited)
	}
	if size <= b.counted {
		return true
	}
	if !m.settings.Bodies.Take(size - b.counted) {
		return false
	}
	b.counted = size
	return true
}

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

// limitOf tells whether a segment is called, and Call.limit.
func (m *Machine) limitOf(s *route.Segment) (limit uint32, runs bool) {
	d := m.direction(m.phase)
	// Fast path.
	if !d.limited && d.lost == 0 {
		return 0, true
	}
	if isBody(m.stage) && d.lost&(1<<s.Position) != 0 {
		return 0, false
	}
	switch {
	case !d.limited || s.Position < d.limitPosition:
		return 0, true
	case s.Position > d.limitPosition:
		// Its policies may hold bytes back, of chunks before.
		return 1, isBody(m.stage) && m.holding
	case d.limitIndex == math.MaxInt32:
		return 0, true
	}
	return uint32(d.limitIndex) + 2, s.Policies[0].Index <= d.limitIndex || isBody(m.stage) && m.holding
}

// runsAny reports whether a policy of the segments is left to run.
func (m *Machine) runsAny(segments []route.Segment) bool {
	for i := range segments {
		if _, runs := m.limitOf(&segments[i]); runs {
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
		return len(r.Response.Body)+len(r.Response.Trailers) > 0 || m.wanted.has(requestBody) && !m.answered.has(requestBody)
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
	bodies := m.runsAny(p.Body)
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
	switch {
	case d.mode == route.BodyBuffered && d.length > int64(m.settings.MaxBodySize):
		return true, m.bodyTooLarge()
	case m.changes.method && (bodies || m.wanted.has(m.trailersPhase())):
		// CONTINUE_AND_REPLACE, which it takes, ends what Envoy sends of this request (processor_state.cc, handleHeaderContinueAndReplace).
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
		return m.advance(now)
	}
	return m.pass(StatusAllowed, now)
}

// bodyMessage runs the policies on a body, or on a chunk of one.
func (m *Machine) bodyMessage(now Instant) Effect {
	d, b := m.direction(m.phase), &m.decoder.body
	d.bodySeen = true
	whole := d.mode == route.BodyBuffered
	if whole && len(b.Body) > m.settings.MaxBodySize || !m.settings.Bodies.Take(len(b.Body)) {
		return m.refuse(m.bodyTooLarge(), now)
	}
	m.chunk = append(m.chunk[:0], b.Body...)
	m.body = body{message: m.chunk, whole: whole, last: whole || b.EndOfStream, counted: len(b.Body)}
	if whole {
		m.body.bytes, m.body.end = m.chunk, len(m.chunk)
	} else {
		m.nextPiece()
	}
	m.endOfStream = b.EndOfStream
	return m.advance(now)
}

// trailersMessage runs the policies on trailers, and before that on the end of the body.
func (m *Machine) trailersMessage(now Instant) Effect {
	d := m.direction(m.phase)
	var err error
	m.trailerMap = append(m.trailerMap[:0], m.decoder.trailers.Trailers...)
	if m.fields, err = headermap.Parse(m.fields[:0], m.trailerMap); err != nil {
		return m.refuse(m.malformed(), now)
	}
	m.endOfStream = true
	if d.mode != route.BodyNone && !d.bodyDone {
		m.stage = m.bodyPhase()
		m.body = body{whole: d.mode == route.BodyBuffered || !d.bodySeen, none: !d.bodySeen, last: true}
	}
	return m.advance(now)
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
		return m.settings.MaxBodySize
	}
	return max(m.settings.MaxBodySize, maxPiece+maxContext)
}

// checkBody checks what a result says of the body, and that the headers can still be changed if it changes them.
func (m *Machine) checkBody(r *workerv1.Result) error {
	switch {
	case !isBody(m.stage):
		if r.BodyReplaced || len(r.Body) > 0 || r.Holding && !m.route.Bodies {
			return errBody
		}
		return nil
	case len(r.Mutations) > 0 && (!m.body.whole || isTrailers(m.phase)):
		return errMutationKind
	case !r.BodyReplaced && len(r.Body) > 0, r.Holding && m.nobodyHolds(), len(r.Body) > m.maxResultBody():
		return errBody
	case r.BodyReplaced && m.body.none, isTrailers(m.phase) && len(r.Body) > 0:
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
	if m.body.last {
		d.bodyDone = true
		m.answered.add(m.phase)
		if m.endOfStream {
			m.wanted &^= 1 << m.trailersPhase()
		} else {
			m.wanted.add(m.trailersPhase())
		}
	}
	m.out = m.appendBodyAnswer(m.out[:0])
	m.release()
	if m.body.last || m.tolerated != StatusNone {
		m.decide(status, now)
	}
	return m.answer()
}

// passTrailers lets a trailers message pass.
func (m *Machine) passTrailers(status Status, now Instant) Effect {
	m.direction(m.phase).bodyDone = true
	m.answered.add(m.phase)
	m.answered.add(m.bodyPhase())
	m.out = m.appendTrailersAnswer(m.out[:0])
	m.decide(status, now)
	return m.answer()
}

// release gives back what the budget gave for the body.
func (m *Machine) release() {
	// Fast path: no body is under way.
	if m.body.counted == 0 {
		return
	}
	m.settings.Bodies.Give(m.body.counted)
	m.body.counted = 0
}

func (m *Machine) bodyTooLarge() *refusal {
	if m.phase >= responseHeaders {
		return &responseBodyTooLarge
	}
	return &requestBodyTooLarge
}

func (m *Machine) malformed() *refusal {
	if m.phase >= responseHeaders {
		return &malformedResponse
	}
	return &malformedRequest
}
