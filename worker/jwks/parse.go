package jwks

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

const (
	maxSetSize = 1 << 20 // bytes
	maxKeys    = 100

	// RSA keys below are too weak (RFC 7518 section 3.3); a verification with one above takes milliseconds.
	minRSABits = 2048
	maxRSABits = 8192
)

// Entry is a key of a set with what becomes of it.
type Entry struct {
	// Place is where the key is, such as "keys[0]".
	Place string
	// ID is the kid, which may be empty; Type is the key's type, such as "RSA 2048"; both as far as they could be read.
	ID, Type string
	// Key is the key if it verifies signatures.
	Key policies.VerificationKey
	// Err is why it does not, nil if it does.
	Err error
	// Repeated reports that an entry before this one is the same.
	Repeated bool
}

// Parse reads a key set: a JWK set (RFC 7517 section 5), or public keys and certificates in PEM. It returns the public keys that verify
// signatures, in their order. The others are left out, and ignored says which and why. A JWK set without keys is valid: its issuer has
// revoked them all. A set that has some, but none that can be used, is an error.
func Parse(content []byte) (keys []policies.VerificationKey, ignored []error, err error) {
	entries, err := Inspect(content)
	if err != nil {
		return nil, nil, err
	}
	for i := range entries {
		switch e := &entries[i]; {
		case e.Err != nil:
			ignored = append(ignored, fmt.Errorf("%s: %w", e.Place, e.Err))
		case !e.Repeated:
			keys = append(keys, e.Key)
		}
	}
	if len(keys) == 0 && len(ignored) > 0 {
		return nil, ignored, fmt.Errorf("read key set: none of its keys can be used: %w", errors.Join(ignored...))
	}
	return keys, ignored, nil
}

// Inspect reads a key set as Parse does, and returns what becomes of each key.
func Inspect(content []byte) ([]Entry, error) {
	if len(content) > maxSetSize {
		return nil, fmt.Errorf("read key set: must have at most %d bytes, got %d", maxSetSize, len(content))
	}
	var entries []Entry
	var err error
	if bytes.HasPrefix(bytes.TrimSpace(content), []byte("-----BEGIN ")) {
		entries, err = inspectPEM(content)
	} else {
		entries, err = inspectJSON(content)
	}
	if err != nil {
		return nil, fmt.Errorf("read key set: %w", err)
	}
	seen := map[[sha256.Size]byte]bool{}
	for i := range entries {
		// Different keys of one kid are valid (RFC 7517 section 4.5): a token is tried with each that fits. The same key twice is of no use.
		if e := &entries[i]; e.Err == nil {
			id := identify([]policies.VerificationKey{e.Key})
			e.Repeated, seen[id] = seen[id], true
		}
	}
	return entries, nil
}

func inspectJSON(content []byte) ([]Entry, error) {
	set, err := members(content)
	if err != nil {
		return nil, err
	}
	var raws []json.RawMessage
	switch raw, ok := set["keys"]; {
	case ok:
		if err := json.Unmarshal(raw, &raws); err != nil || raws == nil {
			return nil, errors.New(`member "keys" is not a list`)
		}
	case set["kty"] != nil:
		return nil, errors.New(`it is one JWK, expected a set: put it into {"keys": [ ]}`)
	default:
		for name := range set {
			if strings.EqualFold(name, "keys") {
				return nil, fmt.Errorf(`member %q, expected "keys": the names of members are case-sensitive`, name)
			}
		}
		return nil, errors.New(`no member "keys", expected an object with a list of that name (RFC 7517 section 5)`)
	}
	if n := len(raws); n > maxKeys {
		return nil, fmt.Errorf("must have at most %d keys, got %d", maxKeys, n)
	}
	entries := make([]Entry, 0, len(raws))
	for i, raw := range raws {
		e := Entry{Place: fmt.Sprintf("keys[%d]", i)}
		e.read(raw)
		entries = append(entries, e)
	}
	return entries, nil
}

// members reads a JSON object. Names are case-sensitive and must be there once (RFC 7517 section 4): encoding/json ignores both.
func members(text []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("it is neither a JSON object nor PEM")
	}
	all := map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errors.New("it is not JSON")
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, errors.New("it is not JSON")
		}
		if _, repeated := all[name]; repeated {
			return nil, fmt.Errorf("member %q is there more than once", name)
		}
		all[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, errors.New("it is not JSON")
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON object")
	}
	return all, nil
}

// inspectPEM reads public keys and certificates. They have no kid: see policies.VerificationKey.
func inspectPEM(content []byte) ([]Entry, error) {
	var entries []Entry
	var certificates []*x509.Certificate
	for rest := content; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			if len(bytes.TrimSpace(rest)) > 0 {
				return nil, errors.New("something that is not PEM follows the last key")
			}
			break
		}
		if len(entries) == maxKeys {
			return nil, fmt.Errorf("must have at most %d keys", maxKeys)
		}
		e := Entry{Place: fmt.Sprintf("PEM block %d", len(entries)+1)}
		certificate, public, err := readPEM(block)
		certificates = append(certificates, certificate)
		if e.Err = err; err == nil {
			e.Type = typeOf(public)
			e.Key.Public, e.Err = checkKey(public)
		}
		entries = append(entries, e)
	}
	if len(entries) == 0 {
		return nil, errors.New("no PEM block that is whole")
	}
	for i := range entries {
		// The certificate of an authority beside one that it issued is there for the chain. Its key signs certificates, not tokens.
		if entries[i].Err == nil && isIssuerIn(certificates[i], certificates) {
			entries[i].Err = errors.New("a certificate of the chain; only the key of the leaf verifies tokens")
		}
	}
	return entries, nil
}

func readPEM(block *pem.Block) (*x509.Certificate, crypto.PublicKey, error) {
	switch {
	case block.Type == "CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, errors.New("not a certificate that can be read")
		}
		return c, c.PublicKey, nil
	case block.Type == "PUBLIC KEY":
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, nil, errors.New("not a public key that can be read")
		}
		return nil, key, nil
	case block.Type == "RSA PUBLIC KEY":
		key, err := x509.ParsePKCS1PublicKey(block.Bytes)
		if err != nil {
			return nil, nil, errors.New("not an RSA public key that can be read")
		}
		return nil, key, nil
	case strings.Contains(block.Type, "PRIVATE KEY"):
		return nil, nil, errPrivate
	}
	return nil, nil, fmt.Errorf("PEM type %q, expected PUBLIC KEY, RSA PUBLIC KEY or CERTIFICATE", block.Type)
}

// isIssuerIn reports whether c issued another one of the certificates, some of which are nil.
func isIssuerIn(c *x509.Certificate, all []*x509.Certificate) bool {
	return c != nil && slices.ContainsFunc(all, func(other *x509.Certificate) bool {
		return other != nil && other != c && !other.Equal(c) && bytes.Equal(other.RawIssuer, c.RawSubject)
	})
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
		if err != nil { // checkKey accepts only types that can be marshalled.
			panic(err)
		}
		field([]byte(k.ID))
		field([]byte(k.Algorithm))
		field(der)
	}
	return sha256.Sum256(b)
}

// typeOf names the type of a key.
func typeOf(public crypto.PublicKey) string {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "EC " + k.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return fmt.Sprintf("%T", public)
}
