package requestsizelimit

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

func TestExamples(t *testing.T) {
	policytest.RunExamples(t, "README.md", Definition(), policytest.NewEnv(t), StreamedDefinition())
}

func TestNeeds(t *testing.T) {
	if b := Definition().Bodies(); b != (policies.Bodies{}) {
		t.Errorf("requestSizeLimit needs %+v of bodies", b)
	}
	if b := StreamedDefinition().Bodies(); b != (policies.Bodies{RequestChunks: true, ReadOnly: true}) {
		t.Errorf("requestSizeLimitStreamed needs %+v of bodies", b)
	}
}

func TestParameters(t *testing.T) {
	both := []policies.Definition{Definition(), StreamedDefinition()}
	for _, d := range both {
		for params, want := range map[string]string{
			`{"max_body_bytes": -1}`:                              "max_body_bytes: -1 is not legal; legal are 0 to 1099511627776",
			`{"max_body_bytes": 1099511627777}`:                   "max_body_bytes: 1099511627777 is not legal",
			`{"max_body_bytes": "1MiB"}`:                          "max_body_bytes: string is not legal here",
			`{"max_body_bytes": null}`:                            "max_body_bytes",
			`{"max_body_bytes": 1, "max_header_count": 0}`:        "max_header_count: 0 is not legal; legal are 1 to 10000",
			`{"max_body_bytes": 1, "max_header_bytes": 1048577}`:  "max_header_bytes: 1048577 is not legal; legal are 1 to 1048576",
			`{"max_body_bytes": 1, "max_body_size": 1}`:           "max_body_size: unknown parameter",
			`{"max_body_bytes": -1, "max_header_bytes": 1048577}`: "max_header_bytes: 1048577 is not legal",
			`{}`: "max_body_bytes: ",
		} {
			if _, err := d.Build(policytest.NewEnv(t), json.RawMessage(params)); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %s: %v, want %s", d.Name(), params, err, want)
			}
		}
	}
	if _, err := StreamedDefinition().Build(policytest.NewEnv(t), json.RawMessage(`{"max_body_bytes": 1, "unannounced": "pass"}`)); err == nil {
		t.Error("requestSizeLimitStreamed takes unannounced, which it has no use for")
	}
	policytest.Build(t, Definition(), policytest.NewEnv(t), `{"max_header_count": 1}`)
	policytest.Build(t, StreamedDefinition(), policytest.NewEnv(t), `{"max_body_bytes": 0}`)
}

// What a request announces decides, in both policies, before anything is read.
func TestAnnounced(t *testing.T) {
	const tooLarge, malformed = "413 body_too_large", "400 content_length_malformed"
	for name, c := range map[string]struct {
		lines []string
		want  string
	}{
		"less":            {[]string{"content-length: 9"}, ""},
		"exactly":         {[]string{"content-length: 10"}, ""},
		"with zeros":      {[]string{"content-length: 00010"}, ""},
		"more":            {[]string{"content-length: 11"}, tooLarge},
		"2^63":            {[]string{"content-length: 9223372036854775808"}, tooLarge},
		"2^64 and 5":      {[]string{"content-length: 18446744073709551621"}, tooLarge},
		"endless":         {[]string{"content-length: 1" + strings.Repeat("0", 500)}, tooLarge},
		"more, with zero": {[]string{"Content-Length: 011"}, tooLarge},
		"twice":           {[]string{"content-length: 5", "content-length: 5"}, malformed},
		"two":             {[]string{"content-length: 5", "Content-Length: 500"}, malformed},
		"list":            {[]string{"content-length: 5, 5"}, malformed},
		"empty":           {[]string{"content-length: "}, malformed},
		"negative":        {[]string{"content-length: -1"}, malformed},
		"sign":            {[]string{"content-length: +5"}, malformed},
		"hexadecimal":     {[]string{"content-length: 0x5"}, malformed},
		"fraction":        {[]string{"content-length: 5.0"}, malformed},
	} {
		t.Run(name, func(t *testing.T) {
			for _, d := range []policies.Definition{Definition(), StreamedDefinition()} {
				env := policytest.NewEnv(t)
				got := policytest.Run(t, policytest.Build(t, d, env, `{"max_body_bytes": 10}`), policytest.Request{Method: "POST", Headers: c.lines, Body: true})
				want, refused := "continue unchanged", 0
				if c.want != "" {
					want, refused = c.want, 1
				}
				if got.String() != want || env.Count("body") != refused {
					t.Errorf("%s: %v, %d counted; want %s", d.Name(), got, env.Count("body"), want)
				}
			}
		})
	}
}

func TestUnannounced(t *testing.T) {
	body, none := policytest.Request{Method: "POST", Body: true}, policytest.Request{}
	refuse := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"max_body_bytes": 10}`)
	pass := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"max_body_bytes": 10, "unannounced": "pass"}`)
	headersOnly := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"max_header_count": 10}`)
	for _, c := range []struct {
		policy any
		r      policytest.Request
		want   string
	}{
		{refuse, body, "411 length_required"},
		{refuse, none, "continue unchanged"},
		{pass, body, "continue unchanged"},
		{pass, policytest.Request{Body: true, Headers: []string{"content-length: 11"}}, "413 body_too_large"},
		{headersOnly, body, "continue unchanged"},
	} {
		if got := policytest.Run(t, c.policy, c.r); got.String() != c.want {
			t.Errorf("%+v: %v, want %s", c.r, got, c.want)
		}
	}
}

func TestHeaderLimits(t *testing.T) {
	// Four pseudo-headers are always there: ":methodGET:path/:authorityexample.com:schemehttps" has 49 bytes.
	for name, c := range map[string]struct {
		params string
		lines  []string
		path   string
		want   string
	}{
		"count reached":    {`"max_header_count": 5`, []string{"a: 1"}, "/", "continue unchanged"},
		"count passed":     {`"max_header_count": 5`, []string{"a: 1", "a: 1"}, "/", "431 headers_too_large"},
		"bytes reached":    {`"max_header_bytes": 52`, []string{"a: 12"}, "/", "continue unchanged"},
		"bytes passed":     {`"max_header_bytes": 52`, []string{"a: 123"}, "/", "431 headers_too_large"},
		"name counts":      {`"max_header_bytes": 52`, []string{"aaa: 1"}, "/", "431 headers_too_large"},
		"the path counts":  {`"max_header_bytes": 52`, nil, "/1234", "431 headers_too_large"},
		"before the body":  {`"max_header_count": 4, "max_body_bytes": 1`, []string{"content-length: 5"}, "/", "431 headers_too_large"},
		"many empty lines": {`"max_header_count": 100`, make([]string, 97), "/", "431 headers_too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			params := "{" + c.params + "}"
			for _, d := range []policies.Definition{Definition(), StreamedDefinition()} {
				if d.Name() == streamedName && !strings.Contains(params, "body") {
					params = "{" + c.params + `, "max_body_bytes": 1}`
				}
				env := policytest.NewEnv(t)
				lines := c.lines
				for i, line := range lines {
					if line == "" {
						lines[i] = fmt.Sprintf("x%d:", i)
					}
				}
				got := policytest.Run(t, policytest.Build(t, d, env, params), policytest.Request{Path: c.path, Headers: lines})
				if got.String() != c.want || (env.Count("headers") > 0) == got.Continued() {
					t.Errorf("%s: %v, %d counted; want %s", d.Name(), got, env.Count("headers"), c.want)
				}
			}
		})
	}
}

func TestCounted(t *testing.T) {
	for name, c := range map[string]struct {
		lines  []string
		chunks []string
		passed string
		want   string
	}{
		"nothing":                 {nil, []string{""}, "", "continue unchanged"},
		"in one":                  {nil, []string{"0123456789"}, "0123456789", "continue unchanged"},
		"exactly":                 {nil, []string{"01234", "56789", ""}, "0123456789", "continue unchanged"},
		"one more":                {nil, []string{"01234", "56789", "x", "never seen"}, "0123456789", "413 body_too_large"},
		"one more at the end":     {nil, []string{"0123456789", "x"}, "0123456789", "413 body_too_large"},
		"at once":                 {nil, []string{"0123456789x"}, "", "413 body_too_large"},
		"length too small":        {[]string{"content-length: 5"}, []string{"01234", "56789x"}, "01234", "413 body_too_large"},
		"length zero":             {[]string{"content-length: 0"}, []string{"0123456789x"}, "", "413 body_too_large"},
		"empty chunks in between": {nil, []string{"0123", "", "", "4567", "", "89", "", "x"}, "0123456789", "413 body_too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			env := policytest.NewEnv(t)
			p := policytest.Build(t, StreamedDefinition(), env, `{"max_body_bytes": 10}`)
			e := policytest.NewExchange(policytest.Request{Method: "POST", Body: true, Headers: c.lines})
			if got := e.OnRequestHeaders(t, p); !got.Continued() {
				t.Fatal(got)
			}
			got := e.Stream(t, p, c.chunks...)
			passed := got.Body
			if got.Verdict.IsDeny() { // What was refused is not sent, though policytest shows it.
				passed = passed[:len(c.passed)]
			}
			if got.String() != c.want || passed != c.passed || got.Replaced {
				t.Errorf("%v, passed %q; want %s, %q", got, got.Body, c.want, c.passed)
			}
			if (env.Count("body") == 1) != got.Verdict.IsDeny() {
				t.Errorf("%d counted", env.Count("body"))
			}
		})
	}
}

// However the body is cut, what passes is at most the limit, and what is refused is more.
func TestCutsDoNotMatter(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		limit := rapid.IntRange(0, 300).Draw(r, "limit")
		sizes := rapid.SliceOfN(rapid.IntRange(0, 200), 1, 8).Draw(r, "chunks")
		p := policytest.Build(t, StreamedDefinition(), policytest.NewEnv(t), fmt.Sprintf(`{"max_body_bytes": %d}`, limit))
		e := policytest.NewExchange(policytest.Request{Method: "POST", Body: true})
		seen := 0
		for i, size := range sizes {
			seen += size
			got := e.OnRequestChunk(t, p, strings.Repeat("x", size), i+1 == len(sizes))
			if got.Continued() != (seen <= limit) || got.Err != nil {
				r.Fatalf("%v after %d bytes, the limit is %d", got, seen, limit)
			}
			if !got.Continued() {
				return
			}
		}
	})
}

// A count that can't be read is not a count of zero.
func FuzzState(f *testing.F) {
	f.Add([]byte{5})
	f.Add([]byte{0x80})
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, state []byte) {
		n, err := decodeCount(state)
		if err == nil && (n < 0 || n > maxLength) || n == 0 && err == nil && len(state) > 0 && state[0] != 0 && state[0] != 0x80 {
			t.Errorf("%x: %d, %v", state, n, err)
		}
	})
}

func FuzzContentLength(f *testing.F) {
	f.Add("10")
	f.Add("18446744073709551621")
	f.Add("1,1")
	p := policytest.Build(f, Definition(), policytest.NewEnv(f), `{"max_body_bytes": 10}`)
	f.Fuzz(func(t *testing.T, value string) {
		if strings.ContainsAny(value, "\r\n\x00") || strings.TrimSpace(value) != value {
			return
		}
		got := policytest.Run(t, p, policytest.Request{Headers: []string{"content-length: " + value}, Body: true})
		digits := value != "" && strings.Trim(value, "0123456789") == ""
		small := digits && (len(strings.TrimLeft(value, "0")) < 2 || strings.TrimLeft(value, "0") == "10")
		if got.Continued() != small || got.Err != nil {
			t.Errorf("%q: %v", value, got)
		}
	})
}

func chunks(t testing.TB, last bool) func() {
	t.Helper()
	p := policytest.Build(t, StreamedDefinition(), policytest.NewEnv(t), `{"max_body_bytes": 1099511627776}`).(*Streamed)
	x, headers, chunk := new(policies.Exchange), policytest.Request{Body: true}.HeaderMap(), make([]byte, 64<<10)
	state := encodeCount(1 << 30)
	ctx := t.Context()
	return func() {
		x.Reset()
		if err := x.BeginRequest("upload", headers, false); err != nil {
			t.Fatal(err)
		}
		x.BeginBody(false)
		x.Offer(chunk, true, last, true)
		x.GiveState(state)
		if v, err := p.OnRequestChunk(ctx, x.Request(), x.Chunk()); err != nil || !v.IsContinue() {
			t.Fatal(v, err)
		}
	}
}

func TestCountingAllocatesItsStateOnly(t *testing.T) {
	if n := testing.AllocsPerRun(1000, chunks(t, true)); n != 0 {
		t.Errorf("%v allocations for the last chunk", n)
	}
	if n := testing.AllocsPerRun(1000, chunks(t, false)); n > 1 {
		t.Errorf("%v allocations for a chunk", n)
	}
}

func BenchmarkChunk(b *testing.B) {
	run := chunks(b, false)
	b.ReportAllocs()
	b.SetBytes(64 << 10)
	for b.Loop() {
		run()
	}
}
