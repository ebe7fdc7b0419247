package policies

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
)

// ClaimHeader is a request header that carries a claim of a credential to the upstream.
type ClaimHeader struct {
	// Claim is the claim; the zero path is the subject of the identity, which a policy may set by itself.
	Claim    ClaimPath `json:"claim"`
	Header   string    `json:"header"`
	Format   string    `json:"format"`
	Required bool      `json:"required"`
}

// ClaimHeaders are the parameter claims_to_headers: a map from claims to headers or to {header, format, required}, or a list of {claim, header, format, required}.
type ClaimHeaders []ClaimHeader

// UnmarshalJSON takes a map or a list.
func (h *ClaimHeaders) UnmarshalJSON(text []byte) error {
	const expected = "expected an object from claims to headers or to {header, format, required}, or a list of {claim, header, format, required}"
	bad := func(err error) error { return BadParam("claims_to_headers", "%v; %s", err, expected) }
	claims := ClaimHeaders{}
	if text = bytes.TrimSpace(text); text[0] == '[' {
		if err := unmarshalStrict(text, (*[]ClaimHeader)(&claims)); err != nil {
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
		var c ClaimHeader
		if err := json.Unmarshal(byName[name], &c.Header); err != nil {
			var target struct {
				Header   string `json:"header"`
				Format   string `json:"format"`
				Required bool   `json:"required"`
			}
			if err := unmarshalStrict(byName[name], &target); err != nil {
				return bad(fmt.Errorf("claim %q: %w", name, err))
			}
			c = ClaimHeader{Header: target.Header, Format: target.Format, Required: target.Required}
		}
		path, err := ParseClaimPath(name)
		if err != nil {
			return bad(err)
		}
		c.Claim = path
		claims = append(claims, c)
	}
	*h = claims
	return nil
}

// claimFormats write a claim as the value of a header; ok is false for a claim that they can't write. The empty name is the default: text for
// strings, numbers and booleans, and json for lists and objects.
var claimFormats = map[string]func(ClaimValue) (value string, ok bool){
	"": func(v ClaimValue) (string, bool) {
		if k := v.Kind(); k == ClaimList || k == ClaimObject {
			return claimJSON(v)
		}
		return claimText(v)
	},
	"text":    claimText,
	"json":    claimJSON,
	"utf8":    claimUTF8,
	"percent": encodedClaim(percentClaim),
	"base64":  encodedClaim(func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }),
	"comma":   claimComma,
}

func claimFormatNames() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(claimFormats)), func(name string) bool { return name == "" })
}

// claimText writes a string as it is, in printable ASCII without spaces at its ends, which HTTP/1.1 would remove (RFC 9110 section 5.5).
func claimText(v ClaimValue) (string, bool) {
	s, ok := v.Text()
	return s, ok && headerText(s)
}

// claimUTF8 writes a string as it is. Many servers read other characters than ASCII as ISO-8859-1.
func claimUTF8(v ClaimValue) (string, bool) {
	s, ok := v.Text()
	return s, ok && s == strings.TrimSpace(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

func claimJSON(v ClaimValue) (string, bool) {
	return string(v.AppendJSON(nil)), v.Kind() != ClaimAbsent && v.Kind() != ClaimNull
}

// encodedClaim is for strings, numbers and booleans as text, and for lists and objects as JSON.
func encodedClaim(encode func(string) string) func(ClaimValue) (string, bool) {
	return func(v ClaimValue) (string, bool) {
		s, ok := v.Text()
		if !ok {
			s, ok = claimJSON(v)
		}
		return encode(s), ok
	}
}

// percentClaim encodes all bytes but unreserved characters (RFC 3986 section 2.3).
func percentClaim(s string) string {
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

// claimComma joins the elements of a list. An element with a comma would be read as two.
func claimComma(v ClaimValue) (string, bool) {
	if v.Kind() != ClaimList {
		s, ok := claimText(v)
		return s, ok && !strings.Contains(s, ",")
	}
	var parts []string
	for _, e := range v.All() {
		s, ok := claimText(e)
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

// ClaimOutcome is what came of a claim on its way into a header.
type ClaimOutcome uint8

// The outcomes.
const (
	ClaimCarried ClaimOutcome = iota
	ClaimMissing
	ClaimUnfit // The claim can't be the value of a header in this format.
)

// Value returns the header's value, which may be kept. A string in the default format does not allocate.
func (h *ClaimHeader) Value(c *ClaimsSet, subject ClaimValue) (string, ClaimOutcome) {
	v := subject
	if !h.Claim.IsZero() {
		v = c.Get(h.Claim)
	}
	if v.Kind() == ClaimAbsent {
		return "", ClaimMissing
	}
	s, ok := claimFormats[h.Format](v)
	switch {
	case !ok || len(s) > maxHeaderValue:
		return "", ClaimUnfit
	case s == "":
		return "", ClaimMissing
	}
	return s, ClaimCarried
}

// Entry is the claim in the identity: as text, lists and objects as JSON.
func (h *ClaimHeader) Entry(c *ClaimsSet, subject ClaimValue) Entry {
	key, v := "sub", subject
	if !h.Claim.IsZero() {
		key, v = h.Claim.String(), c.Get(h.Claim)
	}
	text, ok := v.Text()
	if !ok {
		text = string(v.AppendJSON(nil))
	}
	return Entry{Key: key, Value: text}
}

// Check returns all that is wrong with the headers. credential is the header that the policy reads the credential from, empty if there is none.
func (h ClaimHeaders) Check(credential string) (errs []error) {
	seen := map[string]string{}
	for i := range h {
		header, claim := h[i].Header, h[i].Claim.String()
		bad := func(format string, args ...any) {
			errs = append(errs, BadParam("claims_to_headers."+claim, format, args...))
		}
		if err := CheckOwnedHeader(header); err != nil {
			bad("%v; expected a header name such as X-User-ID", err)
		}
		if _, known := claimFormats[h[i].Format]; !known {
			bad("unknown format %q, expected one of %s", h[i].Format, strings.Join(claimFormatNames(), ", "))
		}
		other, taken := seen[FoldHeader(header)]
		switch {
		case credential != "" && SameHeader(header, credential):
			bad("header %q carries the credential, expected another header", header)
		case taken:
			bad("header %q carries claim %q already, expected a header of its own for each claim", header, other)
		}
		seen[FoldHeader(header)] = claim
	}
	return errs
}
