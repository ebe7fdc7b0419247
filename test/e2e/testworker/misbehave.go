package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/policy-engine/policy-engine/policies"
)

// order is the header of the request, or of the upstream's response, that tells misbehave and wait what to do.
const order = "x-misbehave"

// misbehave does what the header says.
type misbehave struct{}

type noParams struct{}

func newMisbehave(policies.Env, noParams) (*misbehave, error) { return &misbehave{}, nil }

func (*misbehave) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	r.SetHeader("x-misbehave-ran", "yes") // A policy that fails after this has changed nothing.
	value, _ := r.Header(order)
	if string(value) == "line-break" {
		r.SetHeader("x-misbehave-ran", "yes\r\nx-injected: yes")
	}
	return act(string(value))
}

func (*misbehave) OnResponseHeaders(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	value, _ := r.Header(order)
	return act(string(value))
}

func act(what string) (policies.Verdict, error) {
	switch what {
	case "panic":
		panic("told to")
	case "nil":
		var p *witnessParams
		return policies.Continue(), errors.New(p.Name)
	case "error":
		return policies.Continue(), errors.New("could not decide")
	case "illegal":
		return policies.Respond(101, "told_to", "text/plain", nil), nil
	case "illegal-deny":
		return policies.Deny(403, "Not A Reason"), nil
	case "skip":
		return policies.SkipRemaining("told_to"), nil
	case "deny":
		return policies.Deny(403, "told_to"), nil
	case "exit":
		os.Exit(3)
	}
	return policies.Continue(), nil
}

// wait waits as the header says: "context" until its context ends, "deaf" for some seconds whatever happens, a duration for that long.
type wait struct{}

func newWait(policies.Env, noParams) (*wait, error) { return &wait{}, nil }

func (*wait) MayBlock() {}

// deaf is longer than any timeout in the tests, and shorter than they may take.
const deaf = 3 * time.Second

func (*wait) OnRequestHeaders(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
	value, _ := r.Header(order)
	switch what := string(value); what {
	case "":
	case "context":
		<-ctx.Done()
		return policies.Continue(), ctx.Err()
	case "deaf":
		<-time.After(deaf)
	default:
		d, err := time.ParseDuration(what)
		if err != nil {
			return policies.Continue(), err
		}
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return policies.Continue(), ctx.Err()
		}
	}
	return policies.Continue(), nil
}
