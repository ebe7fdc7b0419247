package bucket

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/policy-engine/policy-engine/policies"
)

// Param is the parameter key, as it is configured: the alternatives in their order, each with its parts.
type Param [][]string

// maxAlternatives and maxParts bound what one request costs.
const (
	maxAlternatives = 4
	maxParts        = 4
)

const expectedKey = "expected identity, client_ip, route, header:NAME, {all: [...]} of them, or a list of these"

// UnmarshalJSON takes one alternative, or a list of them. An alternative is a string, or an object with the member all,
// a list of strings.
func (p *Param) UnmarshalJSON(text []byte) error {
	text = bytes.TrimSpace(text)
	items := []json.RawMessage{text}
	if len(text) > 0 && text[0] == '[' {
		if err := json.Unmarshal(text, &items); err != nil {
			return badKey(text)
		}
	}
	*p = nil
	for _, item := range items {
		parts, ok := parseAlternative(item)
		if !ok {
			return badKey(item)
		}
		*p = append(*p, parts)
	}
	return nil
}

func badKey(text []byte) error {
	return policies.BadParam("key", "unknown value %s, %s", text, expectedKey)
}

func parseAlternative(text json.RawMessage) (parts []string, ok bool) {
	switch {
	case len(text) > 0 && text[0] == '"':
		parts = make([]string, 1)
		return parts, json.Unmarshal(text, &parts[0]) == nil
	case len(text) > 0 && text[0] == '{':
		var members map[string]json.RawMessage
		var list []*string // A null is not an empty string.
		if json.Unmarshal(text, &members) != nil || len(members) != 1 || json.Unmarshal(members["all"], &list) != nil {
			return nil, false
		}
		for _, part := range list {
			if part == nil {
				return nil, false
			}
			parts = append(parts, *part)
		}
		return parts, true
	}
	return nil, false
}

// JSONSchema is for editors.
func (Param) JSONSchema() *jsonschema.Schema {
	part := &jsonschema.Schema{Type: "string", Pattern: "^(identity|client_ip|route|header:.+)$"}
	all := &jsonschema.Schema{Type: "object", Properties: jsonschema.NewProperties(), Required: []string{"all"}, AdditionalProperties: jsonschema.FalseSchema}
	all.Properties.Set("all", &jsonschema.Schema{Type: "array", Items: part, MinItems: count(1), MaxItems: count(maxParts)})
	alternative := &jsonschema.Schema{OneOf: []*jsonschema.Schema{part, all}}
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{
		part, all, {Type: "array", Items: alternative, MinItems: count(1), MaxItems: count(maxAlternatives)},
	}}
}

func count(n uint64) *uint64 { return &n }

// Uses reports whether a key has the part, such as client_ip.
func (p Param) Uses(part string) bool {
	return slices.ContainsFunc(p, func(parts []string) bool { return slices.Contains(parts, part) })
}

// String is the same text for two parameters exactly if they have the same meaning and spelling: no part has a comma, a
// space or a brace.
func (p Param) String() string { return p.join(", ", "{", ", ", "}") }

// Label names the key in header fields for clients, such as client_ip or identity|client_ip+header-x-plan.
func (p Param) Label() string { return strings.ReplaceAll(p.join("|", "", "+", ""), ":", "-") }

func (p Param) join(or, open, and, shut string) string {
	var s strings.Builder
	for i, parts := range p {
		if i > 0 {
			s.WriteString(or)
		}
		if len(parts) == 1 {
			s.WriteString(parts[0])
			continue
		}
		s.WriteString(open + strings.Join(parts, and) + shut)
	}
	return s.String()
}

// Client returns what the parameter means, or all that is wrong with it.
func (p Param) Client() (*Client, []error) {
	var problems []error
	if len(p) < 1 || len(p) > maxAlternatives {
		problems = append(problems, policies.BadParam("key", "must have 1 to %d alternatives, got %d", maxAlternatives, len(p)))
	}
	c := &Client{missing: missingOf(p)}
	for i, names := range p {
		at := "key"
		if len(p) > 1 {
			at = fmt.Sprintf("key[%d]", i)
		}
		parts, err := parseParts(at, names)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if slices.ContainsFunc(c.alternatives, func(earlier []part) bool { return covers(earlier, parts) }) {
			problems = append(problems, policies.BadParam(at, "is never used: every request that has it has an earlier alternative too; remove it, or put it first"))
		}
		c.alternatives = append(c.alternatives, parts)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return c, nil
}

// covers reports whether a request that has all parts of b has those of a: then b is never used after a.
func covers(a, b []part) bool {
	return !slices.ContainsFunc(a, func(p part) bool { return p.kind != byRoute && !slices.Contains(b, p) })
}

func parseParts(at string, names []string) (parts []part, err error) {
	if len(names) != 1 {
		if len(names) == 0 || len(names) > maxParts {
			return nil, policies.BadParam(at+".all", "must have 1 to %d parts, got %d", maxParts, len(names))
		}
		at += ".all"
	}
	for i, name := range names {
		place := at
		if len(names) > 1 {
			place = fmt.Sprintf("%s[%d]", at, i)
		}
		p, ok := parsePart(name)
		if !ok {
			return nil, policies.BadParam(place, "unknown value %q, expected identity, client_ip, route or header:NAME", name)
		}
		if slices.Contains(parts, p) {
			return nil, policies.BadParam(place, "%q is there twice; remove one", name)
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// parsePart reads identity, client_ip, route or header:NAME.
func parsePart(text string) (part, bool) {
	switch text {
	case "identity":
		return part{kind: byIdentity}, true
	case "client_ip":
		return part{kind: byClientIP}, true
	case "route":
		return part{kind: byRoute}, true
	}
	header, ok := strings.CutPrefix(text, "header:")
	// Any field may be read that has a valid name, so the rules for fields that may be set are kept out by the prefix.
	// The host is :authority to Envoy, so a field of that name never comes.
	if !ok || header == "" || strings.EqualFold(header, "host") || policies.CheckHeader("a"+header, "") != nil {
		return part{}, false
	}
	return part{kind: byHeader, header: strings.ToLower(header)}, true
}
