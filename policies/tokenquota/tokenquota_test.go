package tokenquota

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

func TestExamples(t *testing.T) {
	policytest.RunExamples(t, "README.md", Definition(), policytest.NewEnv(t), UsageDefinition())
}

func TestNeeds(t *testing.T) {
	if b := Definition().Bodies(); b != (policies.Bodies{}) {
		t.Errorf("tokenQuota needs %+v of bodies", b)
	}
	if b := UsageDefinition().Bodies(); b != (policies.Bodies{ResponseChunks: true, Decoded: true, ReadOnly: true}) {
		t.Errorf("tokenUsage needs %+v of bodies", b)
	}
	if UsageDefinition().Shares() != Definition().Shares() {
		t.Error("the two don't share their store")
	}
}

func TestParameters(t *testing.T) {
	for params, want := range map[string]string{
		`{}`: "tokens: 0 is not legal; legal are 1 to 1000000000\nestimate: 0 is not legal; legal are 1 to 1000000000\nper: 0s is not legal; legal are 1ms to 8784h",
		`{"tokens": 1000000001, "per": "1s", "estimate": 1}`:            "tokens: 1000000001 is not legal",
		`{"tokens": 10, "per": "1s", "estimate": 11}`:                   "estimate: 11 is more than burst, which is 10",
		`{"tokens": 10, "per": "1s", "estimate": 5, "burst": 4}`:        "estimate: 5 is more than burst, which is 4",
		`{"tokens": 10, "per": "1s", "estimate": 1, "burst": 0}`:        "burst: 0 is not legal",
		`{"tokens": 1, "per": "8784h", "estimate": 1, "burst": 10}`:     "burst: 10 takes longer than 9 years to fill up again",
		`{"tokens": 10, "per": "1s", "estimate": 1, "key": "header:"}`:  `key: unknown value "header:", expected identity`,
		`{"tokens": 10, "per": "1s", "estimate": 1, "store": "redis"}`:  "store: unknown parameter",
		`{"tokens": 10, "per": "1s", "estimate": 1, "paths": ["a.b"]}`:  "paths: unknown parameter",
		`{"tokens": 10, "per": 1, "estimate": 1}`:                       "per: number is not legal here",
		`{"tokens": 10, "per": "1s", "estimate": 1, "key": "identity"}`: "",
	} {
		_, err := Definition().Build(policytest.NewEnv(t), json.RawMessage(params))
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", params, err, want)
		}
	}
	for params, want := range map[string]string{
		`{"paths": []}`: "paths: must have 1 to 8 elements, got 0",
		`{"paths": ["a","b","c","d","e","f","g","h","i"]}`:                                  "paths: must have 1 to 8 elements, got 9",
		`{"provider": "openia"}`:                                                            `provider: unknown value "openia", expected anthropic, bedrock, gemini, ollama, openai, openai_responses`,
		`{"provider": "openai", "paths": ["a"]}`:                                            "provider: stands beside others, expected one of provider, paths and terms",
		`{"provider": "openai", "weights": {"cache_read": 0.1}}`:                            "weights.cache_read: openai does not tell these tokens apart",
		`{"provider": "openai", "weights": {"input": -1}}`:                                  "weights.input: must be from 0 to 1000, got -1",
		`{"weights": {"input": 1}}`:                                                         "weights: stands without provider",
		`{"terms": []}`:                                                                     "terms: must have 1 to 8 elements, got 0",
		`{"terms": [{"first_of": []}]}`:                                                     "terms[0].first_of: has no path",
		`{"terms": [{"first_of": ["a", "a..b"]}]}`:                                          `terms[0].first_of[1]: "a..b" is not legal`,
		`{"terms": [{"first_of": ["a"], "weight": 1001}]}`:                                  "terms[0].weight: must be from 0 to 1000, got 1001",
		`{"terms": [{"first_of": ["a","b","c","d","e"]}, {"first_of": ["f","g","h","i"]}]}`: "terms: have 9 paths together, expected at most 8",
		`{"provider": "anthropic", "weights": {"input": 1, "output": 5, "cache_creation": 1.25, "cache_read": 0.1}}`: "",
		`{"terms": [{"first_of": ["a","b","c","d"]}, {"first_of": ["e","f","g","h"], "weight": 0}]}`:                 "",
		`{"paths": ["a", ""]}`:                        `paths[1]: "" is not legal`,
		`{"paths": ["a.b.c.d.e.f.g.h.i"]}`:            `paths[0]: "a.b.c.d.e.f.g.h.i" is not legal`,
		`{"paths": ["größe"]}`:                        `paths[0]: "größe" is not legal`,
		`{"paths": ["a", "a"]}`:                       `paths[1]: "a" is not legal`,
		`{"tokens": 1}`:                               "tokens: unknown parameter",
		`{"paths": ["a.b.c.d.e.f.g.h", "x-y_z$[0]"]}`: "",
		``: "",
	} {
		_, err := UsageDefinition().Build(policytest.NewEnv(t), json.RawMessage(params))
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", params, err, want)
		}
	}
}

// world is a route with quotas, and the usage of the answers.
type world struct {
	*policytest.Env
	quotas []any
	usage  any
}

func newWorld(t testing.TB, usage string, quotas ...string) *world {
	t.Helper()
	w := &world{Env: policytest.NewEnv(t)}
	for i, params := range quotas {
		w.quotas = append(w.quotas, policytest.Build(t, Definition(), w.At(fmt.Sprint(i)), params))
	}
	w.usage = policytest.Build(t, UsageDefinition(), w.At("response"), usage)
	return w
}

// request begins an exchange of the client, and returns it with the outcome.
func (w *world) request(t testing.TB, client string) (*policytest.Exchange, *policytest.Result) {
	t.Helper()
	e := policytest.NewExchange(policytest.Request{Identity: &policies.Identity{Subject: client, Method: "apiKeyAuth"}})
	var r *policytest.Result
	for _, p := range w.quotas {
		if r = e.OnRequestHeaders(t, p); !r.Continued() {
			break
		}
	}
	return e, r
}

// answer lets a request of alice be answered in the chunks given; the last one does not end the body if it is "…".
func (w *world) answer(t testing.TB, r policytest.Response, chunks ...string) {
	t.Helper()
	e, got := w.request(t, "alice")
	if !got.Continued() {
		t.Fatalf("the request is decided as %v", got)
	}
	r.Body = len(chunks) > 0
	e.Respond(r)
	if len(chunks) == 0 {
		chunks = []string{""}
	}
	for i, chunk := range chunks {
		if chunk == "…" {
			return
		}
		if got := e.OnResponseChunk(t, w.usage, chunk, i+1 == len(chunks)); got.String() != "continue unchanged" || got.Replaced || got.Body != chunk {
			t.Fatalf("chunk %q: %v, %q", chunk, got, got.Body)
		}
	}
}

// left is what a client has: the clock stands still, so it is the r of a refusal after all that can be taken in steps of the estimate.
func (w *world) left(t testing.TB, step int) (left int) {
	t.Helper()
	for {
		_, got := w.request(t, "alice")
		if got.Verdict.IsDeny() {
			value, _ := got.Answer("ratelimit")
			var rest int
			if _, err := fmt.Sscanf(value[strings.Index(value, ";r="):], ";r=%d;", &rest); err != nil {
				t.Fatal(value, err)
			}
			return left + rest
		}
		left += step
	}
}

func TestCharges(t *testing.T) {
	stream := policytest.Response{Headers: []string{"content-type: Text/Event-Stream; charset=utf-8"}}
	plain := policytest.Response{Headers: []string{"content-type: application/json"}}
	for name, c := range map[string]struct {
		usage  string
		r      policytest.Response
		chunks []string
		used   int
	}{
		"less than the estimate":     {`{}`, plain, []string{`{"usage":{"total_tokens":30}}`}, 30},
		"more":                       {`{}`, plain, []string{`{"usage":{"total_tokens":345}}`}, 345},
		"nothing":                    {`{}`, plain, []string{`{"usage":{"total_tokens":0}}`}, 0},
		"no type":                    {`{}`, policytest.Response{}, []string{`{"usage":{"total_tokens":30}}`}, 30},
		"in pieces":                  {`{}`, plain, strings.Split(`{"us\u0061ge": {"total_tokens": 345, "x": [{}]}, "y": "\""}`, ""), 345},
		"no usage":                   {`{}`, plain, []string{`{"choices":[]}`}, 100},
		"null":                       {`{}`, plain, []string{`{"usage":null}`}, 100},
		"no body":                    {`{}`, plain, nil, 100},
		"no JSON":                    {`{}`, plain, []string{`<html>`}, 100},
		"a negative one":             {`{}`, plain, []string{`{"usage":{"total_tokens":-500}}`}, 100},
		"a fraction":                 {`{}`, plain, []string{`{"usage":{"total_tokens":0.5}}`}, 100},
		"a string":                   {`{}`, plain, []string{`{"usage":{"total_tokens":"0"}}`}, 100},
		"in a string":                {`{}`, plain, []string{`{"text":"{\"usage\":{\"total_tokens\":0}}"}`}, 100},
		"deeper":                     {`{}`, plain, []string{`{"text":{"usage":{"total_tokens":0}}}`}, 100},
		"in a list":                  {`{}`, plain, []string{`[{"usage":{"total_tok`, `ens":345}} , {}, {"usage":{"total_tokens":45}}]`}, 45},
		"in a list that is cut off":  {`{}`, plain, []string{`[{"usage":{"total_tokens":345}},`, "…"}, 345},
		"in a list of lists":         {`{}`, plain, []string{`[[{"usage":{"total_tokens":0}}]]`}, 100},
		"after a list":               {`{}`, plain, []string{`[] {"usage":{"total_tokens":0}}`}, 100},
		"cut off after it":           {`{}`, plain, []string{`{"usage":{"total_tokens":345},"x"`}, 345},
		"cut off in it":              {`{}`, plain, []string{`{"usage":{"total_tokens":3`}, 100},
		"hung up after more":         {`{}`, plain, []string{`{"usage":{"total_tokens":345}`, "…"}, 345},
		"hung up after less":         {`{}`, plain, []string{`{"usage":{"total_tokens":3}`, "…"}, 100},
		"hung up at once":            {`{}`, plain, []string{"…"}, 100},
		"the last event":             {`{}`, stream, []string{"data: {\"usage\":null}\n\n", "data: {\"usage\":{\"total_tok", "ens\":150}}\n", "\ndata: {\"usage\":{\"total_tokens\":345}}\n\ndata: [DONE]\n\n"}, 345},
		"the last event tells less":  {`{}`, stream, []string{"data:{\"usage\":{\"total_tokens\":500}}\n\n", "data: {\"usage\":{\"total_tokens\":45}}\n\n"}, 45},
		"stream, hung up":            {`{}`, stream, []string{"data: {\"usage\":{\"total_tokens\":345}}\n\n", "data: {}\n\n", "…"}, 345},
		"stream without usage":       {`{}`, stream, []string{"data: [DONE]\n\n"}, 100},
		"stream that says it's JSON": {`{}`, plain, []string{"data: {\"usage\":{\"total_tokens\":0}}\n\n"}, 100},
		"not data":                   {`{}`, stream, []string{": {\"usage\":{\"total_tokens\":0}}\n\nevent: {\"usage\":{\"total_tokens\":0}}\n\n"}, 100},
		"two paths": {
			`{"paths": ["message.usage.input_tokens", "usage.output_tokens"]}`, stream,
			[]string{"event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n", "data: {\"usage\":{\"output_tokens\":5}}\n\n", "data: {\"usage\":{\"output_tokens\":150}}\n\n"},
			175,
		},
		"error":                   {`{}`, policytest.Response{Status: 500}, []string{`{"error":"x"}`}, 100},
		"free error":              {`{"free_errors": true}`, policytest.Response{Status: 500}, []string{`{"error":"x"}`}, 0},
		"free error without body": {`{"free_errors": true}`, policytest.Response{Status: 429}, nil, 0},
		"error that costs":        {`{"free_errors": true}`, policytest.Response{Status: 500}, []string{`{"usage":{"total_tokens":345}}`}, 345},
		"no error":                {`{"free_errors": true}`, policytest.Response{Status: 302}, nil, 100},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.usage, `{"tokens": 1000, "per": "1h", "estimate": 100}`)
			w.answer(t, c.r, c.chunks...)
			if left := w.left(t, 100); left != 1000-c.used {
				t.Errorf("%d were charged, want %d", 1000-left, c.used)
			}
		})
	}
}

// What is used beyond the quota is owed; other clients notice nothing.
func TestOwed(t *testing.T) {
	w := newWorld(t, `{}`, `{"tokens": 1000, "per": "1000s", "estimate": 10}`)
	w.answer(t, policytest.Response{}, `{"usage":{"total_tokens":2500}}`)
	if _, got := w.request(t, "bob"); !got.Continued() {
		t.Errorf("another client: %v", got)
	}
	w.Advance(1509 * time.Second)
	_, got := w.request(t, "alice")
	if retry, _ := got.Answer("retry-after"); got.String() != "429 quota_exhausted" || retry != "1" {
		t.Errorf("%v, retry after %s", got, retry)
	}
	w.Advance(time.Second)
	if _, got := w.request(t, "alice"); !got.Continued() {
		t.Errorf("after the time: %v", got)
	}
	// A number beyond all bounds is no way to begin anew.
	w.Advance(time.Hour)
	w.answer(t, policytest.Response{}, `{"usage":{"total_tokens":99999999999999999999999999999999999999}}`)
	w.Advance(24 * 365 * time.Hour)
	if _, got := w.request(t, "alice"); !got.Verdict.IsDeny() {
		t.Errorf("after an endless number: %v", got)
	}
}

func TestSeveralQuotas(t *testing.T) {
	w := newWorld(t, `{}`, `{"tokens": 1000, "per": "1h", "estimate": 100}`, `{"tokens": 5000, "per": "24h", "estimate": 500, "key": "route"}`)
	w.answer(t, policytest.Response{}, `{"usage":{"total_tokens":300}}`)
	w.quotas = w.quotas[1:]
	if left := w.left(t, 500); left != 4700 {
		t.Errorf("the second has %d left", left)
	}
	const one = `{"tokens": 1000, "per": "1h", "estimate": 1}`
	if _, got := newWorld(t, `{}`, one, one, one, one, one).request(t, "alice"); got.Err == nil {
		t.Errorf("five quotas: %v", got)
	}
}

// An answer to a request that was not charged is a failure, not free.
func TestNotCharged(t *testing.T) {
	w := newWorld(t, `{}`)
	for _, receipt := range []string{"", "x", "00 00 1 1 1 1", strings.Repeat("0", 32) + " " + strings.Repeat("0", 32) + " 10 1000 10 11"} {
		e := policytest.NewExchange(policytest.Request{})
		if receipt != "" {
			e = policytest.NewExchange(policytest.Request{Metadata: []policies.Entry{{Key: receipts[0], Value: receipt}}})
		}
		e.Respond(policytest.Response{Body: true})
		if got := e.OnResponseChunk(t, w.usage, `{"usage":{"total_tokens":3}}`, true); got.Err == nil {
			t.Errorf("receipt %q: %v", receipt, got)
		}
	}
	if _, got := newWorld(t, `{}`, `{"tokens": 10, "per": "1h", "estimate": 1, "key": "client_ip"}`).request(t, "alice"); got.Err == nil {
		t.Errorf("a request without address: %v", got)
	}
}

// A reload keeps what was used; a new quota begins anew.
func TestReload(t *testing.T) {
	const quota = `{"tokens": 1000, "per": "1h", "estimate": 100}`
	w := newWorld(t, `{}`, quota)
	w.answer(t, policytest.Response{}, `{"usage":{"total_tokens":950}}`)
	w.quotas = []any{policytest.Build(t, Definition(), w.At("0"), quota)}
	if _, got := w.request(t, "alice"); !got.Verdict.IsDeny() {
		t.Errorf("a reload forgets what was used: %v", got)
	}
	w.quotas = []any{policytest.Build(t, Definition(), w.At("0"), `{"tokens": 1001, "per": "1h", "estimate": 100}`)}
	if _, got := w.request(t, "alice"); !got.Continued() {
		t.Errorf("another quota: %v", got)
	}
}
