package policies_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

type inner struct {
	Level int `json:"level"`
}

type embedded struct {
	Deep string `json:"deep"`
}

type params struct {
	embedded
	Count   int               `json:"count"`
	Names   []string          `json:"names,omitempty"`
	Per     policies.Duration `json:"per"`
	On      bool              `json:"on"`
	Inner   inner             `json:"inner"`
	Inners  []inner           `json:"inners"`
	ByName  map[string]inner  `json:"by_name"`
	Pointer *inner            `json:"pointer"`
	Free    any               `json:"free"`
	Ignored string            `json:"-"`
}

func (p *params) Defaults() { p.Count, p.On = 7, true }

// instance keeps its parameters.
type instance struct{ params params }

func (*instance) OnRequestHeaders(context.Context, *policies.Request) (policies.Verdict, error) {
	return policies.Continue(), nil
}

func definition() policies.Definition {
	return policies.Define("example", "1.2.3", func(_ policies.Env, p params) (*instance, error) {
		if p.Count > 100 {
			return nil, policies.BadParam("count", "%d is not legal; legal are 0 to 100", p.Count)
		}
		return &instance{p}, nil
	})
}

func TestDecode(t *testing.T) {
	for name, c := range map[string]struct {
		raw  string
		want params
	}{
		"nothing":      {"", params{Count: 7, On: true}},
		"empty object": {" {} ", params{Count: 7, On: true}},
		"all": {
			`{"count": 1, "names": ["a", "b"], "per": "1m30s", "on": false, "inner": {"level": 2}, "inners": [{"level": 3}], "by_name": {"Level": {"level": 4}}, "pointer": {"level": 5}, "free": {"a": null}, "deep": "d"}`,
			params{
				embedded{"d"},
				1,
				[]string{"a", "b"},
				policies.Duration(90 * time.Second), false,
				inner{2},
				[]inner{{3}},
				map[string]inner{"Level": {4}},
				&inner{5},
				map[string]any{"a": nil},
				"",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := policytest.Build(t, definition(), policytest.NewEnv(t), c.raw).(*instance)
			if !reflect.DeepEqual(got.params, c.want) {
				t.Errorf("got %+v, want %+v", got.params, c.want)
			}
		})
	}
}

func TestDecodeErrors(t *testing.T) {
	legal := "legal are deep, count, names, per, on, inner, inners, by_name, pointer, free"
	for name, c := range map[string]struct {
		raw  string
		want []string
	}{
		"unknown":             {`{"size": 1}`, []string{"size: unknown parameter; " + legal}},
		"other case":          {`{"Count": 1}`, []string{"Count: unknown parameter; " + legal}},
		"twice":               {`{"count": 1, "count": 2}`, []string{"count: it is there more than once"}},
		"twice, escaped":      {`{"count": 1, "c\u006funt": 2}`, []string{"count: it is there more than once"}},
		"twice below":         {`{"inner": {"level": 1, "level": 1}}`, []string{"inner.level: it is there more than once"}},
		"twice in a list":     {`{"inners": [{}, {"level": 1, "level": 1}]}`, []string{"inners[1].level: it is there more than once"}},
		"twice in a map":      {`{"by_name": {"a": {}, "a": {}}}`, []string{"by_name.a: it is there more than once"}},
		"twice anywhere":      {`{"free": {"x": [{"a": 1, "a": 1}]}}`, []string{"free.x[0].a: it is there more than once"}},
		"unknown below":       {`{"by_name": {"a": {"x": 1}}}`, []string{"by_name.a.x: unknown parameter; legal are level"}},
		"unknown at pointer":  {`{"pointer": {"x": 1}}`, []string{"pointer.x: unknown parameter; legal are level"}},
		"field without a tag": {`{"Ignored": "x"}`, []string{"Ignored: unknown parameter"}},
		"null":                {`{"count": null}`, []string{"count: null is not legal here"}},
		"null list":           {`{"names": [null]}`, []string{"names[0]: null is not legal here"}},
		"null pointer":        {`{"pointer": null}`, []string{"pointer: null is not legal here"}},
		"wrong type":          {`{"count": "1"}`, []string{"count: string is not legal here; want a whole number of 64 bits"}},
		"fraction":            {`{"count": 1.5}`, []string{"count: number 1.5 is not legal here; want a whole number of 64 bits"}},
		"too large":           {`{"count": 9223372036854775808}`, []string{"count: number 9223372036854775808 is not legal here; want a whole number of 64 bits"}},
		"no list":             {`{"names": "a"}`, []string{"names: string is not legal here; want a list"}},
		"no truth":            {`{"on": "yes"}`, []string{"on: string is not legal here; want true or false"}},
		"no object":           {`{"inner": []}`, []string{"inner: array is not legal here; want an object"}},
		"no duration":         {`{"per": "soon"}`, []string{`per: "soon" is not a duration; legal is a number with a unit, such as 500ms, 10s or 1h`}},
		"duration as number":  {`{"per": 10}`, []string{"per: number is not legal here; want a duration, such as 500ms, 10s or 1h"}},
		"all at once":         {`{"per": "soon", "size": 1}`, []string{"per: ", "size: "}},
		"list":                {`[]`, []string{"parameters: not an object"}},
		"null for all":        {`null`, []string{"parameters: not an object"}},
		"two values":          {`{} {}`, []string{"parameters: not one JSON value"}},
		"no JSON":             {`{"count"`, []string{"parameters: not one JSON value"}},
		"blank":               {` `, []string{"parameters: not one JSON value"}},
		"refused by build":    {`{"count": 101}`, []string{"count: 101 is not legal; legal are 0 to 100"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := definition().Build(policytest.NewEnv(t), json.RawMessage(c.raw))
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q, want %q", err, want)
				}
			}
			var param *policies.ParamError
			if !strings.HasPrefix(c.want[0], "parameters: ") && !errors.As(err, &param) {
				t.Errorf("error %v is no ParamError", err)
			}
		})
	}
}

type both struct{ instance }

func (both) OnResponseHeaders(context.Context, *policies.Response) (policies.Verdict, error) {
	return policies.Continue(), nil
}
func (both) MayBlock() {}

func TestDefinition(t *testing.T) {
	d := definition()
	if d.Name() != "example" || d.Version() != "1.2.3" || d.MayBlock() || d.Params() != reflect.TypeFor[params]() || d.Check() != nil {
		t.Errorf("definition %+v, %v", d, d.Check())
	}
	if got := d.Phases(); !slices.Equal(got, []policies.Phase{policies.PhaseRequestHeaders}) {
		t.Errorf("phases %v", got)
	}
	d = policies.Define("both", "1", func(policies.Env, struct{}) (*both, error) { return &both{}, nil })
	if got := d.Phases(); !slices.Equal(got, []policies.Phase{policies.PhaseRequestHeaders, policies.PhaseResponseHeaders}) || !d.MayBlock() {
		t.Errorf("phases %v, may block %v", got, d.MayBlock())
	}
}

func TestCheckOfDefinitions(t *testing.T) {
	for name, c := range map[string]struct {
		definition policies.Definition
		want       string
	}{
		"no name":  {policies.Define("", "1", func(policies.Env, struct{}) (*instance, error) { return nil, nil }), "policy without a name"},
		"no phase": {policies.Define("x", "1", func(policies.Env, struct{}) (*struct{}, error) { return nil, nil }), "no phase method"},
		"no type":  {policies.Define("x", "1", func(policies.Env, struct{}) (any, error) { return &instance{}, nil }), "must be concrete"},
		"zero":     {policies.Definition{}, "policy without a name"},
	} {
		if err := c.definition.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestDuration(t *testing.T) {
	text, err := json.Marshal(policies.Duration(90 * time.Second))
	if err != nil || string(text) != `"1m30s"` {
		t.Errorf("%s, %v", text, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"count": 1, "names": ["a"], "inner": {"level": 2}, "by_name": {"a": {"level": 4}}}`))
	f.Add([]byte(`{"free": [null, {"a": 1e400}], "per": "1s"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := definition().Build(policytest.NewEnv(t), raw)
		if err != nil || len(raw) == 0 {
			return
		}
		// What is accepted means the same to a reader that ignores case and takes the last of several members.
		want := params{}
		want.Defaults()
		if err := json.Unmarshal(raw, &want); err != nil || !reflect.DeepEqual(got.(*instance).params, want) {
			t.Errorf("%s: %+v, encoding/json reads %+v, %v", raw, got, want, err)
		}
	})
}
