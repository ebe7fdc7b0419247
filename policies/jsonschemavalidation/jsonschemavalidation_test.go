package jsonschemavalidation

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

func TestExamples(t *testing.T) {
	policytest.RunExamples(t, "README.md", Definition(), policytest.NewEnv(t))
}

func TestParameters(t *testing.T) {
	for params, want := range map[string]string{
		``:                                 "schema: it is missing",
		`{"schema": null}`:                 "schema: null is not legal here",
		`{"schema": 1}`:                    "schema: it is no JSON Schema: at \"\": got number, want",
		`{"schema": "a"}`:                  "schema: it is no JSON Schema",
		`{"schema": []}`:                   "schema: it is no JSON Schema",
		`{"schema": {"type": "int"}}`:      `at "/type": value must be one of`,
		`{"schema": {"required": "a"}}`:    `at "/required": got string, want array`,
		`{"schema": {"multipleOf": 0}}`:    `at "/multipleOf": exclusiveMinimum`,
		`{"schema": {"pattern": "("}}`:     `at "/pattern": `,
		`{"schema": {"pattern": "(?!a)"}}`: `at "/pattern": `,
		`{"schema": {"patternProperties": {"(a": {}}}}`:                                         "(a",
		`{"schema": {"a": 1, "a": 2}}`:                                                          "schema.a: it is there more than once",
		`{"schema": {"$ref": "#/$defs/a"}}`:                                                     "schema: json-pointer in",
		`{"schema": {"$ref": "#a"}}`:                                                            "anchor",
		`{"schema": {"$ref": "http://a.example/b"}}`:                                            `"http://a.example/b" is another document`,
		`{"schema": {"$ref": "file:///etc/passwd"}}`:                                            `"file:///etc/passwd" is another document`,
		`{"schema": {"$ref": "other.json#/a"}}`:                                                 `"other.json" is another document`,
		`{"schema": {"$ref": "/etc/passwd"}}`:                                                   "is another document",
		`{"schema": {"$id": "http://a.example/x", "properties": {"a": {"$ref": "y"}}}}`:         `"http://a.example/y" is another document`,
		`{"schema": {"$dynamicRef": "http://a.example/b#c"}}`:                                   "is another document",
		`{"schema": {"$schema": "http://a.example/meta"}}`:                                      `"http://a.example/meta" is another document`,
		`{"schema": {"$ref": "#"}}`:                                                             "schema: its references go round in a circle",
		`{"schema": {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}}`: "round in a circle",
		`{"schema": true, "status": 500}`:                                                       "status: 500 is not legal; legal are 400 and 422",
		`{"schema": true, "max_body_bytes": 0}`:                                                 "max_body_bytes: 0 is not legal; legal are 1 to 1073741824",
		`{"schema": true, "max_depth": 0}`:                                                      "max_depth: 0 is not legal; legal are 1 to 512",
		`{"schema": true, "max_depth": 513}`:                                                    "max_depth: 513",
		`{"schema": true, "max_values": 1000001}`:                                               "max_values: 1000001 is not legal",
		`{"schema": true, "max_steps": 0}`:                                                      "max_steps: 0 is not legal; legal are 1 to 100000000",
		`{"schema": true, "max_errors": -1}`:                                                    "max_errors: -1 is not legal; legal are 0 to 50",
		`{"schema": true, "max_errors": 51}`:                                                    "max_errors: 51",
		`{"schema": true, "content_types": []}`:                                                 "content_types: it is empty",
		`{"schema": true, "content_types": ["*/*"]}`:                                            `content_types: "*/*" is not legal`,
		`{"schema": true, "content_types": ["a/b;c=d"]}`:                                        "content_types: ",
		`{"schema": true, "content_types": [1]}`:                                                "content_types",
		`{"schema": true, "required": "yes"}`:                                                   "required: string is not legal here; want true or false",
		`{"shema": true}`:                                                                       "shema: unknown parameter; legal are schema, content_types, methods, required, status, assert_formats, max_body_bytes, max_depth, max_values, max_steps, max_pattern_steps, max_errors",
		`{"schema": true, "status": 1, "max_depth": -1}`:                                        "max_depth: -1",
	} {
		_, err := Definition().Build(policytest.NewEnv(t), json.RawMessage(params))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", params, err, want)
		} else if strings.Contains(err.Error(), base) {
			t.Errorf("%s: %v", params, err)
		}
	}
}

func TestSchemas(t *testing.T) {
	for _, c := range []struct{ schema, body, want string }{
		{`true`, `{"a": 1}`, ""},
		{`{}`, `null`, ""},
		{`false`, `{}`, `"" false schema`},
		{`{"const": 9007199254740993}`, `9007199254740993`, ""},
		{`{"const": 9007199254740993}`, `9007199254740992`, `"" value must be 9007199254740993`},
		{`{"type": "integer"}`, `1.0`, ""},
		{`{"type": "integer"}`, `1e2`, ""},
		{`{"type": "integer"}`, `1.5`, `"" got number, want integer`},
		{`{"maximum": 0.1}`, `0.1`, ""},
		{`{"maximum": 0.1}`, `0.10000000000000000000000000000001`, `"" maximum: `},
		{`{"multipleOf": 0.01}`, `19.99`, ""},
		{`{"maximum": 10}`, `1e400`, `"" maximum`},
		{`{"type": "string", "format": "email"}`, `"a"`, `"" 'a' is not valid email`},
		{`{"type": "string", "format": "no-such-format"}`, `"a"`, ""},
		{`{"maxLength": 2}`, `"😀😀"`, ""},
		{`{"maxLength": 2}`, `"abc"`, `"" maxLength: got 3, want 2`},
		{`{"pattern": "^a+$"}`, `"aab"`, `"" 'aab' does not match pattern '^a+$'`},
		{`{"items": {"type": "string"}, "uniqueItems": true}`, `["a", 1, "a"]`, `"" items at 0 and 2 are equal|"/1" got number, want string`},
		{`{"properties": {"a/b": {"properties": {"~": {"type": "null"}}}}}`, `{"a/b": {"~": 1}}`, `"/a~1b/~0" got number, want null`},
		{`{"propertyNames": {"maxLength": 1}}`, `{"aa": 1}`, `? invalid propertyName 'aa'`},
		{`{"additionalProperties": {"propertyNames": {"maxLength": 1}}}`, `{"a": {"yy": 1, "xx": 1}, "b": {}, "c": {}}`, `? invalid propertyName 'xx'|? invalid propertyName 'yy'`},
		{`{"unevaluatedProperties": false, "allOf": [{"properties": {"a": true}}]}`, `{"a": 1, "b": 2}`, `"/b" false schema`},
		{`{"anyOf": [{"type": "string"}, {"minimum": 5}]}`, `3`, `"" got number, want string|"" minimum: got 3, want 5`},
		{`{"oneOf": [{"minimum": 1}, {"minimum": 2}]}`, `3`, `"" 'oneOf' failed, subschemas 0, 1 matched`},
		{`{"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}`, `1`, `"" got number, want string`},
		{`{"$ref": "https://a.example/b", "$defs": {"x": {"$id": "https://a.example/b", "type": "string"}}}`, `1`, `"" got number, want string`},
		{`{"$ref": "https://json-schema.org/draft/2020-12/schema"}`, `{"type": 1}`, `"/type"`},
		{`{"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}`, `[1]`, `"/0" got number, want string`},
		{`{"properties": {"next": {"$ref": "#"}}, "required": ["v"]}`, `{"v": 1, "next": {"v": 2, "next": {}}}`, `"/next/next" missing property 'v'`},
		{`{"additionalProperties": false}`, `{"z": 1, "b": 1, "a": 1}`, `"" additional properties 'a', 'b', 'z' not allowed`},
	} {
		got := post(t, instance(t, `{"schema": `+c.schema+`}`), c.body)
		if c.want == "" {
			if !got.Continued() {
				t.Errorf("%s on %s: %v %s", c.body, c.schema, got, got.Verdict.Body())
			}
			continue
		}
		var answer struct {
			Error, Code string
			Errors      []problem
		}
		if err := json.Unmarshal(got.Verdict.Body(), &answer); err != nil || got.String() != "400 body_invalid" || answer.Code != "BODY_INVALID" {
			t.Errorf("%s on %s: %v %s", c.body, c.schema, got, got.Verdict.Body())
			continue
		}
		var told []string
		for _, e := range answer.Errors {
			at := "?"
			if e.Pointer != nil {
				at = fmt.Sprintf("%q", *e.Pointer)
			}
			told = append(told, at+" "+e.Detail)
		}
		if !strings.HasPrefix(strings.Join(told, "|"), c.want) {
			t.Errorf("%s on %s: %q, want %s", c.body, c.schema, told, c.want)
		}
	}
	if got := post(t, instance(t, `{"schema": {"format": "email"}, "assert_formats": false}`), `"a"`); !got.Continued() {
		t.Error(got)
	}
}

func TestMessages(t *testing.T) {
	optional := strings.Replace(order, `{"schema"`, `{"required": false, "schema"`, 1)
	small := strings.Replace(order, `{"schema"`, `{"max_body_bytes": 40, "max_depth": 2, "max_values": 5, "status": 422, "max_errors": 0, "schema"`, 1)
	const good, text = `{"item": "tea", "quantity": 2}`, "content-type: application/json"
	for _, c := range []struct {
		name, params, body string
		headers            []string
		want               string
	}{
		{"good", order, good, nil, "continue unchanged"},
		{"with parameters", order, good, []string{"content-type: application/json; charset=UTF-8; profile=x"}, "continue unchanged"},
		{"upper case", order, good, []string{"Content-Type: Application/JSON"}, "continue unchanged"},
		{"suffix", order, good, []string{"content-type: application/vnd.order.v1+json"}, "continue unchanged"},
		{"of several KiB", order, good + strings.Repeat(" ", maxInline), nil, "continue unchanged"},
		{"bad, of several KiB", order, strings.Repeat(" ", maxInline) + `{}`, nil, "400 body_invalid"},
		{"two values of several KiB", order, good + strings.Repeat(" ", maxInline) + good, nil, "400 body_malformed"},
		{"empty", order, "", nil, "400 body_missing"},
		{"white space", order, " \n", nil, "400 body_malformed"},
		{"empty, optional", optional, "", nil, "continue unchanged"},
		{"empty, optional, of another type", optional, "", []string{"content-type: text/plain"}, "continue unchanged"},
		{"white space, optional", optional, " ", nil, "400 body_malformed"},
		{"bad, optional", optional, `{}`, nil, "400 body_invalid"},
		{"no type", order, good, []string{"x-a: 1"}, "415 content_type_unsupported"},
		{"text", order, good, []string{"content-type: text/plain"}, "415 content_type_unsupported"},
		{"empty type", order, good, []string{"content-type: "}, "415 content_type_unsupported"},
		{"form", order, "item=tea", []string{"content-type: application/x-www-form-urlencoded"}, "415 content_type_unsupported"},
		{"type twice", order, good, []string{text, text}, "415 content_type_unsupported"},
		{"two types", order, good, []string{text, "content-type: text/plain"}, "415 content_type_unsupported"},
		{"two types in one line", order, good, []string{text + ", text/plain"}, "415 content_type_unsupported"},
		{"another spelling", order, good, []string{text, "content_type: text/xml"}, "415 content_type_unsupported"},
		{"another charset", order, good, []string{text + "; charset=utf-16"}, "415 content_type_unsupported"},
		{"two charsets", order, good, []string{text + "; charset=utf-8; charset=utf-16"}, "415 content_type_unsupported"},
		{"suffix alone", order, good, []string{"content-type: application/+json"}, "415 content_type_unsupported"},
		{"other suffix", order, good, []string{"content-type: application/x+jsonx"}, "415 content_type_unsupported"},
		{"json in a parameter", order, good, []string{"content-type: text/plain; a=application/json"}, "415 content_type_unsupported"},
		{"no JSON", order, "item=tea", nil, "400 body_malformed"},
		{"JSON lines", order, good + "\n" + good, nil, "400 body_malformed"},
		{"member twice", order, `{"item": "tea", "quantity": 2, "quantity": 1000}`, nil, "400 body_malformed"},
		{"member twice, escaped", order, `{"item": "tea", "quantity": 2, "quantit\u0079": 1000}`, nil, "400 body_malformed"},
		{"case of a member", order, `{"item": "tea", "quantity": 2, "Quantity": 1000}`, nil, "400 body_invalid"},
		{"byte order mark", order, "\ufeff" + good, nil, "400 body_malformed"},
		{"NUL behind", order, good + "\x00", nil, "400 body_malformed"},
		{"UTF-16", order, "\xff\xfe{\x00}\x00", nil, "400 body_malformed"},
		{"gzip", order, "\x1f\x8b\x08\x00", nil, "400 body_malformed"},
		{"huge number", order, `{"item": "tea", "quantity": 1e999999999}`, nil, "400 body_too_complex"},
		{"deep", order, strings.Repeat("[", 100_000), nil, "400 body_too_complex"},
		{"null", order, `null`, nil, "400 body_invalid"},
		{"array around it", order, "[" + good + "]", nil, "400 body_invalid"},
		{"line break behind the pattern", order, `{"item": "tea\n", "quantity": 2}`, nil, "400 body_invalid"},
		{"at the limit", small, good + strings.Repeat(" ", 40-len(good)), nil, "continue unchanged"},
		{"over the limit", small, good + strings.Repeat(" ", 41-len(good)), nil, "413 body_too_large"},
		{"deeper", small, `[[[]]]`, nil, "400 body_too_complex"},
		{"more values", small, `[0,0,0,0,0]`, nil, "400 body_too_complex"},
		{"another status", small, `{}`, nil, "422 body_invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := post(t, instance(t, c.params), c.body, c.headers...)
			if got.String() != c.want || got.Replaced {
				t.Errorf("%v, want %s", got, c.want)
			}
			if c.want == "422 body_invalid" && string(got.Verdict.Body()) != `{"error":"the body does not fit the schema","code":"BODY_INVALID"}` {
				t.Errorf("%s", got.Verdict.Body())
			}
			if !got.Continued() && !json.Valid(got.Verdict.Body()) {
				t.Errorf("%s", got.Verdict.Body())
			}
		})
	}
	if got := policytest.NewExchange(policytest.Request{}).OnRequestBody(t, instance(t, order), ""); got.String() != "400 body_missing" {
		t.Errorf("no body: %v", got)
	}
	if got := policytest.NewExchange(policytest.Request{}).OnRequestBody(t, instance(t, optional), ""); !got.Continued() {
		t.Errorf("no body, optional: %v", got)
	}
}

// What a client sends does not make its answer long.
func TestAnswersAreBounded(t *testing.T) {
	p := instance(t, `{"schema": {"additionalProperties": false, "patternProperties": {"^x": {"type": "null"}, "^s": {"pattern": "^$"}}}, "max_errors": 50, "max_depth": 512, "max_values": 100000, "max_pattern_steps": 10000000}`)
	members := []string{`"s": "` + strings.Repeat(`é\n<`, 50_000) + `"`}
	for i := range 30_000 {
		members = append(members, fmt.Sprintf(`"x%d%s": 1, "y%d": 1`, i, strings.Repeat("é", i%300), i))
	}
	body := "{" + strings.Join(members, ",") + "}"
	got := post(t, p, body)
	if got.String() != "400 body_invalid" || len(got.Verdict.Body()) > 50*4*maxText || !json.Valid(got.Verdict.Body()) {
		t.Errorf("%v: %d bytes", got, len(got.Verdict.Body()))
	}
	if again := post(t, p, body); string(again.Verdict.Body()) != string(got.Verdict.Body()) {
		t.Error("the same body has two answers")
	}
}

func TestResponses(t *testing.T) {
	const good, secret = `{"item": "tea", "quantity": 2}`, `{"item": "tea", "password": "hunter2"}`
	optional := strings.Replace(order, `{"schema"`, `{"required": false, "schema"`, 1)
	json := []string{"content-type: application/json"}
	for _, c := range []struct {
		name, params, method string
		response             policytest.Response
		body, want           string
	}{
		{"good", order, "GET", policytest.Response{Headers: json, Body: true}, good, "continue unchanged"},
		{"created", order, "POST", policytest.Response{Status: 201, Headers: json, Body: true}, secret, "502 response_invalid"},
		{"another one", order, "GET", policytest.Response{Headers: json, Body: true}, secret, "502 response_invalid"},
		{"another one, of several KiB", order, "GET", policytest.Response{Headers: json, Body: true}, secret + strings.Repeat(" ", maxInline), "502 response_invalid"},
		{"no JSON", order, "GET", policytest.Response{Headers: json, Body: true}, good + good, "502 response_invalid"},
		{"partial", order, "GET", policytest.Response{Status: 206, Headers: json, Body: true}, good[:10], "502 response_invalid"},
		{"another type", order, "GET", policytest.Response{Headers: []string{"content-type: text/html"}, Body: true}, good, "502 response_invalid"},
		{"no type", order, "GET", policytest.Response{Body: true}, good, "502 response_invalid"},
		{"no body", order, "GET", policytest.Response{}, "", "502 response_invalid"},
		{"no body, optional", optional, "GET", policytest.Response{}, "", "continue unchanged"},
		{"no content", order, "GET", policytest.Response{Status: 204}, "", "continue unchanged"},
		{"HEAD", order, "HEAD", policytest.Response{Headers: json}, "", "continue unchanged"},
		{"not modified", order, "GET", policytest.Response{Status: 304}, "", "continue unchanged"},
		{"error", order, "GET", policytest.Response{Status: 404, Headers: []string{"content-type: text/plain"}, Body: true}, "not here", "continue unchanged"},
		{"too large", strings.Replace(order, `{"schema"`, `{"max_body_bytes": 10, "schema"`, 1), "GET", policytest.Response{Headers: json, Body: true}, good, "502 response_invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := policytest.NewEnv(t)
			e := policytest.NewExchange(policytest.Request{Method: c.method})
			e.Respond(c.response)
			got := e.OnResponseBody(t, policytest.Build(t, Definition(), env, c.params), c.body)
			if got.String() != c.want {
				t.Errorf("%v, want %s", got, c.want)
			}
			if refused := env.Count("response_invalid"); (refused == 1) != got.Verdict.IsDeny() {
				t.Errorf("counted %d times", refused)
			}
			log := strings.Join(env.Lines(), "\n")
			if strings.Contains(string(got.Verdict.Body())+log, "hunter2") || strings.Contains(log, "password") {
				t.Errorf("the content is told: %s %s", got.Verdict.Body(), log)
			}
			if c.name == "another one" && !strings.Contains(log, "it does not fit at #/") {
				t.Errorf("the log is %s", log)
			}
		})
	}
}

func TestNeeds(t *testing.T) {
	want := policies.Bodies{WholeRequest: true, WholeResponse: true, Decoded: true, ReadOnly: true}
	if got := Definition().Bodies(); got != want {
		t.Errorf("%+v", got)
	}
}

func TestEvents(t *testing.T) {
	env := policytest.NewEnv(t)
	p := policytest.Build(t, Definition(), env, order)
	for _, body := range []string{`{`, `{}`, `[]`, `{"item": "tea", "quantity": 2}`, ``} {
		post(t, p, body)
	}
	if env.Count("malformed") != 1 || env.Count("invalid") != 2 {
		t.Errorf("%d malformed, %d invalid", env.Count("malformed"), env.Count("invalid"))
	}
}

func benchmark(b *testing.B, body string) {
	p := policytest.Build(b, Definition(), policytest.NewEnv(b), `{"schema": {"type": "array", "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}, "name": {"type": "string"}}}}}`).(*Policy)
	data := []byte(body)
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := p.judge(b.Context(), data, p.limits); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSmall(b *testing.B) { benchmark(b, `[{"id": 1, "name": "tea"}]`) }

func BenchmarkInline(b *testing.B) {
	benchmark(b, `[`+strings.Repeat(`{"id": 1, "name": "tea"},`, maxInline/25-1)+`{"id": 2}]`)
}

// The most that a body can cost: as many values as may be, and each is an error.
func BenchmarkHostile(b *testing.B) { benchmark(b, `[`+strings.Repeat(`0,`, 9_990)+`0]`) }

// tree is a schema whose work doubles with each level of the body.
const tree = `{"schema": {"$ref": "#/$defs/node", "$defs": {"node": {"oneOf": [
	{"properties": {"op": {"const": "and"}, "args": {"items": {"$ref": "#/$defs/node"}}}},
	{"properties": {"op": {"const": "or"}, "args": {"items": {"$ref": "#/$defs/node"}}}}]}}}, "max_depth": 512%s}`

// A small body does not take the worker's time, nor its memory.
func TestSteps(t *testing.T) {
	body := func(levels int) string {
		return strings.Repeat(`{"op": "and", "args": [`, levels) + `{"op": "or"}` + strings.Repeat(`]}`, levels)
	}
	p := instance(t, fmt.Sprintf(tree, ""))
	if got := post(t, p, body(3)); !got.Continued() {
		t.Error(got)
	}
	for range maxKept + 2 { // None of them is lost.
		if got := post(t, p, body(200)); got.String() != "400 body_too_complex" {
			t.Fatal(got)
		}
	}
	if got := post(t, p, body(3)); !got.Continued() {
		t.Error(got)
	}
	e := policytest.NewExchange(policytest.Request{})
	e.Respond(policytest.Response{Headers: []string{"content-type: application/json"}, Body: true})
	if got := e.OnResponseBody(t, p, body(200)); got.String() != "502 response_invalid" {
		t.Error(got)
	}
	few := instance(t, fmt.Sprintf(tree, `, "max_steps": 20`))
	if got := post(t, few, body(3)); got.String() != "400 body_too_complex" {
		t.Error(got)
	}
}

// One instance checks bodies of many requests at once.
func TestConcurrent(t *testing.T) {
	p := instance(t, order).(*Policy)
	var all sync.WaitGroup
	for range 4 * maxKept {
		all.Go(func() {
			for range 20 {
				if v, err := p.judge(t.Context(), []byte(`{"item": "tea", "quantity": 2}`), p.limits); err != nil || !v.IsContinue() {
					t.Error(v, err)
				}
				if v, err := p.judge(t.Context(), []byte(`{"item": "tea", "quantity": 200}`), p.limits); err != nil || v.Status() != 400 {
					t.Error(v, err)
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkSteps(b *testing.B) {
	p := policytest.Build(b, Definition(), policytest.NewEnv(b), fmt.Sprintf(tree, "")).(*Policy)
	data := []byte(strings.Repeat(`{"op": "and", "args": [`, 200) + strings.Repeat(`]}`, 200))
	b.ReportAllocs()
	for b.Loop() {
		if v, err := p.judge(b.Context(), data, p.limits); err != nil || v.Status() != 400 {
			b.Fatal(v, err)
		}
	}
}
