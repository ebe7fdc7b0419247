package jwks

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
)

// certify makes the certificate of a key. Without a parent, it signs itself.
func certify(name string, key crypto.Signer, parent *x509.Certificate, by crypto.Signer) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0), // Long over: a set is trusted by where it comes from.
		IsCA: true, BasicConstraintsValid: true,
	}
	if parent == nil {
		parent, by = template, key
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by))))
}

var (
	caKey  = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	ca     = certify("ca", caKey, nil, nil)
	leafOf = func(key crypto.Signer) *x509.Certificate { return certify("leaf", key, ca, caKey) }
)

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func x5c(certificates ...*x509.Certificate) []string {
	var chain []string
	for _, c := range certificates {
		chain = append(chain, base64.StdEncoding.EncodeToString(c.Raw))
	}
	return chain
}

// describe is what Inspect says of each key.
func describe(t *testing.T, content []byte) string {
	t.Helper()
	entries, err := Inspect(content)
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, e := range entries {
		s := fmt.Sprintf("%s %s %s", e.Place, e.ID, e.Type)
		if e.Err != nil {
			s = e.Place + " " + e.Err.Error()
		}
		all = append(all, strings.Join(strings.Fields(s), " "))
	}
	return strings.Join(all, "; ")
}

func TestPEM(t *testing.T) {
	public := block("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(p256.Public())))
	pkcs1 := block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey))
	private := block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(p384)))
	certificate := func(c *x509.Certificate) string { return block("CERTIFICATE", c.Raw) }
	for name, tc := range map[string]struct{ content, want string }{
		"public key":           {public, "PEM block 1 EC P-256"},
		"two keys":             {public + pkcs1, "PEM block 1 EC P-256; PEM block 2 RSA 2048"},
		"certificate":          {certificate(leafOf(p384)), "PEM block 1 EC P-384"},
		"certificate of a CA":  {certificate(ca), "PEM block 1 EC P-256"},
		"certificate, chain":   {certificate(leafOf(p384)) + certificate(ca), "PEM block 1 EC P-384; PEM block 2 a certificate of the chain; only the key of the leaf verifies tokens"},
		"chain in other order": {certificate(ca) + certificate(leafOf(p384)), "PEM block 1 a certificate of the chain; only the key of the leaf verifies tokens; PEM block 2 EC P-384"},
		"private key":          {private + public, "PEM block 1 a private key; whoever can read the set can sign with it; PEM block 2 EC P-256"},
		"EC private key":       {block("EC PRIVATE KEY", []byte("x")), "PEM block 1 a private key; whoever can read the set can sign with it"},
		"request":              {block("CERTIFICATE REQUEST", []byte("x")), `PEM block 1 PEM type "CERTIFICATE REQUEST", expected PUBLIC KEY, RSA PUBLIC KEY or CERTIFICATE`},
		"broken key":           {block("PUBLIC KEY", []byte("x")), "PEM block 1 not a public key that can be read"},
		"broken certificate":   {block("CERTIFICATE", []byte("x")), "PEM block 1 not a certificate that can be read"},
		"half a block":         {public[:len(public)-30], "read key set: something that is not PEM follows the last key"},
		"JSON after it":        {public + string(set()), "read key set: something that is not PEM follows the last key"},
		"too many":             {strings.Repeat(public, 101), "read key set: must have at most 100 keys"},
	} {
		if got := describe(t, []byte(tc.content)); got != tc.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, tc.want)
		}
	}
	if keys, _, err := Parse([]byte(private)); err == nil {
		t.Errorf("a private key alone is taken: %v", keys)
	}
}

func TestCertificatesOfJWK(t *testing.T) {
	other := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	for name, tc := range map[string]struct{ member, want string }{
		"key and its certificate":     {member(p256.Public(), m{"kid": "k", "x5c": x5c(leafOf(p256), ca)}), "keys[0] k EC P-256"},
		"certificate of another":      {member(p256.Public(), m{"kid": "k", "x5c": x5c(leafOf(other))}), `keys[0] kid "k": the certificate in x5c is that of another key`},
		"chain in the wrong order":    {member(p256.Public(), m{"x5c": x5c(ca, leafOf(p256))}), "keys[0] the certificate in x5c is that of another key"},
		"certificate of another type": {member(rsaKey.Public(), m{"x5c": x5c(leafOf(p256))}), "keys[0] the certificate in x5c is that of another key"},
		"certificate alone":           {fmt.Sprintf(`{"kid":"k","x5c":[%q,%q]}`, x5c(leafOf(p256), ca)[0], x5c(ca)[0]), "keys[0] k EC P-256"},
		"certificate alone, type":     {fmt.Sprintf(`{"kty":"RSA","x5c":[%q]}`, x5c(leafOf(rsaKey))[0]), "keys[0] RSA 2048"},
		"certificate of other kty":    {fmt.Sprintf(`{"kty":"RSA","x5c":[%q]}`, x5c(leafOf(p256))[0]), `keys[0] its kty is "RSA", but the key of the certificate in x5c is of type EC`},
		"empty chain":                 {member(p256.Public(), m{"x5c": []string{}}), "keys[0] its x5c is not a list of certificates"},
		"no list":                     {member(p256.Public(), m{"x5c": "MII"}), "keys[0] its x5c is not a list of certificates"},
		"base64url":                   {member(p256.Public(), m{"x5c": []string{"_-_-"}}), "keys[0] its x5c is not base64 (RFC 7517 section 4.7: not base64url)"},
		"no certificate":              {member(p256.Public(), m{"x5c": []string{"MII="}}), "keys[0] the certificate in x5c can't be read"},
		"certificate for encryption":  {fmt.Sprintf(`{"use":"enc","x5c":[%q]}`, x5c(leafOf(p256))[0]), `keys[0] its use is "enc", expected sig`},
	} {
		if got := describe(t, set(tc.member)); got != tc.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, tc.want)
		}
	}
	// The leaf's key is the one that is used, and none of the chain.
	keys, _, err := Parse(set(fmt.Sprintf(`{"x5c":[%q,%q]}`, x5c(leafOf(p256))[0], x5c(ca)[0])))
	if err != nil || len(keys) != 1 || !p256.PublicKey.Equal(keys[0].Public) {
		t.Errorf("%v, %v; want the key of the leaf alone", keys, err)
	}
}

// TestMemberNamesAreCaseSensitive: encoding/json reads KEYS as keys, and lets the last one count.
func TestMemberNamesAreCaseSensitive(t *testing.T) {
	good := member(p256.Public(), m{"kid": "good"})
	evil := member(p384.Public(), m{"kid": "evil"})
	for name, tc := range map[string]struct{ content, want string }{
		"capitals after it":  {`{"keys":[` + good + `],"KEYS":[` + evil + `]}`, "keys[0] good EC P-256"},
		"capitals before it": {`{"Keys":[` + evil + `],"keys":[` + good + `]}`, "keys[0] good EC P-256"},
		"Kelvin sign":        {"{\"\u212Aeys\":[" + evil + `],"keys":[` + good + `]}`, "keys[0] good EC P-256"},
		"capitals alone":     {`{"KEYS":[` + good + `]}`, `read key set: member "KEYS", expected "keys": the names of members are case-sensitive`},
		"twice":              {`{"keys":[` + good + `],"keys":[` + evil + `]}`, `read key set: member "keys" is there more than once`},
		"twice, escaped":     {`{"keys":[` + good + `],"\u006beys":[` + evil + `]}`, `read key set: member "keys" is there more than once`},
		"one JWK":            {good, `read key set: it is one JWK, expected a set: put it into {"keys": [ ]}`},
		"null":               {`{"keys":null}`, `read key set: member "keys" is not a list`},
		"two objects":        {`{"keys":[]}{"keys":[` + evil + `]}`, "read key set: something follows the JSON object"},
		"a bracket more":     {`{"keys":[]}}`, "read key set: something follows the JSON object"},
		"HTML":               {"<html>", "read key set: it is neither a JSON object nor PEM"},
	} {
		if got := describe(t, []byte(tc.content)); got != tc.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, tc.want)
		}
	}
}

// TestSmallOrderKeysAreRefused: for each key of the list, a signature that nobody made verifies for some messages.
func TestSmallOrderKeysAreRefused(t *testing.T) {
	signature := make([]byte, ed25519.SignatureSize)
	signature[0] = 1 // R is the neutral element and S is 0: valid where the hash is a multiple of the key's order.
	for _, y := range smallOrders {
		for _, sign := range []byte{0, 0x80} {
			key := append(ed25519.PublicKey(nil), y...)
			key[31] |= sign
			forged := false
			for i := range 200 {
				forged = forged || ed25519.Verify(key, fmt.Appendf(nil, "message %d", i), signature)
			}
			// Two encodings, of a point without a sign and with one, are no points at all.
			if canonical := !strings.HasPrefix(fmt.Sprintf("%x", y), "01") && !strings.HasPrefix(fmt.Sprintf("%x", y), "e"); !forged && (canonical || sign == 0) {
				t.Errorf("%x: no forged signature in 200 messages, so that it is not of small order", key)
			}
			want := "keys[0] an Ed25519 key of small order: anyone can make signatures for it"
			if got := describe(t, set(`{"kty":"OKP","crv":"Ed25519","x":"`+base64.RawURLEncoding.EncodeToString(key)+`"}`)); got != want {
				t.Errorf("%x: %s", key, got)
			}
		}
	}
	for range 100 {
		if public, _, _ := ed25519.GenerateKey(rand.Reader); smallOrder(public) {
			t.Errorf("a key that was made by chance is refused: %x", public)
		}
	}
}
