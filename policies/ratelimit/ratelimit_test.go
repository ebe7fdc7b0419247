package ratelimit

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

func TestExamples(t *testing.T) {
	policytest.RunExamples(t, "README.md", Definition(), policytest.NewEnv(t), HeadersDefinition())
}

func as(subject string) policytest.Request {
	return policytest.Request{Identity: &policies.Identity{Subject: subject, Method: "apiKeyAuth", Issuer: "partners"}}
}

func from(lines ...string) policytest.Request { return policytest.Request{Headers: lines} }

func TestParameters(t *testing.T) {
	for params, want := range map[string]string{
		`{}`:                                                           "requests: 0 is not legal; legal are 1 to 1000000000\nper: 0s is not legal; legal are 1ms to 8784h",
		`{"requests": -1, "per": "1s"}`:                                "requests: -1 is not legal",
		`{"requests": 1000000001, "per": "1s"}`:                        "requests: 1000000001 is not legal",
		`{"requests": 1, "per": "999µs"}`:                              "per: 999µs is not legal",
		`{"requests": 1, "per": "8785h"}`:                              "per: 8785h0m0s is not legal",
		`{"requests": 1, "per": "-1s"}`:                                "per: -1s is not legal",
		`{"requests": 1, "per": 10}`:                                   "per: number is not legal here; want a duration, such as 500ms, 10s or 1h",
		`{"requests": 1, "per": "1s", "burst": 0}`:                     "burst: 0 is not legal; legal are 1 to 1000000000",
		`{"requests": 1, "per": "1s", "burst": -1}`:                    "burst: -1 is not legal",
		`{"requests": 1, "per": "8784h", "burst": 10}`:                 "burst: 10 takes longer than 9 years to fill up again",
		`{"requests": 9, "per": "1s", "cost": 10}`:                     "cost: 10 is more than burst, which is 9",
		`{"requests": 9, "per": "1s", "burst": 3, "cost": 4}`:          "cost: 4 is more than burst, which is 3",
		`{"requests": 9, "per": "1s", "cost": 0}`:                      "cost: 0 is not legal; it must be at least 1",
		`{"requests": 1, "per": "1s", "key": ""}`:                      `key: unknown value "", expected identity, client_ip, route or header:NAME`,
		`{"requests": 1, "per": "1s", "key": "request.path"}`:          `key: unknown value "request.path", expected identity`,
		`{"requests": 1, "per": "1s", "key": "header:"}`:               `key: unknown value "header:", expected identity`,
		`{"requests": 1, "per": "1s", "key": "header:x a"}`:            `key: unknown value "header:x a", expected identity`,
		`{"requests": 1, "per": "1s", "key": "header:Host"}`:           `key: unknown value "header:Host", expected identity`,
		`{"requests": 1, "per": "1s", "key": "header::path"}`:          `key: unknown value "header::path", expected identity`,
		`{"requests": 1, "per": "1s", "store": "redis"}`:               `store: "redis" is not legal; legal is local`,
		`{"requests": 1, "per": "1s", "on_store_failure": "allow"}`:    "on_store_failure: unknown parameter",
		`{"requests": 1, "per": "1s", "headers": "on"}`:                `headers: unknown value "on", expected draft, legacy, x-ratelimit or off`,
		`{"requests": 0, "per": "1s", "store": "redis", "key": "all"}`: "requests: 0 is not legal; legal are 1 to 1000000000\nstore: \"redis\" is not legal; legal is local\nkey: ",
	} {
		_, err := Definition().Build(policytest.NewEnv(t), json.RawMessage(params))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", params, err, want)
		}
	}
	for _, params := range []string{
		`{"requests": 1, "per": "1ms"}`, `{"requests": 1000000000, "per": "8784h"}`, `{"requests": 5, "per": "1s", "burst": 9, "cost": 9, "store": "local"}`,
		`{"requests": 1, "per": "1s", "key": "header:X-Envoy-External-Address"}`,
	} {
		policytest.Build(t, Definition(), policytest.NewEnv(t), params)
	}
}

// Two clients have two buckets exactly if they should.
func TestKeys(t *testing.T) {
	other := as("alice")
	other.Identity.Issuer = "customers"
	method := as("alice")
	method.Identity.Method = "jwtValidation"
	shifted := as("salice")
	shifted.Identity.Issuer = "partner"
	for name, c := range map[string]struct {
		key  string
		a, b policytest.Request
		same bool
	}{
		"identity":             {"identity", as("alice"), as("alice"), true},
		"identities":           {"identity", as("alice"), as("bob"), false},
		"issuers":              {"identity", as("alice"), other, false},
		"methods":              {"identity", as("alice"), method, false},
		"shifted fields":       {"identity", as("alice"), shifted, false},
		"addresses":            {"client_ip", from("x-forwarded-for: 192.0.2.1"), from("x-forwarded-for: 192.0.2.2"), false},
		"forged prefix":        {"client_ip", from("x-forwarded-for: 1.1.1.1, 192.0.2.1"), from("x-forwarded-for: 2.2.2.2, 192.0.2.1"), true},
		"mapped":               {"client_ip", from("x-forwarded-for: 192.0.2.1"), from("x-forwarded-for: ::ffff:192.0.2.1"), true},
		"one v6 customer":      {"client_ip", from("x-forwarded-for: 2001:db8::1"), from("x-forwarded-for: 2001:db8::ffff:0:0:2"), true},
		"two v6 customers":     {"client_ip", from("x-forwarded-for: 2001:db8::1"), from("x-forwarded-for: 2001:db8:0:1::1"), false},
		"route":                {"route", as("alice"), from("x-forwarded-for: 192.0.2.1"), true},
		"header":               {"header:X-Tenant", from("x-tenant: a"), from("X-TENANT: a"), true},
		"headers":              {"header:X-Tenant", from("x-tenant: a"), from("x-tenant: b"), false},
		"no header":            {"header:x-tenant", from(), from("x-other: b"), true},
		"repeated header":      {"header:x-tenant", from(), from("x-tenant: a", "x-tenant: b"), true},
		"ambiguous spellings":  {"header:x-tenant", from(), from("x-tenant: a", "x_tenant: b"), true},
		"empty is not missing": {"header:x-tenant", from(), from("x-tenant: "), false},
		"long header":          {"header:x-tenant", from("x-tenant: " + strings.Repeat("a", 9000)), from("x-tenant: " + strings.Repeat("a", 9001)), false},
	} {
		t.Run(name, func(t *testing.T) {
			p := policytest.Build(t, Definition(), policytest.NewEnv(t), fmt.Sprintf(`{"requests": 1, "per": "1h", "key": %q}`, c.key))
			if got := policytest.Run(t, p, c.a); !got.Continued() {
				t.Fatal(got)
			}
			if got := policytest.Run(t, p, c.b); got.Continued() == c.same {
				t.Errorf("the second is decided as %v", got)
			}
		})
	}
}

func TestUndecidable(t *testing.T) {
	for name, c := range map[string]struct {
		key  string
		r    policytest.Request
		want string
	}{
		"no identity":    {"identity", from("x-user-id: alice"), "by identity: the request has none"},
		"no address":     {"client_ip", from(), "the client's address is not known"},
		"not an address": {"client_ip", from("x-forwarded-for: 192.0.2.1, unknown"), "the client's address is not known"},
	} {
		p := policytest.Build(t, Definition(), policytest.NewEnv(t), fmt.Sprintf(`{"requests": 1, "per": "1s", "key": %q}`, c.key))
		if got := policytest.Run(t, p, c.r); got.Err == nil || !strings.Contains(got.Err.Error(), c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestRefusal(t *testing.T) {
	env := policytest.NewEnv(t)
	p := policytest.Build(t, Definition(), env, `{"requests": 2, "per": "3s"}`)
	policytest.Run(t, p, as("alice"))
	policytest.Run(t, p, as("alice"))
	env.Advance(400 * time.Millisecond)
	got := policytest.Run(t, p, as("alice"))
	if got.String() != "429 rate_limited" || string(got.Verdict.Body()) != `{"error":"too many requests; retry after 2 s","code":"RATE_LIMITED"}` {
		t.Errorf("%v %s", got, got.Verdict.Body())
	}
	want := []policies.Header{{Name: "retry-after", Value: "2"}, {Name: "ratelimit-policy", Value: `"identity-3s";q=2;w=3`}, {Name: "ratelimit", Value: `"identity-3s";r=0;t=2`}}
	if !slices.Equal(got.Verdict.Headers(), want) || len(got.Changes) != 0 || len(got.Metadata) != 0 {
		t.Errorf("headers %v, changes %v, metadata %v", got.Verdict.Headers(), got.Changes, got.Metadata)
	}
	if env.Count("limited") != 1 || env.Count("overflow") != 0 {
		t.Errorf("limited %d, overflow %d", env.Count("limited"), env.Count("overflow"))
	}
	// The refused request cost nothing, and the promise holds.
	env.Advance(1100 * time.Millisecond)
	if got := policytest.Run(t, p, as("alice")); !got.Continued() {
		t.Error(got)
	}
}

func TestStateAcrossReloads(t *testing.T) {
	env := policytest.NewEnv(t)
	const params = `{"requests": 1, "per": "1h"}`
	if got := policytest.Run(t, policytest.Build(t, Definition(), env, params), as("alice")); !got.Continued() {
		t.Fatal(got)
	}
	if got := policytest.Run(t, policytest.Build(t, Definition(), env, `{"requests": 1, "per": "1h", "headers": "off"}`), as("alice")); got.Continued() {
		t.Error("a reload forgets what was used up")
	}
	if got := policytest.Run(t, policytest.Build(t, Definition(), env.At("elsewhere"), params), as("alice")); !got.Continued() {
		t.Error("two places share a bucket")
	}
	if got := policytest.Run(t, policytest.Build(t, Definition(), env, `{"requests": 2, "per": "1h"}`), as("alice")); !got.Continued() {
		t.Error("another limit starts with what another one left")
	}
}

func TestHeadersPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		limits []string
		want   []string // of ratelimit-policy, ratelimit, ratelimit-limit, ratelimit-remaining, ratelimit-reset
	}{
		"draft": {
			[]string{`{"requests": 100, "per": "1m", "burst": 20}`},
			[]string{`"identity-1m0s";q=100;w=60`, `"identity-1m0s";r=19;t=1`, "", "", ""},
		},
		"two": {
			[]string{`{"requests": 10, "per": "1s"}`, `{"requests": 7, "per": "24h", "key": "route"}`},
			[]string{`"identity-1s";q=10;w=1, "route-24h0m0s";q=7;w=86400`, `"identity-1s";r=9;t=1, "route-24h0m0s";r=6;t=12343`, "", "", ""},
		},
		"no whole seconds": {
			[]string{`{"requests": 10, "per": "1500ms"}`},
			[]string{`"identity-1.5s";q=10`, `"identity-1.5s";r=9;t=1`, "", "", ""},
		},
		"cost": {
			[]string{`{"requests": 100, "per": "10s", "burst": 50, "cost": 7, "key": "header:x-tenant"}`},
			[]string{`"header-x-tenant-10s";q=14;w=10`, `"header-x-tenant-10s";r=6;t=1`, "", "", ""},
		},
		"legacy": {
			[]string{`{"requests": 100, "per": "1m", "headers": "legacy"}`},
			[]string{"", "", "100", "99", "1"},
		},
		"legacy, the nearest": {
			[]string{`{"requests": 100, "per": "1m", "headers": "legacy"}`, `{"requests": 5, "per": "1m", "headers": "legacy"}`, `{"requests": 6, "per": "1m", "headers": "legacy"}`},
			[]string{"", "", "5", "4", "12"},
		},
		"off": {[]string{`{"requests": 100, "per": "1m", "headers": "off"}`}, []string{"", "", "", "", ""}},
		"more than are told": {
			[]string{`{"requests": 1, "per": "1s"}`, `{"requests": 2, "per": "1s"}`, `{"requests": 3, "per": "1s"}`, `{"requests": 4, "per": "1s"}`, `{"requests": 5, "per": "1s"}`},
			[]string{
				`"identity-1s";q=1;w=1, "identity-1s";q=2;w=1, "identity-1s";q=3;w=1, "identity-1s";q=4;w=1`,
				`"identity-1s";r=0;t=1, "identity-1s";r=1;t=1, "identity-1s";r=2;t=1, "identity-1s";r=3;t=1`, "", "", "",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			env := policytest.NewEnv(t)
			e := policytest.NewExchange(as("alice"))
			for i, params := range c.limits {
				if got := e.OnRequestHeaders(t, policytest.Build(t, Definition(), env.At(fmt.Sprint(i)), params)); !got.Continued() || len(got.Changes) > 0 {
					t.Fatal(got)
				}
			}
			e.Respond(policytest.Response{Headers: []string{"ratelimit: upstream"}})
			headers := policytest.Build(t, HeadersDefinition(), env, "")
			for range 2 { // It charges nothing.
				got := e.OnResponseHeaders(t, headers)
				for i, field := range []string{"ratelimit-policy", "ratelimit", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"} {
					want := c.want[i]
					if i == 1 && want == "" {
						want = "upstream"
					}
					if v, n := got.Header(field); v != want || n > 1 {
						t.Errorf("%s is %q, %d times; want %q", field, v, n, want)
					}
				}
			}
		})
	}
}

// What we send is what the draft's grammar allows, and reads back as what we meant.
func TestFieldsAreStructured(t *testing.T) {
	text, err := os.ReadFile("testdata/ratelimit_headers_draft11.json")
	if err != nil {
		t.Fatal(err)
	}
	var data struct {
		Policies []string `json:"valid_policy"`
		Limits   []string `json:"valid_ratelimit"`
	}
	if err := json.Unmarshal(text, &data); err != nil || len(data.Policies) == 0 || len(data.Limits) == 0 {
		t.Fatal(err)
	}
	for _, p := range data.Policies { // The check itself accepts the draft's examples.
		checkList(t, p, "q", "w")
	}
	for _, l := range data.Limits {
		checkList(t, l, "r", "t")
	}
	for _, params := range []string{
		`{"requests": 1, "per": "1ms"}`, `{"requests": 1000000000, "per": "8784h"}`, `{"requests": 5, "per": "1s", "burst": 9, "cost": 9}`,
		"{\"requests\": 1, \"per\": \"1s\", \"key\": \"header:a!#$%&'*+-.^_`|~\"}",
	} {
		var p Params
		p.Defaults()
		if err := json.Unmarshal([]byte(params), &p); err != nil {
			t.Fatal(err)
		}
		r, _, err := p.check()
		if err != nil {
			t.Fatal(err)
		}
		f := newFields(p, r)
		checkList(t, f.policy, "q", "w")
		checkList(t, f.text(1_000_000_000, 300_000_000), "r", "t")
	}
}

// checkList checks the rules of the draft: a list of strings with integers, the first required and not negative.
func checkList(t *testing.T, field, required, optional string) {
	t.Helper()
	list, err := httpsfv.UnmarshalList([]string{field})
	if err != nil || len(list) == 0 {
		t.Errorf("%s: %v", field, err)
	}
	for _, member := range list {
		item, ok := member.(httpsfv.Item)
		if !ok {
			t.Fatalf("%s: an inner list", field)
		}
		if name, ok := item.Value.(string); !ok || name == "" {
			t.Errorf("%s: %v is no name", field, item.Value)
		}
		if v, _ := item.Params.Get(required); v == nil || v.(int64) < 0 {
			t.Errorf("%s: %s is %v", field, required, v)
		}
		if v, ok := item.Params.Get(optional); ok && v.(int64) < 0 {
			t.Errorf("%s: %s is %v", field, optional, v)
		}
	}
}
