package main

import (
	"bytes"
	"context"

	"github.com/policy-engine/policy-engine/policies"
)

// plain is body for bodies without their content codings.
type plain struct{ body }

func newPlain(_ policies.Env, p bodyParams) (*plain, error) { return &plain{body{p}}, nil }

func (*plain) DecodesBodies() {}

// plainChunks writes the chunks of bodies in upper case, without their content codings.
type plainChunks struct{}

func newPlainChunks(policies.Env, struct{}) (*plainChunks, error) { return &plainChunks{}, nil }

func (*plainChunks) DecodesBodies() {}

func (*plainChunks) OnRequestChunk(_ context.Context, _ *policies.Request, c policies.Chunk) (policies.Verdict, error) {
	c.Replace(bytes.ToUpper(c.Bytes()))
	return policies.Continue(), nil
}

func (*plainChunks) OnResponseChunk(_ context.Context, _ *policies.Response, c policies.Chunk) (policies.Verdict, error) {
	c.Replace(bytes.ToUpper(c.Bytes()))
	return policies.Continue(), nil
}
