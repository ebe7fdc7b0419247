package route

import (
	"slices"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
)

// phases are the three phases of a flow.
func phases(response bool) (headers, body, trailers workerv1.Phase) {
	if response {
		return workerv1.Phase_PHASE_RESPONSE_HEADERS, workerv1.Phase_PHASE_RESPONSE_BODY, workerv1.Phase_PHASE_RESPONSE_TRAILERS
	}
	return workerv1.Phase_PHASE_REQUEST_HEADERS, workerv1.Phase_PHASE_REQUEST_BODY, workerv1.Phase_PHASE_REQUEST_TRAILERS
}

// bodyMode is the least that a policy needs of bodies.
func bodyMode(d *workerv1.PolicyDescriptor, response bool) BodyMode {
	_, body, _ := phases(response)
	switch {
	case !slices.Contains(d.Phases, body):
		return BodyNone
	case response && d.NeedsWholeResponseBody, !response && d.NeedsWholeRequestBody:
		return BodyBuffered
	}
	return BodyStreamed
}

// add adds a policy to the phases that it takes part in; s is its chain's segment.
func (p *Plan) add(s Segment, ref PolicyRef, d *workerv1.PolicyDescriptor, response bool) {
	headers, body, trailers := phases(response)
	ref.ReplacesBody, ref.DecodesBody = !d.ReadsBodiesOnly, d.DecodesBodies
	for _, phase := range [...]struct {
		is       workerv1.Phase
		segments *[]Segment
	}{{headers, &p.Headers}, {body, &p.Body}, {trailers, &p.Trailers}} {
		if slices.Contains(d.Phases, phase.is) {
			*phase.segments = join(*phase.segments, s, ref)
		}
	}
	mode := bodyMode(d, response)
	if mode == BodyNone {
		return
	}
	p.BodyMode = max(p.BodyMode, mode)
	if d.DecodesBodies {
		mode = BodyBuffered // The state of a decoder can't travel from chunk to chunk.
	}
	p.CodedBodyMode = max(p.CodedBodyMode, mode)
	p.DecodesBody = p.DecodesBody || d.DecodesBodies
}

// join adds a policy to the last segment if that is of the same chain, else a segment.
func join(segments []Segment, s Segment, ref PolicyRef) []Segment {
	if n := len(segments); n == 0 || segments[n-1].Chain != s.Chain {
		segments = append(segments, s)
	}
	last := &segments[len(segments)-1]
	last.Policies = append(last.Policies, ref)
	last.HoldsUp = last.HoldsUp || ref.OnFailure == workerv1.OnFailure_ON_FAILURE_DENY
	return segments
}

// checkMode refuses a policy that needs more of the body than the flow's processing_mode gives.
func (c *compiler) checkMode(mode config.ProcessingMode, p *config.Policy, d *workerv1.PolicyDescriptor, response bool) {
	switch needs := bodyMode(d, response); {
	case mode == config.ProcessingModeHeadersOnly && needs != BodyNone:
		c.fail(p.Pos, "policy %q takes part in the body, and processing_mode is headers_only; legal are auto and buffered_body, and streaming where it takes chunks", p.Name)
	case mode == config.ProcessingModeStreaming && needs == BodyBuffered:
		c.fail(p.Pos, "policy %q needs the whole body, and processing_mode is streaming; legal are auto and buffered_body", p.Name)
	}
}

// applyMode carries out what processing_mode demands beyond the least.
func (c *compiler) applyMode(flow *config.Flow, p *Plan, response bool, in *config.Route) {
	switch flow.Mode {
	case config.ProcessingModeBuffered, config.ProcessingModeStreaming:
	default:
		return
	}
	if len(p.Body) == 0 {
		pos := in.Pos
		pos.Path += ".request_flow.processing_mode"
		if response {
			pos.Path = in.Pos.Path + ".response_flow.processing_mode"
		}
		c.fail(pos, "%s is not legal here: no policy of the flow takes part in the body; legal are auto and headers_only", flow.Mode)
		return
	}
	if flow.Mode == config.ProcessingModeBuffered {
		p.BodyMode, p.CodedBodyMode = BodyBuffered, BodyBuffered
	}
}
