package chain

import (
	"context"

	"github.com/policy-engine/policy-engine/policies"
)

// method is a policy's phase method on an exchange.
type method func(context.Context, *policies.Exchange) (policies.Verdict, error)

// methods are a policy's phase methods of one flow, beside that of the headers; nil is one that it does not have.
type methods struct{ body, chunk, trailers method }

// methodsOf finds the methods once, so that a call is one indirect call.
func methodsOf(instance any, response bool) (m methods) {
	if response {
		return responseMethods(instance)
	}
	if p, ok := instance.(policies.RequestBody); ok {
		m.body = func(ctx context.Context, x *policies.Exchange) (policies.Verdict, error) {
			return p.OnRequestBody(ctx, x.Request())
		}
	}
	if p, ok := instance.(policies.RequestChunks); ok {
		m.chunk = func(ctx context.Context, x *policies.Exchange) (policies.Verdict, error) {
			return p.OnRequestChunk(ctx, x.Request(), x.Chunk())
		}
	}
	if p, ok := instance.(policies.RequestTrailers); ok {
		m.trailers = func(ctx context.Context, x *policies.Exchange) (policies.Verdict, error) {
			return p.OnRequestTrailers(ctx, x.Request())
		}
	}
	return m
}

func responseMethods(instance any) (m methods) {
	if p, ok := instance.(policies.ResponseBody); ok {
		m.body = func(ctx context.Context, x *policies.Exchange) (policies.Verdict, error) {
			return p.OnResponseBody(ctx, x.Response())
		}
	}
	if p, ok := instance.(policies.ResponseChunks); ok {
		m.chunk = func(ctx context.Context, x *policies.Exchange) (policies.Verdict, error) {
			return p.OnResponseChunk(ctx, x.Response(), x.Chunk())
		}
	}
	if p, ok := instance.(policies.ResponseTrailers); ok {
		m.trailers = func(ctx context.Context, x *policies.Exchange) (policies.Verdict, error) {
			return p.OnResponseTrailers(ctx, x.Response())
		}
	}
	return m
}
