package chain

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/policies"
)

// skipper may skip the body of a request, and marks the body that it gets.
type skipper struct {
	mark    string
	headers func(*policies.Request) (policies.Verdict, error)
}

func (s skipper) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	return s.headers(r)
}

func (s skipper) OnRequestBody(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	r.SetBody(append(append([]byte(nil), r.Body()...), s.mark...))
	return policies.Continue(), nil
}

// plainSkipper wants the body decoded.
type plainSkipper struct{ skipper }

func (plainSkipper) DecodesBodies() {}

func skip(r *policies.Request) (policies.Verdict, error) {
	r.SkipBody()
	return policies.Continue(), nil
}

func stay(*policies.Request) (policies.Verdict, error) { return policies.Continue(), nil }

// TestSkippedBodies: a policy that skips a body is named in the result, and does not run on the body whether the kernel knows that or not.
func TestSkippedBodies(t *testing.T) {
	late := skipper{"l", func(r *policies.Request) (policies.Verdict, error) {
		r.SkipBody()
		return policies.Verdict{}, errors.New("no")
	}}
	denied := skipper{"d", func(r *policies.Request) (policies.Verdict, error) {
		r.SkipBody()
		return policies.Deny(403, "no"), nil
	}}
	rest := skipper{"r", func(r *policies.Request) (policies.Verdict, error) {
		r.SkipBody()
		return policies.SkipRemaining("enough"), nil
	}}
	headersOnly := requestFunc(func(_ context.Context, r *policies.Request) (policies.Verdict, error) { return skip(r) })
	for _, tt := range []struct {
		name, coding string
		list         []Policy
		want         string // of the header phase
		skips        uint64
		body         string // what becomes of "x"
	}{
		{"one", "", []Policy{{Instance: skipper{"a", skip}}}, "CONTINUE", 1, "x"},
		{"none", "", []Policy{{Instance: skipper{"a", stay}}}, "CONTINUE", 0, "xa"},
		{"some", "", []Policy{{Instance: skipper{"a", skip}}, {Instance: skipper{"b", stay}}, {Instance: skipper{"c", skip}}}, "CONTINUE", 5, "xb"},
		{"not coded for it", "compress", []Policy{{Instance: plainSkipper{skipper{"a", skip}}}, {Instance: skipper{"b", stay}}}, "CONTINUE", 1, "xb"},
		{"coded for another", "compress", []Policy{{Instance: skipper{"a", skip}}, {Instance: plainSkipper{skipper{"b", stay}}}}, "CONTINUE", 1, "FAILED BODY_CODING /body_coding"},
		{"a failure skips nothing", "", []Policy{{Instance: late, OnFailure: onCont}}, "CONTINUE", 0, "xl"},
		{"a failure leaves nothing to the next", "", []Policy{{Instance: late, OnFailure: onCont}, {Instance: skipper{"b", stay}}}, "CONTINUE", 0, "xlb"},
		{"a policy without a body", "", []Policy{{Instance: headersOnly}, {Instance: skipper{"b", stay}}}, "CONTINUE", 0, "xb"},
		{"with the verdict to skip the rest", "", []Policy{{Instance: rest}, {Instance: skipper{"b", stay}}}, "SKIP_REMAINING p0/enough", 1, ""},
		{"denied", "", []Policy{{Instance: denied}}, `IMMEDIATE p0/no 403 content-type=application/json {"error":"Forbidden","code":"NO"}`, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := mustCompile(t, false, tt.list...)
			call := &workerv1.Call{Phase: workerv1.Phase_PHASE_REQUEST_HEADERS, Headers: headerMap(":method", "POST", ":path", "/", "content-encoding", tt.coding), WantContext: true}
			run := NewRun(testSettings())
			result := proto.CloneOf(execute(t, run, c, call))
			if got := show(result); got != tt.want || result.SkipsBody != tt.skips {
				t.Errorf("%s, skips %b; want %s, %b", got, result.SkipsBody, tt.want, tt.skips)
			}
			if tt.body == "" {
				return
			}
			run.Reset()
			call = bodyCall([]byte("x"), "content-encoding", tt.coding)
			call.Context = result.Context
			after := execute(t, run, c, call)
			got := string(after.Body)
			switch {
			case after.Outcome != workerv1.Result_OUTCOME_CONTINUE:
				got = show(after)
			case !after.BodyReplaced:
				got = "x"
			}
			if got != tt.body || after.SkipsBody != 0 {
				t.Errorf("the body becomes %q, skips %b; want %q", got, after.SkipsBody, tt.body)
			}
			run.Reset()
		})
	}
}

// TestSkipBodyInAnotherPhase is an illegal change: what came of the body has gone on.
func TestSkipBodyInAnotherPhase(t *testing.T) {
	c := mustCompile(t, false, Policy{Instance: rawBody(skip)})
	if got := show(execute(t, NewRun(testSettings()), c, bodyCall([]byte("x")))); got != "FAILED POLICY_ERROR p0/illegal_change" {
		t.Error(got)
	}
	response := mustCompile(t, true, Policy{Instance: responseFunc(func(_ context.Context, r *policies.Response) (policies.Verdict, error) {
		return skip(r.Request())
	})})
	call := &workerv1.Call{Phase: workerv1.Phase_PHASE_RESPONSE_HEADERS, RequestHeaders: headerMap(":path", "/"), Headers: headerMap(":status", "200")}
	if got := show(execute(t, NewRun(testSettings()), response, call)); got != "FAILED POLICY_ERROR p0/illegal_change" {
		t.Error(got)
	}
}

// TestSkippedBodiesAreReset: a run does not bring the bits of the call before along.
func TestSkippedBodiesAreReset(t *testing.T) {
	run := NewRun(testSettings())
	headers := func(c *Chain) uint64 {
		defer run.Reset()
		return execute(t, run, c, &workerv1.Call{Phase: workerv1.Phase_PHASE_REQUEST_HEADERS, Headers: headerMap(":method", "POST", ":path", "/"), WantContext: true}).SkipsBody
	}
	first, second := mustCompile(t, false, Policy{Instance: skipper{"a", skip}}), mustCompile(t, false, Policy{Instance: skipper{"a", stay}})
	if a, b := headers(first), headers(second); a != 1 || b != 0 {
		t.Errorf("%b, then %b", a, b)
	}
}
