package jwtvalidation

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	corporate = `{"issuer":"corporate"}`
	allAlgs   = `{"issuer":"corporate","algorithms":["RS256","RS384","RS512","PS256","PS384","PS512","ES256","ES384","ES512","EdDSA"]}`
)

func TestAlgorithms(t *testing.T) {
	w := newWorld(t)
	p := w.policy(t, allAlgs)
	for _, tc := range []struct {
		alg, kid string
		key      any
	}{
		{"RS256", "rsa", rsaKey},
		{"RS384", "rsa", rsaKey},
		{"RS512", "rsa", rsaKey},
		{"PS256", "rsa", rsaKey},
		{"PS384", "rsa", rsaKey},
		{"PS512", "rsa", rsaKey},
		{"ES256", "p256", p256},
		{"ES384", "p384", p384},
		{"ES512", "p521", p521},
		{"EdDSA", "ed", edKey},
	} {
		t.Run(tc.alg, func(t *testing.T) {
			good := signClaims(tc.alg, m{"kid": tc.kid}, claims(m{"alg": tc.alg}), tc.key)
			if got := p.bearer(t, good); got.String() != "continue alice" {
				t.Errorf("%v, want to continue", got)
			}
			// Any other signature of the same length.
			head, tail := good[:strings.LastIndexByte(good, '.')+1], []byte(good[strings.LastIndexByte(good, '.')+1:])
			tail[10] ^= 1
			if tail[10] < '0' { // still in the alphabet
				tail[10] = 'A'
			}
			if got := p.bearer(t, head+string(tail)); got.String() != "401 token_signature" && got.String() != "401 token_malformed" {
				t.Errorf("with another signature: %v", got)
			}
			if got := p.bearer(t, strings.Replace(good, head, swapClaims(t, head, m{"sub": "admin"}), 1)); got.String() != "401 token_signature" {
				t.Errorf("with other claims: %v", got)
			}
			if got := w.policy(t, `{"issuer":"corporate","algorithms":["`+otherThan(tc.alg)+`"]}`).bearer(t, good); got.String() != "401 token_algorithm" {
				t.Errorf("where the algorithm is not taken: %v", got)
			}
		})
	}
}

func otherThan(alg string) string {
	if alg == "RS256" {
		return "ES256"
	}
	return "RS256"
}

// swapClaims returns a signing input, with its last dot, that has other claims.
func swapClaims(t *testing.T, input string, changes m) string {
	t.Helper()
	return strings.SplitAfter(input, ".")[0] + b64(string(must(json.Marshal(claims(changes))))) + "."
}

func TestDefaultAlgorithms(t *testing.T) {
	p := newWorld(t).policy(t, corporate)
	for alg, want := range map[string]string{"RS256": "continue alice", "PS256": "continue alice", "RS512": "401 token_algorithm", "PS384": "401 token_algorithm"} {
		if got := p.bearer(t, signClaims(alg, m{"kid": "rsa"}, claims(nil), rsaKey)); got.String() != want {
			t.Errorf("%s: %v, want %s", alg, got, want)
		}
	}
}

func TestClaims(t *testing.T) {
	w := newWorld(t)
	at := func(d time.Duration) float64 { return float64(policytest.Start.Add(d).UnixMilli()) / 1000 }
	param := func(more string) string { return `{"issuer":"corporate",` + more + `}` }
	for name, tc := range map[string]struct {
		params  string
		changes m
		want    string
	}{
		"another issuer":          {corporate, m{"iss": "https://evil.example"}, "401 token_issuer"},
		"issuer with a slash":     {corporate, m{"iss": iss + "/"}, "401 token_issuer"},
		"issuer in capitals":      {corporate, m{"iss": strings.ToUpper(iss)}, "401 token_issuer"},
		"no issuer":               {corporate, m{"iss": nil}, "401 token_issuer"},
		"issuer as a list":        {corporate, m{"iss": []string{iss}}, "401 token_issuer"},
		"known but not here":      {corporate, m{"iss": "https://partner.example"}, "401 token_issuer"},
		"signed by the other one": {`{"issuer":["corporate","partner"]}`, m{"iss": "https://partner.example"}, "401 token_key"},

		"expired":                     {corporate, m{"exp": at(-30 * time.Second)}, "401 token_expired"},
		"expired within leeway":       {corporate, m{"exp": at(-29 * time.Second)}, "continue alice"},
		"expired without leeway":      {param(`"leeway":"0s"`), m{"exp": at(0)}, "401 token_expired"},
		"expires in a millisecond":    {param(`"leeway":"0s"`), m{"exp": at(time.Millisecond)}, "continue alice"},
		"expired long ago":            {corporate, m{"exp": 0}, "401 token_expired"},
		"expired before 1970":         {corporate, m{"exp": -1e9}, "401 token_expired"},
		"no exp":                      {corporate, m{"exp": nil}, "401 token_claims"},
		"no exp where none is asked":  {param(`"require_expiry":false`), m{"exp": nil}, "continue alice"},
		"expired where none is asked": {param(`"require_expiry":false`), m{"exp": at(-time.Hour)}, "401 token_expired"},
		"exp as a string":             {param(`"require_expiry":false`), m{"exp": "9999999999"}, "401 token_claims"},
		"exp null":                    {param(`"require_expiry":false`), m{"exp": json.RawMessage("null")}, "401 token_claims"},
		"exp huge":                    {corporate, m{"exp": json.RawMessage("1e400")}, "401 token_claims"},
		"exp beyond 9999":             {corporate, m{"exp": json.RawMessage("253402300800")}, "401 token_claims"},
		"exp overflows":               {corporate, m{"exp": json.RawMessage("9223372036854775808")}, "401 token_claims"},
		"exp with many digits":        {corporate, m{"exp": json.RawMessage("1" + strings.Repeat("0", 4000))}, "401 token_claims"},
		"exp with a fraction":         {corporate, m{"exp": at(1500 * time.Millisecond)}, "continue alice"},
		"exp in scientific form":      {corporate, m{"exp": json.RawMessage("2.5e11")}, "continue alice"},

		"nbf ahead":               {corporate, m{"nbf": at(31 * time.Second)}, "401 token_not_yet_valid"},
		"nbf ahead within leeway": {corporate, m{"nbf": at(30 * time.Second)}, "continue alice"},
		"nbf as a string":         {corporate, m{"nbf": "0"}, "401 token_claims"},
		"iat ahead":               {corporate, m{"iat": at(time.Minute)}, "401 token_not_yet_valid"},
		"iat in the past":         {corporate, m{"iat": at(-time.Hour), "nbf": at(-time.Minute)}, "continue alice"},
		"iat as a list":           {corporate, m{"iat": []int{1}}, "401 token_claims"},

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
		"scope as a number":         {corporate, m{"scope": 1}, "401 token_claims"},
		"scp with a number":         {corporate, m{"scp": []any{"a", 1}}, "401 token_claims"},
		"expired and no scope":      {param(`"required_scopes":["a"]`), m{"exp": at(-time.Hour)}, "401 token_expired"},

		"claim string":         {param(`"required_claims":{"tenant":"acme"}`), m{"tenant": "acme"}, "continue alice"},
		"claim of a list":      {param(`"required_claims":{"tenant":["acme","umbrella"]}`), m{"tenant": "umbrella"}, "continue alice"},
		"claim is a list":      {param(`"required_claims":{"groups":["admins","staff"]}`), m{"groups": []string{"all", "staff"}}, "continue alice"},
		"claim number":         {param(`"required_claims":{"level":3}`), m{"level": json.RawMessage("3.0")}, "continue alice"},
		"claim bool":           {param(`"required_claims":{"email_verified":true}`), m{"email_verified": true}, "continue alice"},
		"claim missing":        {param(`"required_claims":{"tenant":"acme"}`), nil, "401 token_claims"},
		"claim other":          {param(`"required_claims":{"tenant":"acme"}`), m{"tenant": "Acme"}, "401 token_claims"},
		"claim bool as text":   {param(`"required_claims":{"email_verified":true}`), m{"email_verified": "true"}, "401 token_claims"},
		"claim number as text": {param(`"required_claims":{"level":3}`), m{"level": "3"}, "401 token_claims"},
		"claim number near":    {param(`"required_claims":{"level":3}`), m{"level": 3.5}, "401 token_claims"},
		"claim number huge":    {param(`"required_claims":{"level":9007199254740991}`), m{"level": json.RawMessage("9007199254740992.5")}, "401 token_claims"},
		"claim as an object":   {param(`"required_claims":{"tenant":"acme"}`), m{"tenant": m{"acme": 1}}, "401 token_claims"},
		"claim deep in a list": {param(`"required_claims":{"tenant":"acme"}`), m{"tenant": [][]string{{"acme"}}}, "401 token_claims"},
		"claim empty list":     {param(`"required_claims":{"tenant":"acme"}`), m{"tenant": []string{}}, "401 token_claims"},
		"claim null":           {param(`"required_claims":{"tenant":"acme"}`), m{"tenant": json.RawMessage("null")}, "401 token_claims"},

		"no sub":                      {corporate, m{"sub": nil}, "401 token_claims"},
		"empty sub":                   {corporate, m{"sub": ""}, "401 token_claims"},
		"sub as a number":             {corporate, m{"sub": 17}, "401 token_claims"},
		"sub with a line break":       {corporate, m{"sub": "alice\r\nx-admin: 1"}, "401 token_claims"},
		"sub with a NUL":              {corporate, m{"sub": "alice\x00"}, "401 token_claims"},
		"sub with a space at the end": {corporate, m{"sub": "alice "}, "401 token_claims"},
		"sub beyond ASCII":            {corporate, m{"sub": "josé"}, "401 token_claims"},
		"sub beyond ASCII, no header": {param(`"claims_to_headers":{}`), m{"sub": "josé"}, "continue josé"},
		"sub is no Unicode":           {param(`"claims_to_headers":{}`), m{"sub": json.RawMessage(`"\ud800"`)}, "401 token_malformed"},
		"list for a header":           {param(`"claims_to_headers":{"groups":"x-groups"}`), m{"groups": []string{"a"}}, "401 token_claims"},
		"object for a header":         {param(`"claims_to_headers":{"address":"x-address"}`), m{"address": m{}}, "401 token_claims"},
		"null for a header":           {param(`"claims_to_headers":{"org":"x-org"}`), m{"org": json.RawMessage("null")}, "401 token_claims"},
		"line break for a header":     {param(`"claims_to_headers":{"org":"x-org"}`), m{"org": "a\nb"}, "401 token_claims"},
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

func TestWhatTheUpstreamGets(t *testing.T) {
	w := newWorld(t)
	p := w.policy(t, `{"issuer":"corporate","claims_to_headers":{"sub":"X-User-ID","org":"X-Org","level":"X-Level","staff":"X-Staff","note":"X-Note","nick":"X-Nick"},"forward_token":false}`)
	token := newToken(m{"org": "Umbrella & Co", "level": 3, "staff": true, "note": "", "scope": "a b"})
	for _, round := range []string{"verified", "from the cache"} {
		got := p.bearer(t, token, "x_org: evil", "X-Note: evil", "x-nick: evil", "x-level: 9", "x_user_id: admin")
		if !got.Continued() {
			t.Fatal(got)
		}
		for name, want := range map[string]string{
			"x-user-id": "alice", "x-org": "Umbrella & Co", "x-level": "3", "x-staff": "true", "x-note": "", "x-nick": "", "x_org": "", "x_user_id": "", "authorization": "",
		} {
			if value, n := got.Header(name); value != want || n > 1 || n == 1 && want == "" {
				t.Errorf("%s: header %s is %q (%d), want %q", round, name, value, n, want)
			}
		}
		id := got.Identity
		if id.Subject != "alice" || id.Method != "jwtValidation" || id.Issuer != iss || !id.HasScope("b") {
			t.Errorf("%s: identity %+v", round, id)
		}
		if org, _ := id.Claim("org"); org != "Umbrella & Co" || len(id.Claims) != 4 {
			t.Errorf("%s: claims %v", round, id.Claims)
		}
	}
	if w.Count("cache_hit") != 1 || w.Count("cache_miss") != 1 {
		t.Errorf("%d hits, %d misses; want one each", w.Count("cache_hit"), w.Count("cache_miss"))
	}
	if got := w.policy(t, corporate).bearer(t, token); got.header("authorization") != "Bearer "+token {
		t.Error("the token is not forwarded")
	}
}

func TestIdentityHeadersOfTheClientNeverPass(t *testing.T) {
	w := newWorld(t)
	p := w.policy(t, corporate)
	for name, token := range map[string]string{"no token": "", "bad token": "x.y.z", "good token": newToken(nil)} {
		for _, spelling := range []string{"x-user-id", "X-User-ID", "x_user_id", "X_User-Id", "x-user_id"} {
			got := p.bearer(t, token, spelling+": admin", spelling+": root")
			for _, h := range got.Headers {
				if strings.EqualFold(strings.ReplaceAll(h.Name, "_", "-"), "x-user-id") && !(got.Continued() && h.Value == "alice") {
					t.Errorf("%s: %s: %s passes", name, h.Name, h.Value)
				}
			}
		}
	}
}

func TestWhereTheTokenIs(t *testing.T) {
	w := newWorld(t)
	good := newToken(nil)
	bare := `{"issuer":"corporate","header_name":"X-Token","scheme":""}`
	for name, tc := range map[string]struct {
		params  string
		headers []string
		want    string
	}{
		"none":                      {corporate, nil, "401 token_missing"},
		"empty":                     {corporate, []string{"authorization: "}, "401 token_missing"},
		"scheme alone":              {corporate, []string{"authorization: Bearer"}, "401 token_missing"},
		"scheme and a space":        {corporate, []string{"authorization: Bearer "}, "401 token_missing"},
		"scheme in lower case":      {corporate, []string{"authorization: bearer " + good}, "continue alice"},
		"header in capitals":        {corporate, []string{"AUTHORIZATION: BEARER " + good}, "continue alice"},
		"two spaces":                {corporate, []string{"authorization: Bearer  " + good}, "continue alice"},
		"tab":                       {corporate, []string{"authorization: Bearer\t" + good}, "401 token_missing"},
		"another scheme":            {corporate, []string{"authorization: Basic YTpi"}, "401 token_missing"},
		"without a scheme":          {corporate, []string{"authorization: " + good}, "401 token_missing"},
		"header twice":              {corporate, []string{"authorization: Bearer " + good, "authorization: Bearer " + good}, "401 token_repeated"},
		"with Basic":                {corporate, []string{"authorization: Bearer " + good, "authorization: Basic YTpi"}, "401 token_repeated"},
		"in two letter cases":       {corporate, []string{"authorization: Bearer " + good, "Authorization: Bearer " + good}, "401 token_repeated"},
		"two in one line":           {corporate, []string{"authorization: Bearer " + good + ", Bearer " + good}, "401 token_malformed"},
		"two after another":         {corporate, []string{"authorization: Bearer " + good + " " + good}, "401 token_malformed"},
		"own header":                {bare, []string{"x-token: " + good}, "continue alice"},
		"own header, other one":     {bare, []string{"authorization: Bearer " + good}, "401 token_missing"},
		"own header, Bearer":        {bare, []string{"x-token: Bearer " + good}, "401 token_malformed"},
		"own header, spelling":      {bare, []string{"x_token: " + good}, "401 token_repeated"},
		"own header, spelled twice": {bare, []string{"x-token: " + good, "x_token: " + good}, "401 token_repeated"},
		"own scheme":                {`{"issuer":"corporate","scheme":"Token"}`, []string{"authorization: token " + good}, "continue alice"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := w.policy(t, tc.params).run(t, tc.headers...); got.String() != tc.want {
				t.Errorf("%v, want %s", got, tc.want)
			}
		})
	}
}

func TestChallenges(t *testing.T) {
	w := newWorld(t)
	p := w.policy(t, `{"issuer":"corporate","required_scopes":["a","b"]}`)
	const invalid = `Bearer realm="api", error="invalid_token", error_description=`
	for name, tc := range map[string]struct {
		got    outcome
		status int
		want   string
	}{
		"missing":    {p.run(t), 401, invalid + `"a token is required"`},
		"bad":        {p.bearer(t, "bad"), 401, invalid + `"the token is not valid"`},
		"expired":    {p.bearer(t, newToken(m{"exp": 1})), 401, invalid + `"the token has expired"`},
		"no scope":   {p.bearer(t, newToken(m{"scope": "a"})), 403, `Bearer realm="api", error="insufficient_scope", scope="a b"`},
		"own scheme": {w.policy(t, `{"issuer":"corporate","scheme":"Token"}`).run(t), 401, strings.Replace(invalid, "Bearer", "Token", 1) + `"a token is required"`},
		"no scheme":  {w.policy(t, `{"issuer":"corporate","scheme":""}`).run(t), 401, invalid + `"a token is required"`},
	} {
		if value, n := tc.got.Answer("www-authenticate"); value != tc.want || n != 1 || tc.got.Verdict.Status() != tc.status {
			t.Errorf("%s: status %d, challenge %q (%d); want %d, %q", name, tc.got.Verdict.Status(), value, n, tc.status, tc.want)
		}
	}
}

func TestTokenWithoutAKid(t *testing.T) {
	w := newWorld(t)
	for name, tc := range map[string]struct {
		keys []policies.VerificationKey
		alg  string
		key  crypto.Signer
		want string
	}{
		"one key":                  {[]policies.VerificationKey{public("a", "", rsaKey)}, "RS256", rsaKey, "continue alice"},
		"one key that fits":        {[]policies.VerificationKey{public("a", "", rsaKey), public("b", "", p256), public("c", "", edKey)}, "ES256", p256, "continue alice"},
		"one key of the bound alg": {[]policies.VerificationKey{public("a", "PS256", otherRSA), public("b", "RS256", rsaKey)}, "RS256", rsaKey, "continue alice"},
		"two keys that fit":        {[]policies.VerificationKey{public("a", "", rsaKey), public("b", "", otherRSA)}, "RS256", rsaKey, "401 token_key"},
		"no key that fits":         {[]policies.VerificationKey{public("a", "", p256)}, "RS256", rsaKey, "401 token_key"},
		"no key at all":            {nil, "RS256", rsaKey, "401 token_key"},
		"another key":              {[]policies.VerificationKey{public("a", "", otherRSA)}, "RS256", rsaKey, "401 token_signature"},
	} {
		t.Run(name, func(t *testing.T) {
			w.corporate.SetKeys(tc.keys...)
			if got := w.policy(t, corporate).bearer(t, signClaims(tc.alg, nil, claims(nil), tc.key)); got.String() != tc.want {
				t.Errorf("%v, want %s", got, tc.want)
			}
			if w.corporate.Refreshes() > 0 {
				t.Error("a token without a kid makes a fetch")
			}
		})
	}
}

func TestKeysOfOneKid(t *testing.T) {
	w := newWorld(t)
	w.corporate.SetKeys(public("k", "", otherRSA), public("k", "", rsaKey), public("k", "", p256))
	p := w.policy(t, corporate)
	for alg, key := range map[string]crypto.Signer{"RS256": rsaKey, "PS256": otherRSA, "ES256": p256} {
		if got := p.bearer(t, signClaims(alg, m{"kid": "k"}, claims(nil), key)); got.String() != "continue alice" {
			t.Errorf("%s: %v", alg, got)
		}
	}
	if got := p.bearer(t, signClaims("EdDSA", m{"kid": "k"}, claims(nil), edKey)); got.String() != "401 token_key" {
		t.Error(got)
	}
}

func TestSeveralIssuers(t *testing.T) {
	w := newWorld(t)
	p := w.policy(t, `{"issuer":["corporate","partner"]}`)
	fromPartner := signClaims("RS256", nil, claims(m{"iss": "https://partner.example"}), otherRSA)
	if got := p.bearer(t, fromPartner); got.String() != "continue alice" || got.Identity.Issuer != "https://partner.example" {
		t.Error(got)
	}
	if got := p.bearer(t, newToken(nil)); got.String() != "continue alice" || got.Identity.Issuer != iss {
		t.Error(got)
	}
	// The partner signs for another one.
	if got := p.bearer(t, signClaims("PS256", m{"kid": "ps-only"}, claims(nil), rsaKey)); got.String() != "401 token_signature" {
		t.Error(got)
	}
	// What one place has found good is unknown at a place that trusts others.
	if got := w.policy(t, corporate).bearer(t, fromPartner); got.String() != "401 token_issuer" {
		t.Error(got)
	}
}

func TestBuildRefuses(t *testing.T) {
	for params, want := range map[string]string{
		`{}`:                                           "issuer: missing",
		`{"issuer":[]}`:                                "issuer: missing",
		`{"issuer":1}`:                                 "issuer: 1 is not legal here",
		`{"issuer":"nobody"}`:                          `issuer: unknown token issuer "nobody"; there are corporate, down, partner`,
		`{"issuer":["corporate","nobody"]}`:            `issuer[1]: unknown token issuer "nobody"`,
		`{"issuer":["corporate","corporate"]}`:         `issuer[1]: "corporate" has the same iss`,
		`{"issuer":"corporate","algorithms":[]}`:       "algorithms: empty",
		`{"issuer":"corporate","algorithms":["none"]}`: `algorithms[0]: "none" is not legal here; legal are RS256`,
		`{"issuer":"corporate","algorithms":["RS256","HS256"]}`:              `algorithms[1]: "HS256" is not legal here`,
		`{"issuer":"corporate","algorithms":["rs256"]}`:                      `algorithms[0]: `,
		`{"issuer":"corporate","audience":[""]}`:                             "audience[0]: empty",
		`{"issuer":"corporate","header_name":""}`:                            "header_name: ",
		`{"issuer":"corporate","header_name":"Cookie"}`:                      "header_name: ",
		`{"issuer":"corporate","scheme":"Bearer token"}`:                     "scheme: ",
		`{"issuer":"corporate","required_scopes":["a b"]}`:                   "required_scopes[0]: ",
		`{"issuer":"corporate","required_claims":{"a":{}}}`:                  "required_claims.a: ",
		`{"issuer":"corporate","required_claims":{"a":null}}`:                "required_claims.a: ",
		`{"issuer":"corporate","required_claims":{"a":[]}}`:                  "required_claims.a: an empty list",
		`{"issuer":"corporate","required_claims":{"a":1.5}}`:                 "required_claims.a: 1.5 is not legal",
		`{"issuer":"corporate","required_claims":{"a":9007199254740993}}`:    "required_claims.a: ",
		`{"issuer":"corporate","required_claims":{"a":["x",["y"]]}}`:         "required_claims.a: ",
		`{"issuer":"corporate","claims_to_headers":{"sub":"host"}}`:          "claims_to_headers.sub: ",
		`{"issuer":"corporate","claims_to_headers":{"sub":""}}`:              "claims_to_headers.sub: ",
		`{"issuer":"corporate","claims_to_headers":{"sub":"authorization"}}`: `claims_to_headers.sub: "authorization" carries the token`,
		`{"issuer":"corporate","claims_to_headers":{"a":"x-id","b":"X_ID"}}`: `claims_to_headers.b: "X_ID" carries "a" already`,
		`{"issuer":"corporate","leeway":"-1s"}`:                              "leeway: -1s is not legal here",
		`{"issuer":"corporate","leeway":"11m"}`:                              "leeway: 11m0s is not legal here",
		`{"issuer":"corporate","leeway":"soon"}`:                             `"soon" is not a duration`,
		`{"issuer":"corporate","claims_to_header":{}}`:                       "claims_to_header: unknown parameter",
	} {
		if _, err := Definition().Build(newWorld(t), json.RawMessage(params)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", params, err, want)
		}
	}
}

// examples are the tokens that the README writes as {{name}}: signatures of keys that are made anew for each run of the tests can't stand there.
var examples = map[string]string{
	"ALICE":    newToken(m{"scope": "accounts.read", "aud": "api", "tenant": "acme", "exp": policytest.Start.Add(time.Hour).Unix()}),
	"NO-SCOPE": newToken(m{"aud": "api"}),
	"EXPIRED":  newToken(m{"aud": "api", "exp": policytest.Start.Add(-time.Hour).Unix()}),
	"MALLORY":  signClaims("RS256", m{"kid": "rsa"}, claims(m{"scope": "accounts.read"}), otherRSA),
}

func TestREADME(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range examples {
		if !bytes.Contains(text, []byte("{{"+name+"}}")) {
			t.Errorf("no example has {{%s}}", name)
		}
		text = bytes.ReplaceAll(text, []byte("{{"+name+"}}"), []byte(token))
	}
	readme := filepath.Join(t.TempDir(), "README.md")
	if err := os.WriteFile(readme, text, 0o600); err != nil {
		t.Fatal(err)
	}
	policytest.RunExamples(t, readme, Definition(), newWorld(t).Env)
}

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
