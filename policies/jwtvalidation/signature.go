package jwtvalidation

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha256" // crypto.SHA256
	_ "crypto/sha512" // crypto.SHA384 and crypto.SHA512
	"math/big"

	"github.com/policy-engine/policy-engine/policies"
)

// algorithm is a signature algorithm of JWS (RFC 7518 section 3.1, RFC 8037 section 3.1). There is none without a signature and none
// with a shared secret, so no token can ask for one.
type algorithm struct {
	name   string
	family family
	hash   crypto.Hash
	curve  int // bits of the curve, for ECDSA: an algorithm has one
}

type family uint8

const (
	rsaPKCS1 family = iota + 1
	rsaPSS
	ecdsaRaw
	edDSA
)

var algorithms = []algorithm{
	{"RS256", rsaPKCS1, crypto.SHA256, 0},
	{"RS384", rsaPKCS1, crypto.SHA384, 0},
	{"RS512", rsaPKCS1, crypto.SHA512, 0},
	{"PS256", rsaPSS, crypto.SHA256, 0},
	{"PS384", rsaPSS, crypto.SHA384, 0},
	{"PS512", rsaPSS, crypto.SHA512, 0},
	{"ES256", ecdsaRaw, crypto.SHA256, 256},
	{"ES384", ecdsaRaw, crypto.SHA384, 384},
	{"ES512", ecdsaRaw, crypto.SHA512, 521},
	{"EdDSA", edDSA, 0, 0},
}

func findAlgorithm(name string) *algorithm {
	// RFC 9864: the name of EdDSA with this curve. Keys of the other curve are not supported, so that both names mean the same.
	if name == "Ed25519" {
		name = "EdDSA"
	}
	for i := range algorithms {
		if algorithms[i].name == name {
			return &algorithms[i]
		}
	}
	return nil
}

// minRSABits is the least that RFC 7518 section 3.3 allows.
const minRSABits = 2048

// fits reports whether the key may verify signatures of the algorithm: it has the type, and is not bound to another algorithm.
func (a *algorithm) fits(key *policies.VerificationKey) bool {
	if key.Algorithm != "" && key.Algorithm != a.name {
		return false
	}
	switch k := key.Public.(type) {
	case *rsa.PublicKey:
		return (a.family == rsaPKCS1 || a.family == rsaPSS) && k.N.BitLen() >= minRSABits
	case *ecdsa.PublicKey:
		return a.family == ecdsaRaw && k.Curve.Params().BitSize == a.curve
	case ed25519.PublicKey:
		return a.family == edDSA && len(k) == ed25519.PublicKeySize
	}
	return false
}

// verify reports whether signature is that of the signed bytes. The key must fit.
func (a *algorithm) verify(key *policies.VerificationKey, signed, signature []byte) bool {
	switch k := key.Public.(type) {
	case *rsa.PublicKey:
		if a.family == rsaPKCS1 {
			return rsa.VerifyPKCS1v15(k, a.hash, a.digest(signed), signature) == nil
		}
		// RFC 7518 section 3.5: the salt is as long as the hash.
		return rsa.VerifyPSS(k, a.hash, a.digest(signed), signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	case *ecdsa.PublicKey:
		// RFC 7518 section 3.4: R and S, each as long as the curve's order; not ASN.1.
		size := (a.curve + 7) / 8
		if len(signature) != 2*size {
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
		return ecdsa.Verify(k, a.digest(signed), r, s)
	case ed25519.PublicKey:
		return ed25519.Verify(k, signed, signature)
	}
	return false
}

func (a *algorithm) digest(signed []byte) []byte {
	h := a.hash.New()
	h.Write(signed)
	return h.Sum(nil)
}
