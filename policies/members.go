package policies

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
)

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// checkMembers reports what encoding/json lets pass, everywhere below raw: members that come twice, whose names differ from the parameter's in
// case, or that are null. It also knows the path of a text that does not parse. raw is valid JSON.
func checkMembers(path string, raw json.RawMessage, t reflect.Type) []error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch raw = bytes.TrimSpace(raw); {
	case string(raw) == "null" && t.Kind() != reflect.Interface:
		return []error{BadParam(path, "null is not legal here; leave the parameter out for its default")}
	case raw[0] == '"' && reflect.PointerTo(t).Implements(textUnmarshaler):
		return checkText(path, raw, t)
	case raw[0] == '{':
		return checkObject(path, raw, t)
	case raw[0] == '[':
		return checkList(path, raw, t)
	}
	return nil
}

func checkText(path string, raw json.RawMessage, t reflect.Type) []error {
	if err := json.Unmarshal(raw, reflect.New(t).Interface()); err != nil {
		return []error{BadParam(path, "%v", err)}
	}
	return nil
}

func checkObject(path string, raw json.RawMessage, t reflect.Type) (problems []error) {
	fields, strict := fieldsOf(t)
	dec := json.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.Token(); err != nil {
		return []error{err}
	}
	seen := map[string]bool{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return []error{err}
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return []error{err}
		}
		name := key.(string) // The token before a member's value.
		member := name
		if path != "" {
			member = path + "." + name
		}
		of, known := fields[name]
		switch {
		case seen[name]:
			problems = append(problems, BadParam(member, "it is there more than once"))
			continue
		case strict && !known:
			problems = append(problems, BadParam(member, "unknown parameter; legal are %s", strings.Join(paramNames(t), ", ")))
			continue
		case !strict:
			of = elemOf(t)
		}
		seen[name] = true
		problems = append(problems, checkMembers(member, value, of)...)
	}
	return problems
}

func checkList(path string, raw json.RawMessage, t reflect.Type) (problems []error) {
	var values []json.RawMessage
	if err := json.Unmarshal(raw, &values); err != nil {
		return []error{err}
	}
	for i, value := range values {
		problems = append(problems, checkMembers(fmt.Sprintf("%s[%d]", path, i), value, elemOf(t))...)
	}
	return problems
}

// elemOf is the type of what a list or map holds; any for what is neither, or reads its JSON itself.
func elemOf(t reflect.Type) reflect.Type {
	switch t.Kind() {
	case reflect.Slice, reflect.Array, reflect.Map:
		if !reflect.PointerTo(t).Implements(jsonUnmarshaler) {
			return t.Elem()
		}
	}
	return reflect.TypeFor[any]()
}

// fieldsOf returns the members that a struct takes, by name; strict is false for types that take any.
func fieldsOf(t reflect.Type) (fields map[string]reflect.Type, strict bool) {
	if t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(jsonUnmarshaler) {
		return nil, false
	}
	fields = map[string]reflect.Type{}
	for _, f := range visibleFields(t) {
		fields[f.name] = f.typ
	}
	return fields, true
}

func paramNames(t reflect.Type) []string {
	var names []string
	if t.Kind() != reflect.Struct {
		return names
	}
	for _, f := range visibleFields(t) {
		names = append(names, f.name)
	}
	return names
}

type field struct {
	name string
	typ  reflect.Type
}

// members are the fields of the types that were asked for: there are as many as types of parameters, and many thousand policies of each.
var members sync.Map // of []field, by reflect.Type

// visibleFields are the fields that encoding/json decodes, those of embedded structs among them. They are lent.
func visibleFields(t reflect.Type) []field {
	if known, ok := members.Load(t); ok {
		return known.([]field)
	}
	var fields []field
	for _, f := range reflect.VisibleFields(t) {
		tag := f.Tag.Get("json")
		name, _, _ := strings.Cut(tag, ",")
		if tag == "-" || !f.IsExported() || f.Anonymous && name == "" || hiddenBy(t, f) {
			continue
		}
		if name == "" {
			name = f.Name
		}
		fields = append(fields, field{name, f.Type})
	}
	members.Store(t, fields)
	return fields
}

// hiddenBy reports that f belongs to an embedded struct that has a name of its own, and so is no member of t.
func hiddenBy(t reflect.Type, f reflect.StructField) bool {
	for i := 1; i < len(f.Index); i++ {
		name, _, _ := strings.Cut(t.FieldByIndex(slices.Clone(f.Index[:i])).Tag.Get("json"), ",")
		if name != "" {
			return true
		}
	}
	return false
}
