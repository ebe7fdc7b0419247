package jsonschemavalidation

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies/policytest"
)

// Requests of methods that are not listed pass, and no way of asking for a listed one passes by the schema.
func TestMethods(t *testing.T) {
	listed := strings.Replace(order, `{"schema"`, `{"methods": ["POST", "PATCH"], "schema"`, 1)
	const bad, passes, checked, missing = `{}`, "continue unchanged", "400 body_invalid", "400 body_missing"
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		want                     string
	}{
		{"listed", "POST", "/", bad, nil, checked},
		{"listed, second", "PATCH", "/", bad, nil, checked},
		{"listed, no body", "POST", "/", "", nil, missing},
		{"GET", "GET", "/", "", nil, passes},
		{"HEAD", "HEAD", "/", "", nil, passes},
		{"OPTIONS", "OPTIONS", "/", "", nil, passes},
		{"DELETE", "DELETE", "/", "", nil, passes},
		{"PUT with a body", "PUT", "/", bad, nil, passes},
		{"DELETE with a body", "DELETE", "/", bad, nil, passes},
		{"GET with a body", "GET", "/", bad, nil, checked},
		{"HEAD with a body", "HEAD", "/", bad, nil, checked},
		{"OPTIONS with a body", "OPTIONS", "/", bad, nil, checked},
		{"GET with another body", "GET", "/", "item=tea", []string{"content-type: text/plain"}, "415 content_type_unsupported"},
		{"lower case", "post", "/", bad, nil, checked},
		{"mixed case", "Post", "/", "", nil, missing},
		{"lower case of another", "get", "/", "", nil, missing},
		{"unknown method", "FOO", "/", bad, nil, checked},
		{"override", "GET", "/", "", []string{"x-http-method-override: POST"}, missing},
		{"override of PUT", "PUT", "/", bad, []string{"content-type: application/json", "X-HTTP-Method-Override: POST"}, checked},
		{"override in another spelling", "PUT", "/", bad, []string{"content-type: application/json", "X_HTTP_Method_Override: POST"}, checked},
		{"another override", "PUT", "/", bad, []string{"content-type: application/json", "x-http-method: POST"}, checked},
		{"a third override", "PUT", "/", bad, []string{"content-type: application/json", "x-method-override: x"}, checked},
		{"override in the query", "PUT", "/?a=b&_method=POST", bad, nil, checked},
		{"override in the query, escaped", "PUT", "/?%5Fmethod=post", bad, nil, checked},
	} {
		t.Run(c.name, func(t *testing.T) {
			headers := c.headers
			if headers == nil {
				headers = []string{"content-type: application/json"}
			}
			e := policytest.NewExchange(policytest.Request{Method: c.method, Path: c.path, Headers: headers, Body: c.body != ""})
			if got := e.OnRequestBody(t, instance(t, listed), c.body); got.String() != c.want {
				t.Errorf("%v, want %s", got, c.want)
			}
		})
	}
}

func TestMethodsOfResponses(t *testing.T) {
	listed := strings.Replace(order, `{"schema"`, `{"methods": ["GET"], "schema"`, 1)
	for _, c := range []struct {
		method, want string
		headers      []string
	}{
		{"GET", "502 response_invalid", nil},
		{"POST", "continue unchanged", nil},
		{"get", "502 response_invalid", nil},
		{"FOO", "502 response_invalid", nil},
		{"POST", "502 response_invalid", []string{"x-http-method-override: GET"}},
	} {
		e := policytest.NewExchange(policytest.Request{Method: c.method, Headers: c.headers})
		e.Respond(policytest.Response{Headers: []string{"content-type: application/json"}, Body: true})
		if got := e.OnResponseBody(t, instance(t, listed), `{}`); got.String() != c.want {
			t.Errorf("%s: %v, want %s", c.method, got, c.want)
		}
	}
}

func TestMethodsThatAreErrors(t *testing.T) {
	for list, want := range map[string]string{
		`[]`: "it is empty; leave it out for all methods", `["post"]`: `unknown method "post", expected one of DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, TRACE`,
		`["FOO"]`: `unknown method "FOO"`, `["POST", "POST"]`: `"POST" is there twice`, `[1]`: "methods", `"POST"`: "methods", `[""]`: `unknown method ""`,
	} {
		_, err := Definition().Build(policytest.NewEnv(t), json.RawMessage(`{"schema": true, "methods": `+list+`}`))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", list, err, want)
		}
	}
}

// Labels of UTF-8 are taken, and nothing that a server may take for the name of another charset.
func TestCharsets(t *testing.T) {
	types := mediaTypes{"application/json"}
	for value, want := range map[string]bool{
		"application/json": true, "application/json; charset=utf-8": true, "application/json;charset=UTF-8": true, "application/json; charset=utf8": true, "application/json; charset=UTF8": true,
		`application/json; charset="utf-8"`: true, `application/json; Charset=utf8; a=b`: true, "application/json;": true, "application/json; charset=utf-8;charset=utf-8": true,
		"application/json; charset=utf-16": false, "application/json; charset*=utf-16''utf-16": false, "application/json; charset*=utf-8''utf-16": false,
		"application/json; charset*=utf-8''utf-8": false, "application/json;charset*0=utf-16": false, "application/json; charset*0*=utf-16": false, "application/json; CHARSET*=utf-16''utf-16": false,
		"application/json; charset=utf-8; charset*=utf-16''utf-16": false, "application/json; a=b; charset *=utf-16''x": false, "application/json; charset=": false, `application/json; charset=""`: false,
		"application/json; charset=utf-8; charset=utf-16": false, "application/json; charset=utf-8, text/plain": false, "application/json; charset=utf_8": false, "application/json; charset=us-ascii": false,
		"application/json; charset": false, "application/json;charset=utf-7": false, "application/json,charset=utf-16": false,
	} {
		if got := types.allow([]byte(value)); got != want {
			t.Errorf("%s: %v", value, got)
		}
	}
}

// The advice names the keywords of the schema's draft.
func TestAdviceFitsTheDraft(t *testing.T) {
	for draft, want := range map[string]string{
		"": "under $defs with that $id",
		"http://json-schema.org/draft-04/schema#":      "under definitions with that id",
		"http://json-schema.org/draft-06/schema#":      "under definitions with that $id",
		"http://json-schema.org/draft-07/schema#":      "under definitions with that $id",
		"https://json-schema.org/draft/2019-09/schema": "under $defs with that $id",
		"https://json-schema.org/draft/2020-12/schema": "under $defs with that $id",
	} {
		dialect := ""
		if draft != "" {
			dialect = `"$schema": "` + draft + `", `
		}
		_, err := newCheckers([]byte(`{`+dialect+`"properties": {"a": {"$ref": "https://a.example/b.json"}}}`), true)
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", draft, err, want)
		}
		under, id := "$defs", "$id"
		if strings.Contains(want, "definitions") {
			under, id = "definitions", strings.TrimPrefix(want, "under definitions with that ")
		}
		// What the advice says works.
		s, err := newCheckers([]byte(`{`+dialect+`"properties": {"a": {"$ref": "https://a.example/b.json"}}, "`+under+`": {"b": {"`+id+`": "https://a.example/b.json", "type": "string"}}}`), true)
		if err != nil {
			t.Errorf("%s: %v", draft, err)
			continue
		}
		if invalid, failed := s.check(t.Context(), map[string]any{"a": true}, usual); invalid == nil || failed != nil {
			t.Errorf("%s: %v, %v", draft, invalid, failed)
		}
	}
}
