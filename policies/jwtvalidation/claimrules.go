package jwtvalidation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/policy-engine/policy-engine/policies"
)

// ClaimRule is a claim that a token must have, with its accepted values.
type ClaimRule struct {
	Claim  policies.ClaimPath `json:"claim"`
	Values []any              `json:"values"` // strings, float64s and bools as JSON has them
}

// ClaimRules are required claims: a map from claims to values, or a list of ClaimRule, in which a claim may be a list of names.
type ClaimRules []ClaimRule

// UnmarshalJSON takes a map or a list.
func (r *ClaimRules) UnmarshalJSON(text []byte) error {
	rules := ClaimRules{}
	if text = bytes.TrimSpace(text); text[0] == '[' {
		var list []struct {
			Claim  policies.ClaimPath `json:"claim"`
			Values json.RawMessage    `json:"values"`
		}
		if err := unmarshalStrict(text, &list); err != nil {
			return fmt.Errorf("list of required claims: %w; expected entries such as {claim: [realm_access, roles], values: [admin]}", err)
		}
		for i, e := range list {
			if e.Claim.IsZero() || e.Values == nil {
				return fmt.Errorf("list of required claims: entry %d needs claim and values", i)
			}
			rules = append(rules, ClaimRule{e.Claim, oneOrMore(e.Values)})
		}
		*r = rules
		return nil
	}
	var byName map[string]json.RawMessage
	if err := json.Unmarshal(text, &byName); err != nil {
		return errors.New("required claims: expected an object from claims to values, or a list of {claim, values}")
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		path, err := policies.ParseClaimPath(name)
		if err != nil {
			return fmt.Errorf("required claims: %w", err)
		}
		rules = append(rules, ClaimRule{path, oneOrMore(byName[name])})
	}
	*r = rules
	return nil
}

// oneOrMore reads a value or a list of values. What is not accepted is left to check.
func oneOrMore(text json.RawMessage) []any {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return []any{err}
	}
	if list, ok := v.([]any); ok {
		return list
	}
	return []any{v}
}

func unmarshalStrict(text []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}

// maxInteger is the largest integer that a float64 tells from its neighbours.
const maxInteger = 1<<53 - 1

func (r ClaimRules) check(param string, bad func(param, format string, args ...any)) {
	for _, rule := range r {
		at := param + "." + rule.Claim.String()
		if len(rule.Values) == 0 {
			bad(at, "an empty list, expected a value or a list of values")
		}
		for _, v := range rule.Values {
			switch v := v.(type) {
			case string, bool:
				continue
			case float64:
				if v == math.Trunc(v) && math.Abs(v) <= maxInteger {
					continue
				}
			}
			bad(at, "unexpected value %v, expected strings, integers up to 2^53-1, true, false, or a list of them", v)
		}
	}
}

// JSONSchema is for editors.
func (ClaimRules) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "object"}, {Type: "array", Items: &jsonschema.Schema{Type: "object"}}}}
}

// unmet returns the first rule that the token does not meet, or nil.
func (r ClaimRules) unmet(c *policies.ClaimsSet) *ClaimRule {
	for i := range r {
		if !r[i].met(c) {
			return &r[i]
		}
	}
	return nil
}

// met reports whether the claim has an accepted value, or is a list that has one.
func (r *ClaimRule) met(c *policies.ClaimsSet) bool {
	value := c.Get(r.Claim)
	if value.Kind() != policies.ClaimList {
		return r.accepts(value)
	}
	for _, element := range value.All() {
		if r.accepts(element) {
			return true
		}
	}
	return false
}

// accepts compares with the type: "true" is not true.
func (r *ClaimRule) accepts(value policies.ClaimValue) bool {
	text, _ := value.Text()
	var v any
	switch value.Kind() {
	case policies.ClaimString:
		v = text
	case policies.ClaimBool:
		v = text == "true"
	case policies.ClaimNumber:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || f != math.Trunc(f) || math.Abs(f) > maxInteger {
			return false
		}
		v = f
	default:
		return false
	}
	return slices.Contains(r.Values, v)
}

// Paths are claims, in order: one claim or a list of claims.
type Paths []policies.ClaimPath

// UnmarshalJSON takes a claim, or a list in which each is a claim.
func (p *Paths) UnmarshalJSON(text []byte) error {
	var list []policies.ClaimPath
	if text = bytes.TrimSpace(text); text[0] != '[' {
		list = make([]policies.ClaimPath, 1)
		if err := json.Unmarshal(text, &list[0]); err != nil {
			return policies.BadParam("subject_claim", "%v", err)
		}
	} else if err := json.Unmarshal(text, &list); err != nil {
		return policies.BadParam("subject_claim", "%v", err)
	}
	*p = list
	return nil
}

// JSONSchema is for editors.
func (Paths) JSONSchema() *jsonschema.Schema {
	name := &jsonschema.Schema{Type: "string"}
	path := &jsonschema.Schema{OneOf: []*jsonschema.Schema{name, {Type: "array", Items: name}}}
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{name, {Type: "array", Items: path}}}
}

// first returns the first of the claims that the token has.
func (p Paths) first(c *policies.ClaimsSet) policies.ClaimValue {
	for _, path := range p {
		if v := c.Get(path); v.Kind() != policies.ClaimAbsent {
			return v
		}
	}
	return policies.ClaimValue{}
}

// met reports whether the token meets the alternative.
func (a *Alternative) met(c *policies.ClaimsSet, scopes []string) bool {
	for _, s := range a.Scopes {
		if !slices.Contains(scopes, s) {
			return false
		}
	}
	return a.Claims.unmet(c) == nil
}

// scopesOf splits a scope string at spaces alone (RFC 6749 section 3.3).
func scopesOf(dst []string, s string) []string {
	for scope := range strings.SplitSeq(s, " ") {
		if scope != "" {
			dst = append(dst, scope)
		}
	}
	return dst
}

// String says what a rule demands, for details of refusals.
func (r *ClaimRule) String() string {
	return fmt.Sprintf("claim %s is none of %v", r.Claim, r.Values)
}

// String names the claims.
func (p Paths) String() string {
	names := make([]string, len(p))
	for i := range p {
		names[i] = p[i].String()
	}
	return strings.Join(names, ", ")
}

// String names the scopes and claims that the alternative demands.
func (a *Alternative) String() string {
	names := slices.Clone(a.Scopes)
	for i := range a.Claims {
		names = append(names, "claim "+a.Claims[i].Claim.String())
	}
	return strings.Join(names, " and ")
}
