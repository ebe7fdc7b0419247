package redact

import (
	"encoding/json"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/policy-engine/policy-engine/policies/policytest"
)

// union redacts as the README says it, in the plainest way: every place, every length.
func union(re *regexp.Regexp, body, replacement string) string {
	re = regexp.MustCompile(`\A(?:` + re.String() + `)\z`)
	var regions []region
	boundary := func(i int) bool { return i == len(body) || i == 0 || slices.Contains(starts(body), i) }
	for from := range len(body) {
		for to := from + 1; to <= len(body); to++ {
			if !boundary(from) || !boundary(to) || !re.MatchString(body[from:to]) {
				continue
			}
			if n := len(regions); n > 0 && from < regions[n-1].to {
				regions[n-1].to = max(regions[n-1].to, to)
			} else {
				regions = append(regions, region{from, to})
			}
		}
	}
	var out strings.Builder
	at := 0
	for _, g := range regions {
		out.WriteString(body[at:g.from] + replacement)
		at = g.to
	}
	return out.String() + body[at:]
}

// starts are where runes begin.
func starts(body string) (at []int) {
	for i := range body {
		at = append(at, i)
	}
	return at
}

// For every way to cut the body, what comes out is what the plain way makes of the whole.
func TestCutsDoNotMatter(t *testing.T) {
	rules := []string{
		`ab`, `aab|abb`, `a{2,4}`, `[ab]{3}`, `a.{0,3}b`, `a(?:b|é)c?`, `é{1,2}`, `[^a]b`, `(?i)Ab|bA`, `abc|bcd|b|d`, `(?:ab){1,3}c`, `.{2}c`, `a[bc]{0,4}d|c`,
	}
	rapid.Check(t, func(r *rapid.T) {
		rule := rapid.SampledFrom(rules).Draw(r, "pattern")
		body := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "a", "b", "b", "c", "d", "é", "\n", "\xc3", "\xa9", "A"}), 0, 24).Draw(r, "body"), "")
		replacement := rapid.SampledFrom([]string{"", "*", "ab"}).Draw(r, "replacement")
		params, err := json.Marshal(map[string]any{"patterns": []string{rule}, "replacement": replacement})
		if err != nil {
			r.Fatal(err)
		}
		p := policytest.Build(t, Definition(), policytest.NewEnv(t), string(params))
		want := union(regexp.MustCompile(rule), body, replacement)
		if got := pass(t, p, body); got.Body != want {
			r.Fatalf("in one: %q, want %q", got.Body, want)
		}
		for range 4 {
			chunks := cut(body, rapid.SliceOfN(rapid.IntRange(0, len(body)), 0, 8).Draw(r, "cuts"))
			if got := pass(t, p, chunks...); got.Body != want || !got.Continued() {
				r.Fatalf("%q: %v, %q, want %q", chunks, got, got.Body, want)
			}
		}
		for i := range len(body) + 1 { // Every cut into two, and all into single bytes.
			if got := pass(t, p, body[:i], body[i:]); got.Body != want {
				r.Fatalf("cut at %d: %q, want %q", i, got.Body, want)
			}
		}
		if got := pass(t, p, append(strings.Split(body, ""), "")...); got.Body != want {
			r.Fatalf("in characters: %q, want %q", got.Body, want)
		}
	})
}

func cut(body string, at []int) (chunks []string) {
	slices.Sort(at)
	last := 0
	for _, i := range at {
		chunks = append(chunks, body[last:i])
		last = i
	}
	return append(chunks, body[last:])
}

// What goes on never has a secret in it, whatever is around it and however it is cut.
func FuzzNoPartOfASecretPasses(f *testing.F) {
	f.Add("a sk-0123456789 b", uint8(3), uint8(9))
	f.Add("sk-sk-0123456789sk-", uint8(4), uint8(5))
	f.Add("\xc3sk-01234567\xa989", uint8(1), uint8(2))
	p := policytest.Build(f, Definition(), policytest.NewEnv(f), `{"literals": ["internal"], "patterns": ["sk-[0-9]{4,10}"], "replacement": "*"}`)
	secret := regexp.MustCompile(`internal|sk-[0-9]{4}`)
	f.Fuzz(func(t *testing.T, body string, i, j uint8) {
		a, b := min(int(i), len(body)), min(int(j), len(body))
		if a > b {
			a, b = b, a
		}
		got := pass(t, p, body[:a], body[a:b], body[b:])
		if whole := pass(t, p, body); !got.Continued() || got.Body != whole.Body {
			t.Errorf("%q, but in one %q", got.Body, whole.Body)
		}
		if secret.MatchString(got.Body) && !strings.Contains(body, "*") {
			// A replacement may join what stood apart, but it has a character of its own.
			t.Errorf("%q passes", got.Body)
		}
	})
}

// Any pattern that is accepted has the bound that it is said to have.
func FuzzPattern(f *testing.F) {
	for _, pattern := range []string{"a{2,3}", "(?i)k|é", "[^a]{1,3}", "a(b|c)?d", "x{0}y", "(?:)a"} {
		f.Add(pattern, "aabékK")
	}
	f.Fuzz(func(t *testing.T, pattern, body string) {
		re, err := parsePattern(pattern)
		if err != nil || len(body) > 64 {
			return
		}
		least, most, err := bound(re)
		if err != nil || least < 1 || most > maxMatch {
			t.Fatalf("%q: %d to %d, %v", pattern, least, most, err)
		}
		for _, m := range regexp.MustCompile(pattern).FindAllString(body, -1) {
			if len(m) < least || len(m) > most {
				t.Errorf("%q matches %q, which is not %d to %d long", pattern, m, least, most)
			}
		}
		program, err := compile([]*syntax.Regexp{re}, defaultSteps, borderNone, false)
		if err != nil {
			return
		}
		s := newScanner(program)
		if _, err := s.scan(t.Context(), []byte(body), place{}, true); err != nil {
			t.Fatal(err)
		}
		for _, g := range s.regions {
			if g.from < 0 || g.from >= g.to || g.to > len(body) {
				t.Errorf("%q in %q: %v", pattern, body, s.regions)
			}
		}
		if matched := regexp.MustCompile(pattern).MatchString(body); matched != (len(s.regions) > 0) {
			t.Errorf("%q in %q: %v, package regexp says %v", pattern, body, s.regions, matched)
		}
	})
}
