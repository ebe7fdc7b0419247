package chain

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/policies"
)

// TestContext carries a request through three runs, as the kernel does with two workers and a response.
func TestContext(t *testing.T) {
	first := mustCompile(t, false, Policy{Instance: requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
		r.SetHeader("X-A", "one")
		r.AppendHeader("x-b", "two")
		r.RemoveHeader("x-request-id")
		r.SetPath("/new")
		r.SetMetadata("k", "v")
		r.SetIdentity(policies.Identity{Subject: "alice", Method: "p0", Issuer: "i", Scopes: []string{"s1", "s2"}, Claims: []policies.Entry{{Key: "c", Value: "d"}}})
		return policies.Continue(), nil
	})})
	second := mustCompile(t, false, Policy{Instance: requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
		a, _ := r.Header("x-a")
		b, _ := r.Header("x-b")
		k, _ := r.Metadata("k")
		if got := fmt.Sprintf("%s %s %s %s %s %+v", a, b, r.Path(), r.ID(), k, *r.Identity()); got != "one two /new  v {Subject:alice Method:p0 Issuer:i Scopes:[s1 s2] Claims:[{Key:c Value:d}] set:<nil> carried:}" {
			return policies.Verdict{}, errors.New(got)
		}
		r.SetMethod("POST")
		r.SetMetadata("k", "w")
		return policies.Continue(), nil
	})})
	third := mustCompile(t, true, Policy{Instance: responseFunc(func(_ context.Context, r *policies.Response) (policies.Verdict, error) {
		a, _ := r.Request().Header("x-a")
		k, _ := r.Metadata("k")
		if got := fmt.Sprintf("%s %s %s %s %d %s", a, r.Request().Method(), r.Request().Path(), k, r.Status(), r.Identity().Subject); got != "one POST /new w 200 alice" {
			return policies.Verdict{}, errors.New(got)
		}
		r.SetStatus(201)
		r.SetHeader("x-r", "r")
		return policies.Continue(), nil
	})})
	fourth := mustCompile(t, true, Policy{Instance: responseFunc(func(_ context.Context, r *policies.Response) (policies.Verdict, error) {
		x, _ := r.Header("x-r")
		return policies.Respond(r.Status(), "", "", x), nil
	})})

	run := NewRun(testSettings())
	step := func(c *Chain, call *workerv1.Call, want string) []byte {
		t.Helper()
		defer run.Reset()
		result := execute(t, run, c, call)
		if got := show(result); got != want {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
		// The oracle is the reference implementation: what is emitted must be valid for it, and the context must say the same.
		wire, err := proto.Marshal(result)
		if err != nil {
			t.Fatal(err)
		}
		var again workerv1.Result
		if err := proto.Unmarshal(wire, &again); err != nil {
			t.Fatal(err)
		}
		return again.Context
	}
	call := requestCall()
	ctx := step(first, call, "CONTINUE SET_HEADER(x-a=one) APPEND_HEADER(x-b=two) REMOVE_HEADER(x-request-id=) SET_PATH(=/new) subject=alice")
	call.Context = ctx
	ctx = step(second, call, "CONTINUE SET_METHOD(=POST) subject=alice")
	response := &workerv1.Call{Phase: workerv1.Phase_PHASE_RESPONSE_HEADERS, Headers: headerMap(":status", "200"), RequestHeaders: call.Headers, Context: ctx, WantContext: true}
	ctx = step(third, response, "CONTINUE SET_STATUS(=201) SET_HEADER(x-r=r) subject=alice")
	response.Context = ctx
	step(fourth, response, "IMMEDIATE p0/ 201 r subject=alice")

	var last workerv1.Context
	if err := proto.Unmarshal(ctx, &last); err != nil {
		t.Fatal(err)
	}
	if len(last.RequestMutations) != 5 || len(last.ResponseMutations) != 2 || len(last.Metadata) != 1 {
		t.Errorf("context %v", &last)
	}
	call.WantContext = false
	if ctx := step(second, call, "CONTINUE SET_METHOD(=POST) subject=alice"); ctx != nil {
		t.Errorf("a context of %d bytes that nobody wanted", len(ctx))
	}
}

// TestIdentitiesDoNotMix: what one request's identity had is gone when the next one has less.
func TestIdentitiesDoNotMix(t *testing.T) {
	var seen []string
	c := mustCompile(t, false, Policy{Instance: requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
		if id := r.Identity(); id == nil {
			seen = append(seen, "nobody")
		} else {
			seen = append(seen, fmt.Sprintf("%+v", *id))
		}
		return policies.Continue(), nil
	})})
	run := NewRun(testSettings())
	for _, context := range []*workerv1.Context{
		{Identity: &workerv1.Identity{Subject: "alice", Method: "m", Issuer: "i", Scopes: []string{"s1", "s2"}, Claims: []*workerv1.Entry{{Key: "a", Value: "b"}, {Key: "c", Value: "d"}}}},
		{Identity: &workerv1.Identity{Subject: "bob", Claims: []*workerv1.Entry{{Key: "e"}}}},
		{},
		{Identity: &workerv1.Identity{Subject: "carol", Scopes: []string{"s3"}}},
	} {
		call := requestCall()
		call.Context = encodeContext(t, context)
		again := execute(t, run, c, call).Context
		var carried workerv1.Context
		if err := proto.Unmarshal(again, &carried); err != nil || !proto.Equal(carried.Identity, context.Identity) {
			t.Errorf("the context goes on with %v, %v", carried.Identity, err)
		}
		run.Reset()
	}
	want := "{Subject:alice Method:m Issuer:i Scopes:[s1 s2] Claims:[{Key:a Value:b} {Key:c Value:d}] set:<nil> carried:} {Subject:bob Method: Issuer: Scopes:[] Claims:[{Key:e Value:}] set:<nil> carried:}" +
		" nobody {Subject:carol Method: Issuer: Scopes:[s3] Claims:[] set:<nil> carried:}"
	if got := strings.Join(seen, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestContextIsNotAliased changes the call's bytes after the run: strings that a policy kept must stay.
func TestContextIsNotAliased(t *testing.T) {
	var subject, value string
	c := mustCompile(t, false, Policy{Instance: requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
		subject = r.Identity().Subject
		value, _ = r.Metadata("k")
		return policies.Continue(), nil
	})})
	call := requestCall()
	call.Context = encodeContext(t, &workerv1.Context{Identity: &workerv1.Identity{Subject: "alice"}, Metadata: []*workerv1.Entry{{Key: "k", Value: "v"}}})
	run := NewRun(testSettings())
	execute(t, run, c, call)
	run.Reset()
	clear(call.Context)
	if subject != "alice" || value != "v" {
		t.Errorf("kept strings became %q and %q", subject, value)
	}
}

func encodeContext(t testing.TB, c *workerv1.Context) []byte {
	t.Helper()
	b, err := c.MarshalVT() // Unlike the reference, it takes text that is not UTF-8.
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLoadRefuses(t *testing.T) {
	request, response := mustCompile(t, false, Policy{Instance: give(policies.Continue())}), mustCompile(t, true)
	mutation := func(m ...*workerv1.Mutation) func(*workerv1.Call) {
		return func(c *workerv1.Call) { c.Context = encodeContext(t, &workerv1.Context{RequestMutations: m}) }
	}
	tests := []struct {
		name     string
		chain    *Chain
		spoil    func(*workerv1.Call)
		tooLarge bool
	}{
		{"phase missing", request, func(c *workerv1.Call) { c.Phase = 0 }, false},
		{"body phase", request, func(c *workerv1.Call) { c.Phase = workerv1.Phase_PHASE_REQUEST_BODY }, false},
		{"other flow", response, func(*workerv1.Call) {}, false},
		{"body", request, func(c *workerv1.Call) { c.Body = []byte("x") }, false},
		{"headers", request, func(c *workerv1.Call) { c.Headers = []byte{0xff} }, false},
		{"request headers in a request phase", request, func(c *workerv1.Call) { c.RequestHeaders = headerMap("a", "b") }, false},
		{"request headers", response, func(c *workerv1.Call) {
			c.Phase, c.RequestHeaders = workerv1.Phase_PHASE_RESPONSE_HEADERS, []byte{0xff}
		}, false},
		{"response headers", response, func(c *workerv1.Call) {
			c.Phase, c.Headers = workerv1.Phase_PHASE_RESPONSE_HEADERS, []byte{0xff}
		}, false},
		{"context", request, func(c *workerv1.Call) { c.Context = []byte{0xff} }, false},
		{"subject missing", request, func(c *workerv1.Call) {
			c.Context = encodeContext(t, &workerv1.Context{Identity: &workerv1.Identity{Method: "m"}})
		}, false},
		{"subject not text", request, func(c *workerv1.Call) {
			c.Context = encodeContext(t, &workerv1.Context{Identity: &workerv1.Identity{Subject: "\xff"}})
		}, false},
		{"metadata not text", request, func(c *workerv1.Call) {
			c.Context = encodeContext(t, &workerv1.Context{Metadata: []*workerv1.Entry{{Key: "\xff"}}})
		}, false},
		{"response changed in a request phase", request, func(c *workerv1.Call) {
			c.Context = encodeContext(t, &workerv1.Context{ResponseMutations: []*workerv1.Mutation{{Kind: 6, Value: []byte("200")}}})
		}, false},
		{"change of no kind", request, mutation(&workerv1.Mutation{Name: "a"}), false},
		{"change of kind 7", request, mutation(&workerv1.Mutation{Kind: 7}), false},
		{"change of kind 257", request, mutation(&workerv1.Mutation{Kind: 257, Name: "a"}), false},
		{"status of a request", request, mutation(&workerv1.Mutation{Kind: workerv1.Mutation_KIND_SET_STATUS, Value: []byte("200")}), false},
		{"illegal header", request, mutation(&workerv1.Mutation{Kind: workerv1.Mutation_KIND_SET_HEADER, Name: "a", Value: []byte("\n")}), false},
		{"large headers", request, func(c *workerv1.Call) { c.Headers = make([]byte, limits.MaxBodySize+1) }, true},
		{"large request headers", request, func(c *workerv1.Call) { c.RequestHeaders = make([]byte, limits.MaxBodySize+1) }, true},
		{"large body", request, func(c *workerv1.Call) { c.Body = make([]byte, limits.MaxBodySize+1) }, true},
		{"large context", request, func(c *workerv1.Call) { c.Context = make([]byte, limits.MaxStateSize+1) }, true},
	}
	run := NewRun(testSettings())
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			call := requestCall()
			tt.spoil(call)
			err := run.Load(tt.chain, call, time.Now(), time.Now(), new(holds))
			if err == nil || errors.Is(err, ErrTooLarge) != tt.tooLarge {
				t.Errorf("error %v", err)
			}
			run.Reset()
		})
	}
	execute(t, run, request, requestCall()) // The run is good for the next call.
}

func TestResultTooLarge(t *testing.T) {
	big := strings.Repeat("x", 1000)
	small := &Settings{Limits: Limits{MaxBodySize: 500, MaxStateSize: 100}, Now: time.Now}
	const want = "FAILED RESULT_TOO_LARGE /result_too_large"
	for name, f := range map[string]requestFunc{
		"changes": set("x-b", big),
		"metadata": func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			r.SetMetadata("k", big)
			return policies.Continue(), nil
		},
		"identity": func(_ context.Context, r *policies.Request) (policies.Verdict, error) {
			r.SetIdentity(policies.Identity{Subject: big})
			return policies.SkipRemaining("x"), nil
		},
		"body":    give(policies.Deny(403, "x").WithMessage(big)),
		"headers": give(policies.Deny(403, "x").WithHeader("x", big)),
	} {
		t.Run(name, func(t *testing.T) {
			result := execute(t, NewRun(small), mustCompile(t, false, Policy{Instance: f}), requestCall())
			if got := show(result); got != want || result.Context != nil || result.Id != 7 {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

// FuzzLoad throws bytes at a run: whatever they are, it ends in an error or in an explicit outcome.
func FuzzLoad(f *testing.F) {
	call := requestCall()
	f.Add(call.Headers, []byte(nil), []byte(nil), false)
	f.Add(headerMap(":status", "200"), call.Headers, encodeContext(f, &workerv1.Context{
		Identity:         &workerv1.Identity{Subject: "a"},
		Metadata:         []*workerv1.Entry{{Key: "k", Value: "v"}},
		RequestMutations: []*workerv1.Mutation{{Kind: 1, Name: "a", Value: []byte("b")}, {Kind: 4, Value: []byte("/")}},
	}), true)
	var chains [2]*Chain
	chains[0] = mustCompile(f, false, Policy{Instance: mess(look), OnFailure: workerv1.OnFailure_ON_FAILURE_CONTINUE})
	chains[1] = mustCompile(f, true, Policy{Instance: responseFunc(func(_ context.Context, r *policies.Response) (policies.Verdict, error) {
		r.SetHeader("a", "b")
		return policies.Continue(), nil
	})})
	run := NewRun(testSettings())
	f.Fuzz(func(t *testing.T, headers, requestHeaders, context []byte, response bool) {
		defer run.Reset()
		call := &workerv1.Call{Phase: workerv1.Phase_PHASE_REQUEST_HEADERS, Headers: headers, RequestHeaders: requestHeaders, Context: context, WantContext: true}
		c := chains[0]
		if response {
			c, call.Phase = chains[1], workerv1.Phase_PHASE_RESPONSE_HEADERS
		}
		if err := run.Load(c, call, time.Now(), time.Now(), new(holds)); err != nil {
			return
		}
		run.Wait(t.Context())
		result := run.Result()
		if result.Outcome == workerv1.Result_OUTCOME_UNSPECIFIED {
			t.Fatal("no outcome")
		}
		if _, err := proto.Marshal(result); err != nil { // It refuses what is not UTF-8.
			t.Fatal(err)
		}
	})
}
