package rewritepath

import (
	"bytes"
	"unicode"
	"unicode/utf8"

	"github.com/policy-engine/policy-engine/fastpath/view"
	"github.com/policy-engine/policy-engine/policies"
)

// lenient matches paths that a rule does not match and that an upstream could take for one that it does: an upstream
// that ignores case, parameters, a slash at the end, or characters without width.
type lenient struct {
	rule     rule // its texts as read returns them
	segments []segment
	regex    *policies.Pattern // without regard to case
}

// newLenient returns the matcher of a rule. pattern is that of its regex.
func newLenient(u *rule, pattern string) (*lenient, error) {
	l := &lenient{rule: rule{prefix: string(trimSlash(read(nil, []byte(u.prefix), true)))}}
	if u.regex != nil {
		var err error
		l.regex, err = policies.CompilePattern(`\A(?i:` + pattern + `)\z`)
		return l, err
	}
	for _, s := range u.segments {
		s.text = string(read(nil, []byte(s.text), true))
		l.rule.segments = append(l.rule.segments, s)
	}
	l.segments = l.rule.segments
	if n := len(l.segments); n > 1 && l.segments[n-1] == (segment{}) {
		l.segments = l.segments[:n-1]
	}
	return l, nil
}

// match reports whether a safe path can be taken for one of the rule. Only an expression uses the budget, and it has no
// answer when that is used up.
func (l *lenient) match(path []byte, budget *policies.PatternBudget) (bool, error) {
	var buf [512]byte
	plain := read(buf[:0], path, true)
	if l.regex != nil {
		// The expression may name escapes or what they stand for.
		for _, p := range [...][]byte{plain, path, read(nil, path, false)} {
			for _, p := range [...][]byte{p, trimSlash(p)} {
				if matched, err := l.regex.Match(view.String(p), budget); matched || err != nil {
					return matched, err
				}
			}
		}
		return false, nil
	}
	var found spans
	if l.rule.match(plain, &found) {
		return true, nil
	}
	short := rule{prefix: l.rule.prefix, segments: l.segments}
	return short.match(trimSlash(plain), &found), nil
}

// read appends a safe path as a lenient upstream reads it: variants of characters folded, letters in lower case, segments
// without parameters and '+' at their edges, which is a space to some. decoded says whether escapes are decoded.
func read(dst, path []byte, decoded bool) []byte {
	for len(path) > 0 {
		segment := path
		if i := bytes.IndexByte(path[1:], '/'); i >= 0 {
			segment = path[:i+1]
		}
		path = path[len(segment):]
		if segment[0] == '/' {
			dst, segment = append(dst, '/'), segment[1:]
		}
		dst = readSegment(dst, segment, decoded)
	}
	return dst
}

func readSegment(dst, segment []byte, decoded bool) []byte {
	begin := len(dst)
	for at := 0; at < len(segment); {
		r, n, ok := decode(segment[at:])
		if !ok { // Text of the parameters that is in an escape's place.
			r, n = rune(segment[at]), 1
		}
		escape := segment[at : at+n]
		at += n
		switch k := classOf(r); {
		case k == cut:
			at = len(segment)
		case k == trimmed && r >= utf8.RuneSelf && !unicode.IsSpace(r):
		case n > 1 && !decoded:
			dst = append(dst, escape...)
		default:
			// To upper case first: 'ſ' and 'K' are variants of s and k.
			dst = utf8.AppendRune(dst, unicode.ToLower(unicode.ToUpper(r)))
		}
	}
	trimmed := bytes.Trim(dst[begin:], "+")
	return append(dst[:begin], trimmed...)
}
