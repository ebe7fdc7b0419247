package engine

import (
	"context"

	"github.com/policy-engine/policy-engine/policies"
)

// none is of policies without parameters.
type none struct{}

// trail appends its name to a header and to the metadata, in both phases.
type trail struct{ name string }

func (p *trail) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	before, _ := r.Metadata("trail")
	r.SetMetadata("trail", before+p.name+">")
	r.SetHeader("x-trail", before+p.name)
	return policies.Continue(), nil
}

func (p *trail) OnResponseHeaders(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	before, _ := r.Metadata("trail")
	r.SetHeader("x-trail", before+"response")
	return policies.Continue(), nil
}

// deny denies what has the header x-deny, and panics at x-panic.
type deny struct{}

func (deny) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	if _, n := r.Header("x-panic"); n > 0 {
		panic("told to")
	}
	if _, n := r.Header("x-deny"); n > 0 {
		return policies.Deny(403, "told_to"), nil
	}
	return policies.Continue(), nil
}

// gate waits until the test opens it or its context ends.
type gate struct {
	entered chan struct{}
	open    chan struct{}
	burnt   chan struct{} // lets burners go on
}

func (*gate) MayBlock() {}

func (g *gate) OnRequestHeaders(ctx context.Context, _ *policies.Request) (policies.Verdict, error) {
	g.entered <- struct{}{}
	select {
	case <-g.open:
		return policies.Continue(), nil
	case <-ctx.Done():
		return policies.Verdict{}, ctx.Err()
	}
}

// burner burns processor time until the test lets it go on or its context ends.
type burner struct{ gate *gate }

func (b burner) OnRequestHeaders(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
	b.gate.entered <- struct{}{}
	for ctx.Err() == nil {
		select {
		case <-b.gate.burnt:
			r.SetHeader("x-burnt", "yes")
			return policies.Continue(), nil
		default:
		}
	}
	return policies.Verdict{}, ctx.Err()
}

func (g *gate) lists() []Policies {
	return []Policies{
		{
			policies.Define("trailA", "1", func(policies.Env, none) (*trail, error) { return &trail{"A"}, nil }),
			policies.Define("deny", "1", func(policies.Env, none) (deny, error) { return deny{}, nil }),
			policies.Define("burnA", "1", func(policies.Env, none) (burner, error) { return burner{g}, nil }),
			policies.Define("gate", "1", func(policies.Env, none) (*gate, error) { return g, nil }),
		},
		{
			policies.Define("trailB", "1", func(policies.Env, none) (*trail, error) { return &trail{"B"}, nil }),
			policies.Define("burnB", "1", func(policies.Env, none) (burner, error) { return burner{g}, nil }),
		},
	}
}
