package policytest

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
)

// keeping is what a policy keeps from call to call of an exchange.
type keeping struct {
	state, held []byte
	// skips says that the policy skips the body, of the request and of the response.
	skips [2]bool
}

// skips returns where it is kept whether the policy skips the body of the message that runs.
func (e *Exchange) skips(policy any) *bool {
	if e.response != nil {
		return &e.of(policy).skips[1]
	}
	return &e.of(policy).skips[0]
}

// of returns what the policy keeps, by its identity where it has one.
func (e *Exchange) of(policy any) *keeping {
	key := policy
	if !reflect.TypeOf(policy).Comparable() {
		key = reflect.TypeOf(policy)
	}
	if e.keeps == nil {
		e.keeps = map[any]*keeping{}
	}
	if e.keeps[key] == nil {
		e.keeps[key] = &keeping{}
	}
	return e.keeps[key]
}

// OnRequestBody runs the policy's phase method of that name. Result.Body is the body as it goes on, and the exchange's from now on is the caller's to pass along.
func (e *Exchange) OnRequestBody(t testing.TB, policy any, body string) *Result {
	t.Helper()
	p, ok := policy.(policies.RequestBody)
	if !ok || e.response != nil {
		t.Fatalf("policytest: %T has no method OnRequestBody, or Respond came before", policy)
	}
	return e.body(t, policy, []byte(body), false, true, func(ctx context.Context, x *policies.Exchange) (policies.Verdict, error) {
		return p.OnRequestBody(ctx, x.Request())
	})
}

// OnResponseBody runs the policy's phase method of that name.
func (e *Exchange) OnResponseBody(t testing.TB, policy any, body string) *Result {
	t.Helper()
	p, ok := policy.(policies.ResponseBody)
	if !ok || e.response == nil {
		t.Fatalf("policytest: %T has no method OnResponseBody, or Respond did not come before", policy)
	}
	return e.body(t, policy, []byte(body), false, true, func(ctx context.Context, x *policies.Exchange) (policies.Verdict, error) {
		return p.OnResponseBody(ctx, x.Response())
	})
}

// OnRequestChunk runs the policy's phase method of that name on a chunk, with what the policy held back before in front of it. Result.Body is what it passes on.
func (e *Exchange) OnRequestChunk(t testing.TB, policy any, chunk string, last bool) *Result {
	t.Helper()
	p, ok := policy.(policies.RequestChunks)
	if !ok || e.response != nil {
		t.Fatalf("policytest: %T has no method OnRequestChunk, or Respond came before", policy)
	}
	return e.body(t, policy, []byte(chunk), true, last, func(ctx context.Context, x *policies.Exchange) (policies.Verdict, error) {
		return p.OnRequestChunk(ctx, x.Request(), x.Chunk())
	})
}

// OnResponseChunk runs the policy's phase method of that name on a chunk.
func (e *Exchange) OnResponseChunk(t testing.TB, policy any, chunk string, last bool) *Result {
	t.Helper()
	p, ok := policy.(policies.ResponseChunks)
	if !ok || e.response == nil {
		t.Fatalf("policytest: %T has no method OnResponseChunk, or Respond did not come before", policy)
	}
	return e.body(t, policy, []byte(chunk), true, last, func(ctx context.Context, x *policies.Exchange) (policies.Verdict, error) {
		return p.OnResponseChunk(ctx, x.Response(), x.Chunk())
	})
}

// Stream runs the policy's chunk method on the chunks, the last of which ends the body, until it does not continue. Result.Body is all that it passed on; after
// Respond, the body is the response's.
func (e *Exchange) Stream(t testing.TB, policy any, chunks ...string) *Result {
	t.Helper()
	run := e.OnRequestChunk
	if e.response != nil {
		run = e.OnResponseChunk
	}
	var body strings.Builder
	var r *Result
	for i, chunk := range chunks {
		r = run(t, policy, chunk, i+1 == len(chunks))
		body.WriteString(r.Body)
		if !r.Continued() {
			break
		}
	}
	r.Body = body.String()
	return r
}

// OnRequestTrailers runs the policy's phase method of that name on trailers given as lines. Result.Headers are the trailers after the run.
func (e *Exchange) OnRequestTrailers(t testing.TB, policy any, lines ...string) *Result {
	t.Helper()
	p, ok := policy.(policies.RequestTrailers)
	if !ok || e.response != nil {
		t.Fatalf("policytest: %T has no method OnRequestTrailers, or Respond came before", policy)
	}
	return e.trailers(t, policy, lines, func(ctx context.Context, x *policies.Exchange) (policies.Verdict, error) {
		return p.OnRequestTrailers(ctx, x.Request())
	})
}

// OnResponseTrailers runs the policy's phase method of that name on trailers given as lines.
func (e *Exchange) OnResponseTrailers(t testing.TB, policy any, lines ...string) *Result {
	t.Helper()
	p, ok := policy.(policies.ResponseTrailers)
	if !ok || e.response == nil {
		t.Fatalf("policytest: %T has no method OnResponseTrailers, or Respond did not come before", policy)
	}
	return e.trailers(t, policy, lines, func(ctx context.Context, x *policies.Exchange) (policies.Verdict, error) {
		return p.OnResponseTrailers(ctx, x.Response())
	})
}

// hasBody is of the message that the body phase belongs to.
func (e *Exchange) hasBody() bool {
	if e.response != nil {
		return e.response.Body
	}
	return e.request.Body
}

// body runs a phase method on a body or chunk.
func (e *Exchange) body(t testing.TB, policy any, data []byte, chunk, last bool, call phase) *Result {
	t.Helper()
	keeps := e.of(policy)
	if len(data) > 0 && !e.hasBody() {
		t.Fatal("policytest: a body of a message that has none; set Body in the Request or Response")
	}
	in := append(append([]byte(nil), keeps.held...), data...)
	_, readOnly := policy.(policies.ReadOnlyBodies)
	r := e.run(t, policy, func(x *policies.Exchange) {
		x.BeginBody(!e.hasBody())
		x.Offer(in, chunk, last, readOnly)
	}, func(ctx context.Context, x *policies.Exchange) (policies.Verdict, error) {
		return call(ctx, x)
	}, func(x *policies.Exchange) {
		// Copies: what a policy put in place of the body is its own, what it left alone is ours.
		out, replaced, held := x.Passed()
		keeps.held = append([]byte(nil), held...)
		e.passed, e.replaced = string(out), replaced
	})
	r.Body, r.Replaced = e.passed, e.replaced
	if r.Err != nil { // As if the policy were not there.
		r.Body, r.Replaced, keeps.held = string(in), false, nil
	}
	overwrite(in)
	return r
}

// trailers runs a phase method on trailers.
func (e *Exchange) trailers(t testing.TB, policy any, lines []string, call phase) *Result {
	t.Helper()
	encoded := appendLines(nil, lines)
	var after []policies.Header
	r := e.run(t, policy, func(x *policies.Exchange) {
		if err := x.BeginTrailers(encoded); err != nil {
			t.Fatalf("policytest: %v", err)
		}
	}, call, func(x *policies.Exchange) {
		trailers := x.Request().Trailers()
		if e.response != nil {
			trailers = x.Response().Trailers()
		}
		for name, value := range trailers {
			after = append(after, policies.Header{Name: string(name), Value: string(value)})
		}
	})
	r.Headers = after
	overwrite(encoded)
	return r
}
