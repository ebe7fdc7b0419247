package policytest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/policies"
)

// patience is how long a phase method may take: far beyond any healthy one, so that a test that waits for ever ends.
const patience = 30 * time.Second

// Result is what a run of a policy came to. Nothing in it points to the memory of the run.
type Result struct {
	// Verdict is what the policy decided, after Await.
	Verdict policies.Verdict
	// Err is the policy's error, or that of its first illegal change: it could not decide.
	Err error
	// Panic is what the policy panicked with; Err tells it too.
	Panic any
	// Changes are the changes that the policy made, in order.
	Changes []policies.Change
	// Headers are the headers after the run: those of the response in a response phase, else those of the request; in a trailers phase, the trailers.
	Headers []policies.Header
	// Body is, in a body phase, what goes on: the body, or of a chunk what the policy does not hold back. Replaced says that it is the policy's.
	Body     string
	Replaced bool
	// SkipsBody says that, in a header phase, the policy skips the body of the message. A flow leaves it out then; a
	// test that calls the body's method runs it.
	SkipsBody bool
	// Identity is who makes the request, after the run; nil if nobody knows.
	Identity *policies.Identity
	// Metadata is all metadata after the run.
	Metadata []policies.Entry
}

// Header returns the first value of the header after the run, and how many there are.
func (r *Result) Header(name string) (value string, n int) { return find(r.Headers, name) }

// Answer returns the first value of the header in the policy's answer, and how many there are.
func (r *Result) Answer(name string) (value string, n int) { return find(r.Verdict.Headers(), name) }

func find(headers []policies.Header, name string) (value string, n int) {
	for _, h := range headers {
		if strings.EqualFold(h.Name, name) {
			if n++; n == 1 {
				value = h.Value
			}
		}
	}
	return value, n
}

// Continued reports whether the request goes on to the next policy.
func (r *Result) Continued() bool { return r.Err == nil && r.Verdict.IsContinue() }

// String tells the outcome in the words of the examples in a README.
func (r *Result) String() string {
	switch {
	case r.Err != nil:
		return "error " + r.Err.Error()
	case r.Verdict.IsImmediate():
		return strings.TrimSpace(fmt.Sprintf("%d %s", r.Verdict.Status(), r.Verdict.Reason()))
	case r.Verdict.IsSkipRemaining():
		return strings.TrimSpace("skip_remaining " + r.Verdict.Reason())
	case len(r.Changes) == 0:
		return "continue unchanged"
	}
	return "continue"
}

// Build makes an instance of a policy from parameters, a JSON object or nothing; it ends the test if the policy refuses them. An instance that is an
// io.Closer is closed at the end of the test.
func Build(t testing.TB, d policies.Definition, env policies.Env, params string) any {
	t.Helper()
	if err := d.Check(); err != nil {
		t.Fatalf("policytest: %v", err)
	}
	policy, err := d.Build(env, json.RawMessage(params))
	if err != nil {
		t.Fatalf("build policy %q with %s: %v", d.Name(), params, err)
	}
	if c, ok := policy.(io.Closer); ok {
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Errorf("close policy %q: %v", d.Name(), err)
			}
		})
	}
	return policy
}

// Run runs the policy's OnRequestHeaders on one request.
func Run(t testing.TB, policy any, r Request) *Result {
	t.Helper()
	return NewExchange(r).OnRequestHeaders(t, policy)
}

// RunResponse runs the policy's OnResponseHeaders on the response to a request.
func RunResponse(t testing.TB, policy any, r Request, response Response) *Result {
	t.Helper()
	e := NewExchange(r)
	e.Respond(response)
	return e.OnResponseHeaders(t, policy)
}

// OnRequestHeaders runs the policy's phase method of that name.
func (e *Exchange) OnRequestHeaders(t testing.TB, policy any) *Result {
	t.Helper()
	p, ok := policy.(policies.RequestHeaders)
	if !ok {
		t.Fatalf("policytest: %T has no method OnRequestHeaders", policy)
	}
	if e.response != nil {
		t.Fatal("policytest: OnRequestHeaders after Respond: the request has gone upstream")
	}
	return e.run(t, policy, nil, func(ctx context.Context, x *policies.Exchange) (policies.Verdict, error) {
		return p.OnRequestHeaders(ctx, x.Request())
	}, nil)
}

// OnResponseHeaders runs the policy's phase method of that name.
func (e *Exchange) OnResponseHeaders(t testing.TB, policy any) *Result {
	t.Helper()
	p, ok := policy.(policies.ResponseHeaders)
	if !ok {
		t.Fatalf("policytest: %T has no method OnResponseHeaders", policy)
	}
	if e.response == nil {
		t.Fatal("policytest: OnResponseHeaders before Respond")
	}
	return e.run(t, policy, nil, func(ctx context.Context, x *policies.Exchange) (policies.Verdict, error) {
		return p.OnResponseHeaders(ctx, x.Response())
	}, nil)
}

type phase func(context.Context, *policies.Exchange) (policies.Verdict, error)

// run runs a phase method. prepare makes the phase out of the headers, after reads what the run left; they may be nil.
func (e *Exchange) run(t testing.TB, policy any, prepare func(*policies.Exchange), call phase, after func(*policies.Exchange)) *Result {
	t.Helper()
	x, request, response := e.begin(t)
	if prepare != nil {
		prepare(x)
	}
	keeps := e.of(policy)
	state := append([]byte(nil), keeps.state...)
	x.GiveState(state)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r := &Result{}
	r.Verdict, r.Err = decide(ctx, policy, x, call)
	if r.Err == nil {
		r.Err = x.Err()
	}
	if p, ok := r.Err.(*panicError); ok {
		r.Panic = p.value
	}
	if ctx.Err() != nil && t.Context().Err() == nil {
		t.Errorf("policytest: the phase method took longer than %v", patience)
	}
	r.read(x, e.response != nil)
	if after != nil {
		after(x)
	}
	if r.Err == nil && x.TakeSkipsBody() {
		r.SkipsBody, *e.skips(policy) = true, true
	}
	if r.Err == nil {
		keeps.state = append([]byte(nil), x.State()...)
	}
	before := outlives(x, r.Verdict)
	x.Poison()
	overwrite(request)
	overwrite(response)
	overwrite(state)
	if after := outlives(x, r.Verdict); !reflect.DeepEqual(before, after) {
		t.Errorf("the identity, the metadata or the verdict points to bytes of the request; copy them with string(b):\nduring the call %v\nafter it        %v", before, after)
	}
	// As in the engine, the slices of an identity are used again.
	clear(e.lent.Scopes)
	clear(e.lent.Claims)
	e.keep(r)
	return r
}

// decide runs the phase method and then, on another goroutine as a worker does, what it gave to Await.
func decide(ctx context.Context, policy any, x *policies.Exchange, call phase) (policies.Verdict, error) {
	v, err := guarded(func() (policies.Verdict, error) {
		if _, blocking := policy.(policies.Blocking); blocking {
			return call(ctx, x)
		}
		return inline(ctx, x, call)
	})
	fn := v.Awaited()
	if fn == nil || err != nil || x.Err() != nil {
		return v, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		v, err = guarded(func() (policies.Verdict, error) { return fn(ctx) })
	}()
	<-done
	if err == nil && v.Awaited() != nil {
		return v, errors.New("await from a function given to Await")
	}
	return v, err
}

// inline calls a phase method where it must not wait. Its name is inlineFrame's.
//
//go:noinline
func inline(ctx context.Context, x *policies.Exchange, call phase) (policies.Verdict, error) {
	v, err := call(ctx, x)
	return v, err
}

const inlineFrame = "policies/policytest.inline"

// panicError is a panic of a policy.
type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

func guarded(fn func() (policies.Verdict, error)) (v policies.Verdict, err error) {
	defer func() {
		if p := recover(); p != nil {
			v, err = policies.Verdict{}, &panicError{p}
		}
	}()
	return fn()
}

// read copies what x holds.
func (r *Result) read(x *policies.Exchange, response bool) {
	for _, c := range x.Changes() {
		c.Name, c.Value = strings.Clone(c.Name), bytes.Clone(c.Value)
		r.Changes = append(r.Changes, c)
	}
	headers := x.Request().Headers()
	if response {
		headers = x.Response().Headers()
	}
	for name, value := range headers {
		r.Headers = append(r.Headers, policies.Header{Name: string(name), Value: string(value)})
	}
	if id, ok := x.Identity(); ok {
		id := cloneIdentity(id)
		r.Identity = &id
	}
	r.Metadata = cloneEntries(x.Metadata())
}

// kept is what a worker uses after the phase method returned. All of it must be the policy's own memory.
type kept struct {
	Identity policies.Identity
	Metadata []policies.Entry
	Reason   string
	Headers  []policies.Header
	Body     string
}

func outlives(x *policies.Exchange, v policies.Verdict) kept {
	id, _ := x.Identity()
	k := kept{
		Identity: cloneIdentity(id),
		Metadata: cloneEntries(x.Metadata()),
		Reason:   strings.Clone(v.Reason()),
		Body:     string(v.Body()),
	}
	for _, h := range v.Headers() {
		k.Headers = append(k.Headers, policies.Header{Name: strings.Clone(h.Name), Value: strings.Clone(h.Value)})
	}
	return k
}

func cloneIdentity(id *policies.Identity) policies.Identity {
	c := policies.Identity{
		Subject: strings.Clone(id.Subject),
		Method:  strings.Clone(id.Method),
		Issuer:  strings.Clone(id.Issuer),
		Claims:  cloneEntries(id.Claims),
	}
	for _, s := range id.Scopes {
		c.Scopes = append(c.Scopes, strings.Clone(s))
	}
	if set := id.ClaimsSet(); set != nil {
		c = c.WithClaimsSet(set)
	}
	return c
}

func cloneEntries(entries []policies.Entry) []policies.Entry {
	var c []policies.Entry
	for _, e := range entries {
		c = append(c, policies.Entry{Key: strings.Clone(e.Key), Value: strings.Clone(e.Value)})
	}
	return c
}

// overwrite makes whoever kept a piece of the buffer read something that no header has.
func overwrite(b []byte) {
	for i := range b {
		b[i] = 0xff
	}
}
