package jwtvalidation

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

// maxTokenSize is in bytes. The claims of a token are smaller than policies.MaxClaimsSize.
const maxTokenSize = 16 << 10

// token is a JWS in compact serialization (RFC 7515 section 7.1), taken apart. Nothing of it has been verified.
type token struct {
	algorithm string
	kid       string
	hasKid    bool
	typ       string // in lower case, without application/
	claims    *policies.ClaimsSet
	signed    []byte // the signing input; aliases the token
	signature []byte
}

// parseToken takes the one spelling that RFC 7515 gives a token: whoever reads it after us must read the same. The errors show nothing of the token.
func parseToken(raw []byte) (*token, error) {
	if len(raw) > maxTokenSize {
		return nil, errors.New("too large")
	}
	head, rest, ok := bytes.Cut(raw, []byte{'.'})
	if !ok {
		return nil, errors.New("not three parts")
	}
	body, tail, ok := bytes.Cut(rest, []byte{'.'})
	if !ok {
		return nil, errors.New("not three parts")
	}
	// A fourth part is no base64url of the third.
	header, err := decodeObject("header", head)
	if err != nil {
		return nil, err
	}
	t := &token{signed: raw[:len(head)+1+len(body)]}
	if err := t.header(header.Root()); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if t.claims, err = decodeObject("claims", body); err != nil {
		return nil, err
	}
	if t.signature, err = decodeSegment(tail); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	return t, nil
}

// header takes what is needed of the header. The members that name keys (jku, jwk, x5u, x5c) are never looked at: keys come from the issuer.
func (t *token) header(h policies.ClaimValue) error {
	alg := h.Member("alg")
	if alg.Kind() != policies.ClaimString {
		return errors.New("no alg")
	}
	t.algorithm, _ = alg.Text()
	if kid := h.Member("kid"); kid.Kind() != policies.ClaimAbsent {
		t.kid, _ = kid.Text()
		if t.hasKid = kid.Kind() == policies.ClaimString && t.kid != ""; !t.hasKid {
			return errors.New("kid is not a string, or empty")
		}
	}
	// RFC 7515 section 4.1.11: what is not understood must be refused, and no extension is understood.
	if h.Member("crit").Kind() != policies.ClaimAbsent {
		return errors.New("crit")
	}
	// RFC 7797 section 7: a JWT must not use it.
	if h.Member("b64").Kind() != policies.ClaimAbsent {
		return errors.New("b64")
	}
	t.typ = "jwt" // RFC 7519 section 5.1: it may be left out.
	if typ := h.Member("typ"); typ.Kind() != policies.ClaimAbsent {
		s, _ := typ.Text()
		if typ.Kind() != policies.ClaimString {
			return errors.New("typ is not a string")
		}
		t.typ = mediaType(s)
	}
	return nil
}

// mediaType returns the type without the prefix that may be left out (RFC 7515 section 4.1.9), in lower case.
func mediaType(typ string) string { return strings.TrimPrefix(strings.ToLower(typ), "application/") }

var encoding = base64.RawURLEncoding.Strict()

// decodeSegment takes canonical base64url (RFC 7515 section 2): no padding, no unused bits set, nothing outside the alphabet.
func decodeSegment(segment []byte) ([]byte, error) {
	if len(segment) == 0 {
		return nil, errors.New("empty")
	}
	// The decoder skips line breaks.
	if bytes.ContainsAny(segment, "\r\n") {
		return nil, errors.New("not base64url")
	}
	decoded := make([]byte, encoding.DecodedLen(len(segment)))
	n, err := encoding.Decode(decoded, segment)
	if err != nil {
		return nil, errors.New("not base64url")
	}
	return decoded[:n], nil
}

func decodeObject(what string, segment []byte) (*policies.ClaimsSet, error) {
	text, err := decodeSegment(segment)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	o, err := policies.ParseClaimsSet(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return o, nil
}
