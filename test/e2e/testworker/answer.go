package main

import (
	"context"
	"slices"

	"github.com/policy-engine/policy-engine/policies"
)

// answer answers in place of the upstream when a header is there, or hides the upstream's response.
type answer struct{ answerParams }

type answerParams struct {
	// If is a header of the request, IfResponse one of the response.
	If         string `json:"if,omitempty"`
	IfResponse string `json:"if_response,omitempty"`
	Status     int    `json:"status"`
}

func newAnswer(_ policies.Env, p answerParams) (*answer, error) {
	if p.Status < 200 || p.Status > 599 {
		return nil, policies.BadParam("status", "%d is not legal; legal are 200 to 599", p.Status)
	}
	if p.If == "" && p.IfResponse == "" {
		return nil, policies.BadParam("if", "one of if and if_response is required")
	}
	return &answer{p}, nil
}

func (a *answer) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	if _, n := r.Header(a.If); a.If == "" || n == 0 {
		return policies.Continue(), nil
	}
	return a.verdict(), nil
}

func (a *answer) OnResponseHeaders(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	if _, n := r.Header(a.IfResponse); a.IfResponse == "" || n == 0 {
		return policies.Continue(), nil
	}
	return a.verdict(), nil
}

func (a *answer) verdict() policies.Verdict {
	if a.Status >= 400 {
		return policies.Deny(a.Status, "told_to").WithHeader("x-answered-by", "answer")
	}
	redirects := []int{301, 302, 303, 307, 308}
	v := policies.Respond(a.Status, "told_to", "text/plain", []byte("answered\n")).WithHeader("x-answered-by", "answer")
	if slices.Contains(redirects, a.Status) {
		v = v.WithHeader("location", "/elsewhere")
	}
	return v
}
