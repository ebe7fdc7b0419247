package jsonschemavalidation

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/policy-engine/policy-engine/policies"
)

// Patterns mean what ECMA 262 says where it and RE2 disagree.
func TestPatternsMeanECMA262(t *testing.T) {
	for _, c := range []struct{ pattern, matches, others string }{
		{`^\s$`, "\t\n\v\f\r \u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000\ufeff", "a0_\u0085\u180e\u200b\x00"},
		{`^\S$`, "a0_\u0085\u180e\u200b\x00😀", "\t\n\v\f\r \u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"},
		{`^[\s\d]$`, " \u00a07\ufeff", "a_"},
		{`^[^\s]$`, "a\u200b", " \u00a0\ufeff\v"},
		{`^[^\S]$`, " \u00a0\ufeff\v", "a\u200b😀"},
		{`^[\S]$`, "a😀", " \u00a0"},
		{`^.$`, "a\t\u0085", "\n\r\u2028\u2029"},
		{`^[.]$`, ".", "a"},
		{`^\.$`, ".", "a"},
		{`^(?s:.)$`, "a\n\r\u2028", ""},
		{`^\cJ$`, "\n", "Jc"},
		{`^[\cj]$`, "\n", "jc"},
		{`^\u00e9$`, "é", "u"},
		{`^[\u0041-\u0043]$`, "ABC", "Du"},
		{`^\ud83d\ude00$`, "😀", ""},
		{`^[\b]$`, "\b", "b"},
		{`^\d$`, "09", "١a"},
		{`^\w$`, "aZ0_", "éſ"},
		{`^[a\]b]$`, "a]b", "\\"},
		{`^[\\s]$`, "\\s", " "},
		{`^\\s$`, "", " \ts"},
		{`^[[:alpha:]\s]$`, "a \u00a0", ":"},
		{`^\p{Lu}$`, "AÉ", "aé"},
		{`^\/$`, "/", "\\"},
		{`^é\-$`, "", "é-"},
	} {
		p, err := compilePattern(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		for want, texts := range map[bool]string{true: c.matches, false: c.others} {
			for _, r := range texts {
				got, err := p.Match(string(r), policies.NewPatternBudget(t.Context(), 1_000_000))
				if got != want || err != nil {
					t.Errorf("%s on %q: %v, %v", c.pattern, r, got, err)
				}
			}
		}
	}
}

// What RE2 has not, or takes for something else, is told when the schema is loaded.
func TestPatternsThatAreErrors(t *testing.T) {
	for pattern, want := range map[string]string{
		`[]a]`: `RE2 takes the bracket for a member of the class, ECMA 262 for its end; write \\]`,
		`[^]`:  `ECMA 262 for its end`, `\\c1`: `must be \\c with a letter`, `\\c`: `must be \\c with a letter`, `\\u12`: `must be \\u with four hexadecimal digits`,
		`\\ud83d`: `a pair of surrogates`, `\\ud83d\\u0041`: `a pair of surrogates`, `\\u{41}`: `must be \\u with four hexadecimal digits`,
		`\\Qa\\E`: `is not supported`, `(?=a)`: `invalid or unsupported Perl syntax`, `(?<=a)`: `invalid`, `\\1`: `invalid escape sequence`, `\\k<a>`: `invalid escape sequence`,
		`\\`: `trailing backslash`, `[a`: `missing closing ]`, `[[:a`: `missing closing ]`, `\\p{Foo}`: `invalid character class range`,
		`[a-z]{1,999}[a-z]{1,999}[a-z]{1,999}[a-z]{1,999}[a-z]{1,999}[a-z]{1,999}`: `its program has 11984 instructions, must be at most 10000`,
	} {
		for _, schema := range []string{`{"pattern": "` + pattern + `"}`, `{"properties": {"a": {"patternProperties": {"` + pattern + `": {}}}}}`} {
			_, err := newCheckers([]byte(schema), false)
			if err == nil || !strings.Contains(err.Error(), strings.ReplaceAll(want, `\\`, `\`)) && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", schema, err, want)
			}
		}
	}
}

func FuzzTranslate(f *testing.F) {
	for _, seed := range []string{`^\s[\S\cA]\u0041.$`, `[\`, `\u`, `\c`, `[[:alpha:]\s]`, `(?s).`, "\\\xff", `[^`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, expression string) {
		translated, err := translate(expression)
		if err != nil {
			return
		}
		if utf8.ValidString(expression) && !utf8.ValidString(translated) {
			t.Errorf("%q becomes %q", expression, translated)
		}
		if !strings.ContainsAny(expression, `\[.`) && translated != expression {
			t.Errorf("%q becomes %q", expression, translated)
		}
	})
}
