package strict

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
)

// Tree is what a decoded root says, with all defaults: mappings are map[string]any, lists []any, and scalars string, json.Number, bool or Secret. Durations and sizes are texts as in
// the file. Secrets are the fields with the tag `secret:"true"`, or their values; in parameters and
// header lines what came from a variable, and what has the key or the name of a secret; and everywhere the texts that are credentials by their form.
func Tree(root any) any {
	v := reflect.ValueOf(root).Elem()
	t := treeMaker{origins: v.Addr().Interface().(interface{ node() *Node }).node().origins}
	return t.value(v, "", false)
}

type treeMaker struct {
	origins Origins
}

func (t *treeMaker) value(v reflect.Value, path string, secret bool) any {
	switch typed := v.Interface().(type) {
	case Object:
		return t.object(typed.JSON, path)
	case fmt.Stringer: // durations and sizes
		return typed.String()
	}
	if entries, ok := v.Addr().Interface().(interface{ each(func(string, any)) }); ok {
		out := map[string]any{}
		entries.each(func(key string, value any) {
			at := member(path, key)
			e := reflect.ValueOf(value).Elem()
			out[key] = t.value(e, at, e.Kind() == reflect.String && (secret || t.origins[at] != nil || secretKey(key)))
		})
		return out
	}
	switch v.Kind() {
	case reflect.Struct:
		out := map[string]any{}
		for _, f := range Fields(v.Type()) {
			out[f.Key] = t.value(v.Field(f.Index), member(path, f.Key), v.Type().Field(f.Index).Tag.Get("secret") == "true")
		}
		return out
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = t.value(v.Index(i), item(path, i), false)
		}
		return out
	case reflect.Bool:
		return v.Bool()
	case reflect.Int:
		return json.Number(strconv.FormatInt(v.Int(), 10))
	case reflect.Float64:
		return json.Number(strconv.FormatFloat(v.Float(), 'g', -1, 64))
	default:
		if v.Len() > 0 && (secret || looksSecret(v.String())) {
			return Secret(v.String())
		}
		return v.String()
	}
}

// object is the tree of parameters.
func (t *treeMaker) object(text json.RawMessage, path string) any {
	if len(text) == 0 {
		return map[string]any{}
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil { // We have written it.
		panic("strict: " + err.Error())
	}
	return t.masked(v, path, false)
}

func (t *treeMaker) masked(v any, path string, secret bool) any {
	switch typed := v.(type) {
	case map[string]any:
		line := secretLine(typed)
		for key, value := range typed {
			typed[key] = t.masked(value, member(path, key), secret || secretKey(key) || line && slices.Contains(valueKeys, key))
		}
	case []any:
		for i, value := range typed {
			typed[i] = t.masked(value, item(path, i), secret)
		}
	case string:
		if typed != "" && (secret || t.origins[path] != nil || looksSecret(typed)) {
			return Secret(typed)
		}
	case json.Number:
		if secret || t.origins[path] != nil {
			return Secret(typed)
		}
	}
	return v
}

// each visits the entries, for Tree.
func (m *Map[K, V]) each(visit func(key string, value any)) {
	for i := range *m {
		visit(string((*m)[i].Key), &(*m)[i].Value)
	}
}
