package policies

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ClaimPath says where a claim stands in a ClaimsSet. In parameters it is
//
//	tenant                      the claim of that name
//	https://acme.example/roles  the claim of that name: dots and slashes have no meaning
//	/realm_access/roles         a JSON Pointer (RFC 6901): the member roles of the claim realm_access
//	[realm_access, roles]       the same, as a list of names, which have no escape sequences
//
// The zero ClaimPath is that of the whole claims set.
type ClaimPath struct {
	text    string
	members []string
}

// maxClaimPath is the most names in a path; nothing is nested deeper.
const maxClaimPath = maxClaimsDepth

// ParseClaimPath reads a claim's name, or a JSON Pointer, which begins with a slash.
func ParseClaimPath(s string) (ClaimPath, error) {
	if s == "" {
		return ClaimPath{}, errors.New(`empty claim name; expected a name, or a JSON Pointer such as /realm_access/roles`)
	}
	if s[0] != '/' {
		return ClaimPath{s, []string{s}}, nil
	}
	names := strings.Split(s[1:], "/")
	for i, name := range names {
		for j := range len(name) {
			if name[j] == '~' && (j+1 == len(name) || name[j+1] != '0' && name[j+1] != '1') {
				return ClaimPath{}, fmt.Errorf(`claim path %q: "~" must be followed by 0 or 1 (RFC 6901: "~0" is "~", "~1" is "/")`, s)
			}
		}
		names[i] = strings.ReplaceAll(strings.ReplaceAll(name, "~1", "/"), "~0", "~")
	}
	return claimPathOf(s, names)
}

// ClaimPathOf makes the path of these names, each a member of the one before.
func ClaimPathOf(names ...string) (ClaimPath, error) {
	if len(names) == 0 {
		return ClaimPath{}, errors.New("empty list of names; expected at least the name of a claim")
	}
	if len(names) == 1 && names[0] != "" && names[0][0] != '/' {
		return ClaimPath{names[0], []string{names[0]}}, nil
	}
	var b strings.Builder
	for _, name := range names {
		b.WriteByte('/')
		b.WriteString(strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1"))
	}
	return claimPathOf(b.String(), append([]string(nil), names...))
}

func claimPathOf(text string, names []string) (ClaimPath, error) {
	if len(names) > maxClaimPath {
		return ClaimPath{}, fmt.Errorf("claim path %q has %d names, expected at most %d", text, len(names), maxClaimPath)
	}
	return ClaimPath{text, names}, nil
}

// String returns the path as ParseClaimPath reads it.
func (p ClaimPath) String() string { return p.text }

// IsZero reports whether the path names no claim.
func (p ClaimPath) IsZero() bool { return len(p.members) == 0 }

// Literal returns a hint if the path is one name that looks like a path with dots, which it is not; empty otherwise. It is the text of ClaimWarning.
func (p ClaimPath) Literal() string {
	if len(p.members) != 1 || strings.Contains(p.members[0], "/") || strings.Contains(p.members[0], ":") {
		return "" // The names of claims that are URLs and URNs have dots.
	}
	parts := strings.Split(p.members[0], ".")
	if len(parts) < 2 {
		return ""
	}
	nested, err := ClaimPathOf(parts...)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("claim %q is taken as one name, dots included; for a nested claim, write %s", p.members[0], nested)
}

// UnmarshalJSON takes a string or a list of strings.
func (p *ClaimPath) UnmarshalJSON(text []byte) (err error) {
	var name string
	var names []string
	switch {
	case json.Unmarshal(text, &name) == nil && string(text) != "null":
		*p, err = ParseClaimPath(name)
	case json.Unmarshal(text, &names) == nil && string(text) != "null":
		*p, err = ClaimPathOf(names...)
	default:
		err = errors.New("expected a claim: a name, a JSON Pointer such as /realm_access/roles, or a list of names")
	}
	return err
}

// MarshalJSON writes the list of names.
func (p ClaimPath) MarshalJSON() ([]byte, error) { return json.Marshal(p.members) }
