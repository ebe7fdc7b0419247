package jsonschemavalidation

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/policy-engine/policy-engine/fastpath/view"
)

// bounds are what a body may be at most.
type bounds struct {
	depth  int // of objects and arrays in each other
	values int
}

// Bounds of a number. Schemas compare exact numbers, whose cost grows with their digits, and with the exponent's value
// rather than its length.
const (
	maxNumber   = 128 // bytes
	maxExponent = 400 // beyond what a 64-bit float holds
)

// The reasons of refusals.
const (
	malformed  = "body_malformed"
	tooComplex = "body_too_complex"
)

// flaw is why a text is not taken.
type flaw struct {
	reason string
	at     int // byte
	what   string
}

func (f *flaw) Error() string {
	return fmt.Sprintf("the body is not taken: %s at byte %d", f.what, f.at)
}

// parser reads one JSON text (RFC 8259), and is stricter than most: what two parsers might read in two ways is
// malformed, so that nobody behind it sees another value than the one that was checked. Numbers stay text.
type parser struct {
	src    string
	at     int
	bounds bounds // what is left
	// shallow is the least that was left of bounds.depth.
	shallow int
}

// parse returns the value in the form that the schema takes, and how deep objects and arrays are nested in it. Its
// texts alias body.
func parse(body []byte, b bounds) (value any, depth int, f *flaw) {
	p := parser{src: view.String(body), bounds: b, shallow: b.depth}
	if !utf8.Valid(body) {
		return nil, 0, &flaw{malformed, invalidAt(body), "it is not UTF-8"}
	}
	if value, f = p.value(); f != nil {
		return nil, 0, f
	}
	if p.space(); p.at < len(p.src) {
		return nil, 0, p.flaw("more than one value")
	}
	return value, b.depth - p.shallow, nil
}

func invalidAt(b []byte) int {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(b)
}

func (p *parser) flaw(what string) *flaw { return &flaw{malformed, p.at, what} }

// space passes over white space, and returns the byte that comes then, 0 at the end.
func (p *parser) space() byte {
	for ; p.at < len(p.src); p.at++ {
		switch c := p.src[p.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

func (p *parser) value() (any, *flaw) {
	c := p.space()
	if p.bounds.values--; p.bounds.values < 0 {
		return nil, &flaw{tooComplex, p.at, "too many values"}
	}
	switch {
	case c == '{', c == '[':
		if p.bounds.depth--; p.bounds.depth < 0 {
			return nil, &flaw{tooComplex, p.at, "nested too deep"}
		}
		p.at++
		p.shallow = min(p.shallow, p.bounds.depth)
		defer func() { p.bounds.depth++ }()
		if c == '{' {
			return p.object()
		}
		return p.array()
	case c == '"':
		return p.text()
	case c == '-' || '0' <= c && c <= '9':
		return p.number()
	}
	for word, value := range words {
		if strings.HasPrefix(p.src[p.at:], word) {
			p.at += len(word)
			return value, nil
		}
	}
	if p.at == len(p.src) {
		return nil, p.flaw("the end where a value should be")
	}
	return nil, p.flaw("no value")
}

var words = map[string]any{"true": true, "false": false, "null": nil}

func (p *parser) object() (any, *flaw) {
	members := map[string]any{}
	if p.space() == '}' {
		p.at++
		return members, nil
	}
	for {
		if p.space() != '"' {
			return nil, p.flaw("no name of a member")
		}
		begin := p.at
		name, f := p.text()
		if f != nil {
			return nil, f
		}
		if _, twice := members[name]; twice {
			return nil, &flaw{malformed, begin, "a member that is there twice"}
		}
		if p.space() != ':' {
			return nil, p.flaw("no ':' after a name")
		}
		p.at++
		if members[name], f = p.value(); f != nil {
			return nil, f
		}
		switch p.space() {
		case ',':
			p.at++
		case '}':
			p.at++
			return members, nil
		default:
			return nil, p.flaw("neither ',' nor '}' in an object")
		}
	}
}

func (p *parser) array() (any, *flaw) {
	items := []any{}
	if p.space() == ']' {
		p.at++
		return items, nil
	}
	for {
		item, f := p.value()
		if f != nil {
			return nil, f
		}
		items = append(items, item)
		switch p.space() {
		case ',':
			p.at++
		case ']':
			p.at++
			return items, nil
		default:
			return nil, p.flaw("neither ',' nor ']' in an array")
		}
	}
}

// text reads a string; p.at is at its quotation mark.
func (p *parser) text() (string, *flaw) {
	p.at++
	begin := p.at
	for ; p.at < len(p.src); p.at++ {
		switch c := p.src[p.at]; {
		case c == '"':
			p.at++
			return p.src[begin : p.at-1], nil
		case c == '\\':
			return p.escaped(begin)
		case c < ' ':
			return "", p.flaw("a control character in a string")
		}
	}
	return "", p.flaw("the end within a string")
}

// escaped goes on with a string from its first escape.
func (p *parser) escaped(begin int) (string, *flaw) {
	out := append([]byte(nil), p.src[begin:p.at]...)
	for p.at < len(p.src) {
		switch c := p.src[p.at]; {
		case c == '"':
			p.at++
			return string(out), nil
		case c < ' ':
			return "", p.flaw("a control character in a string")
		case c != '\\':
			out = append(out, c)
			p.at++
		case strings.HasPrefix(p.src[p.at:], `\u`):
			r, ok := p.unicode()
			if !ok {
				return "", p.flaw("an escape that is no character")
			}
			out = utf8.AppendRune(out, r)
		default:
			i := -1
			if p.at+1 < len(p.src) {
				i = strings.IndexByte(`"\/bfnrt`, p.src[p.at+1])
			}
			if i < 0 {
				return "", p.flaw("an unknown escape")
			}
			out = append(out, "\"\\/\b\f\n\r\t"[i])
			p.at += 2
		}
	}
	return "", p.flaw("the end within a string")
}

// unicode reads \uXXXX, or two of them that are one character (RFC 8259 section 7). Half of such a pair is no
// character, and parsers differ in what they make of it.
func (p *parser) unicode() (rune, bool) {
	r, ok := p.unit(p.at)
	if !ok {
		return 0, false
	}
	p.at += 6
	if !utf16.IsSurrogate(r) {
		return r, true
	}
	low, ok := p.unit(p.at)
	if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
		p.at -= 6
		return 0, false
	}
	p.at += 6
	return r, true
}

func (p *parser) unit(at int) (r rune, ok bool) {
	if at+6 > len(p.src) || p.src[at:at+2] != `\u` {
		return 0, false
	}
	for _, c := range []byte(p.src[at+2 : at+6]) {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

func (p *parser) number() (any, *flaw) {
	begin := p.at
	if p.src[p.at] == '-' {
		p.at++
	}
	whole := p.at
	if n := p.digits(); n == 0 || n > 1 && p.src[whole] == '0' {
		return nil, &flaw{malformed, begin, "no number"}
	}
	if p.at < len(p.src) && p.src[p.at] == '.' {
		p.at++
		if p.digits() == 0 {
			return nil, &flaw{malformed, begin, "no number"}
		}
	}
	exponent := 0
	if p.at < len(p.src) && (p.src[p.at] == 'e' || p.src[p.at] == 'E') {
		p.at++
		if p.at < len(p.src) && (p.src[p.at] == '+' || p.src[p.at] == '-') {
			p.at++
		}
		power := p.at
		if p.digits() == 0 {
			return nil, &flaw{malformed, begin, "no number"}
		}
		for _, c := range []byte(p.src[power:p.at]) {
			exponent = min(exponent*10+int(c-'0'), maxExponent+1)
		}
	}
	if p.at-begin > maxNumber || exponent > maxExponent {
		return nil, &flaw{tooComplex, begin, "a number with too many digits"}
	}
	return json.Number(p.src[begin:p.at]), nil
}

// digits passes over digits and tells how many.
func (p *parser) digits() int {
	begin := p.at
	for p.at < len(p.src) && '0' <= p.src[p.at] && p.src[p.at] <= '9' {
		p.at++
	}
	return p.at - begin
}
