package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"

	"github.com/invopop/jsonschema"

	"github.com/policy-engine/policy-engine/config/internal/strict"
)

type defaulted interface{ Defaults() }

// generate returns the schema of root's type. documents is the folder of its source, whose comments become descriptions.
func generate(documents, title string, root defaulted) ([]byte, error) {
	s, _, err := describe(documents, title, root)
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(s, "", "  ")
	return append(text, '\n'), err
}

// describe returns the schema, and what people are told of its keys beside.
func describe(documents, title string, root defaulted) (*jsonschema.Schema, map[*jsonschema.Schema]hint, error) {
	var r jsonschema.Reflector
	if err := r.AddGoComments("", documents); err != nil {
		return nil, nil, fmt.Errorf("read comments: %w", err)
	}
	root.Defaults()
	b := builder{documents: documents, comments: r.CommentMap, hints: map[*jsonschema.Schema]hint{}}
	s := b.structure(reflect.ValueOf(root).Elem())
	s.Version, s.Title = jsonschema.Version, title
	return s, b.hints, nil
}

type builder struct {
	documents string
	comments  map[string]string
	hints     map[*jsonschema.Schema]hint
}

// structure describes a mapping with the keys of a struct. The value holds the defaults.
func (b *builder) structure(v reflect.Value) *jsonschema.Schema {
	t := v.Type()
	s := &jsonschema.Schema{Type: "object", Properties: jsonschema.NewProperties(), AdditionalProperties: jsonschema.FalseSchema}
	for _, f := range strict.Fields(t) {
		property := b.value(v.Field(f.Index), f)
		property.Description = b.comments[b.documents+"."+t.Name()+"."+t.Field(f.Index).Name]
		s.Properties.Set(f.Key, property)
		b.hints[property] = hintOf(v.Field(f.Index), f)
		if f.Required {
			s.Required = append(s.Required, f.Key)
		}
	}
	if one, other, ok := strict.ExactlyOne(t); ok {
		s.OneOf = []*jsonschema.Schema{{Required: []string{one}}, {Required: []string{other}}}
	}
	return s
}

// element describes an item of a list or a value of a map, of which there may be many, each with its defaults.
func (b *builder) element(t reflect.Type) *jsonschema.Schema {
	v := reflect.New(t)
	if d, ok := v.Interface().(defaulted); ok {
		d.Defaults()
	}
	return b.value(v.Elem(), strict.Field{})
}

func (b *builder) value(v reflect.Value, f strict.Field) *jsonschema.Schema {
	switch x := v.Addr().Interface().(type) {
	case *strict.Object:
		return &jsonschema.Schema{Type: "object"}
	case interface {
		Types() (key, value reflect.Type)
	}:
		key, value := x.Types()
		s := &jsonschema.Schema{Type: "object", AdditionalProperties: b.element(value)}
		if p, ok := reflect.New(key).Interface().(interface{ Pattern() string }); ok {
			s.PropertyNames = &jsonschema.Schema{Pattern: p.Pattern()}
		}
		return s
	}
	switch v.Kind() {
	case reflect.Struct:
		s := b.structure(v)
		if short, ok := strict.Short(v.Type()); ok {
			return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{s, b.scalar(v.Field(short.Index), short)}}
		}
		return s
	case reflect.Slice:
		s := &jsonschema.Schema{Type: "array", Items: b.element(v.Type().Elem())}
		if least, err := strconv.ParseUint(f.Min, 10, 64); err == nil {
			s.MinItems = &least
		}
		return s
	default:
		return b.scalar(v, f)
	}
}

// scalar describes a text or number. Whatever its type, it may be a text with a ${VARIABLE}.
func (b *builder) scalar(v reflect.Value, f strict.Field) *jsonschema.Schema {
	s := &jsonschema.Schema{Type: "string"}
	switch x := v.Addr().Interface().(type) {
	case strict.Enum:
		for _, legal := range x.Legal() {
			s.Enum = append(s.Enum, legal)
		}
	case interface{ Pattern() string }:
		s.Pattern = x.Pattern()
	default:
		if v.Kind() == reflect.Int {
			s = &jsonschema.Schema{Type: "integer", Minimum: json.Number(f.Min), Maximum: json.Number(f.Max)}
			break
		}
		if v.Kind() == reflect.Float64 {
			s = &jsonschema.Schema{Type: "number", Minimum: json.Number(f.Min), Maximum: json.Number(f.Max)}
			break
		}
		if v.Kind() == reflect.Bool {
			s = &jsonschema.Schema{Type: "boolean"}
			break
		}
		if least, err := strconv.ParseUint(f.Min, 10, 64); err == nil {
			s.MinLength = &least
		}
		if most, err := strconv.ParseUint(f.Max, 10, 64); err == nil {
			s.MaxLength = &most
		}
	}
	if s.Type != "string" || s.Enum != nil || s.Pattern != "" {
		s = &jsonschema.Schema{AnyOf: []*jsonschema.Schema{s, {Type: "string", Pattern: `\$\{[A-Za-z_]`}}}
	}
	if !v.IsZero() {
		s.Default = v.Interface()
		if text, ok := s.Default.(fmt.Stringer); ok {
			s.Default = text.String()
		}
	}
	return s
}
