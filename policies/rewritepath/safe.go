package rewritepath

import (
	"bytes"
	"unicode"
	"unicode/utf8"

	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
)

// safe reports whether a path, without its query, has one meaning: for Envoy, for this policy, and for an upstream that
// decodes it (once or twice), resolves dot segments, merges slashes, takes '\' for '/', folds variants of characters,
// trims segments or cuts them at ';', '?' or '#'. A path that it rejects could stand for another path than the one that
// is rewritten.
func safe(path []byte) bool {
	if len(path) == 0 || path[0] != '/' {
		return false
	}
	var segment segmentCheck
	var percent percentCheck
	for at := 1; at < len(path); {
		// Fast path: letters after letters change nothing.
		if segment.prev == named && percent.need == 0 && path[at] < utf8.RuneSelf && ascii[path[at]] == named {
			at++
			continue
		}
		r, n, ok := decode(path[at:])
		if !ok {
			return false
		}
		at += n
		k := classOf(r)
		if k == slash && n > 1 || !segment.add(k) || !percent.add(r) {
			return false
		}
	}
	return segment.end()
}

// visible reports whether b has only characters that a request target can have (RFC 9112 section 3.2); '#' starts a
// fragment.
func visible(b []byte) bool {
	for _, c := range b {
		if !visibleByte(c) {
			return false
		}
	}
	return true
}

func visibleByte(c byte) bool { return c > ' ' && c < 0x7f && c != '#' }

// decode returns the first character of a path, decoded and folded, and its length in the path.
func decode(path []byte) (r rune, n int, ok bool) {
	c := path[0]
	if c != '%' {
		return rune(c), 1, c != '\\' && visibleByte(c)
	}
	c, ok = unescape(path)
	if !ok {
		return 0, 0, false
	}
	if c < utf8.RuneSelf {
		return rune(c), 3, !needless(c)
	}
	// UTF-8 as it must be: overlong forms, surrogates, bytes that end too soon, and what is above U+10FFFF are read
	// in more than one way.
	var encoded [utf8.UTFMax]byte
	size := 0
	for rest := path; size < len(encoded); rest = rest[3:] {
		if encoded[size], ok = unescape(rest); !ok || encoded[size] < utf8.RuneSelf {
			break
		}
		size++
	}
	r, width := utf8.DecodeRune(encoded[:size])
	if r == utf8.RuneError && width <= 1 {
		return 0, 0, false
	}
	return fold(r), 3 * width, true
}

// unescape returns the byte of the percent-encoding that b starts with (RFC 3986 section 2.1).
func unescape(b []byte) (byte, bool) {
	if len(b) < 3 || b[0] != '%' || httpsyntax.Unhex(b[1]) < 0 || httpsyntax.Unhex(b[2]) < 0 {
		return 0, false
	}
	return byte(httpsyntax.Unhex(b[1])<<4 | httpsyntax.Unhex(b[2])), true
}

// needless reports whether the percent-encoding of an ASCII character gives a path a second spelling (RFC 3986 section
// 2.3), or hides a separator.
func needless(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '/' || c == '\\'
}

// class is what a character means to somebody who resolves a path.
type class uint8

const (
	other class = iota // may separate names
	named              // letters, digits, '-', '_' and '~': never trimmed, never a separator
	dot
	slash    //
	trimmed  // white space, and characters without width
	cut      // what follows may not belong to the path
	rejected // '\' and controls
)

// ascii has the classes of ASCII characters.
var ascii = func() (classes [utf8.RuneSelf]class) {
	for r := range rune(utf8.RuneSelf) {
		classes[r] = classOfASCII(r)
	}
	return classes
}()

func classOfASCII(r rune) class {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_', r == '~':
		return named
	case r == '/':
		return slash
	case r == '.':
		return dot
	case r == ' ':
		return trimmed
	case r == ';', r == '?', r == '#':
		return cut
	case r == '\\', r < ' ', r == 0x7f:
		return rejected
	}
	return other
}

func classOf(r rune) class {
	switch {
	case r < utf8.RuneSelf:
		return ascii[r]
	case r <= 0x9f:
		return rejected
	case unicode.IsSpace(r), unicode.In(r, unicode.Cf, unicode.Zs, unicode.Zl, unicode.Zp), ignorable(r):
		return trimmed
	case unicode.IsLetter(r), unicode.IsNumber(r):
		return named
	}
	return other
}

// ignorable reports whether a letter or mark has no width by definition (Default_Ignorable_Code_Point).
func ignorable(r rune) bool {
	return unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r) || unicode.Is(unicode.Variation_Selector, r)
}

// fold returns the ASCII character that normalisation (NFKC) or a best-fit conversion to a code page makes of r, where
// that has a meaning in paths; r itself otherwise. Of several characters it is the one that matters.
func fold(r rune) rune {
	switch {
	case r == 0x37e: // Greek question mark
		return ';'
	case r < 0x2000:
		return r
	case 0xff01 <= r && r <= 0xff5e: // fullwidth forms
		return r - 0xff01 + '!'
	}
	switch r {
	case 0x2024, 0x2025, 0x2026, 0xfe19, 0xfe30, 0xfe52, 0xff61, 0x3002: // leaders, small and ideographic full stops
		return '.'
	case 0x2044, 0x2215, 0x29f8, 0x2571, 0x2100, 0x2101, 0x2105, 0x2106: // solidi, a/c, a/s, c/o, c/u
		return '/'
	case 0x2216, 0x29f5, 0x29f9, 0xfe68: // reverse solidi
		return '\\'
	case 0x204f, 0xfe14, 0xfe54:
		return ';'
	case 0xfe55:
		return ':'
	case 0xfe16, 0xfe56:
		return '?'
	case 0xfe5f:
		return '#'
	case 0xfe6a:
		return '%'
	case 0x2047, 0x2048, 0x2049: // ??, ?!, !?
		return '?'
	}
	return r
}

// segmentCheck follows the segments of a path, character by character. The path starts with a slash.
type segmentCheck struct {
	started bool  // the segment has a character
	prev    class // of its last one
	left    class // of the one before a run of dots; slash for none
}

// add takes the next character. It returns false when a server could take the segment for ".", ".." or an empty one, or
// for a segment without its last characters.
func (s *segmentCheck) add(k class) bool {
	prev := s.prev
	if !s.started {
		prev = slash
	}
	switch {
	case k == rejected:
		return false
	case k == dot:
		if prev != dot {
			s.left = prev
		}
	case prev == dot && (k == slash || k == cut || k != named && s.left != named):
		// Nothing but dots between two characters that could be cut off or trimmed; or dots at the end, which
		// Windows drops.
		return false
	case prev == slash && (k == slash || k == cut || k == trimmed):
		return false
	case prev == trimmed && (k == slash || k == cut):
		return false
	}
	s.started, s.prev = k != slash, k
	return true
}

// end takes the end of the path. Its last segment may be empty.
func (s *segmentCheck) end() bool { return !s.started || s.prev != dot && s.prev != trimmed }

// percentCheck finds what is an escape once the path is decoded: %2f, and %u002f as IIS has it.
type percentCheck struct {
	hex, need int // how many hex digits have come, and how many make an escape; need is 0 outside of one
}

// add takes the next character. It returns false where an escape ends.
func (p *percentCheck) add(r rune) bool {
	switch {
	case r == '%':
		*p = percentCheck{need: 2}
	case p.need == 0:
	case p.need == 2 && p.hex == 0 && (r == 'u' || r == 'U'):
		p.need = 4
	case r < utf8.RuneSelf && httpsyntax.Unhex(byte(r)) >= 0:
		p.hex++
		return p.hex < p.need
	default:
		p.need = 0
	}
	return true
}

// trimSlash cuts the slash off that a path ends with, unless it is all of it.
func trimSlash(path []byte) []byte {
	if len(path) > 1 {
		return bytes.TrimSuffix(path, []byte("/"))
	}
	return path
}
