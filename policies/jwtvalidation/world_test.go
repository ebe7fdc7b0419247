package jwtvalidation

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jws"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// The keys of all tests: RSA keys take a while to make.
var (
	rsaKey      = must(rsa.GenerateKey(rand.Reader, 2048))
	otherRSA    = must(rsa.GenerateKey(rand.Reader, 2048))
	p256        = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p384        = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	p521        = must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	_, edKey, _ = ed25519.GenerateKey(rand.Reader)
)

const iss = "https://issuer.example"

// world is an environment with the issuers "corporate" and "partner", and "down", whose keys were never loaded.
type world struct {
	*policytest.Env
	corporate, partner, down *policytest.Issuer
}

func public(id, alg string, key crypto.Signer) policies.VerificationKey {
	return policies.VerificationKey{ID: id, Algorithm: alg, Public: key.Public()}
}

var corporateKeys = []policies.VerificationKey{
	public("rsa", "", rsaKey), public("p256", "ES256", p256), public("p384", "", p384), public("p521", "", p521), public("ed", "EdDSA", edKey),
	public("ps-only", "PS256", otherRSA),
}

func newWorld(t testing.TB) world {
	w := world{
		corporate: policytest.NewIssuer(iss).SetKeys(corporateKeys...),
		partner:   policytest.NewIssuer("https://partner.example").SetKeys(public("", "", otherRSA)),
		down:      policytest.NewIssuer("https://down.example"),
	}
	w.Env = policytest.NewEnv(t, policytest.WithIssuer("corporate", w.corporate), policytest.WithIssuer("partner", w.partner), policytest.WithIssuer("down", w.down))
	return w
}

func (w world) policy(t testing.TB, params string) *Policy {
	t.Helper()
	return policytest.Build(t, Definition(), w, params).(*Policy)
}

type m = map[string]any

// claims are those of a good token, with changes: a nil value takes a claim away.
func claims(changes m) m {
	c := m{"iss": iss, "sub": "alice", "exp": policytest.Start.Add(time.Hour).Unix()}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// sign lets jwx sign any header and any payload, as they stand.
func sign(alg, header, payload string, key any) string {
	a, ok := jwa.LookupSignatureAlgorithm(alg)
	if !ok {
		panic(alg)
	}
	input := b64(header) + "." + b64(payload)
	signer := must(jws.SignerFor(a))
	return input + "." + b64(string(must(signer.Sign(key, []byte(input)))))
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// token is a good one of the corporate RSA key.
func newToken(changes m) string {
	return signClaims("RS256", m{"kid": "rsa"}, claims(changes), rsaKey)
}

func signClaims(alg string, header, c m, key any) string {
	h := m{"alg": alg, "typ": "JWT"}
	maps.Copy(h, header)
	maps.DeleteFunc(h, func(_ string, v any) bool { return v == nil })
	return sign(alg, string(must(json.Marshal(h))), string(must(json.Marshal(c))), key)
}

// bearer runs the policy on a request with the token in its place.
func (p *Policy) bearer(t testing.TB, token string, more ...string) outcome {
	t.Helper()
	return p.run(t, append([]string{"authorization: Bearer " + token}, more...)...)
}

func (p *Policy) run(t testing.TB, headers ...string) outcome {
	t.Helper()
	return outcome{policytest.Run(t, p, policytest.Request{Headers: headers})}
}

// outcome is what came of a request.
type outcome struct{ *policytest.Result }

func (o outcome) header(name string) string {
	value, _ := o.Header(name)
	return value
}

// String is "continue" with the subject, or the refusal.
func (o outcome) String() string {
	if o.Continued() && o.Identity != nil {
		return strings.TrimSpace("continue " + o.Identity.Subject)
	}
	return o.Result.String()
}
