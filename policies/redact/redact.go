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
		charset: policies.Deny(unreadable, "charset").WithMessage("the body can't be redacted in its charset"),
		partial: policies.Deny(partial, "partial_content").WithMessage("a part of a body can't be redacted"),
		framed:  policies.Deny(unreadable, "framed_body").WithMessage("a body whose format has lengths in it can't be redacted"),
		budget:  policies.Deny(budget, policies.ReasonPatternBudget).WithMessage("the body takes too long to be redacted"),
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
		return policies.Continue(), nil
	}
	_, refusal := p.examine(r, 0, &p.requests)
	return p.verdict(refusal), nil
}

// OnResponseHeaders refuses a body that cannot be redacted before the client gets any of the response: one that breaks off
// later looks complete to a client on HTTP/2.
func (p *Policy) OnResponseHeaders(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	if r.EndOfStream() {
		return policies.Continue(), nil
	}
	_, refusal := p.examine(r, r.Status(), &p.responses)
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
	return p.outcome(p.chunk(ctx, r, c), &p.requests)
}

// OnResponseChunk redacts the body of a response.
func (p *Policy) OnResponseChunk(ctx context.Context, r *policies.Response, c policies.Chunk) (policies.Verdict, error) {
	if !r.HasBody() {
		return policies.Continue(), nil
	}
	if looked, refusal := p.examine(r, r.Status(), &p.responses); refusal != nil || !looked {
		return p.verdict(refusal), nil
	}
	return p.outcome(p.chunk(ctx, r, c), &p.responses)
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

// chunk redacts a chunk. What travels to the next, besides the bytes held back, is how many of those have been replaced already.
func (p *Policy) chunk(ctx context.Context, r keeper, c policies.Chunk) error {
	b := c.Bytes()
	front, err := decodeFront(r.State(), len(b))
	if err != nil {
		return err
	}
	s := p.scanner()
	defer p.release(s)
	keep, err := s.scan(ctx, b, front, c.Last())
	if err != nil {
		return err
	}
	left := 0
	// Fast path: nothing was found, and the bytes go on where they are.
	if len(s.regions) > 0 && s.regions[0].from < keep {
		var out []byte
		var replaced int
		out, left, replaced = s.decided(make([]byte, 0, keep+len(s.regions)*len(p.replacement)), b, keep, p.replacement)
		c.Replace(out)
		for range replaced {
			p.redacted.Inc()
		}
	}
	if keep < len(b) {
		c.Hold(len(b) - keep)
	}
	if left != front {
		r.SetState(encodeFront(left))
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

func encodeFront(n int) []byte {
	if n == 0 {
		return nil
	}
	return binary.AppendUvarint(nil, uint64(n))
}

func decodeFront(state []byte, most int) (int, error) {
	if len(state) == 0 {
		return 0, nil
	}
	n, size := binary.Uvarint(state)
	if size != len(state) || n > uint64(most) {
		return 0, errors.New("redact body: the state is malformed")
	}
	return int(n), nil
}

var (
	_ policies.RequestHeaders  = (*Policy)(nil)
	_ policies.ResponseHeaders = (*Policy)(nil)
	_ policies.RequestChunks   = (*Policy)(nil)
	_ policies.ResponseChunks  = (*Policy)(nil)
	_ policies.DecodedBodies   = (*Policy)(nil)
)
