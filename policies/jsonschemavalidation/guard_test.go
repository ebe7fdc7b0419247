package jsonschemavalidation

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"
)

// genValue generates values, many of which are equal though they are written in another way.
func genValue() *rapid.Generator[string] {
	sub := rapid.Deferred(genValue)
	return rapid.Custom(func(t *rapid.T) string {
		switch rapid.IntRange(0, 6).Draw(t, "kind") {
		case 0, 1, 2:
			return rapid.SampledFrom([]string{"1", "1.0", "10e-1", "0", "-0", "0.0e5", "100", "1e2", "-1", "0.5", "5e-1", "1.50", "1.5e0", "12e400", "1200e398"}).Draw(t, "number")
		case 3:
			return rapid.SampledFrom([]string{`""`, `"a"`, `"ab"`, `"1"`, `"\u0061"`, `"é"`, `"\u0000"`, `"a\"1:"`}).Draw(t, "text")
		case 4:
			return rapid.SampledFrom([]string{"null", "true", "false"}).Draw(t, "word")
		case 5:
			return "[" + strings.Join(rapid.SliceOfN(sub, 0, 3).Draw(t, "items"), ",") + "]"
		}
		var members []string
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "ab", "", "é"}), 0, 3, rapid.ID).Draw(t, "names") {
			members = append(members, fmt.Sprintf("%q:%s", name, sub.Draw(t, "member")))
		}
		return "{" + strings.Join(members, ",") + "}"
	})
}

// genSchema generates schemas of the keywords that guards decide, below those that they do not.
func genSchema() *rapid.Generator[string] {
	sub := rapid.Deferred(genSchema)
	return rapid.Custom(func(t *rapid.T) string {
		var keywords []string
		names := []string{
			"type", "const", "enum", "minLength", "maxLength", "pattern", "not", "anyOf", "oneOf", "allOf", "items", "contains", "properties", "additionalProperties",
			"patternProperties", "propertyNames", "if", "uniqueItems", "minimum", "multipleOf", "required", "unevaluatedProperties", "prefixItems", "unevaluatedItems",
		}
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 3, rapid.ID).Draw(t, "keywords") {
			value := ""
			switch name {
			case "type":
				value = rapid.SampledFrom([]string{`"integer"`, `"number"`, `"string"`, `["null", "integer"]`, `"object"`, `"array"`, `"boolean"`, `["string", "number"]`}).Draw(t, "type")
			case "const":
				value = genValue().Draw(t, "const")
			case "enum":
				value = "[" + strings.Join(rapid.SliceOfN(genValue(), 1, 4).Draw(t, "enum"), ",") + "]"
			case "minLength", "maxLength":
				value = rapid.SampledFrom([]string{"0", "1", "2"}).Draw(t, "length")
			case "pattern":
				value = rapid.SampledFrom([]string{`"^a"`, `"b$"`, `"."`}).Draw(t, "pattern")
			case "anyOf", "oneOf", "allOf", "prefixItems":
				value = "[" + strings.Join(rapid.SliceOfN(sub, 1, 3).Draw(t, "of"), ",") + "]"
			case "properties":
				value = fmt.Sprintf(`{"a": %s, "b": %s}`, sub.Draw(t, "a"), sub.Draw(t, "b"))
			case "patternProperties":
				value = fmt.Sprintf(`{"^a": %s, "b": %s}`, sub.Draw(t, "a"), sub.Draw(t, "b"))
			case "if":
				value = sub.Draw(t, "if") + `, "then": ` + sub.Draw(t, "then") + `, "else": ` + sub.Draw(t, "else")
			case "uniqueItems":
				value = "true"
			case "minimum", "multipleOf":
				value = rapid.SampledFrom([]string{"0.5", "1", "2"}).Draw(t, "number")
			case "required":
				value = `["a"]`
			default:
				value = sub.Draw(t, "sub")
			}
			keywords = append(keywords, fmt.Sprintf("%q: %s", name, value))
		}
		return "{" + strings.Join(keywords, ", ") + "}"
	})
}

// Random schemas and values: with its guards the library says what it says without them, and each schema that is
// applied to a value is charged.
func TestGuardsChangeNoAnswer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		schema, body := genSchema().Draw(t, "schema"), genValue().Draw(t, "value")
		s, err := newCheckers([]byte(schema), true)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(schema))
		if err != nil {
			t.Fatal(err)
		}
		applied := 0
		c := jsonschema.NewCompiler()
		c.RegisterVocabulary(&jsonschema.Vocabulary{URL: "schema:///count", Compile: func(*jsonschema.CompilerContext, map[string]any) (jsonschema.SchemaExt, error) {
			return counter{&applied}, nil
		}})
		c.AssertVocabs()
		if err := c.AddResource(base, doc); err != nil {
			t.Fatal(err)
		}
		plain, err := c.Compile(base)
		if err != nil {
			t.Fatal(err)
		}
		value, depth, f := parse([]byte(body), plenty)
		if f != nil {
			t.Fatal(f)
		}
		checker := <-s.free
		got := checker.check(t.Context(), value, usual.at(depth))
		if errors.Is(got, errTooLong) {
			t.Fatalf("%s on %s: %v", body, schema, got)
		}
		if want := plain.Validate(value); (got == nil) != (want == nil) {
			t.Fatalf("%s on %s: %v, the library says %v", body, schema, got, want)
		}
		// The library counts those that it comes to the end of.
		if charged := usual.steps - checker.left; charged < applied {
			t.Fatalf("%s on %s: %d steps charged, %d schemas applied", body, schema, charged, applied)
		}
		if got != nil {
			report(got, 5)
		}
	})
}

type counter struct{ n *int }

func (c counter) Validate(*jsonschema.ValidatorContext, any) { *c.n++ }

// Two values have the same key if and only if JSON Schema takes them for equal.
func TestKeysAreThoseOfEqualValues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genValue().Draw(t, "a"), genValue().Draw(t, "b")
		va, _, fa := parse([]byte(a), plenty)
		vb, _, fb := parse([]byte(b), plenty)
		if fa != nil || fb != nil {
			t.Fatal(fa, fb)
		}
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(`{"const": ` + b + `}`))
		if err != nil {
			t.Fatal(err)
		}
		c := jsonschema.NewCompiler()
		if err := c.AddResource(base, doc); err != nil {
			t.Fatal(err)
		}
		want := c.MustCompile(base).Validate(va) == nil
		ka, whole := appendKey(nil, va, maxKey)
		kb, _ := appendKey(nil, vb, maxKey)
		if got := string(ka) == string(kb); got != want || !whole {
			t.Fatalf("%s is %s, %s is %s: %v, the library says %v", a, ka, b, kb, got, want)
		}
		if short, whole := appendKey(nil, va, len(ka)-1); whole || len(short) > len(ka)+8 {
			t.Fatalf("%s in %d bytes is %s", a, len(ka)-1, short)
		}
	})
}

func TestIntegers(t *testing.T) {
	for text, want := range map[string]bool{
		"0": true, "-0": true, "0.0": true, "0e-5": true, "1.0": true, "1e2": true, "1.5e1": true, "1.50e1": true, "120e-1": true, "100e-2": true, "-1e400": true,
		"0.5": false, "1.5": false, "1e-1": false, "15e-1": false, "1.55e1": false, "1e-400": false, "101e-2": false,
	} {
		if got := isInteger(json.Number(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}
