package strict

import (
	"bytes"
	"encoding/json"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// Object is a mapping that is kept as JSON, for who knows what it means.
type Object struct {
	JSON json.RawMessage
	// Lines are the lines of all values by their path below the object, such as "algorithms[1]".
	Lines map[string]int
}

func (o *Object) decode(d *decoder, n *yaml.Node, path string) {
	if !d.want(n, yaml.MappingNode, path, "a mapping") {
		return
	}
	o.Lines = make(map[string]int, len(n.Content)/2)
	w := jsonWriter{decoder: d, object: o, base: path}
	w.mapping(n, "")
	if d.stopped {
		return
	}
	o.JSON = json.RawMessage(w.out.Bytes())
}

type jsonWriter struct {
	*decoder
	object *Object
	base   string // path of the object
	out    bytes.Buffer
}

func (w *jsonWriter) path(below string) string {
	if below == "" || below[0] == '[' {
		return w.base + below
	}
	return w.base + "." + below
}

func (w *jsonWriter) value(n *yaml.Node, below string) {
	target := w.enter(n, w.path(below))
	if target == nil {
		return
	}
	defer w.leave(n)
	switch target.Kind {
	case yaml.MappingNode:
		if w.want(target, yaml.MappingNode, w.path(below), "a mapping") {
			w.mapping(target, below)
		}
	case yaml.SequenceNode:
		if w.want(target, yaml.SequenceNode, w.path(below), "a list") {
			w.list(target, below)
		}
	default:
		if isNull(target) {
			w.out.WriteString("null")
			return
		}
		if w.want(target, yaml.ScalarNode, w.path(below), "a value, or leave the key out") {
			w.scalar(target, below)
		}
	}
}

// isNull reports whether the value is the word null. Whether it may stand there is for the owner of the object to say. An empty value and ~ are
// not taken for it: they are more often left over than meant.
func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Style == 0 && n.Value == "null" && n.ShortTag() == "!!null"
}

func (w *jsonWriter) mapping(n *yaml.Node, below string) {
	w.out.WriteByte('{')
	first := true
	w.eachKey(n, w.path(below), func(key, value *yaml.Node) {
		if !first {
			w.out.WriteByte(',')
		}
		first = false
		w.text(key.Value)
		w.out.WriteByte(':')
		at := member(below, key.Value)
		w.object.Lines[at] = key.Line
		w.value(value, at)
	})
	w.out.WriteByte('}')
}

func (w *jsonWriter) list(n *yaml.Node, below string) {
	w.out.WriteByte('[')
	for i, child := range n.Content {
		if i > 0 {
			w.out.WriteByte(',')
		}
		at := item(below, i)
		w.object.Lines[at] = child.Line
		w.value(child, at)
	}
	w.out.WriteByte(']')
}

// jsonNumber is RFC 8259 section 6.
var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// scalar writes a text, number or truth value. A plain value that had a variable in it is typed by what it is after that: ${LIMIT:-100} is a
// number, "${NAME}" is always a text.
func (w *jsonWriter) scalar(n *yaml.Node, below string) {
	text, substituted, ok := w.substitute(n, w.path(below))
	if !ok {
		return
	}
	resolved := yaml.Node{Kind: yaml.ScalarNode, Value: text, Style: n.Style}
	if substituted || n.ShortTag() != "!!str" {
		resolved.Tag = ""
	} else {
		resolved.Tag = "!!str"
	}
	switch tag := resolved.ShortTag(); tag {
	case "!!int", "!!float":
		if !jsonNumber.MatchString(text) {
			w.fail(n.Line, w.path(below), "the number %s is not legal here; write it in decimal, or quote it to make it a text", n.Value)
			return
		}
		w.out.WriteString(text)
	case "!!bool":
		if text != "true" && text != "false" {
			w.fail(n.Line, w.path(below), "%s is not legal; legal are true and false, or quote it to make it a text", n.Value)
			return
		}
		w.out.WriteString(text)
	default: // Timestamps too stay as they are written; so does an empty variable.
		w.text(text)
	}
}

func (w *jsonWriter) text(s string) {
	enc, err := json.Marshal(s)
	if err != nil { // A string always encodes.
		panic(err)
	}
	w.out.Write(enc)
}
