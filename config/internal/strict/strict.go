// Package strict decodes YAML into tagged Go structs, refuses all that they don't describe, and tells every mistake of a file at once.
//
// A struct that is decoded embeds Node. The tags of its fields are
//
//	yaml:"key" or yaml:"key,required"
//	min:"1ms" max:"1h"       the range of a number, duration or size, as it is written in the file
//	min:"1"                  the least number of items of a list, bytes of a text
//	exactly_one:"a,b"        on the Node: the struct has one of the two keys
//	short:"a"                on the Node: a single value in place of the mapping is that of the key
//
// From the same tags, and the methods Legal and Pattern of a field's type, the JSON Schema is made.
package strict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// The bounds of a file. They keep a hostile or broken file from taking all memory.
const (
	MaxFileSize = 64 << 20 // bytes
	maxDepth    = 64       // of mappings and lists in one another, aliases followed
	minAliased  = 1 << 16  // values reached through aliases in a whole file; one more for each byte of the file
)

// Pos is where a value stands in a file.
type Pos struct {
	File string
	Line int
	Path string
}

// Problem is a mistake in a file.
type Problem struct {
	Pos  Pos
	Text string
}

// Node is embedded in a struct that is decoded. It knows where the struct stands, and where each of its keys.
type Node struct {
	pos  Pos
	keys []keyLine
	// origins, of the root, are the variables that values have in them.
	origins Origins
}

type keyLine struct {
	key  string
	line int
}

func (n *Node) node() *Node { return n }

// Origins are the variables that the values of a decoded root have in them.
func (n *Node) Origins() Origins { return n.origins }

// Pos returns the position of the mapping.
func (n *Node) Pos() Pos { return n.pos }

// Has reports whether the file has the key.
func (n *Node) Has(key string) bool {
	return slices.ContainsFunc(n.keys, func(k keyLine) bool { return k.key == key })
}

// At returns the position of the key, or what it would be.
func (n *Node) At(key string) Pos {
	p := Pos{n.pos.File, n.pos.Line, member(n.pos.Path, key)}
	for _, k := range n.keys {
		if k.key == key {
			p.Line = k.line
		}
	}
	return p
}

// Defaulter sets what the file leaves out. The root, items of lists and values of maps are asked; they ask the structs within them.
type Defaulter interface{ Defaults() }

// Enum is a text of which only some values are legal.
type Enum interface{ Legal() []string }

// custom is a type that decodes itself.
type custom interface {
	decode(d *decoder, n *yaml.Node, path string)
}

// decoder walks over the nodes of one file.
type decoder struct {
	file    string
	env     func(string) (string, bool)
	depth   int
	aliases int // how many aliases the walk is beneath
	// aliased counts the values reached through aliases, at most maxAliased.
	aliased, maxAliased int
	stopped             bool // a bound was passed
	origins             Origins
	fields              map[reflect.Type][]Field
	problems            []Problem
}

// Decode fills root, a pointer to a struct, from the YAML text. env looks up the variables that values refer to.
func Decode(file string, data []byte, env func(string) (string, bool), root any) []Problem {
	d := &decoder{file: file, env: env, maxAliased: minAliased + len(data), fields: map[reflect.Type][]Field{}, origins: Origins{}}
	if def, ok := root.(Defaulter); ok {
		def.Defaults()
	}
	n, p := parse(data)
	if p != nil {
		p.Pos.File = file
		return []Problem{*p}
	}
	d.value(n, reflect.ValueOf(root).Elem(), "", Field{})
	if r, ok := root.(interface{ node() *Node }); ok {
		r.node().origins = d.origins
	}
	return d.problems
}

var yamlErrorLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// parse reads the one YAML document of the text.
func parse(data []byte) (*yaml.Node, *Problem) {
	if len(data) > MaxFileSize {
		return nil, &Problem{Text: fmt.Sprintf("the file has more than %d MiB", MaxFileSize>>20)}
	}
	if !utf8.Valid(data) {
		line := 1 + bytes.Count(data[:invalidUTF8(data)], []byte{'\n'})
		return nil, &Problem{Pos{Line: line}, "the text is not UTF-8"}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, &Problem{Text: "the file is empty"}
	} else if err != nil {
		return nil, syntaxProblem(err, data)
	}
	if err := dec.Decode(&next); err == nil {
		return nil, &Problem{Pos{Line: next.Line}, "a second YAML document begins; legal is one document in a file"}
	} else if !errors.Is(err, io.EOF) {
		return nil, syntaxProblem(err, data)
	}
	if len(doc.Content) != 1 { // A document of the parser always has one node.
		return nil, &Problem{Text: "the file is empty"}
	}
	return doc.Content[0], nil
}

func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(data)
}

// yamlParserProblem are the problems whose lines the library counts from 0, where it counts others from 1.
var yamlParserProblem = regexp.MustCompile(`^did not find expected (<|key|node content|',' or|'-' indicator)`)

var yamlUnknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)

func syntaxProblem(err error, data []byte) *Problem {
	p := &Problem{Text: "the text is not YAML: " + err.Error()}
	m := yamlErrorLine.FindStringSubmatch(err.Error())
	if m == nil {
		return p
	}
	p.Pos.Line, _ = strconv.Atoi(m[1]) // No line is line 0.
	p.Text = "the text is not YAML: " + m[2]
	if yamlParserProblem.MatchString(m[2]) {
		p.Pos.Line++
	}
	if anchor := yamlUnknownAnchor.FindStringSubmatch(m[2]); anchor != nil {
		if before, _, found := bytes.Cut(data, []byte("*"+anchor[1])); found {
			p.Pos.Line = 1 + bytes.Count(before, []byte{'\n'})
		}
	}
	return p
}

func (d *decoder) fail(line int, path, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if d.origins[path] != nil {
		text = d.origins.Hide(path, text)
	}
	d.problems = append(d.problems, Problem{Pos{d.file, line, path}, text})
}

// enter goes down to the value that n is or refers to, or returns nil when the bounds of a file are passed. After a value, leave(n) comes up again.
func (d *decoder) enter(n *yaml.Node, path string) *yaml.Node {
	target := n
	if n.Kind == yaml.AliasNode {
		target = n.Alias
	}
	switch {
	case d.stopped:
		return nil
	case d.depth >= maxDepth:
		d.stopped = true
		d.fail(n.Line, path, "more than %d mappings and lists in one another, or an alias that contains itself", maxDepth)
		return nil
	case d.aliased >= d.maxAliased:
		d.stopped = true
		d.fail(n.Line, path, "aliases stand for more than %d values", d.maxAliased)
		return nil
	}
	d.depth++
	if n != target {
		d.aliases++
	}
	if d.aliases > 0 {
		d.aliased++
	}
	return target
}

func (d *decoder) leave(n *yaml.Node) {
	d.depth--
	if n.Kind == yaml.AliasNode {
		d.aliases--
	}
}

// member is the path of a key. Keys that would break the line of a message are quoted.
func member(path, key string) string {
	if strings.ContainsFunc(key, func(r rune) bool { return !unicode.IsPrint(r) }) {
		key = quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func item(path string, i int) string {
	return path + "[" + strconv.Itoa(i) + "]"
}

// quote shows a text of the file in a message, shortened.
func quote(s string) string {
	const most = 80 // bytes
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strconv.Quote(s)
}
