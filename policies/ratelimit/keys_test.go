package ratelimit

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

// with is a request of an identity with headers; of none if subject is empty.
func with(subject string, lines ...string) policytest.Request {
	r := from(lines...)
	if subject != "" {
		r.Identity = &policies.Identity{Subject: subject, Method: "apiKeyAuth", Issuer: "partners"}
	}
	return r
}

// Two requests share a bucket exactly if the first alternative that each of them has is the same one, with equal parts.
func TestKeysOfSeveralParts(t *testing.T) {
	const ip1, ip2 = "x-forwarded-for: 192.0.2.1", "x-forwarded-for: 192.0.2.2"
	for name, c := range map[string]struct {
		key  string
		a, b policytest.Request
		same bool
	}{
		"one identity, two addresses":      {`["identity", "client_ip"]`, with("alice", ip1), with("alice", ip2), true},
		"two identities, one address":      {`["identity", "client_ip"]`, with("alice", ip1), with("bob", ip1), false},
		"anonymous by address":             {`["identity", "client_ip"]`, with("", ip1), with("", ip1), true},
		"anonymous by addresses":           {`["identity", "client_ip"]`, with("", ip1), with("", ip2), false},
		"anonymous beside an identity":     {`["identity", "client_ip"]`, with("alice", ip1), with("", ip1), false},
		"an identity needs no address":     {`["identity", "client_ip"]`, with("alice"), with("alice", ip1), true},
		"address, else route":              {`["client_ip", "route"]`, with("alice"), with("bob"), true},
		"route beside address":             {`["client_ip", "route"]`, with("", ip1), with(""), false},
		"header, else address":             {`["header:x-plan", "client_ip"]`, with("", "x-plan: a", ip1), with("", "x-plan: a", ip2), true},
		"no header, so by address":         {`["header:x-plan", "client_ip"]`, with("", ip1), with("", ip2), false},
		"repeated header, so by address":   {`["header:x-plan", "client_ip"]`, with("", "x-plan: a", "x-plan: b", ip1), with("", ip1), true},
		"two spellings, so by address":     {`["header:x-plan", "client_ip"]`, with("", "x-plan: a", "x.plan: b", ip1), with("", ip1), true},
		"the last header may be missing":   {`["client_ip", "header:x-plan"]`, with(""), with("bob"), true},
		"two headers with the same value":  {`["header:x-a", "header:x-b"]`, with("", "x-a: v"), with("", "x-b: v"), false},
		"all: one of one":                  {`{"all": ["client_ip"]}`, with("", ip1), with("", ip1), true},
		"all: same":                        {`{"all": ["client_ip", "header:x-plan"]}`, with("", ip1, "x-plan: a"), with("", ip1, "x-plan: a"), true},
		"all: first part differs":          {`{"all": ["client_ip", "header:x-plan"]}`, with("", ip1, "x-plan: a"), with("", ip2, "x-plan: a"), false},
		"all: second part differs":         {`{"all": ["client_ip", "header:x-plan"]}`, with("", ip1, "x-plan: a"), with("", ip1, "x-plan: b"), false},
		"all: value moves to the next":     {`{"all": ["header:x-a", "header:x-b"]}`, with("", "x-a: 1", "x-b: 23"), with("", "x-a: 12", "x-b: 3"), false},
		"all: missing beside empty":        {`{"all": ["header:x-a", "header:x-b"]}`, with("", "x-a: 1"), with("", "x-a: 1", "x-b: "), false},
		"all: route and identity":          {`{"all": ["route", "identity"]}`, with("alice"), with("bob"), false},
		"all, else address":                {`[{"all": ["identity", "header:x-plan"]}, "client_ip"]`, with("alice", ip1), with("bob", ip1), true},
		"all, else address, not the whole": {`[{"all": ["identity", "header:x-plan"]}, "client_ip"]`, with("alice", ip1, "x-plan: a"), with("alice", ip1), false},
	} {
		p := policytest.Build(t, Definition(), policytest.NewEnv(t), fmt.Sprintf(`{"requests": 1, "per": "1h", "key": %s}`, c.key))
		if got := policytest.Run(t, p, c.a); !got.Continued() {
			t.Errorf("%s: %v", name, got)
		}
		if got := policytest.Run(t, p, c.b); got.Continued() == c.same {
			t.Errorf("%s: the second is decided as %v", name, got)
		}
	}
}

// A request that has none of the alternatives can't be decided: it is never admitted uncounted.
func TestRequestsWithoutAnyKey(t *testing.T) {
	for key, want := range map[string]string{
		`["identity", "client_ip"]`: "limit rate by identity, client_ip: the request has none of these",
		`[{"all": ["identity", "route"]}, {"all": ["client_ip", "header:x-plan"]}]`: "limit rate by {identity, route}, {client_ip, header:x-plan}: the request has none of these",
	} {
		p := policytest.Build(t, Definition(), policytest.NewEnv(t), fmt.Sprintf(`{"requests": 1, "per": "1h", "key": %s}`, key))
		for _, r := range []policytest.Request{from(), from("x-forwarded-for: unknown"), {TrustedHops: 1, Headers: []string{"x-forwarded-for: 192.0.2.1"}}} {
			if got := policytest.Run(t, p, r); got.Err == nil || got.Err.Error() != want {
				t.Errorf("%s: %v", key, got)
			}
		}
	}
}

func TestKeyParameters(t *testing.T) {
	const expected = "expected identity, client_ip, route, header:NAME, {all: [...]} of them, or a list of these"
	for key, want := range map[string]string{
		`7`:                                "key: unknown value 7, " + expected,
		`true`:                             "key: unknown value true, " + expected,
		`[7]`:                              "key: unknown value 7, " + expected,
		`[["identity"]]`:                   `key: unknown value ["identity"], ` + expected,
		`{}`:                               "key: unknown value {}, " + expected,
		`{"any": ["identity"]}`:            `key: unknown value {"any": ["identity"]}, ` + expected,
		`{"all": ["identity"], "any": []}`: "key: unknown value {",
		`{"all": "identity"}`:              "key: unknown value {",
		`{"all": [7]}`:                     "key: unknown value {",
		`{"all": [{"all": ["identity"]}]}`: "key: unknown value {",
		`[]`:                               "key: must have 1 to 4 alternatives, got 0",
		`["header:a","header:b","header:c","header:d","route"]`: "key: must have 1 to 4 alternatives, got 5",
		`{"all": []}`: "key.all: must have 1 to 4 parts, got 0",
		`{"all": ["header:a", "header:b", "header:c", "header:d", "header:e"]}`: "key.all: must have 1 to 4 parts, got 5",
		`["identity", "ip"]`:                           `key[1]: unknown value "ip", expected identity, client_ip, route or header:NAME`,
		`["identity", {"all": ["route", "ip"]}]`:       `key[1].all[1]: unknown value "ip", expected identity`,
		`{"all": ["route", "route"]}`:                  `key.all[1]: "route" is there twice; remove one`,
		`{"all": ["header:a", "header:A"]}`:            `key.all[1]: "header:A" is there twice; remove one`,
		`["identity", "identity"]`:                     "key[1]: is never used",
		`["route", "identity"]`:                        "key[1]: is never used",
		`["identity", {"all": ["route", "identity"]}]`: "key[1]: is never used",
		`null`:            "key: null",
		`[null]`:          "null",
		`{"all": [null]}`: "null",
	} {
		_, err := Definition().Build(policytest.NewEnv(t), json.RawMessage(fmt.Sprintf(`{"requests": 1, "per": "1s", "key": %s}`, key)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", key, err, want)
		}
	}
}

// Clients are told which key the limit is of.
func TestLabelOfKeys(t *testing.T) {
	for key, want := range map[string]string{
		`["identity", "client_ip"]`:                             `"identity|client_ip-1h0m0s";q=1;w=3600`,
		`[{"all": ["identity", "header:x-plan"]}, "client_ip"]`: `"identity+header-x-plan|client_ip-1h0m0s";q=1;w=3600`,
	} {
		p := policytest.Build(t, Definition(), policytest.NewEnv(t), fmt.Sprintf(`{"requests": 1, "per": "1h", "key": %s}`, key))
		r := with("alice", "x-plan: a")
		policytest.Run(t, p, r)
		if got := policytest.Run(t, p, r).Verdict.Headers(); len(got) < 2 || got[1].Value != want {
			t.Errorf("%s: %v", key, got)
		}
	}
}
