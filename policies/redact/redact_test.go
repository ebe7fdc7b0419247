package redact

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

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
		`{"patterns": ["^a"]}`:                                "it looks for the beginning or end of a text or line (\\A)",
		`{"patterns": ["(?m)a$"]}`:                            "it looks for the beginning or end of a text or line",
		`{"patterns": ["a\\z"]}`:                              "it looks for the beginning or end of a text or line",
		`{"patterns": ["\\Ba"]}`:                              "",
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
	for _, state := range []string{"\x80", "\x07\x00", "\x01", "\x01\x10", "\x01\x04", "\x01\x00\x00", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00"} {
		if at, err := decodePlace([]byte(state), 6, false); err == nil {
			t.Errorf("%q is read as %v", state, at)
		}
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
