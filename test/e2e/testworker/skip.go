package main

import (
	"context"

	"github.com/policy-engine/policy-engine/policies"
)

// skip skips the bodies of all messages, and denies those that it gets all the same.
type skip struct{}

func newSkip(policies.Env, noParams) (*skip, error) { return &skip{}, nil }

func (*skip) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	r.SkipBody()
	return policies.Continue(), nil
}

func (*skip) OnResponseHeaders(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	r.SkipBody()
	return policies.Continue(), nil
}

func (*skip) OnRequestChunk(context.Context, *policies.Request, policies.Chunk) (policies.Verdict, error) {
	return policies.Deny(500, "not_skipped"), nil
}

func (*skip) OnResponseChunk(context.Context, *policies.Response, policies.Chunk) (policies.Verdict, error) {
	return policies.Deny(500, "not_skipped"), nil
}

// DecodesBodies implements policies.DecodedBodies.
func (*skip) DecodesBodies() {}
