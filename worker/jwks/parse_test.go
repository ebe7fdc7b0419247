package jwks

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/lestrrat-go/jwx/v3/jwk"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	rsaKey   = must(rsa.GenerateKey(rand.Reader, 2048))
	p256     = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p384     = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	p521     = must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	ed, _, _ = ed25519.GenerateKey(rand.Reader)
)

// rsaMember makes up an RSA key: nothing is signed with it.
func rsaMember(bits uint, exponent string) string {
	n := new(big.Int).Lsh(big.NewInt(1), bits-1)
	n.Add(n, big.NewInt(1))
	return fmt.Sprintf(`{"kty":"RSA","n":%q,"e":%q}`, base64.RawURLEncoding.EncodeToString(n.Bytes()), exponent)
}

// evenModulus is of 2048 bits.
func evenModulus() []byte {
	n := rsaKey.N.Bytes()
	n[len(n)-1] &^= 1
	return n
}

// member returns key as a JWK with further members.
func member(key any, more map[string]any) string {
	k := must(jwk.Import(key))
	fields := map[string]any{}
	if err := json.Unmarshal(must(json.Marshal(k)), &fields); err != nil {
		panic(err)
	}
	for name, value := range more {
		fields[name] = value
	}
	return string(must(json.Marshal(fields)))
}

func set(members ...string) []byte {
	return []byte(`{"keys":[` + strings.Join(members, ",") + `]}`)
}

type m = map[string]any

func TestParseTakesVerificationKeys(t *testing.T) {
	keys, ignored, err := Parse(set(
		member(rsaKey.Public(), m{"kid": "rsa", "alg": "RS256", "use": "sig"}),
		member(p256.Public(), m{"kid": "p256"}),
		member(p384.Public(), m{"alg": "ES384", "key_ops": []string{"verify"}}),
		member(p521.Public(), m{"kid": "p521"}),
		member(ed, m{"kid": "ed", "alg": "Ed25519"}),
	))
	if err != nil || len(ignored) > 0 {
		t.Fatal(err, ignored)
	}
	var got []string
	for _, k := range keys {
		got = append(got, fmt.Sprintf("%s/%s/%T", k.ID, k.Algorithm, k.Public))
	}
	want := "rsa/RS256/*rsa.PublicKey p256//*ecdsa.PublicKey /ES384/*ecdsa.PublicKey p521//*ecdsa.PublicKey ed/EdDSA/ed25519.PublicKey"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
	if !rsaKey.PublicKey.Equal(keys[0].Public) || !ed.Equal(keys[4].Public) {
		t.Error("the keys are others")
	}
}

func TestParseLeavesOut(t *testing.T) {
	good := member(p256.Public(), m{"kid": "good"})
	for name, tc := range map[string]struct{ member, why string }{
		"RSA of 1024 bits":        {rsaMember(1024, "AQAB"), "an RSA key of 1024 bits, expected 2048 to 8192"},
		"private RSA key":         {member(rsaKey, m{"kid": "x"}), `kid "x": a private key`},
		"private EC key":          {member(p256, nil), "a private key"},
		"symmetric key":           {member([]byte("0123456789abcdef0123456789abcdef"), m{"kid": "x"}), `kid "x": a symmetric key`},
		"use enc":                 {member(rsaKey.Public(), m{"use": "enc"}), `its use is "enc"`},
		"key_ops without verify":  {member(rsaKey.Public(), m{"key_ops": []string{"encrypt"}}), "its key_ops does not have verify"},
		"alg for encryption":      {member(rsaKey.Public(), m{"alg": "RSA-OAEP-256"}), `its alg is "RSA-OAEP-256", expected none or one of RS256`},
		"HS256 on an RSA key":     {member(rsaKey.Public(), m{"alg": "HS256"}), `its alg is "HS256"`},
		"none":                    {member(rsaKey.Public(), m{"alg": "none"}), `its alg is "none"`},
		"ES256 on P-384":          {member(p384.Public(), m{"alg": "ES256"}), `its alg is "ES256", expected none or one of ES384`},
		"RS256 on an EC key":      {member(p256.Public(), m{"alg": "RS256"}), `its alg is "RS256", expected none or one of ES256`},
		"EC point off the curve":  {`{"kty":"EC","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"}`, "an EC key that is not a point of P-256"},
		"X25519":                  {`{"kty":"OKP","crv":"X25519","x":"hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo"}`, `unknown crv "X25519"`},
		"unknown type":            {`{"kty":"XYZ"}`, `unknown kty "XYZ", expected one of RSA, EC, OKP`},
		"no object":               {`17`, "not a JWK"},
		"number as kid":           {`{"kty":"OKP","crv":"Ed25519","kid":1,"x":"hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo"}`, "its kid is not a string"},
		"RSA of 16384 bits":       {rsaMember(16384, "AQAB"), "16384 bits"},
		"RSA exponent 1":          {rsaMember(2048, "AQ"), "exponent 1, expected an odd number"},
		"RSA modulus even":        {member(rsaKey.Public(), m{"n": base64.RawURLEncoding.EncodeToString(evenModulus())}), "an even modulus"},
		"RSA exponent of 64 bits": {rsaMember(2048, "AQAAAAAAAAAB"), "an exponent above 2^31-1"},
		"RSA without n":           {`{"kty":"RSA","e":"AQAB"}`, "no n"},
		"RSA without e":           {`{"kty":"RSA","n":"AQAB"}`, "no e"},
		"RSA of n 0":              {`{"kty":"RSA","n":"AA","e":"AQAB"}`, "its n is zero"},
		"n is no base64":          {`{"kty":"RSA","n":"*","e":"AQAB"}`, "its n is not base64url"},
		"n is no string":          {`{"kty":"RSA","n":1,"e":"AQAB"}`, "its n is not a string"},
		"no type":                 {`{"n":"AQAB","e":"AQAB"}`, "no kty"},
		"type in lower case":      {`{"kty":"rsa","n":"AQAB","e":"AQAB"}`, `unknown kty "rsa"`},
		"members in capitals":     {`{"KTY":"RSA","N":"AQAB","E":"AQAB"}`, "no kty"},
		"member twice":            {`{"kty":"RSA","kty":"EC"}`, `member "kty" is there more than once`},
		"EC curve of Bitcoin":     {`{"kty":"EC","crv":"secp256k1","x":"AQ","y":"AQ"}`, `unknown crv "secp256k1", expected one of P-256, P-384, P-521`},
		"EC without y":            {`{"kty":"EC","crv":"P-256","x":"AQ"}`, "no y"},
		"EC coordinate too long":  {`{"kty":"EC","crv":"P-256","y":"AQ","x":"` + strings.Repeat("AQ", 30) + `"}`, "too long for P-256"},
		"Ed448":                   {`{"kty":"OKP","crv":"Ed448","x":"AQ"}`, `unknown crv "Ed448", expected Ed25519`},
		"Ed25519 of 31 bytes":     {`{"kty":"OKP","crv":"Ed25519","x":"` + strings.Repeat("AQ", 20) + `"}`, "bytes, expected 32"},
		"key_ops no list":         {member(rsaKey.Public(), m{"key_ops": "verify"}), "its key_ops is not a list"},
		"key_ops empty":           {member(rsaKey.Public(), m{"key_ops": []string{}}), "its key_ops does not have verify"},
		"use null":                {member(rsaKey.Public(), m{"use": nil}), "its use is not a string"},
		"half private":            {member(rsaKey.Public(), m{"d": "AQAB"}), "a private key"},
		"k on an RSA key":         {member(rsaKey.Public(), m{"k": "AQAB"}), "a symmetric key"},
		"RSA exponent even":       {rsaMember(2048, "AQAA"), "exponent 65536, expected an odd number"},
	} {
		t.Run(name, func(t *testing.T) {
			keys, ignored, err := Parse(set(tc.member, good))
			if err != nil {
				t.Fatal(err)
			}
			if len(keys) != 1 || keys[0].ID != "good" || len(ignored) != 1 {
				t.Fatalf("keys %v, ignored %v; want the good one alone", keys, ignored)
			}
			if !strings.Contains(ignored[0].Error(), "keys[0]") || !strings.Contains(ignored[0].Error(), tc.why) {
				t.Errorf("reason %q, want %q", ignored[0], tc.why)
			}
			if secret := rsaKey.D.String(); strings.Contains(ignored[0].Error(), secret) {
				t.Error("the reason shows the private key")
			}
			if _, _, err := Parse(set(tc.member)); err == nil {
				t.Error("a set with that key alone is accepted")
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	hundred := strings.Split(strings.Repeat(member(ed, nil)+"\n", 101), "\n")[:101]
	for name, content := range map[string][]byte{
		"empty":        {},
		"HTML":         []byte("<html>"),
		"array":        []byte("[]"),
		"null":         []byte("null"),
		"no keys":      []byte(`{"error":"try later"}`),
		"null keys":    []byte(`{"keys":null}`),
		"keys object":  []byte(`{"keys":{}}`),
		"a key alone":  []byte(member(ed, nil)),
		"trailing":     append(set(), '1'),
		"101 keys":     set(hundred...),
		"over one MiB": []byte(`{"keys":[]` + strings.Repeat(" ", 1<<20) + `}`),
	} {
		if keys, _, err := Parse(content); err == nil {
			t.Errorf("%s: accepted as %d keys", name, len(keys))
		}
	}
}

func TestParseSameKidAndSameKey(t *testing.T) {
	keys, ignored, err := Parse(set(
		member(p256.Public(), m{"kid": "k"}), member(p256.Public(), m{"kid": "k"}), member(rsaKey.Public(), m{"kid": "k"}), member(p256.Public(), m{"kid": "other"}),
	))
	if err != nil || len(ignored) > 0 || len(keys) != 3 {
		t.Errorf("%d keys, ignored %v, error %v; want 3: the same key twice is one, two keys of one kid are two", len(keys), ignored, err)
	}
}

func TestParseOfNoKeysRevokesAll(t *testing.T) {
	if keys, _, err := Parse(set()); err != nil || len(keys) != 0 {
		t.Error(keys, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(set(member(rsaKey.Public(), m{"kid": "a", "alg": "RS256"}), member(ed, nil)))
	f.Add(set(member(p521, nil)))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"","y":""}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		keys, _, err := Parse(content)
		if err != nil && len(keys) > 0 {
			t.Error("keys with an error")
		}
		for _, k := range keys {
			if _, err := checkKey(k.Public); err != nil || k.Algorithm != "" && !slices.Contains(algorithmsOf(k.Public), k.Algorithm) {
				t.Errorf("accepted %v", k)
			}
		}
		identify(keys)
	})
}
