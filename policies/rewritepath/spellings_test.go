package rewritepath

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/policy-engine/policy-engine/policies/policytest"
)

// verdictOf returns "continue", or the status and the reason of a refusal.
func verdictOf(t testing.TB, p any, target string) string {
	t.Helper()
	got, _ := rewrite(t, p, target)
	if got.Err != nil {
		t.Fatal(target, got.Err)
	}
	if got.Continued() {
		return "continue"
	}
	return got.String()
}

// encode returns the bytes percent-encoded, each of them.
func encode(b ...byte) string {
	var s strings.Builder
	for _, c := range b {
		fmt.Fprintf(&s, "%%%02x", c)
	}
	return s.String()
}

// overlong returns r in n bytes of what older decoders take for UTF-8.
func overlong(r rune, n int) []byte {
	b := make([]byte, n)
	for i := n - 1; i > 0; i-- {
		b[i] = 0x80 | byte(r&0x3f)
		r >>= 6
	}
	b[0] = byte(0xff<<(8-n)) | byte(r)
	return b
}

func TestBytesThatAreNotUTF8(t *testing.T) {
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"prefix": "/api", "to": "/below"}`)
	var bad []string
	for _, r := range "/\\.;%\x00a" {
		for n := 2; n <= 6; n++ {
			bad = append(bad, encode(overlong(r, n)...))
		}
	}
	for r := rune(0xd800); r <= 0xdfff; r += 0xff { // CESU-8: surrogates, alone and in pairs
		bad = append(bad, encode(overlong(r, 3)...), encode(overlong(0xd800, 3)...)+encode(overlong(0xdc2f, 3)...))
	}
	bad = append(bad, encode(overlong(0x110000, 4)...), encode(overlong(0x1fffff, 4)...), "%f8%88%80%80%80", "%fe", "%ff",
		"%80", "%bf", "%af", "%c3", "%e2%82", "%f0%9f%98", "%c3x", "%c3%zz", "%c3%2", "%c3%28", "%e2%82/", "%e2%28%a1", "%c0", "%c1%bf", "%E9")
	for _, text := range bad {
		for _, target := range []string{"/api/.." + text + "admin", "/api/" + text, "/api/x" + text + "/y", "/api/" + text + text + "/"} {
			if got := verdictOf(t, p, target); got != "400 path_ambiguous" {
				t.Errorf("%s: %s", target, got)
			}
			// Encoded twice, and with upper-case digits.
			twice := "/api/.." + strings.ReplaceAll(strings.ToUpper(text), "%", "%25") + "admin"
			if got := verdictOf(t, p, twice); strings.HasPrefix(text, "%") && len(text) > 2 && got != "400 path_ambiguous" {
				t.Errorf("%s: %s", twice, got)
			}
		}
	}
	for _, good := range []string{"caf%C3%A9", "%e2%82%ac", "%F0%9F%98%80", "%ef%bf%bdx", "%f4%8f%bf%bf", "%ED%9F%BF", "%EE%80%80"} {
		if got := verdictOf(t, p, "/api/"+good); got != "continue" {
			t.Errorf("%s: %s", good, got)
		}
	}
}

// A server may trim, cut or fold what stands next to dots and slashes.
func TestDotsInDisguise(t *testing.T) {
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"prefix": "/api", "to": "/below"}`)
	refused := func(target string) {
		t.Helper()
		if got := verdictOf(t, p, target); got != "400 path_ambiguous" {
			t.Errorf("%q: %s", target, got)
		}
	}
	var around []string
	for c := range utf8.RuneSelf {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '-', c == '_', c == '~', c == '.':
			continue // Neither trimmed nor a separator.
		case c > ' ' && c != '?' && c != '/' && c < 0x7f:
			around = append(around, string(rune(c)))
		}
		around = append(around, encode(byte(c)), strings.ToUpper(encode(byte(c))), "%25"+encode(byte(c))[1:])
	}
	for _, r := range "\u0085\u00a0\u00ad\u034f\u115f\u1680\u180e\u2003\u200b\u200d\u200e\u2028\u2060\u3000\u3164\ufe0f\ufeff\uffa0\u00a5\u20a9\U000e0020" {
		around = append(around, url.PathEscape(string(r)))
	}
	for _, r := range "／＼；？＃％　﹨⁄∕⧵∖" {
		around = append(around, url.PathEscape(string(r)))
	}
	for _, text := range around {
		for _, dots := range []string{".", "..", "...", "%ef%bc%8e", "%ef%bc%8e.", ".%e2%80%a4", "%e2%80%a5", "%ef%b8%b0"} {
			refused("/api/" + dots + text + "/admin")
			refused("/api/" + text + dots + "/admin")
			refused("/api/" + text + dots + text + "/admin")
			refused("/api/" + dots + text)
			refused("/api/" + dots + text + "admin")
			refused("/api/x" + text + dots + text + "admin")
		}
		refused("/api/." + text + "./admin")
	}
	for _, target := range []string{
		"/api/.", "/api/..", "/api/...", "/api/x.", "/api/x../y", "/api/x.;v=1", "/api/x%20/y", "/api/%20x", "/api/x%c2%a0", "/api/%ef%bb%bfx/y",
		"/api/%3bx", "/api/%3fx", "/api/%23", "/api/;x", "/api/a;..", "/api/a;../b", "/api/x%ef%bc%8fy", "/api/%ef%bc%852e", "/api/%25u002e%25u002e/",
		"/api/%u002e", "/api/%25%32e", "/api/%25ef%25bc%258e", "/api/%ef%bc%85%ef%bc%92%ef%bd%86", "/api/%e2%84%85x", "/api/x%0d%0ay", "/api/x%c2%85y", "/api/x%00",
	} {
		refused(target)
	}
	for _, target := range []string{
		"/api/.well-known/x", "/api/..a", "/api/v1.2/a..b", "/api/a%20b", "/api/C%23", "/api/who%3f", "/api/c++", "/api/100%25", "/api/100%25users",
		"/api/a;x=1/b;y", "/api/@scope/name", "/api/$metadata", "/api/x:batch", "/api/(a,b)", "/api/.~x", "/api/a.(b)", "/api/.%c3%a9t%c3%a9", "/api/%e3%83%86.jpg",
	} {
		if got := verdictOf(t, p, target); got != "continue" {
			t.Errorf("%q: %s", target, got)
		}
	}
}

// Each character that normalisation (NFKC) turns into a separator or into dots only is taken for that.
func TestNormalisedCharacters(t *testing.T) {
	for r := rune(0x80); r <= utf8.MaxRune; r++ {
		if !utf8.ValidRune(r) {
			continue
		}
		folded := norm.NFKC.String(string(r))
		want := rune(0)
		switch {
		case strings.Contains(folded, "/"):
			want = '/'
		case strings.Contains(folded, "\\"):
			want = '\\'
		case strings.Trim(folded, ".") == "":
			want = '.'
		case folded == ";", folded == "?", folded == "#", folded == "%":
			want = rune(folded[0])
		}
		if got := fold(r); want != 0 && got != want {
			t.Errorf("%U is normalised to %q and folded to %q", r, folded, got)
		}
	}
}

// What a rule for /v1 is there for does not pass it under another spelling, where other paths may stay.
func TestOtherSpellingsOfMatchedPaths(t *testing.T) {
	const (
		prefix   = `{"prefix": "/v1", "to": "/internal", "unmatched": "continue"}`
		template = `{"template": "/v1/{id}", "to": "/internal/{id}", "unmatched": "continue"}`
		slash    = `{"template": "/v1/", "to": "/internal", "unmatched": "continue"}`
		rest     = `{"template": "/v1/{rest...}", "to": "/internal/{rest}", "unmatched": "continue"}`
		regex    = `{"regex": "/v1/([^/]+)", "to": "/internal/{1}", "unmatched": "continue"}`
		escaped  = `{"regex": "/v%7e/(.+)", "to": "/internal/{1}", "unmatched": "continue"}`
		mixed    = `{"prefix": "/V1/Caf%C3%A9", "to": "/internal", "unmatched": "continue"}`
	)
	spellings := []string{
		"/V1/x", "/v1;x/x", "/v1;/x", "/v1;a=b;c/x", "//v1/x", "/v1//x", "/./v1/x", "/v1%2fx", "/%76%31/x", "/v1%3bx/x", "/v1%3Bx/x", "/v1%23/x", "/v1%3f/x",
		"/v1%20/x", "/v1+/x", "/+v1/x", "/v1./x", "/v1%00/x", "/v1%09/x", "/v1%c2%a0/x", "/v%e2%80%8b1/x", "/%ef%bd%961/x", "/v%ef%bc%91/x", "/x/../v1/x", "/x/..;/v1/x",
		"\\v1/x", "/v1\\x", "/V1;x/x;y", "/v1%c2%ad/x", "/v1%252fx", "/v1;%2f/x",
	}
	for _, params := range []string{prefix, template, rest, regex} {
		p := policytest.Build(t, Definition(), policytest.NewEnv(t), params)
		if got := verdictOf(t, p, "/v1/x"); got != "continue" {
			t.Errorf("%s: %s", params, got)
		}
		for _, target := range spellings {
			if got := verdictOf(t, p, target); got != "400 path_ambiguous" {
				t.Errorf("%s: %s: %s", params, target, got)
			}
		}
		for _, target := range []string{"/health", "/v10/x", "/v", "/x/v1/y", "/", "/v2;v1/x", "/v-1/x"} {
			if got := policytest.Run(t, p, policytest.Request{Path: target}); got.String() != "continue unchanged" {
				t.Errorf("%s: %s: %s", params, target, got)
			}
		}
	}
	for _, c := range []struct{ params, target, want string }{
		{prefix, "/V1", "400 path_ambiguous"},
		{prefix, "/V1/", "400 path_ambiguous"},
		{template, "/v1/x/", "400 path_ambiguous"},
		{template, "/V1/x/", "400 path_ambiguous"},
		{template, "/v1/x/y", "continue"},
		{template, "/v1", "continue"},
		{slash, "/v1", "400 path_ambiguous"},
		{slash, "/V1", "400 path_ambiguous"},
		{slash, "/V1/", "400 path_ambiguous"},
		{slash, "/v1/x", "continue"},
		{rest, "/V1/", "400 path_ambiguous"},
		{rest, "/V1/a/b", "400 path_ambiguous"},
		{regex, "/v1/x/", "400 path_ambiguous"},
		{regex, "/v1/x%7e;y", "continue"}, // It matches as it is.
		{escaped, "/V%7E/x", "400 path_ambiguous"},
		{escaped, "/v%7e;a/x", "400 path_ambiguous"},
		{escaped, "/health", "continue"},
		{mixed, "/v1/caf%c3%a9", "400 path_ambiguous"},
		{mixed, "/V1/CAF%C3%89/x", "400 path_ambiguous"},
		{mixed, "/V1/Cafe", "continue"},
	} {
		p := policytest.Build(t, Definition(), policytest.NewEnv(t), c.params)
		if got := verdictOf(t, p, c.target); got != c.want {
			t.Errorf("%s: %s: %s, want %s", c.params, c.target, got, c.want)
		}
	}
	// Where other paths are refused, they stay 404.
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"prefix": "/v1", "to": "/internal"}`)
	if got := verdictOf(t, p, "/V1/x"); got != "404 path_unmatched" {
		t.Error(got)
	}
}
