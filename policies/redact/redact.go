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

// refusals are the answers to messages that can't be redacted.
type refusals struct{ charset, partial policies.Verdict }

func newRefusals(unreadable, partial int) refusals {
	return refusals{
		charset: policies.Deny(unreadable, "charset").WithMessage("the body can't be redacted in its charset"),
		partial: policies.Deny(partial, "partial_content").WithMessage("a part of a body can't be redacted"),
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
		requests:    newRefusals(415, 400),
		responses:   newRefusals(502, 502),
		redacted:    env.Counter("redacted"),
		refused:     env.Counter("refused"),
	}, nil
}

// OnRequestChunk redacts the body of a request.
func (p *Policy) OnRequestChunk(_ context.Context, r *policies.Request, c policies.Chunk) (policies.Verdict, error) {
	if !r.HasBody() {
		return policies.Continue(), nil
	}
	if looked, refusal := p.examine(r, 0, &p.requests); refusal != nil || !looked {
		return p.settle(refusal), nil
	}
	return policies.Continue(), p.chunk(r, c)
}

// OnResponseChunk redacts the body of a response.
func (p *Policy) OnResponseChunk(_ context.Context, r *policies.Response, c policies.Chunk) (policies.Verdict, error) {
	if !r.HasBody() {
		return policies.Continue(), nil
	}
	if looked, refusal := p.examine(r, r.Status(), &p.responses); refusal != nil || !looked {
		return p.settle(refusal), nil
	}
	return policies.Continue(), p.chunk(r, c)
}

func (p *Policy) settle(refusal *policies.Verdict) policies.Verdict {
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
func (p *Policy) chunk(r keeper, c policies.Chunk) error {
	b := c.Bytes()
	front, err := decodeFront(r.State(), len(b))
	if err != nil {
		return err
	}
	s := p.scanner()
	defer p.release(s)
	keep := s.scan(b, front, c.Last())
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
	_ policies.RequestChunks  = (*Policy)(nil)
	_ policies.ResponseChunks = (*Policy)(nil)
	_ policies.DecodedBodies  = (*Policy)(nil)
)
