package keystore

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/policy-engine/policy-engine/policies"
)

// Parse reads the content of a key file: the keys by their SHA-256. The error joins all mistakes, each as `FILE:LINE: PATH: what is wrong; what is
// legal`. Mistakes in digests are told without their value: it may be a key, put there by mistake.
func Parse(file string, content []byte) (map[[32]byte]*policies.Key, error) {
	p := parser{
		file:    file,
		keys:    map[[32]byte]*policies.Key{},
		ids:     map[string]int{},
		digests: map[[32]byte]int{},
	}
	p.document(content)
	if err := errors.Join(p.errs...); err != nil {
		return nil, err
	}
	return p.keys, nil
}

type parser struct {
	file    string
	keys    map[[32]byte]*policies.Key
	ids     map[string]int   // the lines of ids
	digests map[[32]byte]int // the lines of digests
	errs    []error
}

func (p *parser) fail(line int, path, format string, args ...any) {
	if path != "" {
		path += ": "
	}
	p.errs = append(p.errs, fmt.Errorf("%s:%d: %s%s", p.file, line, path, fmt.Sprintf(format, args...)))
}

func (p *parser) document(content []byte) {
	dec := yaml.NewDecoder(bytes.NewReader(content))
	var doc yaml.Node
	if err := dec.Decode(&doc); err == io.EOF {
		p.fail(1, "", `the file is empty; legal is "keys:" with a list, which may be []`)
		return
	} else if err != nil {
		p.syntax(err)
		return
	}
	var next yaml.Node
	if err := dec.Decode(&next); err == nil {
		p.fail(next.Line, "", "a second YAML document; legal is one")
	} else if err != io.EOF {
		p.syntax(err)
	}
	root := doc.Content[0]
	members := p.mapping(root, "", "keys")
	if members == nil {
		return
	}
	list, ok := members["keys"]
	if !ok {
		p.fail(root.Line, "keys", "missing; legal is a list, which may be []")
		return
	}
	if list.Kind != yaml.SequenceNode {
		p.fail(list.Line, "keys", "not a list; legal is a list of {id, sha256, scopes, expires}, which may be []")
		return
	}
	for i, entry := range list.Content {
		p.entry(entry, fmt.Sprintf("keys[%d]", i))
	}
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

// syntax reports an error of the YAML parser, which names the line in its text.
func (p *parser) syntax(err error) {
	text, line := err.Error(), 1
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1])
		text = text[len(m[0]):]
	}
	p.fail(line, "", "not YAML: %s", strings.TrimPrefix(text, "yaml: "))
}

// mapping returns the members of a mapping, nil if it is none. Unknown and repeated ones are mistakes.
func (p *parser) mapping(node *yaml.Node, path string, legal ...string) map[string]*yaml.Node {
	want := "legal are " + strings.Join(legal, ", ")
	if node.Kind != yaml.MappingNode {
		p.fail(node.Line, path, "not a mapping; %s", want)
		return nil
	}
	members := map[string]*yaml.Node{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		at := name.Value
		if !visible(at) {
			at = strconv.Quote(at) // A mistake takes one line.
		}
		at = strings.TrimPrefix(path+"."+at, ".")
		known := false
		for _, l := range legal {
			known = known || name.Kind == yaml.ScalarNode && name.Value == l
		}
		switch _, repeated := members[name.Value]; {
		case !known:
			p.fail(name.Line, at, "unknown; %s", want)
		case repeated:
			p.fail(name.Line, at, "repeated; legal is one")
		default:
			members[name.Value] = value
		}
	}
	return members
}

func (p *parser) entry(node *yaml.Node, path string) {
	before := len(p.errs)
	members := p.mapping(node, path, "id", "sha256", "scopes", "expires")
	if members == nil {
		return
	}
	key := &policies.Key{
		ID:      p.id(node, members["id"], path+".id"),
		Scopes:  p.scopes(members["scopes"], path+".scopes"),
		Expires: p.expires(members["expires"], path+".expires"),
	}
	digest, ok := p.digest(node, members["sha256"], path+".sha256")
	if ok && len(p.errs) == before {
		p.keys[digest] = key
	}
}

// id is sent to the upstream in a header: it has visible ASCII characters only.
func (p *parser) id(entry, node *yaml.Node, path string) string {
	const legal = "legal are 1 to 256 visible ASCII characters"
	if node == nil {
		p.fail(entry.Line, path, "missing; %s", legal)
		return ""
	}
	if node.Kind != yaml.ScalarNode || node.Tag != "!!str" {
		p.fail(node.Line, path, "not a string; %s (put a number into quotes)", legal)
		return ""
	}
	id := node.Value
	if id == "" || len(id) > 256 || !visible(id) {
		p.fail(node.Line, path, "%q is not an id; %s", id, legal)
		return ""
	}
	if first, repeated := p.ids[id]; repeated {
		p.fail(node.Line, path, "%q is the id of line %d too; legal is an id of its own for each key", id, first)
		return ""
	}
	p.ids[id] = node.Line
	return id
}

func (p *parser) digest(entry, node *yaml.Node, path string) (digest [32]byte, ok bool) {
	const legal = "legal are the 64 hex digits of the key's SHA-256, as policyctl keys new prints them"
	if node == nil {
		p.fail(entry.Line, path, "missing; %s", legal)
		return digest, false
	}
	// Of whatever YAML type: digits without quotes may look like a number, their text is the same.
	if node.Kind != yaml.ScalarNode || len(node.Value) != 2*len(digest) {
		p.fail(node.Line, path, "not a digest; %s", legal)
		return digest, false
	}
	if _, err := hex.Decode(digest[:], []byte(node.Value)); err != nil {
		p.fail(node.Line, path, "not a digest; %s", legal)
		return digest, false
	}
	if first, repeated := p.digests[digest]; repeated {
		p.fail(node.Line, path, "the same as in line %d; legal is a key of its own for each id", first)
		return digest, false
	}
	p.digests[digest] = node.Line
	return digest, true
}

// scopes takes scope tokens (RFC 6749 section 3.3).
func (p *parser) scopes(node *yaml.Node, path string) []string {
	if node == nil {
		return nil
	}
	if node.Kind != yaml.SequenceNode {
		p.fail(node.Line, path, "not a list; legal is a list of strings, such as [orders.read]")
		return nil
	}
	scopes := make([]string, 0, len(node.Content))
	for i, s := range node.Content {
		if s.Kind != yaml.ScalarNode || s.Tag != "!!str" || s.Value == "" || !visible(s.Value) || strings.ContainsAny(s.Value, `"\`) {
			p.fail(s.Line, fmt.Sprintf("%s[%d]", path, i), "not a scope; legal are strings of visible ASCII characters without quotes and backslashes")
			continue
		}
		scopes = append(scopes, s.Value)
	}
	return scopes
}

func (p *parser) expires(node *yaml.Node, path string) time.Time {
	if node == nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, node.Value)
	if err != nil || node.Kind != yaml.ScalarNode || t.IsZero() {
		p.fail(node.Line, path, "not a time; legal is one as 2027-12-31T00:00:00Z (RFC 3339)")
		return time.Time{}
	}
	return t
}

// visible reports whether s has visible ASCII characters only (RFC 5234: VCHAR).
func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
