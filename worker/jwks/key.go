package jwks

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
)

var errPrivate = errors.New("a private key; whoever can read the set can sign with it")

// read reads one JWK. Errors never show the key, which may be a private one.
func (e *Entry) read(raw []byte) {
	k, err := members(raw)
	if err != nil {
		e.Err = fmt.Errorf("not a JWK: %w", err)
		return
	}
	if e.Err = e.readMembers(k); e.Err != nil && e.ID != "" {
		e.Err = fmt.Errorf("kid %q: %w", e.ID, e.Err)
	}
}

func (e *Entry) readMembers(k map[string]json.RawMessage) error {
	var err error
	if e.ID, _, err = text(k, "kid"); err != nil {
		return err
	}
	kty, hasType, err := text(k, "kty")
	if err != nil {
		return err
	}
	e.Type = kty
	// The private members of RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1, and RFC 8037 section 2.
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "oth"} {
		if k[name] != nil {
			return errPrivate
		}
	}
	if kty == "oct" || k["k"] != nil {
		return errors.New("a symmetric key; it would let everybody sign who verifies")
	}
	if err := checkUse(k); err != nil {
		return err
	}
	public, err := publicKey(k, kty, hasType)
	if err != nil {
		return err
	}
	e.Type = typeOf(public)
	if e.Key.Public, err = checkKey(public); err != nil {
		return err
	}
	e.Key.ID = e.ID
	if e.Key.Algorithm, _, err = text(k, "alg"); err != nil {
		return err
	}
	if e.Key.Algorithm == "Ed25519" { // The newer name of the same (RFC 9864).
		e.Key.Algorithm = "EdDSA"
	}
	if accepted := algorithmsOf(public); e.Key.Algorithm != "" && !slices.Contains(accepted, e.Key.Algorithm) {
		return fmt.Errorf("its alg is %q, expected none or one of %s for its key type", e.Key.Algorithm, strings.Join(accepted, ", "))
	}
	return nil
}

// checkUse refuses keys that are not for the verification of signatures.
func checkUse(k map[string]json.RawMessage) error {
	use, ok, err := text(k, "use")
	if err != nil {
		return err
	}
	if ok && use != "sig" {
		return fmt.Errorf("its use is %q, expected sig", use)
	}
	raw, ok := k["key_ops"]
	if !ok {
		return nil
	}
	var ops []string
	if err := json.Unmarshal(raw, &ops); err != nil {
		return errors.New("its key_ops is not a list of strings")
	}
	if !slices.Contains(ops, "verify") {
		return errors.New("its key_ops does not have verify")
	}
	return nil
}

// text returns a member that is a string.
func text(k map[string]json.RawMessage, name string) (s string, ok bool, err error) {
	raw, ok := k[name]
	if !ok {
		return "", false, nil
	}
	if json.Unmarshal(raw, &s) != nil || bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
		return "", false, fmt.Errorf("its %s is not a string", name)
	}
	return s, true, nil
}

// publicKey reads the key of its members, or that of the first certificate in x5c if it has no others. The chain in x5c proves nothing here:
// the set is trusted by where it comes from.
func publicKey(k map[string]json.RawMessage, kty string, hasType bool) (crypto.PublicKey, error) {
	leaf, err := leafKey(k)
	if err != nil {
		return nil, err
	}
	bare := k["n"] == nil && k["e"] == nil && k["x"] == nil && k["y"] == nil
	if leaf != nil && bare {
		if hasType && kty != jwkType(leaf) {
			return nil, fmt.Errorf("its kty is %q, but the key of the certificate in x5c is of type %s", kty, jwkType(leaf))
		}
		return leaf, nil
	}
	var public crypto.PublicKey
	switch {
	case !hasType:
		err = errors.New("no kty")
	case kty == "RSA":
		public, err = rsaKeyOf(k)
	case kty == "EC":
		public, err = ecKeyOf(k)
	case kty == "OKP":
		public, err = okpKeyOf(k)
	default:
		err = fmt.Errorf("unknown kty %q, expected one of RSA, EC, OKP", kty)
	}
	if err != nil {
		return nil, err
	}
	if leaf != nil && !leaf.(interface{ Equal(crypto.PublicKey) bool }).Equal(public) {
		return nil, errors.New("the certificate in x5c is that of another key")
	}
	return public, nil
}

// leafKey returns the key of the first certificate in x5c, nil if there is no x5c.
func leafKey(k map[string]json.RawMessage) (crypto.PublicKey, error) {
	raw, ok := k["x5c"]
	if !ok {
		return nil, nil
	}
	var chain []string
	if err := json.Unmarshal(raw, &chain); err != nil || len(chain) == 0 {
		return nil, errors.New("its x5c is not a list of certificates")
	}
	der, err := base64.StdEncoding.DecodeString(chain[0])
	if err != nil {
		return nil, errors.New("its x5c is not base64 (RFC 7517 section 4.7: not base64url)")
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New("the certificate in x5c can't be read")
	}
	switch c.PublicKey.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
		return c.PublicKey, nil
	}
	return nil, errors.New("the key of the certificate in x5c is none of RSA, EC and Ed25519")
}

func jwkType(public crypto.PublicKey) string {
	switch public.(type) {
	case *rsa.PublicKey:
		return "RSA"
	case *ecdsa.PublicKey:
		return "EC"
	}
	return "OKP"
}

func rsaKeyOf(k map[string]json.RawMessage) (crypto.PublicKey, error) {
	n, err := number(k, "n")
	if err != nil {
		return nil, err
	}
	e, err := number(k, "e")
	if err != nil {
		return nil, err
	}
	if !e.IsInt64() || e.Int64() > math.MaxInt32 {
		return nil, errors.New("an RSA key with an exponent above 2^31-1")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

func ecKeyOf(k map[string]json.RawMessage) (crypto.PublicKey, error) {
	crv, _, err := text(k, "crv")
	if err != nil {
		return nil, err
	}
	curve, ok := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[crv]
	if !ok {
		return nil, fmt.Errorf("unknown crv %q, expected one of P-256, P-384, P-521", crv)
	}
	x, err := number(k, "x")
	if err != nil {
		return nil, err
	}
	y, err := number(k, "y")
	if err != nil {
		return nil, err
	}
	size := (curve.Params().BitSize + 7) / 8
	if (x.BitLen()+7)/8 > size || (y.BitLen()+7)/8 > size {
		return nil, fmt.Errorf("an EC key with coordinates that are too long for %s", crv)
	}
	point := make([]byte, 1+2*size)
	point[0] = 4
	x.FillBytes(point[1 : 1+size])
	y.FillBytes(point[1+size:])
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, fmt.Errorf("an EC key that is not a point of %s", crv)
	}
	return key, nil
}

func okpKeyOf(k map[string]json.RawMessage) (crypto.PublicKey, error) {
	crv, _, err := text(k, "crv")
	if err != nil {
		return nil, err
	}
	if crv != "Ed25519" {
		return nil, fmt.Errorf("unknown crv %q, expected Ed25519", crv)
	}
	x, err := binaryMember(k, "x")
	if err != nil {
		return nil, err
	}
	return ed25519.PublicKey(x), nil
}

// number reads a big-endian integer above zero.
func number(k map[string]json.RawMessage, name string) (*big.Int, error) {
	b, err := binaryMember(k, name)
	if err != nil {
		return nil, err
	}
	n := new(big.Int).SetBytes(b)
	if n.Sign() == 0 {
		return nil, fmt.Errorf("its %s is zero", name)
	}
	return n, nil
}

var encodings = strings.NewReplacer("+", "-", "/", "_")

// binaryMember reads base64url (RFC 7515 section 2). Some issuers write the other base64, or padding.
func binaryMember(k map[string]json.RawMessage, name string) ([]byte, error) {
	s, ok, err := text(k, name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("no %s", name)
	}
	b, err := base64.RawURLEncoding.DecodeString(encodings.Replace(strings.TrimRight(s, "=")))
	if err != nil || len(b) == 0 {
		return nil, fmt.Errorf("its %s is not base64url", name)
	}
	return b, nil
}

// checkKey accepts the keys that signatures may be verified with.
func checkKey(public crypto.PublicKey) (crypto.PublicKey, error) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSABits || n > maxRSABits {
			return nil, fmt.Errorf("an RSA key of %d bits, expected %d to %d", n, minRSABits, maxRSABits)
		}
		if k.N.Bit(0) == 0 {
			return nil, errors.New("an RSA key with an even modulus, which verifies nothing")
		}
		if k.E < 3 || k.E&1 == 0 || k.E > math.MaxInt32 {
			return nil, fmt.Errorf("an RSA key with the exponent %d, expected an odd number from 3 to 2^31-1", k.E)
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
			return nil, fmt.Errorf("an Ed25519 key of %d bytes, expected %d", len(k), ed25519.PublicKeySize)
		}
		if smallOrder(k) {
			return nil, errors.New("an Ed25519 key of small order: anyone can make signatures for it")
		}
		return k, nil
	}
	return nil, errors.New("its type is none of RSA, EC and Ed25519")
}

// smallOrders are the y coordinates of the points whose order divides 8, without the sign of x: those of the canonical encodings, and those
// above the prime that stand for the same (https://eprint.iacr.org/2020/1244, table 1). With such a key, one signature fits many messages.
var smallOrders = func() (all [][]byte) {
	for _, s := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000", // order 4
		"0100000000000000000000000000000000000000000000000000000000000000", // order 1
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // order 8
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", // order 8
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 2
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 4, above the prime
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 1, above the prime
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			panic(err)
		}
		all = append(all, b)
	}
	return all
}()

func smallOrder(key ed25519.PublicKey) bool {
	y := slices.Clone(key)
	y[len(y)-1] &= 0x7f
	return slices.ContainsFunc(smallOrders, func(s []byte) bool { return bytes.Equal(s, y) })
}

// algorithmsOf returns the algorithms for keys of its type (RFC 7518 section 3.1, RFC 8037 section 3.1).
func algorithmsOf(public crypto.PublicKey) []string {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case *ecdsa.PublicKey:
		return []string{map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[k.Curve.Params().BitSize]}
	case ed25519.PublicKey:
		return []string{"EdDSA"}
	}
	return nil
}
