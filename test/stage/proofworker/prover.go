package main

import (
	"context"
	"errors"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/test/proof"
)

type noParams struct{}

// prover is the last policy of a chain: what it sets, no client can, and it takes the place of what a client sent.
type prover struct{ key proof.Key }

func (p *prover) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	return prove(p.key, r)
}

// bodyProver is prover where the chain ends with a policy of the body.
type bodyProver struct{ key proof.Key }

func (p *bodyProver) OnRequestBody(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	return prove(p.key, r)
}

var errID = errors.New("prove that the chain has run: the request has no id, or several")

func prove(key proof.Key, r *policies.Request) (policies.Verdict, error) {
	id, n := r.Header(proof.IDHeader)
	if n != 1 {
		return policies.Continue(), errID
	}
	r.SetHeader(proof.Header, key.Of(string(id)))
	return policies.Continue(), nil
}
