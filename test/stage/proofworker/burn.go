package main

import (
	"context"
	"time"

	"github.com/policy-engine/policy-engine/policies"
)

// burn runs inline and takes processor time for as long as the request orders. It does not look at its context, as code
// that is slow by mistake does not.
type burn struct{}

func (*burn) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	what, n := r.Header(order)
	if n == 0 {
		return policies.Continue(), nil
	}
	d, err := time.ParseDuration(string(what))
	if err != nil {
		return policies.Continue(), err
	}
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
	return policies.Deny(400, "burnt"), nil
}
