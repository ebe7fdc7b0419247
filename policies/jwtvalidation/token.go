package jwtvalidation

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

const (
	// maxTokenSize is in bytes.
	maxTokenSize = 16 << 10
	// maxDepth is how deep objects and lists may be nested.
	maxDepth = 16
)

// token is a JWS in compact serialization (RFC 7515 section 7.1), taken apart. Nothing of it has been verified.
type token struct {
	algorithm string
	kid       string
	hasKid    bool
	claims    object
	signed    []byte // the signing input; aliases the token
	signature []byte
}

// object is a JSON object. Its values are object, []any, string, json.Number, bool and nil.
type object map[string]any

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
	if err := t.header(header); err != nil {
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
func (t *token) header(h object) error {
	var ok bool
	if t.algorithm, ok = h["alg"].(string); !ok {
		return errors.New("no alg")
	}
	if kid, present := h["kid"]; present {
		if t.kid, t.hasKid = kid.(string); !t.hasKid || t.kid == "" {
			return errors.New("kid is not a string, or empty")
		}
	}
	// RFC 7515 section 4.1.11: what is not understood must be refused, and no extension is understood.
	if _, present := h["crit"]; present {
		return errors.New("crit")
	}
	// RFC 7797 section 7: a JWT must not use it.
	if _, present := h["b64"]; present {
		return errors.New("b64")
	}
	if typ, present := h["typ"]; present {
		s, _ := typ.(string)
		// RFC 7519 section 5.1 and RFC 9068 section 4, whose media type may be shortened (RFC 7515 section 4.1.9). Other types are tokens for other purposes.
		switch strings.TrimPrefix(strings.ToLower(s), "application/") {
		case "jwt", "at+jwt":
		default:
			return errors.New("typ is neither JWT nor at+jwt")
		}
	}
	return nil
}

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

func decodeObject(what string, segment []byte) (object, error) {
	text, err := decodeSegment(segment)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	o, err := parseObject(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return o, nil
}

// parseObject takes a JSON object in which, at any depth, no member is repeated: readers differ in which one counts (RFC 8725 section 2.4).
func parseObject(text []byte) (object, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	value, err := parseValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON value")
	}
	o, ok := value.(object)
	if !ok {
		return nil, errors.New("not a JSON object")
	}
	return o, nil
}

var errNotJSON = errors.New("not JSON")

func parseValue(dec *json.Decoder, depth int) (any, error) {
	t, err := dec.Token()
	if err != nil {
		return nil, errNotJSON
	}
	switch t := t.(type) {
	case json.Delim:
		if depth == maxDepth {
			return nil, errors.New("nested too deep")
		}
		switch t {
		case '{':
			return parseMembers(dec, depth)
		case '[':
			return parseElements(dec, depth)
		}
		return nil, errNotJSON
	case string:
		return t, checkText(t)
	}
	return t, nil
}

func parseMembers(dec *json.Decoder, depth int) (object, error) {
	o := object{}
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errNotJSON
		}
		if err := checkText(name); err != nil {
			return nil, err
		}
		if _, repeated := o[name]; repeated {
			return nil, errors.New("repeated member")
		}
		if o[name], err = parseValue(dec, depth+1); err != nil {
			return nil, err
		}
	}
	if t, err := dec.Token(); err != nil || t != json.Delim('}') {
		return nil, errNotJSON
	}
	return o, nil
}

func parseElements(dec *json.Decoder, depth int) ([]any, error) {
	list := []any{}
	for dec.More() {
		v, err := parseValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	if t, err := dec.Token(); err != nil || t != json.Delim(']') {
		return nil, errNotJSON
	}
	return list, nil
}

// checkText refuses what the decoder puts in place of invalid UTF-8 and of lone surrogates: it would make different texts equal.
func checkText(s string) error {
	if strings.ContainsRune(s, utf8.RuneError) {
		return errors.New("text that is not Unicode")
	}
	return nil
}
