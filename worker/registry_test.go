package worker

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
)

func TestRegistryRefuses(t *testing.T) {
	named := func(name string) policies.Definition {
		return policies.Define(name, "1", func(policies.Env, none) (denier, error) { return denier{}, nil })
	}
	tests := []struct {
		name        string
		definitions []policies.Definition
		want        string
	}{
		{"twice", []policies.Definition{named("a"), named("b"), named("a")}, `register policy "a": there are two of that name`},
		{"no name", []policies.Definition{named("")}, "register policy without a name"},
		{"not defined", []policies.Definition{{}}, "register policy without a name"},
		{"no phase", []policies.Definition{policies.Define("a", "1", func(policies.Env, none) (none, error) { return none{}, nil })}, "no phase method"},
		{"name with a slash", []policies.Definition{named("a/b")}, `register policy "a/b": legal in a name are`},
		{"name of the metrics", []policies.Definition{named("none")}, "metrics use this name"},
		{"parameters without a JSON form", []policies.Definition{policies.Define("a", "1", func(policies.Env, struct{ C chan int }) (denier, error) { return denier{}, nil })}, `register policy "a": make the schema of`},
		{"all at once", []policies.Definition{named(""), named("a/b")}, "legal in a name are"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := NewRegistry(tt.definitions...)
			if err == nil || !strings.Contains(err.Error(), tt.want) || r != nil {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
	if _, err := NewRegistry(named("a"), named("b-1_C.d")); err != nil {
		t.Error(err)
	}
}

// oneOrMany is a parameter that decodes itself.
type oneOrMany []string

func (o *oneOrMany) UnmarshalJSON([]byte) error { return nil }

type inner struct {
	Deep bool `json:"deep"`
}

type allParams struct {
	Name    string             `json:"name" jsonschema:"required,description=The name."`
	Level   string             `json:"level" jsonschema:"enum=low,enum=high"`
	Timeout policies.Duration  `json:"timeout"`
	Pause   *policies.Duration `json:"pause"`
	Count   int                `json:"count" jsonschema:"minimum=1"`
	List    []inner            `json:"list"`
	Many    oneOrMany          `json:"many"`
	Prefix  netip.Prefix       `json:"prefix"`
	Map     map[string]string  `json:"map"`

	Claim  policies.ClaimPath    `json:"claim,omitzero"`
	Claims policies.ClaimHeaders `json:"claims"`
}

func TestSchema(t *testing.T) {
	raw, err := schemaOf(reflect.TypeFor[allParams]())
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Schema               string `json:"$schema"`
		Type                 string
		AdditionalProperties *bool
		Required             []string
		Properties           map[string]any
		Defs                 map[string]struct{ AdditionalProperties *bool } `json:"$defs"`
	}
	if err := json.Unmarshal(raw, &schema); err != nil {
		t.Fatal(err)
	}
	if schema.Schema != "https://json-schema.org/draft/2020-12/schema" || schema.Type != "object" {
		t.Errorf("%s", raw)
	}
	if schema.AdditionalProperties == nil || *schema.AdditionalProperties || schema.Defs["inner"].AdditionalProperties == nil || *schema.Defs["inner"].AdditionalProperties {
		t.Errorf("additional properties are legal: %s", raw)
	}
	if len(schema.Required) != 1 || schema.Required[0] != "name" {
		t.Errorf("required %v", schema.Required)
	}
	text := map[string]any{"type": "string"}
	duration := map[string]any{"type": "string", "pattern": durationPattern, "examples": []any{"500ms", "10s", "1h"}}
	for name, want := range map[string]any{
		"name":    map[string]any{"type": "string", "description": "The name."},
		"level":   map[string]any{"type": "string", "enum": []any{"low", "high"}},
		"timeout": duration,
		"pause":   duration,
		"count":   map[string]any{"type": "integer", "minimum": 1.0},
		"many":    true,
		"prefix":  text,
		"claim":   map[string]any{"oneOf": []any{text, map[string]any{"type": "array", "items": text}}},
		"claims":  map[string]any{"oneOf": []any{map[string]any{"type": "object"}, map[string]any{"type": "array", "items": map[string]any{"type": "object"}}}},
	} {
		if got := schema.Properties[name]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if _, err := schemaOf(reflect.TypeFor[none]()); err != nil {
		t.Error(err)
	}
}

// TestDurationPattern compares the pattern with what the SDK takes.
func TestDurationPattern(t *testing.T) {
	pattern := regexp.MustCompile(durationPattern)
	for _, s := range []string{"500ms", "1h30m", "1.5s", ".5s", "5.s", "0", "-1s", "+2µs", "2μs", "", "5", "s", "1 s", "1d", "1s1", ".s", "-"} {
		var d policies.Duration
		if got, want := pattern.MatchString(s), d.UnmarshalText([]byte(s)) == nil; got != want {
			t.Errorf("%q: pattern %v, parser %v", s, got, want)
		}
	}
}
