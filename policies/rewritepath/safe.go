package rewritepath

import "bytes"

// safe reports whether a path, without its query, means the same to everybody who reads it: to Envoy, to this policy and to an upstream that decodes it, resolves dot segments,
// merges slashes, takes '\' for '/', or cuts ';' parameters off. What it refuses could come to stand for another path than the one that was rewritten.
func safe(path []byte) bool {
	if len(path) == 0 || path[0] != '/' || !visible(path) {
		return false
	}
	for i := 0; i < len(path); i++ {
		switch path[i] {
		case '\\':
			return false
		case '/':
			if !safeSegment(path[i+1:]) {
				return false
			}
		case '%':
			if !safeEscape(path[i:]) {
				return false
			}
			i += 2
		}
	}
	return true
}

// visible reports whether b has only characters that may stand in a request's target (RFC 9112 section 3.2); a '#' would begin a fragment.
func visible(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	return true
}

// safeSegment looks at the segment that rest begins with: not empty unless it is the last one, and neither "." nor "..", with or without parameters.
func safeSegment(rest []byte) bool {
	last := true
	if i := bytes.IndexByte(rest, '/'); i >= 0 {
		rest, last = rest[:i], false
	}
	name := rest
	if i := bytes.IndexByte(rest, ';'); i >= 0 {
		name = rest[:i]
	}
	switch string(name) {
	case "":
		return last && len(rest) == 0
	case ".", "..":
		return false
	}
	return true
}

// safeEscape looks at the percent-encoding (RFC 3986 section 2.1) that b begins with. Unsafe are those of '/' and '\', of controls, of characters that need none and so have
// two spellings (section 2.3), of '%' before what would be an escape once decoded, and of bytes that UTF-8 does not have: decoders differ in what they make of those.
func safeEscape(b []byte) bool {
	if len(b) < 3 || unhex(b[1]) < 0 || unhex(b[2]) < 0 {
		return false
	}
	switch c := byte(unhex(b[1])<<4 | unhex(b[2])); {
	case c < ' ', c == 0x7f, c == '/', c == '\\':
		return false
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		return false
	case c == 0xc0, c == 0xc1, c >= 0xf5:
		return false
	case c == '%':
		return len(b) < 5 || unhex(b[3]) < 0 || unhex(b[4]) < 0
	}
	return true
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
