package tenantguard

import (
	"testing"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

// TestTenantsInAllClaims: the claim may be any of the credential's, nested ones and the metadata of API keys among them.
func TestTenantsInAllClaims(t *testing.T) {
	set := func(text string) *policies.ClaimsSet {
		claims, err := policies.ParseClaimsSet([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return claims
	}
	key, err := policies.KeyClaims([]string{"dev"}, []policies.Entry{{Key: "tenant", Value: "acme"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		claim  string
		claims *policies.ClaimsSet
		want   string
	}{
		{"tenant", key, "continue"},
		{"/org/id", set(`{"org":{"id":"acme"}}`), "continue"},
		{"/org/id", set(`{"org":{"id":"umbrella"}}`), "403 tenant_mismatch"},
		{"/org/id", set(`{"/org/id":"acme"}`), "403 tenant_mismatch"},
		{"/orgs", set(`{"orgs":["acme"]}`), "403 tenant_mismatch"},
		{"/orgs/0", set(`{"orgs":["acme"]}`), "continue"},
		{"tenant", set(`{"tenant":null}`), "403 tenant_mismatch"},
		{"tenant", nil, "403 tenant_mismatch"},
	} {
		p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"path_prefix":"/tenants/","scope_prefix":"","claim":"`+tc.claim+`"}`)
		id := policies.Identity{Subject: "alice"}.WithClaimsSet(tc.claims)
		if got := policytest.Run(t, p, policytest.Request{Path: "/tenants/acme", Identity: &id}); got.String() != tc.want {
			t.Errorf("claim %s: %v, want %s", tc.claim, got, tc.want)
		}
	}
}
