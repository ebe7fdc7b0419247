package strict

import (
	"encoding"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Field is a key that a struct's field describes.
type Field struct {
	// Index is the field's place in the struct.
	Index    int
	Key      string
	Required bool
	// Min and Max are the tags of that name, as they are written.
	Min, Max string
}

var (
	nodeType = reflect.TypeFor[Node]()
	textType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// Fields returns the keys of a struct that is decoded, in their order.
func Fields(t reflect.Type) []Field {
	var fields []Field
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Type == nodeType {
			continue
		}
		key, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		fields = append(fields, Field{i, key, options == "required", f.Tag.Get("min"), f.Tag.Get("max")})
	}
	return fields
}

func (d *decoder) fieldsOf(t reflect.Type) []Field {
	fields, ok := d.fields[t]
	if !ok {
		fields = Fields(t)
		d.fields[t] = fields
	}
	return fields
}

// value decodes n into dst, as f describes it.
func (d *decoder) value(n *yaml.Node, dst reflect.Value, path string, f Field) {
	target := d.enter(n, path)
	if target == nil {
		return
	}
	defer d.leave(n)
	if c, ok := dst.Addr().Interface().(custom); ok {
		c.decode(d, target, path)
		return
	}
	switch {
	case dst.Kind() == reflect.Struct:
		if short, ok := Short(dst.Type()); ok && target.Kind == yaml.ScalarNode {
			d.scalar(target, dst.Field(short.Index), path, short)
			return
		}
		d.mapping(target, dst, path)
	case dst.Kind() == reflect.Slice && !dst.Addr().Type().Implements(textType):
		d.list(target, dst, path, f)
	default:
		d.scalar(target, dst, path, f)
	}
}

// want reports whether n is of that kind, and tells if it is not.
func (d *decoder) want(n *yaml.Node, kind yaml.Kind, path, what string) bool {
	switch {
	case n.Style&yaml.TaggedStyle != 0:
		d.fail(n.Line, path, "the tag %s is not legal; write the value without it", quote(n.Tag))
	case n.Kind == kind && (kind != yaml.ScalarNode || n.ShortTag() != "!!null"):
		return true
	default:
		d.fail(n.Line, path, "is %s; legal is %s", describe(n), what)
	}
	return false
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "empty"
	case "!!bool":
		return "the truth value " + n.Value
	case "!!int", "!!float":
		return "the number " + n.Value
	}
	return "the text " + quote(n.Value)
}

// eachKey calls visit for the keys of a mapping that are legal YAML and not repeated.
func (d *decoder) eachKey(n *yaml.Node, path string, visit func(key, value *yaml.Node)) {
	lines := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch first := lines[key.Value]; {
		case key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge":
			d.fail(key.Line, path, "the merge key << is not legal; write the keys out")
		case key.Kind != yaml.ScalarNode || key.Style&yaml.TaggedStyle != 0:
			d.fail(key.Line, path, "a key is not a plain text")
		case first != 0:
			d.fail(key.Line, member(path, key.Value), "the key is there twice, first in line %d", first)
		default:
			lines[key.Value] = key.Line
			visit(key, value)
		}
	}
}

func (d *decoder) mapping(n *yaml.Node, dst reflect.Value, path string) {
	owner := dst.Addr().Interface().(interface{ node() *Node }).node()
	owner.pos = Pos{d.file, n.Line, path}
	if !d.want(n, yaml.MappingNode, path, "a mapping") {
		return
	}
	fields := d.fieldsOf(dst.Type())
	owner.keys = make([]keyLine, 0, len(n.Content)/2)
	d.eachKey(n, path, func(key, value *yaml.Node) {
		i := slices.IndexFunc(fields, func(f Field) bool { return f.Key == key.Value })
		if i < 0 {
			d.fail(key.Line, member(path, key.Value), "unknown key; %s", suggest(key.Value, fields))
			return
		}
		owner.keys = append(owner.keys, keyLine{key.Value, key.Line})
		d.value(value, dst.Field(fields[i].Index), member(path, key.Value), fields[i])
	})
	for _, f := range fields {
		if f.Required && !owner.Has(f.Key) {
			d.fail(n.Line, member(path, f.Key), "the key is missing; it is required")
		}
	}
	if a, b, ok := ExactlyOne(dst.Type()); ok {
		switch {
		case owner.Has(a) && owner.Has(b):
			d.fail(owner.At(b).Line, member(path, b), "stands beside %s; legal is one of them", a)
		case !owner.Has(a) && !owner.Has(b):
			d.fail(n.Line, member(path, a), "the key is missing; it or %s is required", b)
		}
	}
}

// ExactlyOne returns the two keys of which a struct has one.
func ExactlyOne(t reflect.Type) (a, b string, ok bool) {
	f, _ := t.FieldByName("Node")
	return strings.Cut(f.Tag.Get("exactly_one"), ",")
}

// Short returns the key of a struct whose value may stand in place of the struct.
func Short(t reflect.Type) (f Field, ok bool) {
	node, ok := t.FieldByName("Node")
	if !ok {
		return Field{}, false
	}
	key := node.Tag.Get("short")
	i := slices.IndexFunc(Fields(t), func(f Field) bool { return f.Key == key })
	if key == "" || i < 0 {
		return Field{}, false
	}
	return Fields(t)[i], true
}

func (d *decoder) list(n *yaml.Node, dst reflect.Value, path string, f Field) {
	if !d.want(n, yaml.SequenceNode, path, "a list") {
		return
	}
	if least, _ := strconv.Atoi(f.Min); len(n.Content) < least {
		d.fail(n.Line, path, "has %d items; legal are %d or more", len(n.Content), least)
	}
	dst.Set(reflect.MakeSlice(dst.Type(), len(n.Content), len(n.Content)))
	for i, child := range n.Content {
		element := dst.Index(i)
		if def, ok := element.Addr().Interface().(Defaulter); ok {
			def.Defaults()
		}
		d.value(child, element, item(path, i), Field{})
	}
}

// Map is a mapping whose keys are the user's, in the order of the file.
type Map[K ~string, V any] []Entry[K, V]

// Entry is a key of a Map with its value.
type Entry[K ~string, V any] struct {
	Key   K
	Pos   Pos
	Value V
}

func (m *Map[K, V]) decode(d *decoder, n *yaml.Node, path string) {
	if !d.want(n, yaml.MappingNode, path, "a mapping") {
		return
	}
	*m = make(Map[K, V], 0, len(n.Content)/2) // In place of a default.
	d.eachKey(n, path, func(key, value *yaml.Node) {
		e := Entry[K, V]{Key: K(key.Value), Pos: Pos{d.file, key.Line, member(path, key.Value)}}
		if t, ok := any(&e.Key).(encoding.TextUnmarshaler); ok {
			if err := t.UnmarshalText([]byte(key.Value)); err != nil {
				d.fail(key.Line, e.Pos.Path, "the key %s", err)
			}
		}
		if def, ok := any(&e.Value).(Defaulter); ok {
			def.Defaults()
		}
		d.value(value, reflect.ValueOf(&e.Value).Elem(), e.Pos.Path, Field{})
		*m = append(*m, e)
	})
}

// Types returns the types of the keys and values, for the schema.
func (*Map[K, V]) Types() (key, value reflect.Type) {
	return reflect.TypeFor[K](), reflect.TypeFor[V]()
}

// suggest says which keys are legal, and which of them may be meant.
func suggest(key string, fields []Field) string {
	var legal []string
	best, distance := "", min(len(key), 1+max(2, len(key)/3))
	for _, f := range fields {
		legal = append(legal, f.Key)
		if n := editDistance(key, f.Key); n < distance {
			best, distance = f.Key, n
		}
	}
	slices.Sort(legal)
	text := "legal are " + strings.Join(legal, ", ")
	if len(legal) == 1 {
		text = "legal is " + legal[0]
	}
	if best != "" {
		text = "did you mean " + best + "? " + text
	}
	return text
}

// editDistance is the number of bytes to insert, remove or replace to make b of a (Levenshtein). A key of more than 64 bytes is like no other.
func editDistance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
