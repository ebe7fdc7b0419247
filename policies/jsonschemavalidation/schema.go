package jsonschemavalidation

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/policy-engine/policy-engine/policies"
)

// base is where the schema stands for its own relative references. Nothing is loaded from there.
const base = "schema:///params"

// noLoader keeps references within the schema: what it means must not depend on another document that may change, or
// may not be there.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, &otherDocument{strings.TrimPrefix(url, "schema:///")}
}

// otherDocument is a reference out of the schema.
type otherDocument struct{ url string }

func (e *otherDocument) Error() string { return fmt.Sprintf("%q is another document", e.url) }

// compile makes a checker out of the parameter, or says where it is wrong.
func (s *checkers) compile() (*checker, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(s.raw))
	if err != nil {
		return nil, err
	}
	made, guards := &checker{}, []*guard(nil)
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(noLoader{})
	c.UseRegexpEngine(func(expression string) (jsonschema.Regexp, error) {
		p, err := s.pattern(expression)
		if err != nil {
			return nil, err
		}
		return &countedPattern{p, made}, nil
	})
	if s.formats {
		c.AssertFormat()
		for _, f := range formats {
			c.RegisterFormat(f)
		}
	}
	c.RegisterVocabulary(&jsonschema.Vocabulary{
		URL: base + "/guards",
		Compile: func(ctx *jsonschema.CompilerContext, obj map[string]any) (jsonschema.SchemaExt, error) {
			schema := ctx.Enqueue(nil) // The one that is being compiled.
			switch name, _ := obj["format"].(string); {
			case !s.formats: // Older drafts enforce it in any case.
				schema.Format = nil
			case slices.Contains(unsupportedFormats, name):
				return nil, fmt.Errorf("format %q is not supported, expected one of %s; remove it, or set assert_formats to false", name, formatNames)
			case name == "hostname" && schema.DraftVersion < 7:
				schema.Format = plainHostname
			case name == "regex":
				schema.Format = &jsonschema.Format{Name: name, Validate: made.validateRegex}
			}
			guards = append(guards, newGuard(made, schema))
			return nil, nil
		},
	})
	c.AssertVocabs()
	if err := c.AddResource(base, doc); err != nil {
		return nil, err
	}
	if made.schema, err = c.Compile(base); err != nil {
		return nil, explain(err, doc)
	}
	for _, g := range guards {
		g.finish()
	}
	return made, probe(made)
}

// embedding returns the keywords by which a schema holds other documents: drafts before 2019-09 have other ones.
func embedding(doc any) (under, id string) {
	object, _ := doc.(map[string]any)
	draft, _ := object["$schema"].(string)
	switch {
	case strings.Contains(draft, "draft-04"):
		return "definitions", "id"
	case strings.Contains(draft, "draft-06"), strings.Contains(draft, "draft-07"):
		return "definitions", "$id"
	}
	return "$defs", "$id"
}

// explain turns an error of the compiler into one line.
func explain(err error, doc any) error {
	var load *jsonschema.LoadURLError
	var other *otherDocument
	if errors.As(err, &load) && errors.As(load.Err, &other) {
		under, id := embedding(doc)
		return fmt.Errorf("%w, and those are not fetched; put it under %s with that %s", other, under, id)
	}
	var meta *jsonschema.SchemaValidationError
	var where *jsonschema.ValidationError
	if errors.As(err, &meta) && errors.As(meta.Err, &where) {
		var lines []string
		for _, l := range leaves(where) {
			what := detail(l)
			if k, ok := l.ErrorKind.(*kind.PropertyNames); ok { // One of patternProperties.
				if _, err := compilePattern(k.Property); err != nil {
					what = fmt.Sprintf("%s: %v", what, err)
				}
			}
			lines = append(lines, fmt.Sprintf("at %q: %s", pointer(l.InstanceLocation), what))
		}
		slices.Sort(lines)
		return fmt.Errorf("it is no JSON Schema: %s", strings.Join(slices.Compact(lines), "; "))
	}
	return errors.New(strings.NewReplacer(base+"#", "#", base, "#", "\n", " ").Replace(err.Error()))
}

// probe finds references that go round in a circle: such a schema fits nothing.
func probe(c *checker) error {
	for _, value := range []any{nil, true, json.Number("0"), "", []any{}, map[string]any{}} {
		var err *jsonschema.ValidationError
		if !errors.As(c.check(context.Background(), value, limits{steps: maxSteps, patternSteps: policies.MaxPatternSteps}), &err) {
			continue
		}
		for _, l := range leaves(err) {
			if _, ok := l.ErrorKind.(*kind.RefCycle); ok {
				return errors.New("its references go round in a circle")
			}
		}
	}
	return nil
}

// problem is one error, as clients are told.
type problem struct {
	// Pointer is where in the body (RFC 6901); empty for the body as a whole, nil where the library does not know.
	Pointer *string `json:"pointer,omitempty"`
	Detail  string  `json:"detail"`
}

// maxText is how much of a pointer or detail clients are told, in bytes. Both may have their own text in them.
const maxText = 256

// report is the body of a refusal: {"error":…,"code":…} with the first errors, by place.
func report(err error, most int) []byte {
	answer := struct {
		Error  string    `json:"error"`
		Code   string    `json:"code"`
		Errors []problem `json:"errors,omitempty"`
	}{Error: "the body does not fit the schema", Code: "BODY_INVALID"}
	var top *jsonschema.ValidationError
	if most > 0 && errors.As(err, &top) {
		for _, l := range first(leaves(top), most) {
			p := problem{Detail: shorten(detail(l))}
			if propertyName(l) == "" {
				at := shorten(pointer(l.InstanceLocation))
				p.Pointer = &at
			}
			answer.Errors = append(answer.Errors, p)
		}
	}
	body, err := json.Marshal(answer)
	if err != nil { // Text always encodes.
		panic(err)
	}
	return body
}

// leaves are the errors that have no others for their cause.
func leaves(err *jsonschema.ValidationError) (all []*jsonschema.ValidationError) {
	switch {
	case propertyName(err) != "":
		// The library (6.0.3) writes other places over that of this error. The name has to do.
		return []*jsonschema.ValidationError{{SchemaURL: err.SchemaURL, ErrorKind: err.ErrorKind}}
	case len(err.Causes) == 0:
		if k, ok := err.ErrorKind.(*kind.Format); ok {
			if g, ok := k.Err.(*guarded); ok {
				return []*jsonschema.ValidationError{{SchemaURL: err.SchemaURL, InstanceLocation: err.InstanceLocation, ErrorKind: g.kind}}
			}
		}
		return []*jsonschema.ValidationError{err}
	}
	for _, cause := range err.Causes {
		all = append(all, leaves(cause)...)
	}
	return all
}

// propertyName is the name that is wrong, in quotation marks, for errors of propertyNames; empty for all others.
func propertyName(err *jsonschema.ValidationError) string {
	if k, ok := err.ErrorKind.(*kind.PropertyNames); ok {
		return strconv.Quote(k.Property)
	}
	return ""
}

// first returns the first errors in the order of their places, so that the same body has the same answer.
func first(errs []*jsonschema.ValidationError, most int) []*jsonschema.ValidationError {
	var kept []*jsonschema.ValidationError
	for _, err := range errs {
		i, _ := slices.BinarySearchFunc(kept, err, func(a, b *jsonschema.ValidationError) int { return cmp.Or(compare(a, b), -1) })
		if i == most {
			continue
		}
		kept = slices.Insert(kept[:min(len(kept), most-1)], i, err)
	}
	return kept
}

func compare(a, b *jsonschema.ValidationError) int {
	if c := slices.Compare(a.InstanceLocation, b.InstanceLocation); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(a.SchemaURL, b.SchemaURL), slices.Compare(a.ErrorKind.KeywordPath(), b.ErrorKind.KeywordPath()),
		cmp.Compare(propertyName(a), propertyName(b)))
}

func pointer(location []string) string {
	var b strings.Builder
	for _, token := range location {
		b.WriteByte('/')
		b.WriteString(strings.ReplaceAll(strings.ReplaceAll(token, "~", "~0"), "/", "~1"))
	}
	return b.String()
}

// detail says in words what is wrong.
func detail(err *jsonschema.ValidationError) string {
	if k, ok := err.ErrorKind.(*kind.AdditionalProperties); ok {
		slices.Sort(k.Properties) // They come in the order of a map.
	}
	alone := jsonschema.ValidationError{SchemaURL: err.SchemaURL, InstanceLocation: err.InstanceLocation, ErrorKind: err.ErrorKind}
	return alone.BasicOutput().Error.String()
}

// firstKeyword is the place in the schema that the first error is of. It is the operator's text.
func firstKeyword(err error) string {
	var top *jsonschema.ValidationError
	if !errors.As(err, &top) {
		return "?"
	}
	l := first(leaves(top), 1)[0]
	place := strings.TrimPrefix(l.SchemaURL, base)
	if path := l.ErrorKind.KeywordPath(); len(path) > 0 && propertyName(l) == "" {
		place += "/" + path[0]
	}
	return place
}

// shorten cuts a text that is too long, between two characters.
func shorten(s string) string {
	if len(s) <= maxText {
		return s
	}
	n := maxText
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
