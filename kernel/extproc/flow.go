package extproc

import (
	"cmp"
	"errors"
	"time"

	extprocv1 "github.com/policy-engine/policy-engine/api/extproc/v1"
	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
	"github.com/policy-engine/policy-engine/fastpath/view"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// requestHeaders finds the route, makes sure that both of its flows can be enforced, and begins the request flow.
func (m *Machine) requestHeaders(now Instant) Effect {
	// Fast path: Envoy sends no attributes.
	if len(m.decoder.message.Attributes) > 0 {
		name, source, err := m.decoder.attributes()
		if err != nil {
			return m.refuse(&malformedRequest, now)
		}
		m.sourceAddress = append(m.sourceAddress, source...)
		if m.routeName == "" {
			m.name = append(m.name[:0], name...)
			m.routeName = view.String(m.name) // Nothing writes to m.name until the next stream.
		}
	}
	var err error
	m.requestMap = append(m.requestMap[:0], m.decoder.headers.Headers...)
	if m.fields, err = headermap.Parse(m.fields[:0], m.requestMap); err != nil {
		return m.refuse(&malformedRequest, now)
	}
	m.requestID = firstValue(m.fields, "x-request-id")
	m.startTrace()
	m.endOfStream = m.decoder.headers.EndOfStream

	p := &m.decoder.protocol
	m.streamedAhead = p.SendBodyWithoutWaitingForHeaderResponse && p.RequestBodyMode == extprocv1.BodySendMode_STREAMED
	m.methodFixed = m.streamedAhead
	if p.RequestBodyMode == extprocv1.BodySendMode_FULL_DUPLEX_STREAMED || p.ResponseBodyMode == extprocv1.BodySendMode_FULL_DUPLEX_STREAMED {
		m.openDuplex()
	}

	if !m.table.Ready() {
		return m.respond(StatusWorkerUnavailable, &m.table.Terms().WorkerUnavailable, now)
	}
	m.route = m.table.Lookup(m.routeName)
	switch {
	case m.route == nil && m.table.Terms().UnknownRoute == config.UnknownRouteContinue:
		if refused := m.removeOwned(); refused != nil {
			return m.refuse(refused, now)
		}
		return m.pass(m.unknownStatus(), now)
	case m.route == nil:
		return m.refuseUnknown(now)
	case len(m.route.Unsupported) > 0:
		m.policy = m.route.Unsupported[0]
		return m.respond(StatusPolicyNotSupported, &m.table.Terms().PolicyNotSupported, now)
	case m.route.Undiscovered:
		return m.respond(StatusWorkerUnavailable, &m.table.Terms().WorkerUnavailable, now)
	}
	if down := firstDown(m.route); down != nil {
		m.segment = down
		return m.respond(StatusWorkerUnavailable, &m.table.Terms().WorkerUnavailable, now)
	}
	if m.streamedAhead && m.route.Bodies || m.duplex && m.duplexLacks() {
		return m.refuse(&unsupportedMode, now) // Envoy ignores mode_override in these modes.
	}
	if refused := m.removeOwned(); refused != nil {
		return m.refuse(refused, now)
	}
	if m.route.Response.DecodesBody && !m.narrowCodings() {
		return m.refuse(&malformedRequest, now)
	}
	if !m.route.Response.Empty() {
		m.wanted.add(responseHeaders)
	}
	return m.advance(now)
}

// responseHeaders begins the response flow.
func (m *Machine) responseHeaders(now Instant) Effect {
	var err error
	m.responseMap = append(m.responseMap[:0], m.decoder.headers.Headers...)
	if m.fields, err = headermap.Parse(m.fields[:0], m.responseMap); err != nil {
		return m.refuse(&malformedResponse, now)
	}
	m.traceStatus()
	m.endOfStream = m.decoder.headers.EndOfStream
	return m.advance(now)
}

// firstDown returns a segment that holds the request up: its worker is unavailable, and a policy of it must not be missed.
func firstDown(r *route.Route) *route.Segment {
	if s := down(r.Request.Headers); s != nil {
		return s
	}
	if s := down(r.Response.Headers); s != nil {
		return s
	}
	// Fast path.
	if !r.Bodies {
		return nil
	}
	for _, segments := range [...][]route.Segment{r.Request.Body, r.Request.Trailers, r.Response.Body, r.Response.Trailers} {
		if s := down(segments); s != nil {
			return s
		}
	}
	return nil
}

func down(segments []route.Segment) *route.Segment {
	for i := range segments {
		if s := &segments[i]; s.HoldsUp && !s.Worker.Available() {
			return s
		}
	}
	return nil
}

func firstValue(fields []headermap.Field, name string) []byte {
	for i := range fields {
		if string(fields[i].Name) == name {
			return fields[i].Value
		}
	}
	return nil
}

// plan is what the flow of the phase under way runs.
func (m *Machine) plan() *route.Plan { return m.planOf(m.phase) }

func (m *Machine) planOf(p workerv1.Phase) *route.Plan {
	if p < responseHeaders {
		return &m.route.Request
	}
	return &m.route.Response
}

// segments are the calls of the stage under way.
func (m *Machine) segments() []route.Segment {
	switch p := m.plan(); m.stage {
	case requestHeaders, responseHeaders:
		return p.Headers
	case requestBody, responseBody:
		return p.Body
	default:
		return p.Trailers
	}
}

// advance calls the next segment, or goes on to the next stage when all have run.
func (m *Machine) advance(now Instant) Effect {
	segments := m.segments()
	for m.next < len(segments) {
		s := &segments[m.next]
		m.next++
		limit, runs := m.limitOf(s, isBody(m.stage))
		if !runs {
			continue
		}
		m.segment = s
		if m.route.Bodies && elapsed(m.since, now)+s.Timeout > m.table.Budget() {
			return m.failed(&workerTimeout, now)
		}
		m.contextExpected = m.next < len(segments) || m.contextNeededLater()
		m.calling = true
		m.fill(&m.call.Message, limit)
		return Effect{Kind: KindCall, Call: &m.call, Worker: s.Worker}
	}
	return m.nextStage(now)
}

// fill makes the call of the segment.
func (m *Machine) fill(c *workerv1.Call, limit uint32) {
	c.Id = 0
	c.Generation = m.table.Generation()
	c.Chain = m.segment.Chain
	c.Phase = m.stage
	c.TimeoutUs = uint64((m.segment.Timeout + time.Microsecond - 1) / time.Microsecond) // Rounded up: 0 is no limit.
	c.Headers, c.RequestHeaders = m.requestMap, nil
	if m.stage >= responseHeaders {
		c.Headers, c.RequestHeaders = m.responseMap, m.requestMap
	}
	c.EndOfStream = m.endOfStream
	c.SourceAddress = m.sourceAddress
	c.Context = m.context
	c.WantContext = m.contextExpected
	c.Limit = limit
	c.Trace = nil
	if m.trace != nil {
		c.Trace = m.trace.Calling(m.segment, m.stage)
	}
	c.Body, c.WholeBody, c.NoBody, c.Trailers = nil, false, false, nil
	switch {
	case isBody(m.stage):
		c.Body, c.WholeBody, c.NoBody, c.EndOfStream = m.body.bytes, m.body.whole, m.body.none, m.body.lastPiece()
	case isTrailers(m.stage):
		c.Trailers, c.EndOfStream = m.trailerMap, true
	}
}

// pass lets the phase pass with the changes made. It is called only when every policy of the flow had its say, or there is none.
func (m *Machine) pass(status Status, now Instant) Effect {
	d := m.direction(m.phase)
	switch {
	case m.phase != requestHeaders && m.phase != responseHeaders && d.duplex && d.mode != route.BodyNone:
		return m.passDuplex(status, now)
	case isBody(m.phase):
		return m.passBody(status, now)
	case isTrailers(m.phase):
		return m.passTrailers(status, now)
	case m.route != nil:
		if refused, because := m.openBody(); refused {
			return m.refuse(because, now)
		}
	}
	if d.duplex && d.mode == route.BodyBuffered {
		return m.withhold(status, now)
	}
	if !m.headersFit(m.fields, len(m.encodedHeaders()), &m.changes) {
		return m.refuse(m.tooManyHeaders(), now)
	}
	m.out = m.appendHeadersAnswer(m.out[:0], m.phase, &m.changes)
	if d.mode == route.BodyBuffered {
		m.applied, m.changes = m.changes, m.applied // The body may bring more.
		m.changes.reset()
	}
	if m.phase != requestHeaders || d.mode == route.BodyNone {
		m.decide(status, now)
	} else {
		m.undecided = true
	}
	m.answered.add(m.phase)
	return m.answer(nil)
}

// Complete takes the outcome of the call of the last KindCall effect: r, or why there is none.
func (m *Machine) Complete(c *route.Call, r *workerv1.Result, err error, now Instant) Effect {
	if c != &m.call || !m.calling {
		if m.ended {
			return Effect{}
		}
		return m.broken("outcome of a call that is not outstanding", now)
	}
	m.calling = false
	var illegal error
	if err == nil {
		if illegal = m.checkOutcome(r); illegal != nil {
			r, err = nil, route.ErrIllegalResult
		}
	}
	if m.trace != nil {
		m.trace.Called(c, r, err)
	}
	if m.ended {
		return Effect{} // Aborted, drained or closed meanwhile.
	}
	if err != nil {
		m.detail = httpsyntax.Detail(cmp.Or(illegal, err).Error())
		return m.failed(failureOfError(err), now)
	}
	if r.Subject != "" {
		m.subject = append(m.subject[:0], r.Subject...)
	}
	switch r.Outcome {
	case workerv1.Result_OUTCOME_IMMEDIATE:
		return m.immediate(r, now)
	case workerv1.Result_OUTCOME_FAILED:
		return m.failedInWorker(r, now)
	case workerv1.Result_OUTCOME_SKIP_REMAINING:
		m.policy, m.reason, m.detail = policyOf(m.segment, r.Policy), r.Reason, httpsyntax.Detail(r.Detail)
		m.skipAfter(m.segment, int(r.Position)-1)
	}
	// The outcome is CONTINUE or SKIP_REMAINING: the check lets no other through.
	m.changes.add(r.Mutations)
	m.skipBody(r.SkipsBody)
	if isBody(m.stage) && !m.takeBody(r) {
		return m.refuse(m.bodyTooLarge(), now)
	}
	if m.contextExpected {
		m.context = append(m.context[:0], r.Context...)
		m.holding = r.Holding
	}
	if r.Outcome == workerv1.Result_OUTCOME_SKIP_REMAINING && m.stage == requestHeaders && m.owned == nil {
		return m.refuse(&workerUnavailable, now) // It is not known what the skipped policies replace.
	}
	return m.advance(now)
}

// checkOutcome checks a result that came without an error, unless nothing is made of it any more.
func (m *Machine) checkOutcome(r *workerv1.Result) error {
	switch {
	case r == nil:
		return errNoResult
	case m.ended:
		return nil
	}
	return m.check(r)
}

// check checks a result in itself and against what the flow has gathered.
func (m *Machine) check(r *workerv1.Result) error {
	if err := checkResult(m.stage, m.segment, r); err != nil {
		return err
	}
	if r.Outcome != workerv1.Result_OUTCOME_CONTINUE && r.Outcome != workerv1.Result_OUTCOME_SKIP_REMAINING {
		return nil
	}
	if err := m.checkBody(r); err != nil {
		return err
	}
	if !m.maySkip(r.SkipsBody) {
		return errSkips
	}
	if !m.changes.fits(r.Mutations) {
		return errMutationCount
	}
	if m.contextExpected && len(r.Context) == 0 && len(m.context) > 0 {
		return errContextLost
	}
	if m.methodFixed {
		for _, mutation := range r.Mutations {
			// CONTINUE_AND_REPLACE, which it takes, throws body chunks away that are on their way already (processor_state.cc, clearStreamingChunk).
			if mutation.Kind == workerv1.Mutation_KIND_SET_METHOD {
				return errMethodMode
			}
		}
	}
	return nil
}

// failed applies the on_failure of each policy of the segment, in their order, to a call of which nothing came.
func (m *Machine) failed(f *refusal, now Instant) Effect {
	if f.final || isBody(m.stage) && !m.loseSegment() {
		return m.refuse(f, now)
	}
	for i := range m.segment.Policies {
		p := &m.segment.Policies[i]
		switch p.OnFailure {
		case workerv1.OnFailure_ON_FAILURE_CONTINUE:
			if !m.hideReplaced(m.segment, p.Index) {
				m.policy = p.Name
				return m.refuse(f, now)
			}
			m.tolerated = f.decision
		case workerv1.OnFailure_ON_FAILURE_SKIP_REMAINING:
			m.policy = p.Name
			if m.stage == requestHeaders && m.owned == nil {
				return m.refuse(f, now) // It is not known what the skipped policies replace.
			}
			m.tolerated = f.decision
			m.skipAfter(m.segment, p.Index)
			return m.advance(now)
		default:
			m.policy = p.Name
			return m.refuse(f, now)
		}
	}
	return m.advance(now)
}

// failedInWorker handles OUTCOME_FAILED.
func (m *Machine) failedInWorker(r *workerv1.Result, now Instant) Effect {
	final := &policyError
	switch r.Failure {
	case workerv1.Result_FAILURE_POLICY_ERROR:
	case workerv1.Result_FAILURE_POLICY_PANIC:
		final = &policyPanic
	case workerv1.Result_FAILURE_POLICY_TIMEOUT:
		final = &policyTimeout
	case workerv1.Result_FAILURE_POLICY_OVERLOADED:
		final = &policyOverloaded
	default:
		// The chain did not run.
		m.detail = httpsyntax.Detail(r.Detail)
		return m.failed(m.failureOf(r.Failure), now)
	}
	// The policy's on_failure is taken into account already.
	m.policy, m.detail = policyOf(m.segment, r.Policy), httpsyntax.Detail(r.Detail)
	return m.refuse(final, now)
}

// failureOf tells what a chain that did not run, or whose result can't be used, means.
func (m *Machine) failureOf(f workerv1.Result_Failure) *refusal {
	switch f {
	case workerv1.Result_FAILURE_UNKNOWN_GENERATION, workerv1.Result_FAILURE_UNKNOWN_CHAIN, workerv1.Result_FAILURE_DRAINING:
		return &workerUnavailable
	case workerv1.Result_FAILURE_OVERLOADED:
		return &workerOverloaded
	case workerv1.Result_FAILURE_TOO_LARGE:
		switch {
		case isBody(m.stage):
			return m.bodyTooLarge()
		case m.stage >= responseHeaders:
			return &responseTooLarge
		}
		return &requestTooLarge
	case workerv1.Result_FAILURE_BODY_TOO_LARGE:
		return m.bodyTooLarge()
	case workerv1.Result_FAILURE_BODY_CODING:
		if m.stage >= responseHeaders {
			return &responseCoding
		}
		return &requestCoding
	default: // RESULT_TOO_LARGE, MALFORMED_CALL
		return &illegalResult
	}
}

func failureOfError(err error) *refusal {
	switch {
	case errors.Is(err, route.ErrTimeout):
		return &workerTimeout
	case errors.Is(err, route.ErrOverloaded):
		return &workerOverloaded
	case errors.Is(err, route.ErrRouteOverloaded):
		return &routeOverloaded
	case errors.Is(err, route.ErrIllegalResult):
		return &illegalResult
	default:
		return &workerUnavailable
	}
}

func elapsed(since, now Instant) time.Duration {
	return time.Duration(max(now-since, 0))
}
