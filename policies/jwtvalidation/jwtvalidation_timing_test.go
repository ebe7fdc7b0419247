package jwtvalidation

import (
	"context"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

func TestHitDoesNotAllocate(t *testing.T) {
	w := newWorld(t)
	for name, params := range map[string]string{
		"default":    corporate,
		"everything": `{"issuer":["partner","corporate"],"audience":["api"],"required_scopes":["a"],"required_claims":{"tenant":"acme"},"claims_to_headers":{"sub":"x-user-id","tenant":"x-tenant","level":"x-level"},"forward_token":false}`,
	} {
		t.Run(name, func(t *testing.T) {
			run := runner(t, w.policy(t, params), newToken(m{"aud": "api", "scope": "a b c", "tenant": "acme", "level": 3}))
			run()
			if n := testing.AllocsPerRun(1000, run); n != 0 {
				t.Errorf("%v allocations, want none", n)
			}
		})
	}
	if w.Count("cache_miss") != 2 || w.Count("cache_hit") < 2000 {
		t.Errorf("%d hits, %d misses", w.Count("cache_hit"), w.Count("cache_miss"))
	}
}

// runner returns a function that runs the policy on a request of which it reuses all memory.
func runner(t testing.TB, p *Policy, token string) func() {
	x := new(policies.Exchange)
	headers := policytest.Request{Path: "/accounts", Headers: []string{"authorization: Bearer " + token, "accept: */*", "user-agent: bench"}}.HeaderMap()
	return func() {
		x.Reset()
		if err := x.BeginRequest("accounts", headers, true); err != nil {
			t.Fatal(err)
		}
		if v, err := p.OnRequestHeaders(context.Background(), x.Request()); err != nil || !v.IsContinue() || v.Awaited() != nil {
			t.Fatal(v, err)
		}
	}
}

func BenchmarkCached(b *testing.B) {
	run := runner(b, newWorld(b).policy(b, corporate), newToken(m{"scope": "accounts.read"}))
	b.ReportAllocs()
	for b.Loop() {
		run()
	}
}

func BenchmarkCachedParallel(b *testing.B) {
	p, token := newWorld(b).policy(b, corporate), newToken(m{"scope": "accounts.read"})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		run := runner(b, p, token)
		for pb.Next() {
			run()
		}
	})
}

func BenchmarkUncached(b *testing.B) {
	for alg, key := range map[string]struct {
		kid string
		key any
	}{"RS256": {"rsa", rsaKey}, "PS256": {"rsa", rsaKey}, "ES256": {"p256", p256}, "EdDSA": {"ed", edKey}} {
		b.Run(alg, func(b *testing.B) {
			p := newWorld(b).policy(b, corporate)
			run := runner(b, p, signClaims(alg, m{"kid": key.kid}, claims(m{"scope": "accounts.read"}), key.key))
			b.ReportAllocs()
			for b.Loop() {
				p.cache.entries.InvalidateAll()
				run()
			}
		})
	}
}
