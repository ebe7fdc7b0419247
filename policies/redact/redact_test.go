package redact

import (
	"encoding/json"
	"os"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

func TestExamples(t *testing.T) {
	policytest.RunExamples(t, "README.md", Definition(), policytest.NewEnv(t))
}

// A coded body is never looked at as it is.
func TestNeeds(t *testing.T) {
	if b := Definition().Bodies(); b != (policies.Bodies{RequestChunks: true, ResponseChunks: true, Decoded: true}) {
		t.Errorf("redact needs %+v of bodies", b)
	}
}

func TestParameters(t *testing.T) {
	for params, want := range map[string]string{
		`{}`:                                "literals: nothing is to be replaced; one of literals and patterns is needed",
		`{"literals": [""]}`:                "literals[0]: it is empty",
		`{"literals": ["a", ` + long + `]}`: "literals[1]: it has 4097 bytes; legal are 1 to 4096",
		`{"patterns": ["("]}`:               "patterns[0]: \"(\": error parsing regexp: missing closing )",
		`{"patterns": ["a", "b*"]}`:         "patterns[1]: \"b*\": its matches have no greatest length (b*)",
		`{"patterns": ["x(a|b{2,})"]}`:      "its matches have no greatest length (b{2,})",
		`{"patterns": ["a{0,3}b?"]}`:        "it matches the empty text",
		`{"patterns": ["a||b"]}`:            "it matches the empty text",
		`{"patterns": ["a{1000}b{1000}c{1000}d{1000}e{97}"]}`: "its matches may have more than 4096 bytes",
		`{"patterns": ["[é]{1000}....."]}`:                    "", // 2020 bytes
		`{"patterns": ["(?s:.{1000})..{60}"]}`:                "its matches may have more than 4096 bytes",
		`{"patterns": ["(?i)kkk"]}`:                           "",
		`{"patterns": ["[^\\x00-\\x{10FFFF}]"]}`:              "it matches nothing",
		`{"patterns": ["^a"]}`:                                "it looks at what stands around a match (\\A)",
		`{"patterns": ["(?m)a$"]}`:                            "it looks at what stands around a match",
		`{"patterns": ["a\\z"]}`:                              "it looks at what stands around a match",
		`{"patterns": ["\\Ba"]}`:                              "it looks at what stands around a match",
		`{"patterns": ["a{1000}b{1000}c{1000}d{1000}e{96}"]}`: "",
		`{"patterns": ["a{1000}b{1000}c{1000}", "d{1000}e{1000}f{1000}", "g{1000}h{1000}i{1000}"]}`: "patterns: literals and patterns are too many or too long together; legal are such with 8192 states",
		`{"literals": ["a"], "replacement": ` + long + `}`:                                          "replacement: it has 4097 bytes; legal are up to 256",
		`{"literals": ["a"], "content_types": ["a/*/b"]}`:                                           "content_types[0]",
		`{"literals": ["a"], "content_types": ["*/*"]}`:                                             "content_types[0]",
		`{"literals": ["a"], "case": true}`:                                                         "case: unknown parameter",
		`{"literals": "a"}`:                                                                         "literals: string is not legal here",
	} {
		_, err := Definition().Build(policytest.NewEnv(t), json.RawMessage(params))
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %s", params, err, want)
		}
	}
}

var long = `"` + strings.Repeat("x", maxMatch+1) + `"`

// pass sends a body through the policy in the chunks given.
func pass(t testing.TB, p any, chunks ...string) *policytest.Result {
	t.Helper()
	e := policytest.NewExchange(policytest.Request{Method: "POST", Body: true})
	return e.Stream(t, p, chunks...)
}

func TestRedacts(t *testing.T) {
	for name, c := range map[string]struct {
		params   string
		chunks   []string
		want     string
		redacted int
	}{
		"nothing":               {`"literals": ["secret"]`, []string{"hello"}, "hello", 0},
		"empty":                 {`"literals": ["secret"]`, []string{""}, "", 0},
		"all":                   {`"literals": ["secret"]`, []string{"secret"}, "*", 1},
		"twice":                 {`"literals": ["secret"]`, []string{"a secret secretsecret."}, "a * **.", 3},
		"across a border":       {`"literals": ["secret"]`, []string{"a sec", "ret b"}, "a * b", 1},
		"across many borders":   {`"literals": ["secret"]`, []string{"a s", "e", "", "c", "r", "e", "t", " b"}, "a * b", 1},
		"begun only":            {`"literals": ["secret"]`, []string{"a secr", "et"[:1]}, "a secre", 0},
		"begun, and again":      {`"literals": ["aab"]`, []string{"aa", "a", "b"}, "a*", 1},
		"prefix of another":     {`"literals": ["secret", "secretary"]`, []string{"secret", "aryx secretx"}, "*x *x", 2},
		"overlapping":           {`"literals": ["abc", "bcd"]`, []string{"abcd"}, "*", 1},
		"overlapping, cut":      {`"literals": ["abc", "bcd"]`, []string{"ab", "c", "d!"}, "*!", 1},
		"inside of another":     {`"literals": ["b", "d", "abcdef"]`, []string{"abcd", "ef", "abcde"}, "*a*c*e", 3},
		"touching":              {`"literals": ["ab"]`, []string{"abab"}, "**", 2},
		"shifted by a digit":    {`"patterns": ["[0-9]{4}"]`, []string{"1", "4111", "x"}, "*x", 1},
		"endless":               {`"patterns": ["[0-9]{4}"]`, []string{"0123456789", "0123456789", "0123456789", ""}, "*", 1},
		"case":                  {`"patterns": ["(?i)secret"]`, []string{"SeCR", "et Secreţ"}, "* Secreţ", 1},
		"kelvin sign":           {`"patterns": ["(?i)key"]`, []string{"\u212aey"}, "*", 1},
		"cut inside of a rune":  {`"literals": ["né"]`, []string{"n\xc3", "\xa9e n\xc3", "\xa8"}, "*e nè", 1},
		"not UTF-8":             {`"patterns": ["a[^b]c"]`, []string{"a\xff", "c ab", "c"}, "* abc", 1},
		"rune that never ends":  {`"literals": ["né"]`, []string{"n\xc3"}, "n\xc3", 0},
		"line break":            {`"patterns": ["a.c"]`, []string{"a\nc abc"}, "a\nc *", 1},
		"alternatives":          {`"patterns": ["a(?:b|cd)e"]`, []string{"abe ac", "de ace"}, "* * ace", 2},
		"not a template":        {`"patterns": ["(a)b"], "replacement": "$1"`, []string{"ab"}, "$1", 1},
		"nothing in its place":  {`"literals": ["secret"], "replacement": ""`, []string{"a sec", "ret b"}, "a  b", 1},
		"replacement not again": {`"literals": ["ab"], "replacement": "a"`, []string{"ab", "b"}, "ab", 1},
	} {
		t.Run(name, func(t *testing.T) {
			env := policytest.NewEnv(t)
			params := "{" + c.params + "}"
			if !strings.Contains(params, "replacement") {
				params = "{" + c.params + `, "replacement": "*"}`
			}
			p := policytest.Build(t, Definition(), env, params)
			if got := pass(t, p, c.chunks...); !got.Continued() || got.Body != c.want {
				t.Errorf("%v, %q; want %q", got, got.Body, c.want)
			}
			if n := env.Count("redacted"); n != c.redacted {
				t.Errorf("%d counted, want %d", n, c.redacted)
			}
			// The response is redacted as the request is.
			e := policytest.NewExchange(policytest.Request{})
			e.Respond(policytest.Response{Body: true})
			if got := e.Stream(t, p, c.chunks...); !got.Continued() || got.Body != c.want {
				t.Errorf("response: %v, %q", got, got.Body)
			}
		})
	}
}

// Nothing is held back that can't be the beginning of a match: events reach the client as they come.
func TestHoldsBackTheLeast(t *testing.T) {
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"literals": ["secret"], "replacement": "*"}`)
	e := policytest.NewExchange(policytest.Request{Body: true})
	for _, c := range []struct{ chunk, passed string }{
		{"data: hello\n\n", "data: hello\n\n"}, {"a se", "a "}, {"at, ses", "seat, se"}, {"ecret", "*"}, {"s", ""}, {"", ""}, {"x", "sx"}, {"\xc3", ""}, {"\xa9", "é"},
	} {
		if got := e.OnRequestChunk(t, p, c.chunk, false); got.Body != c.passed {
			t.Errorf("after %q, %q is passed on, want %q", c.chunk, got.Body, c.passed)
		}
	}
	if got := e.OnRequestChunk(t, p, "secre", true); got.Body != "secre" {
		t.Errorf("at the end: %q", got.Body)
	}
}

func TestMessagesThatCannotBeRedacted(t *testing.T) {
	const all, some = `{"literals": ["secret"]}`, `{"literals": ["secret"], "content_types": ["text/*", "application/*+json"]}`
	const charset, partial, redacted, passed = "charset", "partial_content", "[redacted]", "secret"
	for name, c := range map[string]struct {
		params string
		status int
		lines  []string
		want   string
	}{
		"plain":                          {all, 200, nil, redacted},
		"error page":                     {all, 500, nil, redacted},
		"coded; the worker undoes it":    {all, 200, []string{"content-encoding: gzip"}, redacted},
		"206":                            {all, 206, nil, partial},
		"206, not looked at":             {some, 206, []string{"content-type: image/png"}, passed},
		"content-range":                  {all, 200, []string{"content-range: bytes 2-9/10"}, partial},
		"UTF-16":                         {all, 200, []string{"content-type: text/html; charset=UTF-16LE"}, charset},
		"UTF-16, quoted":                 {all, 200, []string{`content-type: text/html;a=b;Charset="utf-16"`}, charset},
		"UTF-8":                          {all, 200, []string{"content-type: text/html; charset=UTF-8"}, redacted},
		"latin 1":                        {all, 200, []string{"content-type: text/html; charset=iso-8859-1"}, charset},
		"charset that can't be read":     {all, 200, []string{"content-type: text/html; charset=utf-8; charset=utf-16"}, charset},
		"two types":                      {some, 200, []string{"content-type: image/png", "content-type: text/html"}, charset},
		"type":                           {some, 200, []string{"content-type: TEXT/HTML ; charset=utf-8"}, redacted},
		"type with suffix":               {some, 200, []string{"content-type: application/problem+json"}, redacted},
		"another type":                   {some, 200, []string{"content-type: application/json"}, passed},
		"no type":                        {some, 200, nil, redacted},
		"empty type":                     {some, 200, []string{"content-type: "}, redacted},
		"type that can't be read":        {some, 200, []string{"content-type: image/png, text/html"}, redacted},
		"another type that can't either": {some, 200, []string{"content-type: image"}, redacted},
	} {
		t.Run(name, func(t *testing.T) {
			env := policytest.NewEnv(t)
			p := policytest.Build(t, Definition(), env, c.params)
			e := policytest.NewExchange(policytest.Request{})
			e.Respond(policytest.Response{Status: c.status, Headers: c.lines, Body: true})
			got := e.Stream(t, p, "secret")
			if got.Continued() && got.Body != c.want || !got.Continued() && got.String() != "502 "+c.want {
				t.Errorf("response: %v, %q; want %s", got, got.Body, c.want)
			}
			if (env.Count("refused") == 1) != got.Verdict.IsDeny() {
				t.Errorf("%d refusals counted", env.Count("refused"))
			}
			if c.status == 206 { // It is of responses.
				return
			}
			status := "415 "
			if c.want == partial {
				status = "400 "
			}
			got = policytest.NewExchange(policytest.Request{Headers: c.lines, Body: true}).Stream(t, p, "secret")
			if got.Continued() && got.Body != c.want || !got.Continued() && got.String() != status+c.want {
				t.Errorf("request: %v, %q; want %s", got, got.Body, c.want)
			}
		})
	}
}

// A message without a body has nothing to redact, whatever its headers say of the body that there would be.
func TestWithoutBody(t *testing.T) {
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"literals": ["secret"]}`)
	e := policytest.NewExchange(policytest.Request{Method: "HEAD"})
	if got := e.OnRequestChunk(t, p, "", true); got.String() != "continue unchanged" || got.Replaced {
		t.Error(got)
	}
	e.Respond(policytest.Response{Status: 206, Headers: []string{"content-range: bytes 0-1/9"}})
	if got := e.OnResponseChunk(t, p, "", true); got.String() != "continue unchanged" || got.Replaced {
		t.Error(got)
	}
}

// A state that can't be right must not let anything through.
func TestStateOfAnotherBody(t *testing.T) {
	for _, state := range []string{"\x80", "\x07", "\x01\x01", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"} {
		if n, err := decodeFront([]byte(state), 6); err == nil {
			t.Errorf("%q is read as %d", state, n)
		}
	}
}

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
		program, err := compile([]*syntax.Regexp{re})
		if err != nil {
			return
		}
		s := newScanner(program)
		s.scan([]byte(body), 0, true)
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

// stream runs the policy on chunks of 64 KiB.
func stream(t testing.TB, params, line string) (run func(), size int64) {
	t.Helper()
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), params).(*Policy)
	chunk := []byte(strings.Repeat(line, 64<<10/len(line)))
	x, headers, ctx := new(policies.Exchange), policytest.Request{Body: true}.HeaderMap(), t.Context()
	return func() {
		x.Reset()
		if err := x.BeginRequest("stream", headers, false); err != nil {
			t.Fatal(err)
		}
		x.BeginBody(false)
		x.Offer(chunk, true, false, false)
		if v, err := p.OnRequestChunk(ctx, x.Request(), x.Chunk()); err != nil || !v.IsContinue() || x.Err() != nil {
			t.Fatal(v, err, x.Err())
		}
	}, int64(len(chunk))
}

const logLine = `{"time":"2026-01-02T03:04:05Z","level":"info","message":"order 4711 was shipped to Jürgen","amount":12.50}` + "\n"

var streams = map[string]struct{ params, line string }{
	"literal":      {`{"literals": ["internal.example.net"]}`, logLine},
	"literals":     {`{"literals": ["internal.example.net", "Bearer ", "password", "zone-7", "token"]}`, logLine},
	"key":          {`{"patterns": ["sk-[A-Za-z0-9]{20,64}"]}`, logLine},
	"card number":  {`{"patterns": ["[0-9]{4}(?:[ -]?[0-9]{4}){3}"]}`, logLine},
	"address":      {`{"patterns": ["[a-z0-9._]{1,32}@[a-z0-9.-]{1,64}"]}`, logLine},
	"one per line": {`{"literals": ["shipped"]}`, logLine},
}

func TestPassingDoesNotAllocate(t *testing.T) {
	for name, c := range streams {
		run, _ := stream(t, c.params, c.line)
		most := 0.0
		if name == "one per line" {
			most = 1 // what goes on in place of the chunk
		}
		if n := testing.AllocsPerRun(50, run); n > most {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkChunk(b *testing.B) {
	for name, c := range streams {
		b.Run(name, func(b *testing.B) {
			run, size := stream(b, c.params, c.line)
			b.ReportAllocs()
			b.SetBytes(size)
			for b.Loop() {
				run()
			}
		})
	}
}

// The README's example is true.
func TestDescription(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```(yaml|json)\n(.*?)\n```").FindAllStringSubmatch(string(text), 3)
	var entry struct{ Params map[string]any }
	if err := yaml.Unmarshal([]byte(blocks[0][2]), &entry); err != nil {
		t.Fatal(err)
	}
	params, err := json.Marshal(entry.Params)
	if err != nil {
		t.Fatal(err)
	}
	if got := pass(t, policytest.Build(t, Definition(), policytest.NewEnv(t), string(params)), blocks[1][2]); got.Body != blocks[2][2] {
		t.Errorf("the body becomes\n%s\nthe README says\n%s", got.Body, blocks[2][2])
	}
}
