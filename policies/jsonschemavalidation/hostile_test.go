package jsonschemavalidation

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

// hostile are schemas with bodies that make them expensive.
var hostile = []struct {
	name, schema, body string
	want               error // nil: it is cheap
}{
	{
		"pattern on a long text", `{"properties": {"e": {"pattern": "[a-z0-9._-]{1,64}@[a-z0-9.-]{1,255}"}}}`,
		`{"e": "` + strings.Repeat("a", 1_000_000) + `"}`, policies.ErrPatternBudget,
	},
	{"large pattern", `{"pattern": "[a-z]{1,1000}@"}`, `"` + strings.Repeat("a", 1<<20) + `"`, policies.ErrPatternBudget},
	{"pattern behind maxLength", `{"pattern": "[a-z]{1,1000}@", "maxLength": 300}`, `"` + strings.Repeat("a", 1<<20) + `"`, nil},
	{"pattern on many texts", `{"items": {"pattern": "^([a-z]{1,10}){50}!$"}}`, list(9000, `"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"`), policies.ErrPatternBudget},
	{"many patterns on one text", `{"allOf": [` + repeat(200, `{"pattern": "x[a-z]{1,20}!%d"}`) + `]}`, `"` + strings.Repeat("xa", 5_000) + `"`, policies.ErrPatternBudget},
	{"patternProperties on many names", `{"patternProperties": {` + repeat(100, `"[a-f]+%d$": {}`) + `}}`, object(5000, `"abcdef%d"`, "0"), policies.ErrPatternBudget},
	{"patternProperties on many names, short", `{"patternProperties": {` + repeat(300, `"^x%d": {}`) + `}}`, object(9000, `"%d"`, "0"), errTooLong},
	{"patternProperties on a long name", `{"patternProperties": {"([a-z]{1,30}){30}!": {}}}`, `{"` + strings.Repeat("a", 1<<20) + `": 1}`, policies.ErrPatternBudget},
	{"propertyNames", `{"propertyNames": {"pattern": "([a-z]{1,30}){30}!"}}`, object(5000, `"abcdefghijklmn%d"`, "0"), policies.ErrPatternBudget},
	{"propertyNames with branches", `{"propertyNames": {"anyOf": [` + repeat(100, `{"const": "%d"}`) + `]}}`, object(9000, `"a%d"`, "0"), errTooLong},
	{"format regex", `{"items": {"format": "regex"}}`, list(9000, `"(((a{1,10}){1,10}){1,10})\\p{L}"`), policies.ErrPatternBudget},
	{"format regex of large classes", `{"format": "regex"}`, `"[` + strings.Repeat(`\\pL`, 200_000) + `]"`, policies.ErrPatternBudget},
	{"formats of long texts", `{"items": {"format": "uri"}}`, list(20, `"a:`+strings.Repeat("%41", 100_000)+`"`), errTooLong},
	{"branches that fail at once", `{"items": {"anyOf": [` + repeat(500, `{"const": %d}`) + `]}}`, list(9000, `"a"`), errTooLong},
	{"branches of another type", `{"items": {"anyOf": [` + repeat(500, `{"type": "string", "maxLength": %d}`) + `]}}`, list(9000, `1`), errTooLong},
	{"branches that are false", `{"items": {"anyOf": [` + repeat(500, `false`) + `]}}`, list(9000, `1`), errTooLong},
	{
		"items and contains in not", `{"not": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}, "contains": {"$ref": "#/$defs/n"}}}}`,
		nested(100, "[", "1", "]"), errTooLong,
	},
	{"two patterns for one name", `{"patternProperties": {"a": {"$ref": "#"}, "^a": {"$ref": "#"}}, "type": "object"}`, nested(100, `{"a":`, "1", "}"), errTooLong},
	{
		"property and pattern in if", `{"if": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "patternProperties": {"a": {"$ref": "#/$defs/n"}}}}}`,
		nested(100, `{"a":`, "1", "}"), errTooLong,
	},
	{
		"oneOf of itself", `{"$ref": "#/$defs/n", "$defs": {"n": {"oneOf": [{"properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["x"]}, {"properties": {"a": {"$ref": "#/$defs/n"}}}]}}}`,
		nested(100, `{"a":`, "1", "}"), errTooLong,
	},
	{
		"draft 7, dependencies of itself", `{"$schema": "http://json-schema.org/draft-07/schema#", "dependencies": {"a": {"properties": {"a": {"$ref": "#"}}}}, "properties": {"a": {"$ref": "#"}}}`,
		nested(100, `{"a":`, "1", "}"), errTooLong,
	},
	{"dynamic references", `{"$dynamicAnchor": "n", "items": {"$dynamicRef": "#n"}, "contains": {"$dynamicRef": "#n"}}`, nested(100, "[", "", "]"), errTooLong},
	{"unevaluated members", `{"allOf": [` + repeat(100, `{"properties": {"b%d": {}}}`) + `], "unevaluatedProperties": {}}`, object(5000, `"a%d"`, "0"), errTooLong},
	{"enum of numbers", `{"items": {"enum": [` + repeat(5000, `%d.5`) + `]}}`, list(9000, `1e400`), nil},
	{"enum of objects", `{"items": {"enum": [` + repeat(500, `{"a": {"b": %d}}`) + `]}}`, list(2000, `{"a":{"b":-1}}`), nil},
	{"const on a large value", `{"const": "a"}`, list(9000, `"abc"`), nil},
	{"uniqueItems of few large items", `{"uniqueItems": true}`, list(20, "["+strings.TrimSuffix(strings.Repeat(`1e400,`, 450), ",")+"]"), errTooLong},
	{"uniqueItems of many numbers", `{"uniqueItems": true}`, list(9000, `%d.5e300`), nil},
	{"uniqueItems at each level", `{"uniqueItems": true, "items": {"$ref": "#"}}`, nested(500, "[", list(500, `"%d"`), "]"), errTooLong},
	{"numbers with large exponents", `{"items": {"multipleOf": 1e-400, "maximum": 1e400}}`, list(5000, `9.99999999999999999e-380`), nil},
	{"required", `{"items": {"required": [` + repeat(2000, `"%d"`) + `]}}`, list(5000, `{}`), errTooLong},
	{"dependentRequired", `{"items": {"dependentRequired": {"a": [` + repeat(2000, `"%d"`) + `]}}}`, list(3000, `{"a":1}`), errTooLong},
	{"an error for each value", `{"items": {"type": "string"}}`, list(9990, `0`), nil},
	{"errors at depth", `{"items": {"$ref": "#"}, "type": "array"}`, nested(490, "[", list(9000, `0`), "]"), errTooLong},
}

// repeat joins n of the texts; %d in them is the number of each.
func repeat(n int, text string) string {
	var all []string
	for i := range n {
		all = append(all, strings.ReplaceAll(text, "%d", strconv.Itoa(i)))
	}
	return strings.Join(all, ",")
}

func list(n int, item string) string { return "[" + repeat(n, item) + "]" }

func object(n int, name, value string) string { return "{" + repeat(n, name+":"+value) + "}" }

func nested(n int, open, inner, end string) string {
	return strings.Repeat(open, n) + inner + strings.Repeat(end, n)
}

var usual = limits{steps: 200_000, patternSteps: policies.DefaultPatternSteps}

// What a client can fill is within the steps of the body, whatever the schema does with it.
func TestHostileBodiesUseUpTheirSteps(t *testing.T) {
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			s, err := newCheckers([]byte(c.schema), true)
			if err != nil {
				t.Fatal(err)
			}
			value, depth, f := parse([]byte(c.body), bounds{maxDepth, 20_000})
			if f != nil {
				t.Fatal(f)
			}
			got, failed := s.check(t.Context(), value, limits{usual.steps, usual.patternSteps, depth})
			if failed != nil || (c.want != nil || errors.Is(got, errTooLong) || errors.Is(got, policies.ErrPatternBudget)) && !errors.Is(got, c.want) {
				t.Errorf("%.100v, %v, want %v", got, failed, c.want)
			}
			if got != nil { // So are the errors.
				report(got, 50)
			}
		})
	}
}

// The answers of the policy: 413 with a reason of its own for patterns, 400 for other steps, 502 for responses.
func TestHostileBodiesAreRefused(t *testing.T) {
	for _, c := range hostile {
		if c.want == nil {
			continue
		}
		p := instance(t, `{"max_depth": 512, "max_values": 20000, "schema": `+c.schema+`}`)
		want, why := "400 body_too_complex", "body_too_complex"
		if errors.Is(c.want, policies.ErrPatternBudget) {
			want, why = "413 pattern_budget", "pattern_budget"
		}
		if got := post(t, p, c.body); got.String() != want {
			t.Errorf("%s: %v, want %s", c.name, got, want)
		}
		env := policytest.NewEnv(t)
		p = policytest.Build(t, Definition(), env, `{"max_depth": 512, "max_values": 20000, "schema": `+c.schema+`}`)
		e := policytest.NewExchange(policytest.Request{})
		e.Respond(policytest.Response{Headers: []string{"content-type: application/json"}, Body: true})
		if got := e.OnResponseBody(t, p, c.body); got.String() != "502 response_invalid" || !strings.Contains(strings.Join(env.Lines(), " "), why) {
			t.Errorf("%s: %v %s", c.name, got, env.Lines())
		}
	}
}

// The budget of patterns is a parameter, and holds for all texts of a body together.
func TestPatternStepsAreConfigurable(t *testing.T) {
	const schema = `"schema": {"items": {"pattern": "[a-z]{1,100}@"}}}`
	body := list(40, `"`+strings.Repeat("a", 200)+`"`)
	for params, want := range map[string]string{
		`{` + schema:                                "400 body_invalid",
		`{"max_pattern_steps": 10000, ` + schema:    "413 pattern_budget",
		`{"max_pattern_steps": 10000000, ` + schema: "400 body_invalid",
	} {
		if got := post(t, instance(t, params), body); got.String() != want {
			t.Errorf("%s: %v, want %s", params, got, want)
		}
	}
}

// A short body whose schema takes long is not checked while others wait.
func TestExpensiveShortBodiesAreAwaited(t *testing.T) {
	p := instance(t, `{"schema": {"items": {"pattern": "^([a-z]{1,30}){30}!"}}}`).(*Policy)
	short := []byte(list(60, `"abcdefghijklmnopqrstuvwxyz"`))
	if len(short) > maxInline {
		t.Fatal(len(short))
	}
	if _, err := p.judge(t.Context(), short, p.limits.within(inline)); !errors.Is(err, errNotInline) {
		t.Error(err)
	}
	if got := post(t, p, string(short)); got.String() != "400 body_invalid" {
		t.Error(got)
	}
	if v, err := p.judge(t.Context(), []byte(`["`+strings.Repeat("a", 30)+`!"]`), p.limits.within(inline)); err != nil || !v.IsContinue() {
		t.Error(v, err)
	}
	// Where the limits are smaller than those, they are what counts.
	few := instance(t, `{"schema": {"pattern": "a{50}"}, "max_pattern_steps": 30, "max_steps": 30}`).(*Policy)
	if v, err := few.judge(t.Context(), []byte(`"aaaaaaaaaa"`), few.limits.within(inline)); err != nil || v.Reason() != policies.ReasonPatternBudget {
		t.Error(v, err)
	}
}

// abandoned is a context that is over after it was asked some times.
type abandoned struct {
	context.Context
	after, asked int
}

func (c *abandoned) Err() error {
	if c.asked++; c.asked > c.after {
		return context.Canceled
	}
	return nil
}

// A check whose call was abandoned does not go on: it asks after each 1,024 steps, and after each 65,536 of patterns,
// and there is no answer.
func TestAbandonedChecksStop(t *testing.T) {
	for _, c := range hostile {
		s, err := newCheckers([]byte(c.schema), true)
		if err != nil {
			t.Fatal(err)
		}
		value, depth, f := parse([]byte(c.body), bounds{maxDepth, 20_000})
		if f != nil {
			t.Fatal(f)
		}
		for _, after := range []int{0, 3, 10} {
			ctx := &abandoned{Context: t.Context(), after: after}
			invalid, failed := s.check(ctx, value, limits{maxSteps, policies.MaxPatternSteps, depth})
			if stopped := errors.Is(failed, context.Canceled); stopped != (failed != nil) || stopped != (ctx.asked > after) || ctx.asked > after+1 || stopped && invalid != nil {
				t.Errorf("%s: %.100v, %v after %d questions", c.name, invalid, failed, ctx.asked)
			}
			if c.want != nil && after == 0 && failed == nil {
				t.Errorf("%s: it was not asked", c.name)
			}
		}
	}
}
