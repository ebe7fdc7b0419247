package keystore

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/policy-engine/policy-engine/policies"
)

// Parse reads the content of a key file: the keys by their SHA-256. Several keys may have the same id: a client that changes its key has
// the old one and the new one for a while. The error joins all mistakes, each as `FILE:LINE: PATH: what is wrong; what is expected`.
// Mistakes in digests are reported without their value: it may be a key, put there by mistake.
func Parse(file string, content []byte) (map[[32]byte]*policies.Key, error) {
	entries, err := Inspect(file, content)
	if err != nil {
		return nil, err
	}
	keys := make(map[[32]byte]*policies.Key, len(entries))
	for i := range entries {
		keys[entries[i].Digest] = entries[i].Key
	}
	return keys, nil
}

// Entry is a key of a key file.
type Entry struct {
	// Line is where the entry begins.
	Line   int
	Digest [32]byte
	Key    *policies.Key
	// Groups and Metadata are what the claims of Key are made of.
	Groups   []string
	Metadata []policies.Entry
}

// Inspect is Parse that returns the entries in the order of the file.
func Inspect(file string, content []byte) ([]Entry, error) {
	p := parser{file: file, digests: map[[32]byte]int{}}
	p.document(content)
	if err := errors.Join(p.errs...); err != nil {
		return nil, err
	}
	return p.entries, nil
}

type parser struct {
	file    string
	entries []Entry
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
		p.fail(1, "", `the file is empty; expected "keys:" with a list, which may be []`)
		return
	} else if err != nil {
		p.syntax(err)
		return
	}
	var next yaml.Node
	if err := dec.Decode(&next); err == nil {
		p.fail(next.Line, "", "a second YAML document; expected one")
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
		p.fail(root.Line, "keys", "missing; expected a list, which may be []")
		return
	}
	if list.Kind != yaml.SequenceNode {
		p.fail(list.Line, "keys", "not a list; expected a list of {%s}, which may be []", strings.Join(entryMembers, ", "))
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
func (p *parser) mapping(node *yaml.Node, path string, expected ...string) map[string]*yaml.Node {
	want := "expected " + strings.Join(expected, ", ")
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
		for _, l := range expected {
			known = known || name.Kind == yaml.ScalarNode && name.Value == l
		}
		switch _, repeated := members[name.Value]; {
		case !known:
			p.fail(name.Line, at, "unknown; %s", want)
		case repeated:
			p.fail(name.Line, at, "repeated; expected one")
		default:
			members[name.Value] = value
		}
	}
	return members
}

// entryMembers are the members of an entry.
var entryMembers = []string{"id", "sha256", "scopes", "groups", "metadata", "not_before", "expires"}

func (p *parser) entry(node *yaml.Node, path string) {
	before := len(p.errs)
	members := p.mapping(node, path, entryMembers...)
	if members == nil {
		return
	}
	e := Entry{
		Line: node.Line,
		Key: &policies.Key{
			ID:        p.id(node, members["id"], path+".id"),
			Scopes:    p.scopes(members["scopes"], path+".scopes"),
			NotBefore: p.time(members["not_before"], path+".not_before"),
			Expires:   p.time(members["expires"], path+".expires"),
		},
		Groups:   p.groups(members["groups"], path+".groups"),
		Metadata: p.metadata(members["metadata"], path+".metadata"),
	}
	if k := e.Key; !k.NotBefore.IsZero() && !k.Expires.IsZero() && !k.NotBefore.Before(k.Expires) {
		p.fail(members["not_before"].Line, path+".not_before", "must be before expires")
	}
	var ok bool
	if e.Digest, ok = p.digest(node, members["sha256"], path+".sha256"); !ok || len(p.errs) > before {
		return
	}
	var err error
	if e.Key.Claims, err = policies.KeyClaims(e.Groups, e.Metadata); err != nil {
		p.fail(node.Line, path, "%v", err)
		return
	}
	p.entries = append(p.entries, e)
}

// maxClaim is the longest group, name or value of metadata, in bytes.
const maxClaim = 1024

// claim reports whether s is a group, or a name or a value of metadata.
func claim(s *yaml.Node) bool {
	return s.Kind == yaml.ScalarNode && s.Tag == "!!str" && s.Value != "" && len(s.Value) <= maxClaim && !strings.ContainsFunc(s.Value, unicode.IsControl)
}

const aClaim = "expected 1 to 1024 bytes without control characters (put numbers, true and false into quotes)"

func (p *parser) groups(node *yaml.Node, path string) []string {
	if node == nil {
		return nil
	}
	if node.Kind != yaml.SequenceNode {
		p.fail(node.Line, path, "not a list; expected a list of strings, such as [developers]")
		return nil
	}
	groups := make([]string, 0, len(node.Content))
	for i, g := range node.Content {
		if !claim(g) {
			p.fail(g.Line, fmt.Sprintf("%s[%d]", path, i), "not a group; %s", aClaim)
			continue
		}
		groups = append(groups, g.Value)
	}
	return groups
}

func (p *parser) metadata(node *yaml.Node, path string) []policies.Entry {
	if node == nil {
		return nil
	}
	if node.Kind != yaml.MappingNode {
		p.fail(node.Line, path, "not a mapping; expected names with strings, such as {plan: gold}")
		return nil
	}
	seen := map[string]bool{}
	var entries []policies.Entry
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		switch {
		case !claim(name):
			p.fail(name.Line, path, "not a name; %s", aClaim)
		case seen[name.Value]:
			p.fail(name.Line, path, "%q is repeated; expected one", name.Value)
		case !claim(value):
			p.fail(value.Line, path+"."+name.Value, "not a value; %s", aClaim)
		default:
			entries = append(entries, policies.Entry{Key: name.Value, Value: value.Value})
		}
		seen[name.Value] = true
	}
	slices.SortFunc(entries, func(a, b policies.Entry) int { return strings.Compare(a.Key, b.Key) })
	return entries
}

// id is sent to the upstream in a header: it has visible ASCII characters only.
func (p *parser) id(entry, node *yaml.Node, path string) string {
	const expected = "expected 1 to 256 visible ASCII characters"
	if node == nil {
		p.fail(entry.Line, path, "missing; %s", expected)
		return ""
	}
	if node.Kind != yaml.ScalarNode || node.Tag != "!!str" {
		p.fail(node.Line, path, "not a string; %s (put a number into quotes)", expected)
		return ""
	}
	id := node.Value
	if id == "" || len(id) > 256 || !visible(id) {
		p.fail(node.Line, path, "%q is not an id; %s", id, expected)
		return ""
	}
	return id
}

func (p *parser) digest(entry, node *yaml.Node, path string) (digest [32]byte, ok bool) {
	const expected = "expected the 64 hex digits of the key's SHA-256, as policyctl keys new prints them"
	if node == nil {
		p.fail(entry.Line, path, "missing; %s", expected)
		return digest, false
	}
	// Of whatever YAML type: digits without quotes may look like a number, their text is the same.
	if node.Kind != yaml.ScalarNode || len(node.Value) != 2*len(digest) {
		p.fail(node.Line, path, "not a digest; %s", expected)
		return digest, false
	}
	if _, err := hex.Decode(digest[:], []byte(node.Value)); err != nil {
		p.fail(node.Line, path, "not a digest; %s", expected)
		return digest, false
	}
	if first, repeated := p.digests[digest]; repeated {
		p.fail(node.Line, path, "the same as in line %d; expected each key once", first)
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
		p.fail(node.Line, path, "not a list; expected a list of strings, such as [orders.read]")
		return nil
	}
	scopes := make([]string, 0, len(node.Content))
	for i, s := range node.Content {
		if s.Kind != yaml.ScalarNode || s.Tag != "!!str" || s.Value == "" || !visible(s.Value) || strings.ContainsAny(s.Value, `"\`) {
			p.fail(s.Line, fmt.Sprintf("%s[%d]", path, i), "not a scope; expected visible ASCII characters without quotes and backslashes")
			continue
		}
		scopes = append(scopes, s.Value)
	}
	return scopes
}

func (p *parser) time(node *yaml.Node, path string) time.Time {
	if node == nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, node.Value)
	if err != nil || node.Kind != yaml.ScalarNode || t.IsZero() {
		p.fail(node.Line, path, "not a time; expected one as 2027-12-31T00:00:00Z (RFC 3339)")
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
