package ratelimit

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

// admit runs the policy on one exchange again and again, as a worker does, once per millisecond.
func admit(t testing.TB, params string, clients int) func() {
	t.Helper()
	env := policytest.NewEnv(t)
	p := policytest.Build(t, Definition(), env, params).(*Policy)
	headerMap := policytest.Request{Headers: []string{"x-forwarded-for: 2001:db8::7", "x-tenant: acme"}}.HeaderMap()
	ids := make([]policies.Identity, clients)
	for i := range ids {
		ids[i] = policies.Identity{Subject: fmt.Sprintf("client-%d", i), Method: "apiKeyAuth", Issuer: "partners"}
	}
	x := new(policies.Exchange)
	ctx, n := t.Context(), 0
	run := func(ctx context.Context) {
		env.Advance(time.Millisecond)
		x.Reset()
		if err := x.BeginRequest("orders", headerMap, true); err != nil {
			t.Fatal(err)
		}
		x.ReplayIdentity(ids[n%clients])
		n++
		v, err := p.OnRequestHeaders(ctx, x.Request())
		if err != nil || !v.IsContinue() {
			t.Fatal(v, err)
		}
	}
	for range clients {
		run(ctx)
	}
	return func() { run(ctx) }
}

var admitted = map[string]string{
	"identity":  `{"requests": 1000, "per": "1s"}`,
	"client_ip": `{"requests": 1000, "per": "1s", "key": "client_ip"}`,
	"header":    `{"requests": 1000, "per": "1s", "key": "header:x-tenant"}`,
	"x":         `{"requests": 1000, "per": "1s", "headers": "x-ratelimit"}`,
	"first":     `{"requests": 1000, "per": "1s", "key": ["header:x-plan", "identity", "client_ip"]}`,
	"all":       `{"requests": 1000, "per": "1s", "key": {"all": ["client_ip", "header:x-tenant"]}}`,
	"route":     `{"requests": 1000, "per": "1s", "key": "route"}`,
	"legacy":    `{"requests": 1000, "per": "1s", "headers": "legacy"}`,
	"off":       `{"requests": 1000, "per": "1s", "headers": "off"}`,
}

func TestAdmittingDoesNotAllocate(t *testing.T) {
	for name, params := range admitted {
		if n := testing.AllocsPerRun(1000, admit(t, params, 10)); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkAdmit(b *testing.B) {
	for name, params := range admitted {
		b.Run(name, func(b *testing.B) {
			run := admit(b, params, 1000)
			b.ReportAllocs()
			for b.Loop() {
				run()
			}
		})
	}
}

// A client that uses up its burst is told another number each time.
func BenchmarkAdmitNewText(b *testing.B) {
	run := admit(b, `{"requests": 1000000000, "per": "8784h"}`, 1)
	b.ReportAllocs()
	for b.Loop() {
		run()
	}
}

func BenchmarkRefuse(b *testing.B) {
	env := policytest.NewEnv(b)
	p := policytest.Build(b, Definition(), env, `{"requests": 1, "per": "1h", "key": "route"}`).(*Policy)
	x := new(policies.Exchange)
	if err := x.BeginRequest("orders", policytest.Request{}.HeaderMap(), true); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.OnRequestHeaders(b.Context(), x.Request()); err != nil {
			b.Fatal(err)
		}
	}
}
