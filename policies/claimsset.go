package policies

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// MaxClaimsSize is the largest claims set, in bytes of JSON.
	MaxClaimsSize = 16 << 10
	// maxClaimsDepth is the deepest nesting of objects and lists.
	maxClaimsDepth = 16
)

// ClaimsSet is the JSON object of all claims of a credential, nested as the issuer wrote them (RFC 7519 section 4). It is immutable
// and safe for concurrent use; its values and their strings may be kept after the call.
type ClaimsSet struct {
	// text is the JSON text, followed by the strings that had escape sequences, unescaped.
	text string
	size int // of the JSON text
	// nodes are the values in the order of the text: a container comes before what it holds.
	nodes []claimNode
}

// claimNode is a value. Positions count bytes of ClaimsSet.text; both parts of it are at most MaxClaimsSize long.
type claimNode struct {
	kind               ClaimKind
	nameStart, nameEnd uint16 // of members of objects
	start, end         uint16 // strings: without quotes and escapes; others: as in the JSON text
	after              uint16 // the index of the first node that is not part of this value
}

// ClaimKind is the JSON type of a claim.
type ClaimKind uint8

// The kinds of claims. The zero kind is that of a claim that does not exist.
const (
	ClaimAbsent ClaimKind = iota
	ClaimNull
	ClaimBool
	ClaimNumber
	ClaimString
	ClaimList
	ClaimObject
)

// ParseClaimsSet reads a JSON object. It refuses what readers understand differently: members that are repeated at any depth, and
// strings that are not Unicode. Its errors show nothing of the text, which is copied.
func ParseClaimsSet(text []byte) (*ClaimsSet, error) {
	if len(text) > MaxClaimsSize {
		return nil, fmt.Errorf("more than %d bytes", MaxClaimsSize)
	}
	return parseClaims(string(text))
}

var errNotJSON = errors.New("not JSON")

func parseClaims(text string) (*ClaimsSet, error) {
	if len(text) > MaxClaimsSize {
		return nil, fmt.Errorf("more than %d bytes", MaxClaimsSize)
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	p := claimsParser{text: text, dec: dec}
	if err := p.value(0); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON value")
	}
	if p.nodes[0].kind != ClaimObject {
		return nil, errors.New("not a JSON object")
	}
	s := &ClaimsSet{text: text, size: len(text), nodes: slices.Clip(p.nodes)}
	if len(p.unescaped) > 0 {
		s.text += string(p.unescaped)
	}
	return s, nil
}

type claimsParser struct {
	text      string
	dec       *json.Decoder
	nodes     []claimNode
	unescaped []byte
}

// value reads the next value and what it holds.
func (p *claimsParser) value(depth int) error {
	token, err := p.dec.Token()
	if err != nil {
		return errNotJSON
	}
	index := len(p.nodes)
	p.nodes = append(p.nodes, claimNode{})
	n := claimNode{end: uint16(p.dec.InputOffset())}
	switch t := token.(type) {
	case json.Delim:
		n.start = n.end - 1
		if depth == maxClaimsDepth {
			return errors.New("nested too deep")
		}
		switch t {
		case '{':
			n.kind, err = ClaimObject, p.members(depth)
		case '[':
			n.kind, err = ClaimList, p.elements(depth)
		default:
			err = errNotJSON
		}
		n.end = uint16(p.dec.InputOffset())
	case string:
		n.kind = ClaimString
		n.start, n.end, err = p.string(t)
	case json.Number:
		n.kind, n.start = ClaimNumber, n.end-uint16(len(t))
	case bool:
		n.kind, n.start = ClaimBool, n.end-uint16(len(strconv.FormatBool(t)))
	default:
		n.kind, n.start = ClaimNull, n.end-uint16(len("null"))
	}
	if err != nil {
		return err
	}
	n.after = uint16(len(p.nodes))
	p.nodes[index] = n
	return nil
}

func (p *claimsParser) members(depth int) error {
	seen := map[string]bool{}
	for p.dec.More() {
		token, err := p.dec.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return errNotJSON
		}
		if seen[name] {
			return errors.New("repeated member")
		}
		seen[name] = true
		start, end, err := p.string(name)
		if err != nil {
			return err
		}
		index := len(p.nodes)
		if err := p.value(depth + 1); err != nil {
			return err
		}
		p.nodes[index].nameStart, p.nodes[index].nameEnd = start, end
	}
	if t, err := p.dec.Token(); err != nil || t != json.Delim('}') {
		return errNotJSON
	}
	return nil
}

func (p *claimsParser) elements(depth int) error {
	for p.dec.More() {
		if err := p.value(depth + 1); err != nil {
			return err
		}
	}
	if t, err := p.dec.Token(); err != nil || t != json.Delim(']') {
		return errNotJSON
	}
	return nil
}

// string returns the position of the string that the decoder has just read.
func (p *claimsParser) string(s string) (start, end uint16, err error) {
	// The decoder puts this character in place of invalid UTF-8 and of lone surrogates: it would make different texts equal.
	if strings.ContainsRune(s, utf8.RuneError) {
		return 0, 0, errors.New("text that is not Unicode")
	}
	// A string without escapes stands in the text as it is, between two quotes.
	last := int(p.dec.InputOffset()) - 1
	if first := last - len(s); first > 0 && p.text[first-1] == '"' && p.text[first:last] == s && strings.IndexByte(s, '\\') < 0 {
		return uint16(first), uint16(last), nil
	}
	first := len(p.text) + len(p.unescaped)
	p.unescaped = append(p.unescaped, s...)
	return uint16(first), uint16(first + len(s)), nil
}

// JSON returns the claims set as its issuer wrote it.
func (s *ClaimsSet) JSON() string { return s.text[:s.size] }

// Size is about what the claims set takes of memory, in bytes.
func (s *ClaimsSet) Size() int { return len(s.text) + 12*cap(s.nodes) + 64 }

// Get returns the claim at the path; its Kind is ClaimAbsent if there is none. It does not allocate.
func (s *ClaimsSet) Get(path ClaimPath) ClaimValue {
	if s == nil {
		return ClaimValue{}
	}
	at := uint16(0)
	for _, name := range path.members {
		if at = s.child(at, name); at == 0 {
			return ClaimValue{}
		}
	}
	return ClaimValue{s, at}
}

// child returns the node of the member of that name, or the element of that index; 0, which is the root, if there is none.
func (s *ClaimsSet) child(of uint16, name string) uint16 {
	nodes := s.nodes
	parent := &nodes[of]
	switch parent.kind {
	case ClaimObject:
		for i := of + 1; i < parent.after; {
			n := &nodes[i]
			if int(n.nameEnd-n.nameStart) == len(name) && s.text[n.nameStart:n.nameEnd] == name {
				return i
			}
			i = n.after
		}
	case ClaimList:
		// RFC 6901 section 4: an index has no leading zeros.
		want, err := strconv.ParseUint(name, 10, 16)
		if err != nil || len(name) > 1 && name[0] == '0' {
			return 0
		}
		for i := of + 1; i < parent.after; i = nodes[i].after {
			if want == 0 {
				return i
			}
			want--
		}
	}
	return 0
}

// Root returns the object of all claims. That of a nil ClaimsSet is absent.
func (s *ClaimsSet) Root() ClaimValue {
	if s == nil {
		return ClaimValue{}
	}
	return ClaimValue{set: s}
}

// ClaimValue is a claim, or a part of one. The zero value is absent.
type ClaimValue struct {
	set   *ClaimsSet
	index uint16
}

func (v ClaimValue) node() *claimNode { return &v.set.nodes[v.index] }

// Kind returns the JSON type of the value.
func (v ClaimValue) Kind() ClaimKind {
	if v.set == nil {
		return ClaimAbsent
	}
	return v.node().kind
}

// Text returns a string as it is, and a number, true and false as they stand in the JSON text; ok is false for others.
func (v ClaimValue) Text() (text string, ok bool) {
	switch v.Kind() {
	case ClaimString, ClaimNumber, ClaimBool:
		n := v.node()
		return v.set.text[n.start:n.end], true
	}
	return "", false
}

// Member returns the member of that name of an object, or the element of that index of a list, counted from "0". It is absent if there is none.
func (v ClaimValue) Member(name string) ClaimValue {
	if v.set != nil {
		if i := v.set.child(v.index, name); i != 0 {
			return ClaimValue{v.set, i}
		}
	}
	return ClaimValue{}
}

// All goes through the members of an object with their names, and through the elements of a list with empty names.
func (v ClaimValue) All() iter.Seq2[string, ClaimValue] {
	return func(yield func(string, ClaimValue) bool) {
		if k := v.Kind(); k != ClaimObject && k != ClaimList {
			return
		}
		n := v.node()
		for i := v.index + 1; i < n.after; i = v.set.nodes[i].after {
			m := &v.set.nodes[i]
			if !yield(v.set.text[m.nameStart:m.nameEnd], ClaimValue{v.set, i}) {
				return
			}
		}
	}
}

// AppendJSON appends the value as JSON without spaces, in which all is printable ASCII. An absent value is null.
func (v ClaimValue) AppendJSON(dst []byte) []byte {
	switch v.Kind() {
	case ClaimAbsent, ClaimNull:
		return append(dst, "null"...)
	case ClaimString:
		s, _ := v.Text()
		return appendASCII(dst, s)
	case ClaimList, ClaimObject:
		open, shut := byte('['), byte(']')
		if v.Kind() == ClaimObject {
			open, shut = '{', '}'
		}
		dst = append(dst, open)
		first := true
		for name, m := range v.All() {
			if !first {
				dst = append(dst, ',')
			}
			first = false
			if open == '{' {
				dst = append(appendASCII(dst, name), ':')
			}
			dst = m.AppendJSON(dst)
		}
		return append(dst, shut)
	}
	s, _ := v.Text()
	return append(dst, s...)
}

// appendASCII appends a JSON string in printable ASCII.
func appendASCII(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	unit := func(dst []byte, u rune) []byte {
		return append(dst, '\\', 'u', hex[u>>12&15], hex[u>>8&15], hex[u>>4&15], hex[u&15])
	}
	dst = append(dst, '"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', byte(c))
		case ' ' <= c && c < 0x7f:
			dst = append(dst, byte(c))
		case c < 0x10000:
			dst = unit(dst, c)
		default:
			c -= 0x10000
			dst = unit(unit(dst, 0xd800+c>>10), 0xdc00+c&0x3ff)
		}
	}
	return append(dst, '"')
}
