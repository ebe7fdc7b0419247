package jwks

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"

	"github.com/policy-engine/policy-engine/policies"
)

const (
	maxSetSize = 1 << 20 // bytes
	maxKeys    = 100

	// RSA keys below are too weak (RFC 7518 section 3.3); a verification with one above takes milliseconds.
	minRSABits = 2048
	maxRSABits = 8192
)

// Parse reads a JWK set (RFC 7517 section 5): the public keys that verify signatures, in their order. The others are left out, and ignored tells
// which and why. A set without keys is legal: its issuer has revoked them all. A set that has some, but none that can be used, is an error.
func Parse(content []byte) (keys []policies.VerificationKey, ignored []error, err error) {
	if len(content) > maxSetSize {
		return nil, nil, fmt.Errorf("read JWK set: it has %d bytes; legal are %d", len(content), maxSetSize)
	}
	var set struct {
		Keys *[]json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(content, &set); err != nil {
		return nil, nil, fmt.Errorf("read JWK set: %w", err)
	}
	if set.Keys == nil {
		return nil, nil, errors.New(`read JWK set: no member "keys"; legal is an object with a list of that name (RFC 7517 section 5)`)
	}
	if n := len(*set.Keys); n > maxKeys {
		return nil, nil, fmt.Errorf("read JWK set: it has %d keys; legal are %d", n, maxKeys)
	}
	seen := map[[sha256.Size]byte]bool{}
	for i, raw := range *set.Keys {
		key, err := parseKey(raw)
		if err != nil {
			ignored = append(ignored, fmt.Errorf("keys[%d]: %w", i, err))
			continue
		}
		// Different keys of one kid are legal (RFC 7517 section 4.5): a token is tried with each that fits. The same key twice is of no use.
		if id := identify([]policies.VerificationKey{key}); !seen[id] {
			seen[id] = true
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 && len(ignored) > 0 {
		return nil, ignored, fmt.Errorf("read JWK set: none of its keys can be used: %w", errors.Join(ignored...))
	}
	return keys, ignored, nil
}

// parseKey takes one public key that verifies signatures. Its errors never show the key, which may be a private one.
func parseKey(raw []byte) (policies.VerificationKey, error) {
	var none policies.VerificationKey
	parsed, err := jwk.ParseKey(raw)
	if err != nil {
		return none, errors.New("not a key of a known type (RSA, EC, OKP)")
	}
	id, _ := parsed.KeyID()
	if parsed.KeyType() == jwa.OctetSeq() {
		return none, fmt.Errorf("kid %q: a symmetric key; it would let everybody sign who verifies", id)
	}
	if private, err := jwk.IsPrivateKey(parsed); err != nil || private {
		return none, fmt.Errorf("kid %q: a private key; whoever can read the set can sign with it", id)
	}
	if use, ok := parsed.KeyUsage(); ok && use != "sig" {
		return none, fmt.Errorf("kid %q: its use is %q, not sig", id, use)
	}
	if ops, ok := parsed.KeyOps(); ok && !slices.Contains(ops, jwk.KeyOpVerify) {
		return none, fmt.Errorf("kid %q: its key_ops do not have verify", id)
	}
	key := policies.VerificationKey{ID: id}
	if alg, ok := parsed.Algorithm(); ok {
		if key.Algorithm = alg.String(); key.Algorithm == "Ed25519" { // The newer name of the same (RFC 9864).
			key.Algorithm = "EdDSA"
		}
	}
	var public any
	if err := jwk.Export(parsed, &public); err != nil {
		return none, fmt.Errorf("kid %q: not a usable key", id)
	}
	if key.Public, err = checkKey(public); err != nil {
		return none, fmt.Errorf("kid %q: %w", id, err)
	}
	if !fits(key) {
		return none, fmt.Errorf("kid %q: its alg %q is not a signature algorithm of its key type", id, key.Algorithm)
	}
	return key, nil
}

// checkKey takes the keys that signatures may be verified with.
func checkKey(public crypto.PublicKey) (crypto.PublicKey, error) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSABits || n > maxRSABits {
			return nil, fmt.Errorf("an RSA key of %d bits; legal are %d to %d", n, minRSABits, maxRSABits)
		}
		if k.E < 3 || k.E&1 == 0 {
			return nil, errors.New("an RSA key with an illegal exponent")
		}
		return k, nil
	case *ecdsa.PublicKey:
		// ECDH checks that the point lies on one of the curves P-256, P-384 and P-521.
		if _, err := k.ECDH(); err != nil {
			return nil, errors.New("an EC key that is none of P-256, P-384 and P-521, or not on its curve")
		}
		return k, nil
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, errors.New("an Ed25519 key of the wrong size")
		}
		return k, nil
	}
	return nil, errors.New("its type is none of RSA, EC and Ed25519")
}

// fits reports whether the algorithm that the key is bound to, if any, is one for its type (RFC 7518 section 3.1, RFC 8037 section 3.1).
func fits(key policies.VerificationKey) bool {
	var legal []string
	switch k := key.Public.(type) {
	case *rsa.PublicKey:
		legal = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case *ecdsa.PublicKey:
		legal = []string{map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[k.Curve.Params().BitSize]}
	case ed25519.PublicKey:
		legal = []string{"EdDSA"}
	}
	return key.Algorithm == "" || slices.Contains(legal, key.Algorithm)
}

// identify returns the same for the same keys in the same order, and something else for all others.
func identify(keys []policies.VerificationKey) [sha256.Size]byte {
	var b []byte
	field := func(s []byte) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	for _, k := range keys {
		der, err := x509.MarshalPKIXPublicKey(k.Public)
		if err != nil { // checkKey lets only types pass that can be marshalled.
			panic(err)
		}
		field([]byte(k.ID))
		field([]byte(k.Algorithm))
		field(der)
	}
	return sha256.Sum256(b)
}
