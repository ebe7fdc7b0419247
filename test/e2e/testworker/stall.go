package main

import (
	"context"

	"github.com/policy-engine/policy-engine/policies"
)

// stallIn is the header of the request that names the phase in which stall waits for the end of its context: request-headers, request-body, response-headers or
// response-body.
const stallIn = "x-stall-in"

// stall waits in the headers of requests and responses, stallBody also in their bodies.
type stall struct{}

func newStall(policies.Env, noParams) (*stall, error) { return &stall{}, nil }

func (*stall) MayBlock() {}

func (*stall) OnRequestHeaders(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
	return stallFor(ctx, r, "request-headers")
}

func (*stall) OnResponseHeaders(ctx context.Context, r *policies.Response) (policies.Verdict, error) {
	return stallFor(ctx, r.Request(), "response-headers")
}

type stallBody struct{ stall }

func newStallBody(policies.Env, noParams) (*stallBody, error) { return &stallBody{}, nil }

func (*stallBody) OnRequestBody(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
	return stallFor(ctx, r, "request-body")
}

func (*stallBody) OnResponseBody(ctx context.Context, r *policies.Response) (policies.Verdict, error) {
	return stallFor(ctx, r.Request(), "response-body")
}

func stallFor(ctx context.Context, r *policies.Request, phase string) (policies.Verdict, error) {
	if value, _ := r.Header(stallIn); string(value) != phase {
		return policies.Continue(), nil
	}
	<-ctx.Done()
	return policies.Continue(), ctx.Err()
}
