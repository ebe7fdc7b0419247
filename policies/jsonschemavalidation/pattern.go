package jsonschemavalidation

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/policy-engine/policy-engine/policies"
)

// compilePattern compiles an expression of the schema. JSON Schema means ECMA 262 (core, section 6.4); the engine is
// RE2. Where both take an escape and disagree on it, what ECMA 262 says counts; what RE2 does not have, and what ECMA
// 262 takes for something else, is an error.
func compilePattern(expression string) (*policies.Pattern, error) {
	translated, err := translate(expression)
	if err != nil {
		return nil, err
	}
	return policies.CompilePattern(translated)
}

// What ECMA 262 means: WhiteSpace and LineTerminator (sections 12.2 and 12.3) as the inside of a class of RE2, and all
// else.
const (
	spaces    = `\t-\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}`
	notSpaces = `\x{0}-\x{8}\x{e}-\x{1f}!-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}\x{202a}-\x{202e}` +
		`\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{fefe}\x{ff00}-\x{10ffff}`
	dot = `[^\n\r\x{2028}\x{2029}]`
)

// translator turns an expression of ECMA 262 into one of RE2.
type translator struct {
	in  string
	at  int
	out strings.Builder
}

func translate(expression string) (string, error) {
	t := translator{in: expression}
	flags := hasFlags(expression) // Those of RE2 may say what a dot is.
	for t.at < len(t.in) {
		var err error
		switch c := t.in[t.at]; {
		case c == '\\':
			err = t.escape(false)
		case c == '[':
			err = t.class()
		case c == '.' && !flags:
			t.out.WriteString(dot)
			t.at++
		default:
			t.copy(1)
		}
		if err != nil {
			return "", err
		}
	}
	return t.out.String(), nil
}

// hasFlags reports whether the expression sets flags, such as (?s), which ECMA 262 has not.
func hasFlags(expression string) bool {
	for rest := expression; ; {
		_, after, found := strings.Cut(rest, "(?")
		if !found {
			return false
		}
		if after != "" && strings.IndexByte("imsU-", after[0]) >= 0 {
			return true
		}
		rest = after
	}
}

func (t *translator) copy(n int) {
	n = min(n, len(t.in)-t.at)
	t.out.WriteString(t.in[t.at : t.at+n])
	t.at += n
}

// class translates what stands in brackets.
func (t *translator) class() error {
	begin := t.at
	t.copy(1)
	if strings.HasPrefix(t.in[t.at:], "^") {
		t.copy(1)
	}
	if strings.HasPrefix(t.in[t.at:], "]") {
		return fmt.Errorf("%q: RE2 takes the bracket for a member of the class, ECMA 262 for its end; write \\]", t.in[begin:t.at+1])
	}
	for t.at < len(t.in) {
		switch {
		case t.in[t.at] == ']':
			t.copy(1)
			return nil
		case t.in[t.at] == '\\':
			if err := t.escape(true); err != nil {
				return err
			}
		case strings.HasPrefix(t.in[t.at:], "[:"):
			end := strings.Index(t.in[t.at:], ":]")
			if end < 0 {
				return errors.New("missing closing ]")
			}
			t.copy(end + 2)
		default:
			t.copy(1)
		}
	}
	return nil // The parser says that the end is missing.
}

// escape translates what a backslash begins.
func (t *translator) escape(inClass bool) error {
	rest := t.in[t.at:]
	if len(rest) < 2 {
		t.copy(1)
		return nil
	}
	switch c := rest[1]; c {
	case 's', 'S':
		set := spaces
		if c == 'S' {
			set = notSpaces
		}
		if !inClass {
			set = "[" + set + "]"
		}
		t.out.WriteString(set)
		t.at += 2
	case 'c':
		if len(rest) < 3 || rest[2]|0x20 < 'a' || rest[2]|0x20 > 'z' {
			return fmt.Errorf(`%q: must be \c with a letter`, rest[:min(3, len(rest))])
		}
		fmt.Fprintf(&t.out, `\x{%x}`, rest[2]&0x1f)
		t.at += 3
	case 'u':
		r, n := unicodeEscape(rest)
		if n == 0 {
			return fmt.Errorf(`%q: must be \u with four hexadecimal digits, and a pair of surrogates for one character`, rest[:min(6, len(rest))])
		}
		fmt.Fprintf(&t.out, `\x{%x}`, r)
		t.at += n
	case 'Q':
		return errors.New(`\Q is not supported; write a backslash before each character that has a meaning`)
	case 'b':
		if inClass { // A backspace.
			t.out.WriteString(`\x{8}`)
			t.at += 2
			return nil
		}
		t.copy(2)
	default:
		_, n := utf8.DecodeRuneInString(rest[1:])
		t.copy(1 + n)
	}
	return nil
}

// unicodeEscape reads \uXXXX, or two of them that are one character, and returns how many bytes it has, 0 if it is
// none.
func unicodeEscape(s string) (r rune, n int) {
	unit := func(s string) (rune, bool) {
		if len(s) < 6 || s[:2] != `\u` {
			return 0, false
		}
		v, err := strconv.ParseUint(s[2:6], 16, 16)
		return rune(v), err == nil
	}
	r, ok := unit(s)
	switch {
	case !ok:
		return 0, 0
	case !utf16.IsSurrogate(r):
		return r, 6
	}
	low, ok := unit(s[6:])
	if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
		return 0, 0
	}
	return r, 12
}
