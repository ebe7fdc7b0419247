package extproc

import (
	extprocv1 "github.com/policy-engine/policy-engine/api/extproc/v1"
	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// In Envoy's mode FULL_DUPLEX_STREAMED, Envoy keeps nothing of a body: it sends all that comes, without waiting for an answer, and what goes on is what it is given back
// (processor_state.cc, handleDuplexStreamedBodyResponse). So each byte has an answer here, wanted by a policy or not, and the stream stays open until the end of each
// such direction has been given back. Answers may come late: the headers of a body that a policy wants as a whole wait here until it has been judged.
//
// The mode is part of Envoy's configuration, told with the first message. Envoy ignores mode_override beside it, where the filter itself has it; where a route has it, an override
// would change the mode under what is on its way. So there is none, and a direction whose body policies want must have the mode.

// repeatsEnd reports whether a message is the end of a body once more. Envoy 1.36 may send the last chunk twice in full duplex; it has been judged, and given back.
func (m *Machine) repeatsEnd(p workerv1.Phase) bool {
	d := m.direction(p)
	if !isBody(p) || !d.duplex || !d.endSeen || d.endRepeated || !m.decoder.body.EndOfStream {
		return false
	}
	d.endRepeated = true
	return true
}

// openDuplex notes, with the request's headers, which directions are in full duplex. Their ends have to be answered.
func (m *Machine) openDuplex() {
	p := &m.decoder.protocol
	m.request.duplex = p.RequestBodyMode == extprocv1.BodySendMode_FULL_DUPLEX_STREAMED
	m.response.duplex = p.ResponseBodyMode == extprocv1.BodySendMode_FULL_DUPLEX_STREAMED
	m.duplex = m.request.duplex || m.response.duplex
	if m.request.duplex && !m.endOfStream {
		m.wanted.add(requestBody)
		// CONTINUE_AND_REPLACE throws away what is on its way (processor_state.cc, handleHeaderContinueAndReplace).
		m.methodFixed = true
	}
	if m.response.duplex {
		m.wanted.add(responseBody)
	}
}

// duplexLacks reports whether a policy wants a body or trailers in a direction that is not in full duplex, while the other is: nobody can ask Envoy for them then.
func (m *Machine) duplexLacks() bool {
	wants := func(p *route.Plan) bool { return len(p.Body)+len(p.Trailers) > 0 }
	return m.duplex && (wants(&m.route.Request) && !m.request.duplex || wants(&m.route.Response) && !m.response.duplex)
}

// withhold keeps the answer to the headers back until the body has been judged. What the policies have changed waits with it.
func (m *Machine) withhold(status Status, now Instant) Effect {
	m.direction(m.phase).withheld = true
	m.held, m.changes = m.changes, m.held
	m.gathered = m.gathered[:0]
	if m.phase == requestHeaders {
		m.undecided = true
	} else {
		m.decide(status, now)
	}
	return m.wait()
}

// wait asks for the next message.
func (m *Machine) wait() Effect {
	m.phase = 0
	return Effect{}
}

// gather takes a piece of a body that is wanted as a whole, and has it judged with its end.
func (m *Machine) gather(now Instant) Effect {
	b := &m.decoder.body
	if len(m.gathered)+len(b.Body) > m.table.Terms().MaxBodySize || !m.settings.Bodies.Take(len(b.Body)) {
		return m.refuse(m.bodyTooLarge(), now)
	}
	m.gathered = append(m.gathered, b.Body...)
	m.gatheredCost += len(b.Body)
	if !b.EndOfStream {
		return m.wait()
	}
	m.endOfStream = true
	m.whole(false)
	return m.advance(now)
}

// whole makes what was gathered the body under way, and the changes that wait with it those of its phase: one answer will carry both.
func (m *Machine) whole(none bool) {
	m.held, m.changes = m.changes, m.held
	m.body = body{message: m.gathered, bytes: m.gathered, end: len(m.gathered), whole: true, none: none, last: true, counted: m.gatheredCost}
	m.gatheredCost = 0
}

// echo gives a piece of a body back that no policy wants.
func (m *Machine) echo() Effect {
	d, b := m.direction(m.phase), &m.decoder.body
	if b.EndOfStream {
		d.endSeen, d.bodyDone = true, true
		m.answered.add(m.phase)
		m.wanted &^= 1 << m.trailersPhase()
	}
	bytes := m.kept(b.Body)
	m.out = appendStreamedAnswer(m.out[:0], m.phase, bytes, b.EndOfStream)
	return m.answer(bytes)
}

// passDuplex lets a body message, or trailers after what was left of the body, pass.
func (m *Machine) passDuplex(status Status, now Instant) Effect {
	d, trailers := m.direction(m.phase), isTrailers(m.phase)
	if !m.duplexFits(d, trailers) {
		return m.refuse(m.tooManyHeaders(), now)
	}
	bytes := m.body.bytes
	if !m.body.replaced {
		bytes = m.body.message
	}
	m.outlet = outlet{phase: m.bodyPhase(), headers: d.withheld, body: len(bytes) > 0, bytes: bytes, trailers: trailers}
	if m.body.last {
		d.bodyDone, d.withheld = true, false
		m.answered.add(m.bodyPhase())
	}
	switch {
	case trailers:
		m.answered.add(m.phase)
	case m.body.last:
		d.endSeen = true
		m.wanted &^= 1 << m.trailersPhase()
		m.outlet.body, m.outlet.end = true, true
		if m.outlet.headers {
			m.held, m.changes = m.changes, m.held
		}
	}
	if m.body.last || m.tolerated != StatusNone {
		m.decide(status, now)
	}
	return m.emit()
}

// duplexFits reports whether Envoy takes the changes of headers that were withheld, and those of trailers.
func (m *Machine) duplexFits(d *direction, trailers bool) bool {
	headers := &m.changes
	if trailers {
		if !m.headersFit(m.fields, len(m.trailerMap), &m.changes) {
			return false
		}
		headers = &m.held
	}
	if !d.withheld || len(headers.list) == 0 {
		return true
	}
	encoded := m.encodedHeaders()
	fields, err := headermap.Parse(nil, encoded)
	return err == nil && m.headersFit(fields, len(encoded), headers)
}

// outlet is what Envoy has still to be given of what became of a message, in this order: the headers that were withheld, the body in pieces, the trailers.
type outlet struct {
	phase                   workerv1.Phase // of the body
	headers, body, trailers bool
	bytes                   []byte
	end                     bool // the body ends with bytes
}

// left reports whether there is something.
func (o *outlet) left() bool { return o.headers || o.body || o.trailers }

// emit gives the next answer of the outlet.
func (m *Machine) emit() Effect {
	o := &m.outlet
	m.phase = 0
	var tail []byte
	switch {
	case o.headers:
		o.headers = false
		m.out = m.appendHeadersAnswer(m.out[:0], o.phase-1, &m.held)
		m.answered.add(o.phase - 1)
	case o.body:
		n := min(len(o.bytes), maxPiece) // More is not recommended (processing_mode.proto, FULL_DUPLEX_STREAMED).
		tail, o.bytes = o.bytes[:n], o.bytes[n:]
		o.body = len(o.bytes) > 0
		m.out = appendStreamedAnswer(m.out[:0], o.phase, tail, o.end && !o.body)
	case o.trailers:
		o.trailers = false
		m.out = m.appendTrailersAnswer(m.out[:0], o.phase+1)
	default: // The policies hold all of it back.
		m.release()
		return Effect{}
	}
	if o.left() {
		return Effect{Kind: KindAnswer, More: true, Answer: m.out, Tail: tail}
	}
	m.release()
	o.bytes = nil
	return m.answer(tail)
}

// Next gives what follows an answer that said that there is More. It is called right after that one was sent.
func (m *Machine) Next(now Instant) Effect {
	if !m.opened || m.ended || m.calling || !m.outlet.left() {
		return m.broken("there is no next answer", now)
	}
	return m.emit()
}

// closeDuplex frees what only streams in full duplex have.
func (m *Machine) closeDuplex() {
	m.settings.Bodies.Give(m.gatheredCost)
	m.gatheredCost = 0
	m.held.reset()
	m.outlet = outlet{}
	m.duplex = false
	for _, b := range []*[]byte{&m.gathered, &m.held.arena} {
		if cap(*b) > maxKept {
			*b = nil
		}
	}
}
