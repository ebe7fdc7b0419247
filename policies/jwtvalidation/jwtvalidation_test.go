package jwtvalidation

import (
	"bytes"
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
		"tab":                       {corporate, []string{"authorization: Bearer\t" + good}, "401 token_malformed"},
		"comma":                     {corporate, []string{"authorization: Bearer," + good}, "401 token_malformed"},
		"tab, token not required":   {`{"issuer":"corporate","required":false}`, []string{"authorization: Bearer\t" + good}, "401 token_malformed"},
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
		"one key of two ids":       {[]policies.VerificationKey{public("a", "", rsaKey), public("b", "RS256", rsaKey)}, "RS256", rsaKey, "continue alice"},
		"two keys that fit":        {[]policies.VerificationKey{public("a", "", rsaKey), public("b", "", otherRSA)}, "RS256", rsaKey, "401 token_key"},
		"no key that fits":         {[]policies.VerificationKey{public("a", "", p256)}, "RS256", rsaKey, "401 token_key"},
		"no key at all":            {nil, "RS256", rsaKey, "401 token_key"},
		"another key":              {[]policies.VerificationKey{public("a", "", otherRSA)}, "RS256", rsaKey, "401 token_signature"},
	} {
		t.Run(name, func(t *testing.T) {
			w.corporate.SetKeys(tc.keys...)
			before, fetches := w.corporate.Refreshes(), 0
			if tc.want == "401 token_signature" { // The issuer may have replaced the key.
				fetches = 1
			}
			if got := w.policy(t, corporate).bearer(t, signClaims(tc.alg, nil, claims(nil), tc.key)); got.String() != tc.want {
				t.Errorf("%v, want %s", got, tc.want)
			}
			if n := w.corporate.Refreshes() - before; n != fetches {
				t.Errorf("%d fetches, want %d", n, fetches)
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

// examples are the tokens that the README writes as {{name}}: signatures of keys that are made anew for each run of the tests can't stand there.
var examples = map[string]string{
	"ALICE":    newToken(m{"scope": "accounts.read", "aud": "api", "tenant": "acme", "exp": policytest.Start.Add(time.Hour).Unix()}),
	"NO-SCOPE": newToken(m{"aud": "api"}),
	"NESTED":   newToken(m{"realm_access": m{"roles": []string{"admin", "ops"}}, "groups": []string{"dev", "ops"}, "name": "Zoë"}),
	"DAEMON":   newToken(m{"sub": nil, "client_id": "m2m", "roles": []string{"jobs"}}),
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

// The same parameters are one policy, however they are written and wherever it stands; others are another.
func TestEqualPoliciesAreOne(t *testing.T) {
	w := newWorld(t)
	p := w.policy(t, `{"issuer":"corporate","leeway":"5s","required_scopes":["a"]}`)
	if same := w.policy(t, `{ "required_scopes": ["a"], "leeway": "5000ms", "issuer": "corporate" }`); same != p {
		t.Error("equal parameters make two policies")
	}
	if other := w.policy(t, `{"issuer":"corporate","leeway":"5s","required_scopes":["b"]}`); other == p {
		t.Error("other parameters make the same policy")
	}
}
