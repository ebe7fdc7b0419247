package jsonschemavalidation

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/policy-engine/policy-engine/policies/policytest"
)

// order is the schema of the README.
const order = `{"schema": {
	"type": "object", "required": ["item", "quantity"], "additionalProperties": false,
	"properties": {
		"item": {"type": "string", "pattern": "^[a-z-]{1,40}$"},
		"quantity": {"type": "integer", "minimum": 1, "maximum": 100},
		"note": {"type": "string", "maxLength": 200}
	}}}`

// post sends a JSON body to the policy.
func post(t testing.TB, p any, body string, headers ...string) *policytest.Result {
	t.Helper()
	if len(headers) == 0 {
		headers = []string{"content-type: application/json"}
	}
	e := policytest.NewExchange(policytest.Request{Method: "POST", Headers: headers, Body: true})
	return e.OnRequestBody(t, p, body)
}

func instance(t testing.TB, params string) any {
	t.Helper()
	return policytest.Build(t, Definition(), policytest.NewEnv(t), params)
}

// What the README says of its configuration.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(language string) string {
		_, rest, _ := strings.Cut(string(text), "```"+language+"\n")
		block, _, _ := strings.Cut(rest, "```")
		return block
	}
	var entry struct {
		Params map[string]any `yaml:"params"`
	}
	if err := yaml.Unmarshal([]byte(block("yaml")), &entry); err != nil {
		t.Fatal(err)
	}
	params, err := json.Marshal(entry.Params)
	if err != nil {
		t.Fatal(err)
	}
	p := instance(t, string(params))
	if got := post(t, p, `{"item": "tea", "quantity": 2}`); !got.Continued() || got.Replaced || len(got.Changes) > 0 {
		t.Error(got)
	}
	got := post(t, p, `{"item": "tea", "quantity": 0, "admin": true}`)
	if got.String() != "400 body_invalid" {
		t.Fatal(got)
	}
	var said, does any
	if err := json.Unmarshal([]byte(block("json")), &said); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(got.Verdict.Body(), &does); err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(said)
	b, _ := json.Marshal(does)
	if string(a) != string(b) {
		t.Errorf("the README says %s\nthe policy %s", a, b)
	}
	if v, n := got.Answer("content-type"); v != "application/json" || n != 1 {
		t.Errorf("content-type %q, %d times", v, n)
	}
}
