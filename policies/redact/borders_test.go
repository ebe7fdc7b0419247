package redact

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/policy-engine/policy-engine/policies/policytest"
)

const card = `[0-9]{4}(?:[ -]?[0-9]{4}){3}`

func quoted(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestBorders(t *testing.T) {
	pattern := `"patterns": [` + quoted(card) + `]`
	for name, c := range map[string]struct {
		params string
		body   string
		want   string
	}{
		"part of a number":                 {pattern + `, "border": "digit"`, `{"ts":1757347200123456789}`, `{"ts":1757347200123456789}`},
		"a number":                         {pattern + `, "border": "digit"`, `{"ts":1757347200123456}`, `{"ts":*}`},
		"with letters":                     {pattern + `, "border": "digit"`, `x4111111111111111y 04111111111111111`, `x*y 04111111111111111`},
		"at the edges":                     {pattern + `, "border": "digit"`, `4111111111111111`, `*`},
		"in a word":                        {pattern + `, "border": "word"`, `x4111111111111111 4111111111111111_ 4111-1111-1111-1111`, `x4111111111111111 4111111111111111_ *`},
		"literal in a word":                {`"literals": ["cat"], "border": "word"`, `cat concat cats cat. écaté`, `* concat cats *. é*é`},
		"word boundary":                    {`"patterns": ["\\bcat\\b"]`, `cat concat cats cat. écaté`, `* concat cats *. é*é`},
		"not a boundary":                   {`"patterns": ["\\Bcat", "dog\\B"]`, `cat concat dog dogs`, `cat con* dog *s`},
		"boundary inside":                  {`"patterns": ["a\\b.b"]`, `a.b acb a b`, `* acb *`},
		"impossible":                       {`"patterns": ["a\\bb", "x"]`, `ab a b x`, `ab a b *`},
		"overlapping":                      {`"patterns": ["\\bab", "bc\\b"]`, `abc abcd xabc`, `* *cd xa*`},
		"next to another match":            {`"literals": ["aa"], "border": "word"`, `aa aa aaaa`, `* * aaaa`},
		"the same in JSON":                 {`"literals": ["11"], "border": "digit"`, `[11,111,"11"]`, `[*,111,"*"]`},
		"a longer one, then one to bounds": {`"patterns": ["[0-9]{2,4}"], "border": "digit"`, `12 12345 1234`, `* 12345 *`},
	} {
		p := policytest.Build(t, Definition(), policytest.NewEnv(t), "{"+c.params+`, "replacement": "*"}`)
		if got := pass(t, p, c.body); got.Body != c.want {
			t.Errorf("%s: %q, want %q", name, got.Body, c.want)
		}
		if got := pass(t, p, append(strings.Split(c.body, ""), "")...); got.Body != c.want {
			t.Errorf("%s, in characters: %q, want %q", name, got.Body, c.want)
		}
		for i := range len(c.body) {
			if got := pass(t, p, c.body[:i], c.body[i:]); got.Body != c.want {
				t.Errorf("%s, cut at %d: %q, want %q", name, i, got.Body, c.want)
			}
		}
	}
}

// A match with a border waits for the next character, and no longer.
func TestBordersHoldBackTheLeast(t *testing.T) {
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"literals": ["secret"], "border": "word", "replacement": "*"}`)
	e := policytest.NewExchange(policytest.Request{Body: true})
	for _, c := range []struct{ chunk, passed string }{
		{"a secret", "a "}, {" b", "* b"}, {"c secret", "c "}, {"s", "secrets"}, {" xsecret", " xsecret"}, {" secret.", "  *."[1:]}, {"secret", ""}, {"", ""},
	} {
		if got := e.OnRequestChunk(t, p, c.chunk, false); got.Body != c.passed {
			t.Errorf("after %q, %q is passed on, want %q", c.chunk, got.Body, c.passed)
		}
	}
	if got := e.OnRequestChunk(t, p, "", true); got.Body != "*" {
		t.Errorf("at the end: %q", got.Body)
	}
}

// For every way to cut the body, what comes out is what package regexp says of each place of the whole.
func TestCutsDoNotMatterToBorders(t *testing.T) {
	rules := []string{`ab`, `\bab|b\b`, `\Bb{1,2}`, `a\b.{0,2}\Bb`, `[0-9]{1,3}`, `(?:a\b|1){1,2}.?`, `.\b.`, `a\b\B|ab|1`, `é?\b1{1,2}`}
	compiled := map[string]*regexp.Regexp{}
	at := func(rule string, before, after int) *regexp.Regexp {
		text := fmt.Sprintf(`(?s)\A.{%d}(?-s:%s).{%d}\z`, before, rule, after)
		if compiled[text] == nil {
			compiled[text] = regexp.MustCompile(text)
		}
		return compiled[text]
	}
	next := map[string]string{"none": ``, "digit": `0123456789`, "word": `0123456789abAB_`}
	rapid.Check(t, func(r *rapid.T) {
		rule := rapid.SampledFrom(rules).Draw(r, "pattern")
		around := rapid.SampledFrom([]string{"none", "digit", "word"}).Draw(r, "border")
		runes := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "1", "2", "_", " ", "é", "."}), 0, 12).Draw(r, "body")
		body := strings.Join(runes, "")
		params := fmt.Sprintf(`{"patterns": [%s], "border": %q, "replacement": "*"}`, quoted(rule), around)
		p := policytest.Build(t, Definition(), policytest.NewEnv(t), params)
		matched := make([]int, len(runes)+1) // for each place, to where a match goes on that covers it
		for from := range runes {
			for to := from + 1; to <= len(runes); to++ {
				bordered := from > 0 && strings.Contains(next[around], runes[from-1]) || to < len(runes) && strings.Contains(next[around], runes[to])
				if !bordered && at(rule, from, len(runes)-to).MatchString(body) {
					matched[from] = to
				}
			}
		}
		var want strings.Builder
		for i := 0; i < len(runes); i++ {
			if matched[i] == 0 {
				want.WriteString(runes[i])
				continue
			}
			end := matched[i]
			for i++; i < end; i++ {
				end = max(end, matched[i])
			}
			i--
			want.WriteString("*")
		}
		for i := range len(body) + 1 {
			if got := pass(t, p, body[:i], body[i:]); got.Body != want.String() {
				r.Fatalf("%s: %q cut at %d: %q, want %q", params, body, i, got.Body, want.String())
			}
		}
		chunks := cut(body, rapid.SliceOfN(rapid.IntRange(0, len(body)), 0, 8).Draw(r, "cuts"))
		if got := pass(t, p, chunks...); got.Body != want.String() {
			r.Fatalf("%s: %q: %q, want %q", params, chunks, got.Body, want.String())
		}
	})
}

func TestJSONStrings(t *testing.T) {
	for _, c := range []struct{ params, contentType, body, want string }{
		{`"patterns": [` + quoted(card) + `]`, "application/json", `{"ts":1757347200123456789,"card":"4111111111111111"}`, `{"ts":1757347200123456789,"card":"*"}`},
		{`"patterns": [` + quoted(card) + `]`, "application/problem+json; charset=utf-8", `{"a":4111111111111111}`, `{"a":4111111111111111}`},
		{`"patterns": [` + quoted(card) + `]`, "text/plain", `{"ts":1757347200123456}`, `{"ts":*}`},
		{`"patterns": [` + quoted(card) + `]`, "", `{"ts":1757347200123456}`, `{"ts":*}`},
		{`"literals": ["a"]`, "application/json", `{"a":"\"a\\","b\\\"a":a,"\\":"\\\\a"} a "a`, `{"*":"\"*\\","b\\\"*":a,"\\":"\\\\*"} a "*`},
		{`"literals": ["a\",\"b"]`, "application/json", `["a","b"]`, `["a","b"]`},
		{`"literals": ["ab"], "border": "word"`, "application/json", `["ab","abc","x ab"]`, `["*","abc","x *"]`},
		{`"patterns": ["\\bab\\b|é"]`, "application/x-ndjson", `{"k":"ab"}` + "\n" + `{"k":"éab"}` + "\n" + `1`, `{"k":"*"}` + "\n" + `{"k":"**"}` + "\n" + `1`},
		{`"literals": ["true"]`, "application/json", `[true,"true"]`, `[true,"*"]`},
		{`"patterns": ["[^x]{2}"]`, "application/json", `["ab",1,"c"]`, `["*",1,"c"]`},
	} {
		p := policytest.Build(t, Definition(), policytest.NewEnv(t), "{"+c.params+`, "json_strings": true, "replacement": "*"}`)
		var lines []string
		if c.contentType != "" {
			lines = []string{"content-type: " + c.contentType}
		}
		stream := func(chunks ...string) string {
			return policytest.NewExchange(policytest.Request{Method: "POST", Headers: lines, Body: true}).Stream(t, p, chunks...).Body
		}
		if got := stream(c.body); got != c.want {
			t.Errorf("%s, %s: %s, want %s", c.params, c.body, got, c.want)
		}
		for i := range len(c.body) {
			if got := stream(c.body[:i], c.body[i:]); got != c.want {
				t.Errorf("%s, %s, cut at %d: %s, want %s", c.params, c.body, i, got, c.want)
			}
		}
		if got := stream(append(strings.Split(c.body, ""), "")...); got != c.want {
			t.Errorf("%s, %s, in characters: %s, want %s", c.params, c.body, got, c.want)
		}
	}
}
