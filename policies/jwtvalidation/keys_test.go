package jwtvalidation

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

var errDown = errors.New("connection refused")

// weakRSA makes up a modulus: nothing is verified with it.
func weakRSA() *rsa.PrivateKey {
	n := new(big.Int).Lsh(big.NewInt(1), 1023)
	return &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537}}
}

// await runs only the phase method, and tells whether it would wait.
func await(t *testing.T, p *Policy, token string) bool {
	t.Helper()
	x := new(policies.Exchange)
	if err := x.BeginRequest("r", policytest.Request{Headers: []string{"authorization: Bearer " + token}}.HeaderMap(), true); err != nil {
		t.Fatal(err)
	}
	v, err := p.OnRequestHeaders(context.Background(), x.Request())
	if err != nil {
		t.Fatal(err)
	}
	return v.Awaited() != nil
}

func TestOnlyUnknownKeysAreWaitedFor(t *testing.T) {
	w := newWorld(t)
	p := w.policy(t, `{"issuer":["corporate","down"]}`)
	for name, tc := range map[string]struct {
		token string
		want  bool
	}{
		"known kid":            {newToken(nil), false},
		"known kid, bad":       {sign("RS256", header(""), payload, otherRSA), true}, // The key may have been replaced.
		"known kid, no fit":    {sign("RS256", `{"alg":"RS256","kid":"ed"}`, payload, rsaKey), false},
		"no kid":               {sign("RS256", `{"alg":"RS256"}`, payload, rsaKey), false},
		"unknown kid":          {sign("RS256", `{"alg":"RS256","kid":"new"}`, payload, rsaKey), true},
		"unknown alg":          {sign("RS256", `{"alg":"RS1","kid":"new"}`, payload, rsaKey), false},
		"unknown issuer":       {signClaims("RS256", m{"kid": "new"}, claims(m{"iss": "https://evil.example"}), rsaKey), false},
		"malformed":            {"x.y.z", false},
		"keys never loaded":    {signClaims("RS256", m{"kid": "rsa"}, claims(m{"iss": "https://down.example"}), rsaKey), true},
		"never loaded, no kid": {signClaims("RS256", nil, claims(m{"iss": "https://down.example"}), rsaKey), true},
	} {
		if got := await(t, p, tc.token); got != tc.want {
			t.Errorf("%s: waits %v, want %v", name, got, tc.want)
		}
	}
	if n := w.Count("keys_awaited"); n != 4 {
		t.Errorf("counted %d, want 4", n)
	}
}

func TestUnknownKidIsFetched(t *testing.T) {
	w := newWorld(t)
	w.corporate.SetKeys(public("old", "", otherRSA)).OnRefresh(func(context.Context) ([]policies.VerificationKey, error) { return corporateKeys, nil })
	p := w.policy(t, corporate)
	if got := p.bearer(t, newToken(nil), "x_user_id: admin"); got.String() != "continue alice" || got.header("x-user-id") != "alice" || got.header("x_user_id") != "" {
		t.Errorf("%v, x-user-id %q", got, got.header("x-user-id"))
	}
	// It is known now, and verified too.
	if got := p.bearer(t, newToken(nil)); got.String() != "continue alice" || w.corporate.Refreshes() != 1 {
		t.Errorf("%v after %d fetches, want one", got, w.corporate.Refreshes())
	}
	if got := p.bearer(t, sign("RS256", `{"alg":"RS256","kid":"newer"}`, payload, rsaKey)); got.String() != "401 token_key" {
		t.Errorf("a kid that the issuer does not have: %v", got)
	}
}

func TestEndpointDown(t *testing.T) {
	down := func(context.Context) ([]policies.VerificationKey, error) { return nil, errDown }
	t.Run("keys never loaded", func(t *testing.T) {
		w := newWorld(t)
		w.down.OnRefresh(down)
		p := w.policy(t, `{"issuer":"down"}`)
		for range 2 {
			got := p.bearer(t, signClaims("RS256", m{"kid": "rsa"}, claims(m{"iss": "https://down.example"}), rsaKey))
			if !errors.Is(got.Err, errDown) || got.Identity != nil {
				t.Errorf("%v, want an error: nobody can decide", got)
			}
		}
	})
	t.Run("keys never loaded, in the cool-down", func(t *testing.T) {
		w := newWorld(t)
		if got := w.policy(t, `{"issuer":"down"}`).bearer(t, signClaims("RS256", nil, claims(m{"iss": "https://down.example"}), rsaKey)); got.Err == nil {
			t.Errorf("%v, want an error: nobody can decide", got)
		}
	})
	t.Run("keys loaded before", func(t *testing.T) {
		w := newWorld(t)
		w.corporate.OnRefresh(down)
		p := w.policy(t, corporate)
		if got := p.bearer(t, newToken(nil)); got.String() != "continue alice" {
			t.Errorf("known kid: %v", got)
		}
		// Not an error: else an invented kid would be a way to on_failure.
		if got := p.bearer(t, sign("RS256", `{"alg":"RS256","kid":"invented"}`, payload, rsaKey)); got.String() != "401 token_key" {
			t.Errorf("unknown kid: %v", got)
		}
	})
}

func TestKeyRotationEndsTheMemory(t *testing.T) {
	w := newWorld(t)
	p, token := w.policy(t, corporate), newToken(nil)
	use := func(want string, hits int) {
		t.Helper()
		if got := p.bearer(t, token); got.String() != want || w.Count("cache_hit") != hits {
			t.Errorf("%v with %d hits, want %s with %d", got, w.Count("cache_hit"), want, hits)
		}
	}
	use("continue alice", 0)
	use("continue alice", 1)
	w.corporate.SetKeys(append([]policies.VerificationKey{public("more", "", p384)}, corporateKeys...)...)
	use("continue alice", 1) // verified again
	use("continue alice", 2)
	w.corporate.SetKeys(public("rsa", "", otherRSA)) // another key of that kid
	use("401 token_signature", 2)
	w.corporate.SetKeys(public("other", "", rsaKey)) // the kid is gone
	use("401 token_key", 2)
	w.corporate.SetKeys() // all keys are revoked
	use("401 token_key", 2)
	w.corporate.SetKeys(corporateKeys...)
	use("continue alice", 2)
}

func TestTimeIsLookedAtOnEachHit(t *testing.T) {
	w := newWorld(t)
	p := w.policy(t, corporate)
	token := newToken(m{"exp": policytest.Start.Add(time.Minute).Unix(), "nbf": policytest.Start.Unix()})
	at := func(d time.Duration, want string, hits int) {
		t.Helper()
		w.Set(policytest.Start.Add(d))
		if got := p.bearer(t, token); got.String() != want || w.Count("cache_hit") != hits {
			t.Errorf("at %v: %v with %d hits, want %s with %d", d, got, w.Count("cache_hit"), want, hits)
		}
	}
	at(0, "continue alice", 0)
	at(90*time.Second-time.Millisecond, "continue alice", 1) // exp and leeway
	at(-31*time.Second, "401 token_not_yet_valid", 2)        // a clock that was set back
	at(0, "continue alice", 2)                               // verified again
	at(90*time.Second, "401 token_expired", 3)
	at(90*time.Second, "401 token_expired", 3)
	at(time.Hour, "401 token_expired", 3)
}

func TestMemoryBelongsToItsParameters(t *testing.T) {
	w := newWorld(t)
	token := newToken(m{"aud": "api", "scope": "a", "tenant": "acme"})
	if got := w.policy(t, corporate).bearer(t, token); got.String() != "continue alice" {
		t.Fatal(got)
	}
	for params, want := range map[string]string{
		`{"issuer":"corporate","audience":["other"]}`:                    "401 token_audience",
		`{"issuer":"corporate","required_scopes":["b"]}`:                 "403 scope_missing",
		`{"issuer":"corporate","required_claims":{"tenant":"umbrella"}}`: "403 claim_missing",
		`{"issuer":"corporate","algorithms":["ES256"]}`:                  "401 token_algorithm",
		`{"issuer":"partner"}`:                                           "401 token_issuer",
		`{"issuer":"corporate","claims_to_headers":{"aud":"x-aud"}}`:     "continue alice",
		`{"issuer":"corporate","claims_to_headers":{}}`:                  "continue alice",
		`{"issuer":"corporate"}`:                                         "continue alice",
	} {
		for range 2 {
			if got := w.policy(t, params).bearer(t, token); got.String() != want {
				t.Errorf("%s: %v, want %s", params, got, want)
			}
		}
	}
	// An instance with the same parameters, on another route or of a later generation, knows the token at once.
	before := w.Count("cache_miss")
	again := policytest.Build(t, Definition(), w.At("elsewhere"), corporate).(*Policy)
	if got := again.bearer(t, token); got.String() != "continue alice" || w.Count("cache_miss") != before {
		t.Errorf("%v with %d misses more, want none", got, w.Count("cache_miss")-before)
	}
}

func TestMemoryOfAnIssuerThatIsGone(t *testing.T) {
	w := newWorld(t)
	token := newToken(nil)
	if got := w.policy(t, corporate).bearer(t, token); !got.Continued() {
		t.Fatal(got)
	}
	// The worker has the issuer's keys from somewhere else now. The generation is the same by chance.
	w.Env = policytest.NewEnv(t, policytest.WithIssuer("corporate", policytest.NewIssuer(iss).SetKeys(public("rsa", "", otherRSA))))
	p := w.policy(t, corporate)
	p.cache = must(newWorldCache(t, token))
	if got := p.bearer(t, token); got.String() != "401 token_signature" {
		t.Errorf("%v: the old issuer's word still counts", got)
	}
}

// newWorldCache returns a cache in which the token is good, by an issuer of another world.
func newWorldCache(t *testing.T, token string) (*cache, error) {
	p := newWorld(t).policy(t, corporate)
	if got := p.bearer(t, token); !got.Continued() {
		return nil, got.Err
	}
	return p.cache, nil
}

func TestMemoryIsBounded(t *testing.T) {
	w := newWorld(t)
	p := w.policy(t, corporate)
	v := &verified{issuer: w.corporate, identity: policies.Identity{Subject: "s", Scopes: []string{string(make([]byte, 8<<10))}}}
	for i := range 10_000 {
		var key cacheKey
		copy(key.token[:], fmt.Sprint(i))
		p.cache.put(key, v)
	}
	p.cache.entries.CleanUp()
	if size := p.cache.entries.WeightedSize(); size > maxCacheSize || size < maxCacheSize/2 {
		t.Errorf("%d bytes, want at most %d, and not much less", size, maxCacheSize)
	}
}

func TestSharedMemoryIsClosed(t *testing.T) {
	c, err := openCache()
	if err != nil {
		t.Fatal(err)
	}
	c.(*cache).put(cacheKey{}, &verified{})
	if err := c.Close(); err != nil || c.(*cache).entries.EstimatedSize() != 0 {
		t.Errorf("error %v, %d entries", err, c.(*cache).entries.EstimatedSize())
	}
}

func TestFingerprintTellsParametersApart(t *testing.T) {
	seen := map[[32]byte]string{}
	for _, text := range []string{
		`{"issuer":"a"}`, `{"issuer":"b"}`, `{"issuer":["a","b"]}`, `{"issuer":"a","audience":["x"]}`, `{"issuer":"a","audience":["x","y"]}`, `{"issuer":"a","audience":["x,y"]}`,
		`{"issuer":"a","algorithms":["RS256"]}`, `{"issuer":"a","header_name":"X"}`, `{"issuer":"a","scheme":"X"}`, `{"issuer":"a","required_scopes":["x"]}`,
		`{"issuer":"a","required_claims":{"x":"1"}}`, `{"issuer":"a","required_claims":{"x":1}}`, `{"issuer":"a","required_claims":{"x":["1","2"]}}`, `{"issuer":"a","claims_to_headers":{"x":"y"}}`,
		`{"issuer":"a","claims_to_headers":{}}`, `{"issuer":"a","leeway":"1s"}`, `{"issuer":"a","require_expiry":false}`, `{"issuer":"a","forward_token":false}`,
	} {
		var p Params
		p.Defaults()
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			t.Fatal(err)
		}
		p.defaultCollections()
		f, err := fingerprint(&p)
		if err != nil {
			t.Fatal(err)
		}
		if other, same := seen[f]; same {
			t.Errorf("%s and %s have the same", text, other)
		}
		seen[f] = text
	}
}
