package jsonschemavalidation

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// guard runs before all other keywords of a schema, each time that it is applied to a value, and charges what that
// costs. A schema that refers to itself from several branches may be applied without number to a small body: each level
// of the body multiplies it.
//
// The library (6.0.3) has no such place. It calls the format of a schema early, but after type, const and enum, so the
// guard stands in the place of the format and decides these itself. It also decides maxLength and minLength, so that a
// text that is too long does not reach pattern.
type guard struct {
	c        *checker
	s        *jsonschema.Schema
	format   *jsonschema.Format
	types    []string
	wanted   map[string]bool // the keys of the values of const or enum; nil: any
	longest  int             // of wanted
	mismatch func(value any) jsonschema.ErrorKind
	least    *int // minLength
	most     *int // maxLength

	each  int // steps for each application
	walks int // times that all schemas that are being applied are looked through
	names int // steps for each member of an object, beyond one
}

// guarded is the error of a guard: the keyword that it decided in place of the library.
type guarded struct{ kind jsonschema.ErrorKind }

func (*guarded) Error() string { return "see kind" }

// newGuard puts a guard into a schema that is being compiled. finish does the rest when the subschemas are compiled.
func newGuard(c *checker, s *jsonschema.Schema) *guard {
	g := &guard{c: c, s: s, format: s.Format, least: s.MinLength, most: s.MaxLength}
	if s.Types != nil && !s.Types.IsEmpty() {
		g.types = s.Types.ToStrings()
	}
	// Where both are there, which no schema needs, the library decides enum.
	if s.Const != nil {
		want := *s.Const
		g.want(want)
		g.mismatch = func(got any) jsonschema.ErrorKind { return &kind.Const{Got: got, Want: want} }
		s.Const = nil
	} else if s.Enum != nil {
		want := s.Enum.Values
		g.want(want...)
		g.mismatch = func(got any) jsonschema.ErrorKind { return &kind.Enum{Got: got, Want: want} }
		s.Enum = nil
	}
	s.Types, s.MinLength, s.MaxLength = nil, nil, nil
	s.Format = &jsonschema.Format{Name: "guard", Validate: g.validate}
	return g
}

func (g *guard) want(values ...any) {
	g.wanted = make(map[string]bool, len(values))
	for _, v := range values {
		key, _ := appendKey(nil, v, maxKey)
		g.wanted[string(key)] = true
		g.longest = max(g.longest, len(key))
	}
}

// finish computes what the schema costs by itself.
func (g *guard) finish() {
	s := g.s
	g.each = 1
	for _, of := range [][]*jsonschema.Schema{s.AllOf, s.AnyOf, s.OneOf} {
		for _, sub := range of {
			if sub.Bool != nil { // It has no guard.
				g.each += 1 + failureSteps
			}
		}
	}
	lookups := len(s.Required) + len(s.Dependencies) + len(s.DependentSchemas) + len(s.DependentRequired)
	for _, names := range s.DependentRequired {
		lookups += len(names)
	}
	for _, names := range s.Dependencies {
		if names, ok := names.([]string); ok {
			lookups += len(names)
		}
	}
	g.each += lookups / lookupsPerStep
	if s.DynamicRef != nil || s.RecursiveRef != nil {
		g.walks = 1
	}
	g.names = len(s.PatternProperties) / lookupsPerStep
	if s.PropertyNames != nil {
		g.names++
	}
}

// What the work of the library counts, in steps. A step takes about 200 ns.
const (
	lookupsPerStep = 4   // names that are looked up in an object
	bytesPerStep   = 256 // bytes of a text that are looked at
	formatPerStep  = 32  // bytes of a text whose format is checked
	failureSteps   = 3   // an error, which is memory too
	levelsPerStep  = 8   // levels of a place in the body
	numberSteps    = 4   // a number that is compared
	longNumber     = 32
	pairwise       = 20 // up to so many items, the library compares each with each for uniqueItems
)

// validate charges the application of the schema to the value, and decides the keywords of the guard.
func (g *guard) validate(value any) error {
	cost := g.each + g.c.place*(1+4*g.walks)
	switch value := value.(type) {
	case map[string]any:
		cost += len(value) * (1 + g.names)
	case []any:
		cost += len(value)
	case string:
		cost += len(value) / bytesPerStep
	case json.Number:
		cost += g.numberCost(value)
	}
	g.c.charge(cost)
	if kind := g.decide(value); kind != nil {
		g.c.charge(failureSteps)
		return &guarded{kind}
	}
	if items, ok := value.([]any); ok && g.s.UniqueItems {
		g.c.charge(uniqueCost(items))
	}
	if g.format == nil {
		return nil
	}
	if text, ok := value.(string); ok {
		g.c.charge(len(text) / formatPerStep)
	}
	if err := g.format.Validate(value); err != nil {
		g.c.charge(failureSteps)
		return &guarded{&kind.Format{Got: value, Want: g.format.Name, Err: err}}
	}
	return nil
}

func (g *guard) numberCost(n json.Number) int {
	s := g.s
	switch {
	case s.Minimum == nil && s.Maximum == nil && s.ExclusiveMinimum == nil && s.ExclusiveMaximum == nil && s.MultipleOf == nil:
		return 0
	case len(n) > 20 || strings.ContainsAny(string(n), "eE"):
		return longNumber
	}
	return numberSteps
}

// decide returns what is wrong with the value, nil if nothing is.
func (g *guard) decide(value any) jsonschema.ErrorKind {
	if g.types != nil {
		if got := typeOf(value); !slices.Contains(g.types, got) && !(got == "number" && slices.Contains(g.types, "integer") && isInteger(value.(json.Number))) {
			return &kind.Type{Got: got, Want: g.types}
		}
	}
	if g.wanted != nil {
		key, whole := appendKey(nil, value, g.longest)
		g.c.charge(len(key) / bytesPerStep)
		if !whole || !g.wanted[string(key)] {
			return g.mismatch(value)
		}
	}
	if text, ok := value.(string); ok && (g.least != nil || g.most != nil) {
		switch n := utf8.RuneCountInString(text); {
		case g.least != nil && n < *g.least:
			return &kind.MinLength{Got: n, Want: *g.least}
		case g.most != nil && n > *g.most:
			return &kind.MaxLength{Got: n, Want: *g.most}
		}
	}
	return nil
}

// uniqueCost is what a comparison of the items costs.
func uniqueCost(items []any) (steps int) {
	for _, item := range items {
		steps += size(item)
	}
	if len(items) <= pairwise {
		return steps * len(items) / 2
	}
	return 2 * steps
}

// size is how many steps it takes to look at all of the value.
func size(value any) (steps int) {
	switch value := value.(type) {
	case map[string]any:
		for name, member := range value {
			steps += size(member) + len(name)/bytesPerStep
		}
	case []any:
		for _, item := range value {
			steps += size(item)
		}
	case string:
		steps = len(value) / bytesPerStep
	case json.Number:
		steps = numberSteps
	}
	return steps + 1
}

func typeOf(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case json.Number:
		return "number"
	case string:
		return "string"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	}
	return fmt.Sprintf("%T", value) // None of parse.
}
