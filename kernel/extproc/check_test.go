package extproc

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/proto"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
	"github.com/policy-engine/policy-engine/kernel/route"
)

var testSegment = &route.Segment{Worker: &worker{name: "w1"}, Policies: []route.PolicyRef{{Name: "auth"}, {Name: "limit"}}}

func TestCheckMutation(t *testing.T) {
	const path, method, status = workerv1.Mutation_KIND_SET_PATH, workerv1.Mutation_KIND_SET_METHOD, workerv1.Mutation_KIND_SET_STATUS
	for _, tc := range []struct {
		mutation *workerv1.Mutation
		request  error
		response error
	}{
		{mutation(set, "x-user", "alice"), nil, nil},
		{mutation(set, "x-user", ""), nil, nil},
		{mutation(set, "x-user", "a\tb \xe9\xff"), nil, nil},
		{mutation(set, "!#$%&'*+-.^_`|~0z", "v"), nil, nil},
		{mutation(add, "set-cookie", "a=b"), nil, nil},
		{mutation(remove, "x_user", ""), nil, nil},
		{mutation(set, "x-envoys", "v"), nil, nil},
		{mutation(set, "", "v"), httpsyntax.ErrNoName, httpsyntax.ErrNoName},
		{mutation(set, "X-User", "v"), errHeaderCase, errHeaderCase},
		{mutation(set, "x user", "v"), httpsyntax.ErrName, httpsyntax.ErrName},
		{mutation(set, "x-user\n", "v"), httpsyntax.ErrName, httpsyntax.ErrName},
		{mutation(set, "x\x00", "v"), httpsyntax.ErrName, httpsyntax.ErrName},
		{mutation(set, "x-é", "v"), httpsyntax.ErrName, httpsyntax.ErrName},
		{mutation(set, ":path", "/"), httpsyntax.ErrName, httpsyntax.ErrName},
		{mutation(set, ":authority", "evil"), httpsyntax.ErrName, httpsyntax.ErrName},
		{mutation(remove, ":method", ""), httpsyntax.ErrName, httpsyntax.ErrName},
		{mutation(set, "host", "evil"), httpsyntax.ErrHost, httpsyntax.ErrHost},
		{mutation(remove, "host", ""), httpsyntax.ErrHost, httpsyntax.ErrHost},
		{mutation(set, "x-envoy-original-path", "/"), httpsyntax.ErrEnvoy, httpsyntax.ErrEnvoy},
		{mutation(remove, "x-envoy-peer", ""), httpsyntax.ErrEnvoy, httpsyntax.ErrEnvoy},
		{mutation(add, "x-envoy-a", "v"), httpsyntax.ErrEnvoy, httpsyntax.ErrEnvoy},
		{mutation(set, "x-user", "a\r\nx-admin: 1"), httpsyntax.ErrLineBreak, httpsyntax.ErrLineBreak},
		{mutation(set, "x-user", "a\n"), httpsyntax.ErrLineBreak, httpsyntax.ErrLineBreak},
		{mutation(add, "x-user", "a\x00"), httpsyntax.ErrLineBreak, httpsyntax.ErrLineBreak},
		{mutation(set, "x-user", "a\x7f"), httpsyntax.ErrValue, httpsyntax.ErrValue},
		{mutation(path, "", "/a?b=c"), nil, errMutationKind},
		{mutation(path, "", "*"), httpsyntax.ErrPath, errMutationKind},
		{mutation(path, ":path", "/a"), errMutationKind, errMutationKind},
		{mutation(path, "", ""), httpsyntax.ErrPath, errMutationKind},
		{mutation(path, "", "a"), httpsyntax.ErrPath, errMutationKind},
		{mutation(path, "", "**"), httpsyntax.ErrPath, errMutationKind},
		{mutation(path, "", "http://evil/"), httpsyntax.ErrPath, errMutationKind},
		{mutation(path, "", "/a b"), httpsyntax.ErrPathByte, errMutationKind},
		{mutation(path, "", "/a\r\n"), httpsyntax.ErrPathByte, errMutationKind},
		{mutation(path, "", "/é"), httpsyntax.ErrPathByte, errMutationKind},
		{mutation(path, "", "/a#b"), httpsyntax.ErrPathByte, errMutationKind},
		{mutation(method, "", "PATCH"), nil, errMutationKind},
		{mutation(method, "", ""), httpsyntax.ErrMethod, errMutationKind},
		{mutation(method, "", "GET /"), httpsyntax.ErrMethod, errMutationKind},
		{mutation(method, "x", "GET"), errMutationKind, errMutationKind},
		{mutation(status, "", "200"), errMutationKind, nil},
		{mutation(status, "", "599"), errMutationKind, nil},
		{mutation(status, "", "199"), errMutationKind, httpsyntax.ErrStatus},
		{mutation(status, "", "600"), errMutationKind, httpsyntax.ErrStatus},
		{mutation(status, "", "2000"), errMutationKind, httpsyntax.ErrStatus},
		{mutation(status, "", "2x0"), errMutationKind, httpsyntax.ErrStatus},
		{mutation(status, "", ""), errMutationKind, httpsyntax.ErrStatus},
		{mutation(status, ":status", "200"), errMutationKind, errMutationKind},
		{mutation(workerv1.Mutation_KIND_UNSPECIFIED, "a", "b"), errMutationKind, errMutationKind},
		{mutation(7, "a", "b"), errMutationKind, errMutationKind},
		{nil, errMutationKind, errMutationKind},
	} {
		t.Run(fmt.Sprintf("%v %q %q", tc.mutation.GetKind(), tc.mutation.GetName(), tc.mutation.GetValue()), func(t *testing.T) {
			for phase, want := range map[workerv1.Phase]error{requestHeaders: tc.request, responseHeaders: tc.response} {
				r := &workerv1.Result{Phase: phase, Outcome: workerv1.Result_OUTCOME_CONTINUE, Mutations: []*workerv1.Mutation{tc.mutation}}
				if got := checkResult(phase, testSegment, r); !errors.Is(got, want) {
					t.Errorf("%v: %v, want %v", phase, got, want)
				}
			}
		})
	}
}

func TestCheckResult(t *testing.T) {
	ok := func(change func(*workerv1.Result)) *workerv1.Result {
		r := &workerv1.Result{Phase: requestHeaders, Outcome: workerv1.Result_OUTCOME_CONTINUE}
		change(r)
		return r
	}
	immediate := func(change func(*workerv1.ImmediateResponse)) *workerv1.Result {
		i := &workerv1.ImmediateResponse{Status: 403}
		change(i)
		return &workerv1.Result{Phase: requestHeaders, Outcome: workerv1.Result_OUTCOME_IMMEDIATE, Immediate: i}
	}
	many := func(n, size int) (out []*workerv1.Mutation) {
		for i := range n {
			out = append(out, mutation(set, fmt.Sprintf("x-%03d", i), strings.Repeat("v", size)))
		}
		return out
	}
	for _, tc := range []struct {
		name   string
		result *workerv1.Result
		want   error
	}{
		{"continue", ok(func(*workerv1.Result) {}), nil},
		{"full", ok(func(r *workerv1.Result) {
			r.Policy, r.Reason, r.Subject, r.Context = "limit", "ok_2", "ünï", make([]byte, maxContext)
		}), nil},
		{"no result", nil, errNoResult},
		{"no phase", ok(func(r *workerv1.Result) { r.Phase = 0 }), errPhase},
		{"other phase", ok(func(r *workerv1.Result) { r.Phase = responseHeaders }), errPhase},
		{"no outcome", ok(func(r *workerv1.Result) { r.Outcome = 0 }), errOutcome},
		{"unknown outcome", ok(func(r *workerv1.Result) { r.Outcome = 5 }), errOutcome},
		{"negative outcome", ok(func(r *workerv1.Result) { r.Outcome = -1 }), errOutcome},
		{"context too large", ok(func(r *workerv1.Result) { r.Context = make([]byte, maxContext+1) }), errContext},
		{"foreign policy", ok(func(r *workerv1.Result) { r.Policy = "custom" }), errPolicy},
		{"reason with a space", ok(func(r *workerv1.Result) { r.Reason = "no key" }), httpsyntax.ErrReason},
		{"reason in upper case", ok(func(r *workerv1.Result) { r.Reason = "NoKey" }), httpsyntax.ErrReason},
		{"reason too long", ok(func(r *workerv1.Result) { r.Reason = strings.Repeat("a", httpsyntax.MaxReason+1) }), httpsyntax.ErrReason},
		{"subject not UTF-8", ok(func(r *workerv1.Result) { r.Subject = "\xff" }), errSubject},
		{"subject too long", ok(func(r *workerv1.Result) { r.Subject = strings.Repeat("a", maxSubject+1) }), errSubject},
		{"as many mutations as Envoy takes", ok(func(r *workerv1.Result) { r.Mutations = many(100, 1) }), nil},
		{"one more", ok(func(r *workerv1.Result) { r.Mutations = many(101, 1) }), errMutationCount},
		{"continue with a response", ok(func(r *workerv1.Result) { r.Immediate = &workerv1.ImmediateResponse{Status: 403} }), errImmediate},
		{"failed without a failure", ok(func(r *workerv1.Result) { r.Outcome = workerv1.Result_OUTCOME_FAILED }), errFailure},
		{"failed with an unknown failure", ok(func(r *workerv1.Result) {
			r.Outcome, r.Failure = workerv1.Result_OUTCOME_FAILED, workerv1.Result_FAILURE_POLICY_OVERLOADED+1
		}), errFailure},
		{"failed", ok(func(r *workerv1.Result) {
			r.Outcome, r.Failure = workerv1.Result_OUTCOME_FAILED, workerv1.Result_FAILURE_DRAINING
		}), nil},
		{"failed with a response", ok(func(r *workerv1.Result) {
			r.Outcome, r.Failure = workerv1.Result_OUTCOME_FAILED, workerv1.Result_FAILURE_DRAINING
			r.Immediate = &workerv1.ImmediateResponse{Status: 403}
		}), errImmediate},
		{"immediate", immediate(func(*workerv1.ImmediateResponse) {}), nil},
		{"immediate without a response", ok(func(r *workerv1.Result) { r.Outcome = workerv1.Result_OUTCOME_IMMEDIATE }), errImmediate},
		{"status 0", immediate(func(i *workerv1.ImmediateResponse) { i.Status = 0 }), httpsyntax.ErrStatus},
		{"status 199", immediate(func(i *workerv1.ImmediateResponse) { i.Status = 199 }), httpsyntax.ErrStatus},
		{"status 600", immediate(func(i *workerv1.ImmediateResponse) { i.Status = 600 }), httpsyntax.ErrStatus},
		{"status that would wrap", immediate(func(i *workerv1.ImmediateResponse) { i.Status = 1<<32 - 1 }), httpsyntax.ErrStatus},
		{"gRPC status 16", immediate(func(i *workerv1.ImmediateResponse) { i.GrpcStatus = proto.Uint32(16) }), nil},
		{"gRPC status 17", immediate(func(i *workerv1.ImmediateResponse) { i.GrpcStatus = proto.Uint32(17) }), httpsyntax.ErrGRPCStatus},
		{"body too large", immediate(func(i *workerv1.ImmediateResponse) { i.Body = make([]byte, httpsyntax.MaxBody+1) }), httpsyntax.ErrBody},
		{"header of Envoy's", immediate(func(i *workerv1.ImmediateResponse) { i.Headers = []*workerv1.Header{{Name: "x-envoy-a"}} }), httpsyntax.ErrEnvoy},
		{"header with a line break", immediate(func(i *workerv1.ImmediateResponse) {
			i.Headers = []*workerv1.Header{{Name: "location", Value: []byte("/\r\nset-cookie: a")}}
		}), httpsyntax.ErrLineBreak},
		{"no header", immediate(func(i *workerv1.ImmediateResponse) { i.Headers = []*workerv1.Header{nil} }), errNoHeader},
		{"too many headers", immediate(func(i *workerv1.ImmediateResponse) { i.Headers = make([]*workerv1.Header, 101) }), httpsyntax.ErrTooMany},
		{"headers too large", immediate(func(i *workerv1.ImmediateResponse) {
			i.Headers = []*workerv1.Header{{Name: "a", Value: make([]byte, maxChangeBytes)}}
			for j := range i.Headers[0].Value {
				i.Headers[0].Value[j] = 'v'
			}
		}), httpsyntax.ErrTooMany},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := checkResult(requestHeaders, testSegment, tc.result); !errors.Is(got, tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
}

func TestChangesFitEnvoysLimits(t *testing.T) {
	var c changes
	half := []*workerv1.Mutation{mutation(set, "a", strings.Repeat("v", maxChangeBytes/2-1))}
	if !c.fits(half) {
		t.Fatal("half of the limit does not fit")
	}
	c.add(half)
	if !c.fits(half) {
		t.Error("the other half does not fit")
	}
	if c.fits([]*workerv1.Mutation{mutation(set, "ab", strings.Repeat("v", maxChangeBytes/2-1))}) {
		t.Error("a byte more than the limit fits")
	}
}

// FuzzCheckResult: what passes the check is what Envoy takes, by the judgement of others' code.
func FuzzCheckResult(f *testing.F) {
	for _, r := range []*workerv1.Result{
		{Phase: 1, Outcome: 1, Mutations: []*workerv1.Mutation{mutation(set, "a", "b"), mutation(workerv1.Mutation_KIND_SET_PATH, "", "/x")}},
		{Phase: 4, Outcome: 3, Mutations: []*workerv1.Mutation{mutation(remove, "a", ""), mutation(workerv1.Mutation_KIND_SET_STATUS, "", "204")}, Policy: "auth"},
		{Phase: 1, Outcome: 2, Immediate: &workerv1.ImmediateResponse{Status: 403, Headers: []*workerv1.Header{{Name: "a", Value: []byte("b")}}}},
		{Phase: 1, Outcome: 4, Failure: 9},
	} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := new(workerv1.Result)
		if r.UnmarshalVT(b) != nil {
			return
		}
		phase := requestHeaders
		if r.Phase == responseHeaders {
			phase = responseHeaders
		}
		if checkResult(phase, testSegment, r) != nil {
			return
		}
		if r.Outcome == workerv1.Result_OUTCOME_UNSPECIFIED || !utf8.ValidString(r.Subject) || strings.ContainsAny(r.Reason, " \n\"") {
			t.Fatalf("passed: %v", r)
		}
		lines := func(name, value string) {
			if !httpguts.ValidHeaderFieldName(name) || strings.ToLower(name) != name || strings.HasPrefix(name, "x-envoy-") || name == "host" || !httpguts.ValidHeaderFieldValue(value) {
				t.Fatalf("passed: %q: %q", name, value)
			}
		}
		if r.Outcome == workerv1.Result_OUTCOME_IMMEDIATE {
			if r.Immediate.Status < 200 || r.Immediate.Status > 599 {
				t.Fatalf("passed: status %d", r.Immediate.Status)
			}
			for _, h := range r.Immediate.Headers {
				lines(h.Name, string(h.Value))
			}
			return
		}
		var c changes
		c.add(r.Mutations)
		answer := new(extprocv3.ProcessingResponse)
		if err := proto.Unmarshal((&Machine{phase: phase}).appendHeadersAnswer(nil, phase, &c), answer); err != nil {
			t.Fatalf("%v: %v", r, err)
		}
		mutation := answer.GetRequestHeaders().GetResponse().GetHeaderMutation()
		if phase == responseHeaders {
			mutation = answer.GetResponseHeaders().GetResponse().GetHeaderMutation()
		}
		for _, h := range mutation.GetSetHeaders() {
			switch key := h.GetHeader().GetKey(); {
			case key == ":path" && phase == requestHeaders, key == ":method" && phase == requestHeaders, key == ":status" && phase == responseHeaders:
			default:
				lines(key, string(h.GetHeader().GetRawValue()))
			}
		}
		for _, name := range mutation.GetRemoveHeaders() {
			lines(name, "")
		}
	})
}
