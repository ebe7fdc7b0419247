package chain

import (
	"context"
	"fmt"
	"testing"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/policies"
)

// TestOverloadedPolicyFails: a run that finds no room among those of a slow policy is a failure of that policy, with its
// own name. Its on_failure applies, and other policies of the chain run.
func TestOverloadedPolicyFails(t *testing.T) {
	for onFailure, want := range map[workerv1.OnFailure]string{
		workerv1.OnFailure_ON_FAILURE_DENY:           "FAILED POLICY_OVERLOADED p1/overloaded",
		workerv1.OnFailure_ON_FAILURE_CONTINUE:       "CONTINUE SET_HEADER(x-a=before) REMOVE_HEADER(x-user-id=) SET_HEADER(x-b=after)",
		workerv1.OnFailure_ON_FAILURE_SKIP_REMAINING: "SKIP_REMAINING POLICY_OVERLOADED p1/overloaded SET_HEADER(x-a=before) REMOVE_HEADER(x-user-id=)",
	} {
		t.Run(onFailure.String(), func(t *testing.T) {
			settings := testSettings()
			settings.Aside = &Aside{Running: 1, PerPlace: 1, Waiting: 1, WaitingPerPlace: 1}
			l := new(log)
			slow := requestFunc(func(context.Context, *policies.Request) (policies.Verdict, error) {
				t.Error("it ran")
				return policies.Continue(), nil
			})
			c := mustCompile(t, false,
				Policy{Instance: set("x-a", "before")},
				Policy{Instance: slow, OnFailure: onFailure, Observer: l, Owned: []string{"x-user-id"}},
				Policy{Instance: set("x-b", "after")},
			)
			full(t, settings.Aside, c.headers[1].pace)
			run := NewRun(settings)
			call := requestCall()
			call.Headers = headerMap(":method", "GET", ":path", "/", "x-user-id", "mallory")
			if err := run.Load(c, call, time.Now(), time.Now(), new(holds)); err != nil {
				t.Fatal(err)
			}
			if run.Inline(t.Context()) {
				t.Fatal("ended inline")
			}
			run.Wait(t.Context())
			if got := show(run.Result()); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if got, want := fmt.Sprint(l.failures), "[overloaded: too many runs of the policy take long]"; got != want {
				t.Errorf("failures %s, want %s", got, want)
			}
		})
	}
}

// full makes a place one of long runs, with as many that run and wait as there is room for.
func full(t *testing.T, a *Aside, p *pace) {
	t.Helper()
	a.suspect(p, time.Now())
	p.long = true
	for range a.PerPlace + a.WaitingPerPlace {
		if a.queue(p) == nil {
			t.Fatal("no room for the runs before")
		}
	}
}
