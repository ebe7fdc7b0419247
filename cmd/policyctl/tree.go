package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/policy-engine/policy-engine/config"
)

// place is a value of a YAML or JSON file of Envoy's, with where it stands. The zero place is a value that is not there; what is asked of it is not there either.
type place struct {
	node *yaml.Node
	pos  config.Pos
}

// readTree reads a file as Envoy reads it: by what it says, without knowing all of Envoy's extensions.
func readTree(path string) (place, error) {
	const maxSize = 64 << 20 // bytes
	file, err := os.Open(path)
	if err != nil {
		return place{}, fmt.Errorf("read Envoy configuration: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err != nil {
		return place{}, fmt.Errorf("read Envoy configuration: %w", err)
	}
	if len(data) > maxSize {
		return place{}, mistakes{fmt.Sprintf("%s: the file has more than %d MiB", path, maxSize>>20)}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	if err := dec.Decode(&doc); err != nil {
		return place{}, mistakes{fmt.Sprintf("%s: the text is not YAML: %v", path, err)}
	}
	if err := dec.Decode(&next); !errors.Is(err, io.EOF) {
		return place{}, mistakes{path + ": there is more than one YAML document; legal is one"}
	}
	return place{doc.Content[0], config.Pos{File: path, Line: doc.Content[0].Line}}, nil
}

func (p place) there() bool { return p.node != nil }

// follow goes from an alias to what it stands for.
func (p place) follow() *yaml.Node {
	if p.node != nil && p.node.Kind == yaml.AliasNode {
		return p.node.Alias
	}
	return p.node
}

// get returns the value at the keys, one below the other. Envoy takes snake_case and lowerCamelCase (JSON mapping of protobuf).
func (p place) get(keys ...string) place {
	for _, key := range keys {
		p = p.member(key)
	}
	return p
}

func (p place) member(key string) place {
	n := p.follow()
	if n == nil || n.Kind != yaml.MappingNode {
		return place{}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if name := n.Content[i].Value; name == key || name == camelCase(key) {
			return p.below(n.Content[i+1], n.Content[i].Line, "."+name)
		}
	}
	return place{}
}

// exact returns the value at a key that is no field name: it has one spelling.
func (p place) exact(key string) place {
	n := p.follow()
	if n == nil || n.Kind != yaml.MappingNode {
		return place{}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return p.below(n.Content[i+1], n.Content[i].Line, "."+key)
		}
	}
	return place{}
}

func (p place) below(n *yaml.Node, line int, path string) place {
	return place{n, config.Pos{File: p.pos.File, Line: line, Path: strings.TrimPrefix(p.pos.Path+path, ".")}}
}

func camelCase(key string) string {
	var b strings.Builder
	upper := false
	for _, c := range []byte(key) {
		switch {
		case c == '_':
			upper = true
			continue
		case upper && 'a' <= c && c <= 'z':
			c -= 'a' - 'A'
		}
		upper = false
		b.WriteByte(c)
	}
	return b.String()
}

// items goes through a list.
func (p place) items() iter.Seq[place] {
	return func(yield func(place) bool) {
		n := p.follow()
		if n == nil || n.Kind != yaml.SequenceNode {
			return
		}
		for i, child := range n.Content {
			if !yield(p.below(child, child.Line, "["+strconv.Itoa(i)+"]")) {
				return
			}
		}
	}
}

// values goes through the values of a mapping.
func (p place) values() iter.Seq2[string, place] {
	return func(yield func(string, place) bool) {
		n := p.follow()
		if n == nil || n.Kind != yaml.MappingNode {
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if key := n.Content[i]; !yield(key.Value, p.below(n.Content[i+1], key.Line, "."+key.Value)) {
				return
			}
		}
	}
}

// text returns a scalar, "" if there is none.
func (p place) text() string {
	if n := p.follow(); n != nil && n.Kind == yaml.ScalarNode {
		return n.Value
	}
	return ""
}

func (p place) isTrue() bool { return p.text() == "true" }

// isType reports whether the value is a protobuf Any of that type.
func (p place) isType(name string) bool {
	url := p.member("@type").text()
	return url[strings.LastIndexByte(url, '/')+1:] == name
}
