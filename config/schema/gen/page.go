package main

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/policy-engine/policy-engine/config/internal/strict"
)

// hint is what the page tells of a key that the schema has not, or has for machines.
type hint struct {
	// legal are the values, in words; fallback is what a mapping without a default in the schema has as its default.
	legal, fallback string
}

// hintOf describes the values of a field. The value holds the default.
func hintOf(v reflect.Value, f strict.Field) hint {
	between := "a text"
	if f.Min != "" && f.Max != "" {
		between = f.Min + " to " + f.Max
	}
	switch x := v.Addr().Interface().(type) {
	case strict.Enum:
		return hint{legal: "`" + strings.Join(x.Legal(), "`, `") + "`"}
	case *strict.Object:
		return hint{legal: "a mapping"}
	case interface {
		Types() (key, value reflect.Type)
	}:
		return hint{legal: "a mapping", fallback: entries(v)}
	case fmt.Stringer:
		return hint{legal: between}
	}
	switch v.Kind() {
	case reflect.Struct:
		if short, ok := strict.Short(v.Type()); ok {
			return hint{legal: "a mapping, or " + hintOf(v.Field(short.Index), short).legal + " for its `" + short.Key + "`"}
		}
		return hint{legal: "a mapping"}
	case reflect.Slice:
		return hint{legal: "a list"}
	case reflect.Bool:
		return hint{legal: "`true`, `false`", fallback: fmt.Sprintf("`%v`", v.Bool())}
	case reflect.String:
		if f.Max != "" {
			return hint{legal: "a text of up to " + f.Max + " bytes"}
		}
		return hint{legal: "a text"}
	default:
		return hint{legal: between}
	}
}

// entries writes the entries of a map, which is a list of pairs.
func entries(v reflect.Value) string {
	var pairs []string
	for i := range v.Len() {
		pairs = append(pairs, fmt.Sprintf("`%v: %v`", v.Index(i).FieldByName("Key"), v.Index(i).FieldByName("Value")))
	}
	return strings.Join(pairs, ", ")
}

const pageHead = `# Configuration

Code generated from the types that read the files. DO NOT EDIT: change ` + "`config/internal/document`" + ` and run ` + "`make generate`" + `.

Each table has all keys of a file, as a path: ` + "`[]`" + ` stands for each item of a list, ` + "`NAME`" + ` for a name of your own. What a file leaves out has its default; a key that is not here is an error. Durations are
written ` + "`500ms`" + ` or ` + "`1m30s`" + `, sizes ` + "`64KiB`" + ` or ` + "`1MiB`" + `. A value may be ` + "`${NAME}`" + ` or ` + "`${NAME:-default}`" + ` from the environment. How to check a file and bring it into use is in [operations.md](operations.md#configure);
the parameters of each policy are in its README (the table in [README.md](../README.md#what-exists)).
`

// page returns the page that explains the keys of all files.
func page(documents string) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(pageHead)
	for _, out := range outputs {
		s, hints, err := describe(documents, out.title, out.root)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "\n## %s\n\n| Key | Default | Legal | Meaning |\n| --- | --- | --- | --- |\n", strings.TrimPrefix(out.title, "Policy Engine: "))
		keys(&b, "", s, hints)
	}
	return b.Bytes(), nil
}

// keys writes a row for each key of a mapping, and below it those of what it holds.
func keys(b *bytes.Buffer, path string, s *jsonschema.Schema, hints map[*jsonschema.Schema]hint) {
	required := map[string]bool{}
	for _, key := range s.Required {
		required[key] = true
	}
	for pair := s.Properties.Oldest(); pair != nil; pair = pair.Next() {
		property, h, at := pair.Value, hints[pair.Value], path+pair.Key
		value := h.fallback
		switch {
		case required[pair.Key]:
			value = "required"
		case property.Default != nil:
			value = fmt.Sprintf("`%v`", property.Default)
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", at, cell(value), cell(h.legal), cell(property.Description))
		if len(property.AnyOf) > 0 && property.AnyOf[0].Properties != nil { // A mapping, or the value of one of its keys.
			property = property.AnyOf[0]
		}
		for inner, suffix := range map[*jsonschema.Schema]string{property: ".", property.Items: "[].", property.AdditionalProperties: ".NAME."} {
			if inner != nil && inner.Properties != nil && inner.Properties.Len() > 0 {
				keys(b, at+suffix, inner, hints)
			}
		}
	}
}

// cell keeps a text within its cell.
func cell(text string) string {
	return strings.ReplaceAll(strings.ReplaceAll(text, "\n", " "), "|", `\|`)
}
