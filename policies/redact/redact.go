// Package redact is the policy redact: it replaces what matches literals or patterns in bodies, while they pass.
package redact

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"

	"github.com/policy-engine/policy-engine/policies"
)

const (
	name    = "redact"
	version = "1.0.0"
)

// Definition returns the policy's entry for a worker's registry.
func Definition() policies.Definition { return policies.Define(name, version, build) }

// Policy is redact at one place of the configuration.
type Policy struct {
	replacement string
	types       []mediaType // none: all
	program     *program
	jsonStrings bool
	// scanners are those that nobody uses; more than that are made when they are needed.
	scanners chan *scanner

	// The refusals of requests and of responses.
	requests, responses refusals
	redacted, refused   policies.Counter
}

// refusals are the answers to messages that cannot be redacted.
type refusals struct{ charset, partial, framed, budget policies.Verdict }

func newRefusals(unreadable, partial, budget int) refusals {
	return refusals{
		charset: policies.Deny(unreadable, "charset").WithMessage("the body can't be redacted in its charset").
			WithDetail("the charset of content-type is not UTF-8, or content-type is there more than once"),
		partial: policies.Deny(partial, "partial_content").WithMessage("a part of a body can't be redacted").
			WithDetail("the body is a part of another: status 206 or content-range"),
		framed: policies.Deny(unreadable, "framed_body").WithMessage("a body whose format has lengths in it can't be redacted").
			WithDetail("the content-type is one with lengths in the body, such as application/grpc"),
		budget: policies.Deny(budget, policies.ReasonPatternBudget).WithMessage("the body takes too long to be redacted").
			WithDetail("matching the patterns took all the steps that one chunk may take"),
	}
}

func build(env policies.Env, params Params) (*Policy, error) {
	program, types, err := params.check()
	if err != nil {
		return nil, err
	}
	return &Policy{
		replacement: params.Replacement,
		types:       types,
		program:     program,
		jsonStrings: params.JSONStrings,
		scanners:    make(chan *scanner, runtime.GOMAXPROCS(0)),
		requests:    newRefusals(415, 400, 413),
		responses:   newRefusals(502, 502, 502),
		redacted:    env.Counter("redacted"),
		refused:     env.Counter("refused"),
	}, nil
}

// OnRequestHeaders refuses a body that cannot be redacted before the upstream gets any of it.
func (p *Policy) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	if r.EndOfStream() {
		r.SkipBody()
		return policies.Continue(), nil
	}
	looked, refusal := p.examine(r, 0, &p.requests)
	if !looked {
		r.SkipBody()
	}
	return p.verdict(refusal), nil
}

// OnResponseHeaders refuses a body that cannot be redacted before the client gets any of the response: one that breaks off
// later looks complete to a client on HTTP/2.
func (p *Policy) OnResponseHeaders(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	if r.EndOfStream() {
		r.SkipBody()
		return policies.Continue(), nil
	}
	looked, refusal := p.examine(r, r.Status(), &p.responses)
	if !looked {
		r.SkipBody()
	}
	return p.verdict(refusal), nil
}

// OnRequestChunk redacts the body of a request.
func (p *Policy) OnRequestChunk(ctx context.Context, r *policies.Request, c policies.Chunk) (policies.Verdict, error) {
	if !r.HasBody() {
		return policies.Continue(), nil
	}
	if looked, refusal := p.examine(r, 0, &p.requests); refusal != nil || !looked {
		return p.verdict(refusal), nil
	}
	return p.outcome(p.chunk(ctx, r, c, p.readsJSON(r)), &p.requests)
}

// OnResponseChunk redacts the body of a response.
func (p *Policy) OnResponseChunk(ctx context.Context, r *policies.Response, c policies.Chunk) (policies.Verdict, error) {
	if !r.HasBody() {
		return policies.Continue(), nil
	}
	if looked, refusal := p.examine(r, r.Status(), &p.responses); refusal != nil || !looked {
		return p.verdict(refusal), nil
	}
	return p.outcome(p.chunk(ctx, r, c, p.readsJSON(r)), &p.responses)
}

// outcome returns the verdict on a chunk that was redacted, or could not be.
func (p *Policy) outcome(err error, refusals *refusals) (policies.Verdict, error) {
	if errors.Is(err, policies.ErrPatternBudget) {
		return p.verdict(&refusals.budget), nil
	}
	return policies.Continue(), err
}

func (p *Policy) verdict(refusal *policies.Verdict) policies.Verdict {
	if refusal == nil {
		return policies.Continue()
	}
	p.refused.Inc()
	return *refusal
}

// DecodesBodies implements policies.DecodedBodies: a body whose coding can't be undone never comes here.
func (*Policy) DecodesBodies() {}

// keeper is what a message keeps from chunk to chunk.
type keeper interface {
	State() []byte
	SetState([]byte)
}

// readsJSON reports whether only strings of JSON are looked at.
func (p *Policy) readsJSON(m message) bool {
	if !p.jsonStrings {
		return false
	}
	contentType, n := m.Header("content-type")
	return n == 1 && isJSON(contentType)
}

// chunk redacts a chunk of a body, which is JSON or not.
func (p *Policy) chunk(ctx context.Context, r keeper, c policies.Chunk, json bool) error {
	b := c.Bytes()
	at, err := decodePlace(r.State(), len(b), json)
	if err != nil {
		return err
	}
	s := p.scanner()
	defer p.release(s)
	keep, err := s.scan(ctx, b, at, c.Last())
	if err != nil {
		return err
	}
	after := s.after
	// Fast path: nothing was found, and the bytes go on where they are.
	if len(s.regions) > 0 && s.regions[0].from < keep {
		var out []byte
		var replaced int
		out, after.front, replaced = s.decided(make([]byte, 0, keep+len(s.regions)*len(p.replacement)), b, keep, p.replacement)
		c.Replace(out)
		for range replaced {
			p.redacted.Inc()
		}
	}
	if keep < len(b) {
		c.Hold(len(b) - keep)
	}
	if after != at {
		r.SetState(after.encode())
	}
	return nil
}

func (p *Policy) scanner() *scanner {
	select {
	case s := <-p.scanners:
		return s
	default:
		return newScanner(p.program)
	}
}

func (p *Policy) release(s *scanner) {
	select {
	case p.scanners <- s:
	default:
	}
}

// encode returns the place as a policy's state. The state of most places is empty.
func (p place) encode() []byte {
	flags := byte(p.before)
	if p.inString {
		flags |= 4
	}
	if p.escaped {
		flags |= 8
	}
	if p.front == 0 && flags == 0 {
		return nil
	}
	return append(binary.AppendUvarint(nil, uint64(p.front)), flags)
}

// decodePlace reads what encode made, for a chunk of that many bytes.
func decodePlace(state []byte, most int, json bool) (place, error) {
	if len(state) == 0 {
		return place{json: json}, nil
	}
	n, size := binary.Uvarint(state)
	if size <= 0 || size+1 != len(state) || n > uint64(most) || state[size] > 15 || state[size] > 3 && !json {
		return place{}, errors.New("redact body: the state is malformed")
	}
	flags := state[size]
	return place{front: int(n), before: neighbor(flags & 3), json: json, inString: flags&4 != 0, escaped: flags&8 != 0}, nil
}

var (
	_ policies.RequestHeaders  = (*Policy)(nil)
	_ policies.ResponseHeaders = (*Policy)(nil)
	_ policies.RequestChunks   = (*Policy)(nil)
	_ policies.ResponseChunks  = (*Policy)(nil)
	_ policies.DecodedBodies   = (*Policy)(nil)
)
