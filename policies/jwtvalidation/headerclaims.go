package jwtvalidation

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/invopop/jsonschema"

	"github.com/policy-engine/policy-engine/policies"
)

// HeaderClaim is a request header that carries a claim to the upstream.
type HeaderClaim struct {
	// Claim is the claim; the zero path is the subject of the identity.
	Claim    policies.ClaimPath `json:"claim"`
	Header   string             `json:"header"`
	Format   string             `json:"format"`
	Required bool               `json:"required"`
}

// HeaderClaims are a map from claims to headers or to {header, format, required}, or a list of {claim, header, format, required}.
type HeaderClaims []HeaderClaim

// UnmarshalJSON takes a map or a list.
func (h *HeaderClaims) UnmarshalJSON(text []byte) error {
	const expected = "expected an object from claims to headers or to {header, format, required}, or a list of {claim, header, format, required}"
	bad := func(err error) error { return policies.BadParam("claims_to_headers", "%v; %s", err, expected) }
	claims := HeaderClaims{}
	if text = bytes.TrimSpace(text); text[0] == '[' {
		if err := unmarshalStrict(text, (*[]HeaderClaim)(&claims)); err != nil {
			return bad(err)
		}
		for i := range claims {
			if claims[i].Claim.IsZero() {
				return bad(fmt.Errorf("entry %d has no claim", i))
			}
		}
		*h = claims
		return nil
	}
	var byName map[string]json.RawMessage
	if err := json.Unmarshal(text, &byName); err != nil {
		return bad(errors.New("neither an object nor a list"))
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		var c HeaderClaim
		if err := json.Unmarshal(byName[name], &c.Header); err != nil {
			var target struct {
				Header   string `json:"header"`
				Format   string `json:"format"`
				Required bool   `json:"required"`
			}
			if err := unmarshalStrict(byName[name], &target); err != nil {
				return bad(fmt.Errorf("claim %q: %w", name, err))
			}
			c = HeaderClaim{Header: target.Header, Format: target.Format, Required: target.Required}
		}
		path, err := policies.ParseClaimPath(name)
		if err != nil {
			return bad(err)
		}
		c.Claim = path
		claims = append(claims, c)
	}
	*h = claims
	return nil
}

// JSONSchema is for editors.
func (HeaderClaims) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "object"}, {Type: "array", Items: &jsonschema.Schema{Type: "object"}}}}
}

// formats write a claim as the value of a header; ok is false for a claim that they can't write. The empty name is the default: text for
// strings, numbers and booleans, and json for lists and objects.
var formats = map[string]func(policies.ClaimValue) (value string, ok bool){
	"": func(v policies.ClaimValue) (string, bool) {
		if k := v.Kind(); k == policies.ClaimList || k == policies.ClaimObject {
			return jsonFormat(v)
		}
		return textFormat(v)
	},
	"text":    textFormat,
	"json":    jsonFormat,
	"utf8":    utf8Format,
	"percent": encoded(percent),
	"base64":  encoded(func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }),
	"comma":   commaFormat,
}

func formatNames() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(formats)), func(name string) bool { return name == "" })
}

// textFormat writes a string as it is, in printable ASCII without spaces at its ends, which HTTP/1.1 would remove (RFC 9110 section 5.5).
func textFormat(v policies.ClaimValue) (string, bool) {
	s, ok := v.Text()
	return s, ok && headerText(s)
}

// utf8Format writes a string as it is. Many servers read other characters than ASCII as ISO-8859-1.
func utf8Format(v policies.ClaimValue) (string, bool) {
	s, ok := v.Text()
	return s, ok && s == strings.TrimSpace(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

func jsonFormat(v policies.ClaimValue) (string, bool) {
	return string(v.AppendJSON(nil)), v.Kind() != policies.ClaimAbsent && v.Kind() != policies.ClaimNull
}

// encoded is for strings, numbers and booleans as text, and for lists and objects as JSON.
func encoded(encode func(string) string) func(policies.ClaimValue) (string, bool) {
	return func(v policies.ClaimValue) (string, bool) {
		s, ok := v.Text()
		if !ok {
			s, ok = jsonFormat(v)
		}
		return encode(s), ok
	}
}

// percent encodes all bytes but unreserved characters (RFC 3986 section 2.3).
func percent(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'%', hex[c>>4], hex[c&15]})
	}
	return b.String()
}

// commaFormat joins the elements of a list. An element with a comma would be read as two.
func commaFormat(v policies.ClaimValue) (string, bool) {
	if v.Kind() != policies.ClaimList {
		s, ok := textFormat(v)
		return s, ok && !strings.Contains(s, ",")
	}
	var parts []string
	for _, e := range v.All() {
		s, ok := textFormat(e)
		if !ok || s == "" || strings.Contains(s, ",") {
			return "", false
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, ","), true
}

// maxHeaderValue is the longest value of a header that carries a claim, in bytes.
const maxHeaderValue = 8 << 10

// headerText accepts printable ASCII without spaces at its ends.
func headerText(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s == strings.Trim(s, " ")
}

// outcome of a claim on its way into a header.
type carried uint8

const (
	carriedValue carried = iota
	carriedNothing
	carriedNot // the claim can't be the value of a header in this format
)

// value returns the header's value.
func (h *HeaderClaim) value(c *policies.ClaimsSet, subject policies.ClaimValue) (string, carried) {
	v := subject
	if !h.Claim.IsZero() {
		v = c.Get(h.Claim)
	}
	if v.Kind() == policies.ClaimAbsent {
		return "", carriedNothing
	}
	s, ok := formats[h.Format](v)
	switch {
	case !ok || len(s) > maxHeaderValue:
		return "", carriedNot
	case s == "":
		return "", carriedNothing
	}
	return s, carriedValue
}

// entry is the claim in the identity: as text, lists and objects as JSON.
func (h *HeaderClaim) entry(c *policies.ClaimsSet, subject policies.ClaimValue) policies.Entry {
	key, v := "sub", subject
	if !h.Claim.IsZero() {
		key, v = h.Claim.String(), c.Get(h.Claim)
	}
	text, ok := v.Text()
	if !ok {
		text = string(v.AppendJSON(nil))
	}
	return policies.Entry{Key: key, Value: text}
}
