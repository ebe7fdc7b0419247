package jwtvalidation

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/policies/policytest"
)

func TestClaims(t *testing.T) {
	w := newWorld(t)
	at := func(d time.Duration) float64 { return float64(policytest.Start.Add(d).UnixMilli()) / 1000 }
	param := func(more string) string { return `{"issuer":"corporate",` + more + `}` }
	for name, tc := range map[string]struct {
		params  string
		changes m
		want    string
	}{
		"another issuer":      {corporate, m{"iss": "https://evil.example"}, "401 token_issuer"},
		"issuer with a slash": {corporate, m{"iss": iss + "/"}, "401 token_issuer"},
		"issuer in capitals":  {corporate, m{"iss": strings.ToUpper(iss)}, "401 token_issuer"},
		"no issuer":           {corporate, m{"iss": nil}, "401 token_issuer"},
		"issuer as a list":    {corporate, m{"iss": []string{iss}}, "401 token_issuer"},
		"known but not here":  {corporate, m{"iss": "https://partner.example"}, "401 token_issuer"},
		// The partner's key has no kid: it is tried.
		"signed by the other one": {`{"issuer":["corporate","partner"]}`, m{"iss": "https://partner.example"}, "401 token_signature"},

		"expired":                     {corporate, m{"exp": at(-30 * time.Second)}, "401 token_expired"},
		"expired within leeway":       {corporate, m{"exp": at(-29 * time.Second)}, "continue alice"},
		"expired without leeway":      {param(`"leeway":"0s"`), m{"exp": at(0)}, "401 token_expired"},
		"expires in a millisecond":    {param(`"leeway":"0s"`), m{"exp": at(time.Millisecond)}, "continue alice"},
		"expired long ago":            {corporate, m{"exp": 0}, "401 token_expired"},
		"expired before 1970":         {corporate, m{"exp": -1e9}, "401 token_expired"},
		"no exp":                      {corporate, m{"exp": nil}, "401 token_expiry_missing"},
		"no exp where none is asked":  {param(`"require_expiry":false`), m{"exp": nil}, "continue alice"},
		"expired where none is asked": {param(`"require_expiry":false`), m{"exp": at(-time.Hour)}, "401 token_expired"},
		"exp as a string":             {param(`"require_expiry":false`), m{"exp": "9999999999"}, "401 token_time"},
		"exp null":                    {param(`"require_expiry":false`), m{"exp": json.RawMessage("null")}, "401 token_time"},
		"exp huge":                    {corporate, m{"exp": json.RawMessage("1e400")}, "401 token_time"},
		"exp beyond 9999":             {corporate, m{"exp": json.RawMessage("253402300800")}, "401 token_time"},
		"exp overflows":               {corporate, m{"exp": json.RawMessage("9223372036854775808")}, "401 token_time"},
		"exp with many digits":        {corporate, m{"exp": json.RawMessage("1" + strings.Repeat("0", 4000))}, "401 token_time"},
		"exp with a fraction":         {corporate, m{"exp": at(1500 * time.Millisecond)}, "continue alice"},
		"exp in scientific form":      {corporate, m{"exp": json.RawMessage("2.5e11")}, "continue alice"},

		"nbf ahead":               {corporate, m{"nbf": at(31 * time.Second)}, "401 token_not_yet_valid"},
		"nbf ahead within leeway": {corporate, m{"nbf": at(30 * time.Second)}, "continue alice"},
		"nbf as a string":         {corporate, m{"nbf": "0"}, "401 token_time"},
		"iat ahead":               {corporate, m{"iat": at(time.Minute)}, "401 token_not_yet_valid"},
		"iat in the past":         {corporate, m{"iat": at(-time.Hour), "nbf": at(-time.Minute)}, "continue alice"},
		"iat as a list":           {corporate, m{"iat": []int{1}}, "401 token_time"},

		"audience":               {param(`"audience":["api"]`), m{"aud": "api"}, "continue alice"},
		"audience in a list":     {param(`"audience":["other","api"]`), m{"aud": []string{"x", "api"}}, "continue alice"},
		"audience missing":       {param(`"audience":["api"]`), nil, "401 token_audience"},
		"another audience":       {param(`"audience":["api"]`), m{"aud": "api2"}, "401 token_audience"},
		"audience in capitals":   {param(`"audience":["api"]`), m{"aud": "API"}, "401 token_audience"},
		"audience empty list":    {param(`"audience":["api"]`), m{"aud": []string{}}, "401 token_audience"},
		"audience with a number": {param(`"audience":["api"]`), m{"aud": []any{"api", 1}}, "401 token_audience"},
		"audience as an object":  {param(`"audience":["api"]`), m{"aud": m{"api": true}}, "401 token_audience"},
		"audience not asked for": {corporate, m{"aud": "anything"}, "continue alice"},

		"scope":                     {param(`"required_scopes":["a","b"]`), m{"scope": "b c a"}, "continue alice"},
		"scp as a list":             {param(`"required_scopes":["a","b"]`), m{"scp": []string{"a", "b"}}, "continue alice"},
		"scp as a string":           {param(`"required_scopes":["a","b"]`), m{"scp": "a b"}, "continue alice"},
		"scope and scp":             {param(`"required_scopes":["a","b"]`), m{"scope": "a", "scp": []string{"b"}}, "continue alice"},
		"scope missing":             {param(`"required_scopes":["a"]`), nil, "403 scope_missing"},
		"one scope missing":         {param(`"required_scopes":["a","b"]`), m{"scope": "a"}, "403 scope_missing"},
		"scope is a part":           {param(`"required_scopes":["orders"]`), m{"scope": "orders.read"}, "403 scope_missing"},
		"scope with a space in scp": {param(`"required_scopes":["a"]`), m{"scp": []string{"a b"}}, "403 scope_missing"},
		"scope in capitals":         {param(`"required_scopes":["a"]`), m{"scope": "A"}, "403 scope_missing"},
		"scopes at a tab":           {param(`"required_scopes":["a"]`), m{"scope": "a\tb"}, "403 scope_missing"},
		"scopes at a line break":    {param(`"required_scopes":["a"]`), m{"scope": "b\na"}, "403 scope_missing"},
		"scopes at a wide space":    {param(`"required_scopes":["a"]`), m{"scope": "a\u00a0b"}, "403 scope_missing"},
		"scopes at two spaces":      {param(`"required_scopes":["a"]`), m{"scope": "  b  a "}, "continue alice"},
		"scope as a number":         {corporate, m{"scope": 1}, "401 token_scopes"},
		"scp with a number":         {corporate, m{"scp": []any{"a", 1}}, "401 token_scopes"},
		"expired and no scope":      {param(`"required_scopes":["a"]`), m{"exp": at(-time.Hour)}, "401 token_expired"},

		"claim string":         {param(`"required_claims":{"tenant":"acme"}`), m{"tenant": "acme"}, "continue alice"},
		"claim of a list":      {param(`"required_claims":{"tenant":["acme","umbrella"]}`), m{"tenant": "umbrella"}, "continue alice"},
		"claim is a list":      {param(`"required_claims":{"groups":["admins","staff"]}`), m{"groups": []string{"all", "staff"}}, "continue alice"},
		"claim number":         {param(`"required_claims":{"level":3}`), m{"level": json.RawMessage("3.0")}, "continue alice"},
		"claim bool":           {param(`"required_claims":{"email_verified":true}`), m{"email_verified": true}, "continue alice"},
		"claim missing":        {param(`"required_claims":{"tenant":"acme"}`), nil, "403 claim_missing"},
		"claim other":          {param(`"required_claims":{"tenant":"acme"}`), m{"tenant": "Acme"}, "403 claim_missing"},
		"claim bool as text":   {param(`"required_claims":{"email_verified":true}`), m{"email_verified": "true"}, "403 claim_missing"},
		"claim number as text": {param(`"required_claims":{"level":3}`), m{"level": "3"}, "403 claim_missing"},
		"claim number near":    {param(`"required_claims":{"level":3}`), m{"level": 3.5}, "403 claim_missing"},
		"claim number huge":    {param(`"required_claims":{"level":9007199254740991}`), m{"level": json.RawMessage("9007199254740992.5")}, "403 claim_missing"},
		"claim as an object":   {param(`"required_claims":{"tenant":"acme"}`), m{"tenant": m{"acme": 1}}, "403 claim_missing"},
		"claim deep in a list": {param(`"required_claims":{"tenant":"acme"}`), m{"tenant": [][]string{{"acme"}}}, "403 claim_missing"},
		"claim empty list":     {param(`"required_claims":{"tenant":"acme"}`), m{"tenant": []string{}}, "403 claim_missing"},
		"claim null":           {param(`"required_claims":{"tenant":"acme"}`), m{"tenant": json.RawMessage("null")}, "403 claim_missing"},

		"no sub":                      {corporate, m{"sub": nil}, "401 token_subject"},
		"empty sub":                   {corporate, m{"sub": ""}, "401 token_subject"},
		"sub as a number":             {corporate, m{"sub": 17}, "401 token_subject"},
		"sub with a line break":       {corporate, m{"sub": "alice\r\nx-admin: 1"}, "401 token_subject"},
		"sub with a NUL":              {corporate, m{"sub": "alice\x00"}, "401 token_subject"},
		"sub with a space at the end": {corporate, m{"sub": "alice "}, "401 token_subject"},
		"sub beyond ASCII":            {corporate, m{"sub": "josé"}, "401 token_subject"},
		"sub beyond ASCII, no header": {param(`"claims_to_headers":{}`), m{"sub": "josé"}, "continue josé"},
		"sub is no Unicode":           {param(`"claims_to_headers":{}`), m{"sub": json.RawMessage(`"\ud800"`)}, "401 token_malformed"},
		"list for a header":           {param(`"claims_to_headers":{"groups":"x-groups"}`), m{"groups": []string{"a"}}, "continue alice"},
		"object for a header":         {param(`"claims_to_headers":{"address":"x-address"}`), m{"address": m{}}, "continue alice"},
		"null for a header":           {param(`"claims_to_headers":{"org":"x-org"}`), m{"org": json.RawMessage("null")}, "continue alice"},
		"line break for a header":     {param(`"claims_to_headers":{"org":"x-org"}`), m{"org": "a\nb"}, "continue alice"},
	} {
		t.Run(name, func(t *testing.T) {
			got := w.policy(t, tc.params).bearer(t, newToken(tc.changes))
			if got.String() != tc.want {
				t.Errorf("%v, want %s", got, tc.want)
			}
			if !got.Continued() && (got.Identity != nil || got.header("x-user-id") != "") {
				t.Error("refused, but the identity is set")
			}
		})
	}
}
