package tenantguard

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

func TestExamples(t *testing.T) {
	policytest.RunExamples(t, "README.md", Definition(), policytest.NewEnv(t))
}

func TestParameters(t *testing.T) {
	for params, want := range map[string]string{
		`{"path_prefix": "/tenants/", "header_name": "x"}`: "header_name: path_prefix is given too",
		`{"path_prefix": "/tenants"}`:                      "path_prefix: ",
		`{"path_prefix": "tenants/"}`:                      "path_prefix: ",
		`{"path_prefix": "/a//b/"}`:                        "path_prefix: ",
		`{"path_prefix": "/a/../"}`:                        "path_prefix: ",
		`{"path_prefix": "/%61/"}`:                         "path_prefix: ",
		`{"scope_prefix": ""}`:                             "scope_prefix: it is empty, and claim too",
		`{"header_name": "x a"}`:                           "header_name: ",
		`{"tenant_header": "host"}`:                        "tenant_header: ",
		`{"tenants": ["a"]}`:                               "tenants: unknown parameter; legal are path_prefix, header_name, scope_prefix, claim, tenant_header",
	} {
		_, err := Definition().Build(policytest.NewEnv(t), json.RawMessage(params))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", params, err, want)
		}
	}
	policytest.Build(t, Definition(), policytest.NewEnv(t), `{"path_prefix": "/"}`)
}

func identity(scopes ...string) *policies.Identity {
	return &policies.Identity{Subject: "alice", Scopes: scopes}
}

// Clients of acme try to get at umbrella. Each of these paths is one that some server takes for a path of umbrella's.
func TestPathsThatTryToGetThrough(t *testing.T) {
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"path_prefix": "/tenants/"}`)
	for target, want := range map[string]string{
		"/tenants/acme":                         "continue",
		"/tenants/acme/":                        "continue",
		"/tenants/acme/orders/":                 "continue",
		"/tenants/acme?x=/../umbrella":          "continue",
		"/tenants/acme/...":                     "continue",
		"/tenants/umbrella":                     "403 tenant_mismatch",
		"/tenants/ACME/orders":                  "403 tenant_mismatch",
		"/tenants/acme.":                        "403 tenant_mismatch",
		"/tenants/acm":                          "403 tenant_mismatch",
		"/tenants/acmeumbrella":                 "403 tenant_mismatch",
		"/tenants":                              "403 tenant_missing",
		"/tenants/":                             "403 tenant_missing",
		"/TENANTS/acme":                         "403 tenant_missing",
		"/v1/tenants/acme":                      "403 tenant_missing",
		"/":                                     "403 tenant_missing",
		"*":                                     "403 tenant_missing",
		"/tenants/acme/../umbrella":             "400 tenant_ambiguous",
		"/tenants/acme/\x00":                    "400 tenant_ambiguous",
		"/tenants/acme/.\t./umbrella":           "400 tenant_ambiguous",
		"/tenants/acme/ x":                      "400 tenant_ambiguous",
		"/tenants/acme/\x7f":                    "400 tenant_ambiguous",
		"/tenants/acme/\xc3\xa9":                "400 tenant_ambiguous",
		"/tenants/acme/\xc0\xae\xc0\xae/x":      "400 tenant_ambiguous",
		"/tenants/acme/..":                      "400 tenant_ambiguous",
		"/tenants/./umbrella":                   "400 tenant_ambiguous",
		"/tenants/acme/./x":                     "400 tenant_ambiguous",
		"/tenants/acme//../../umbrella":         "400 tenant_ambiguous",
		"//tenants/acme":                        "400 tenant_ambiguous",
		"/tenants//umbrella":                    "400 tenant_ambiguous",
		"/tenants/acme//x":                      "400 tenant_ambiguous",
		"/tenants/acme//":                       "400 tenant_ambiguous",
		"//":                                    "400 tenant_ambiguous",
		"/tenants/acme%2f..%2fumbrella":         "400 tenant_ambiguous",
		"/tenants/acme/%2e%2e/umbrella":         "400 tenant_ambiguous",
		"/tenants/acme/.%2E/umbrella":           "400 tenant_ambiguous",
		"/tenants/%61cme":                       "400 tenant_ambiguous",
		"/tenants/acme%00":                      "400 tenant_ambiguous",
		"/tenants/acme/%c0%ae%c0%ae/umbrella":   "400 tenant_ambiguous",
		"/tenants/acme\\..\\umbrella":           "400 tenant_ambiguous",
		"/tenants/acme/..;/umbrella":            "400 tenant_ambiguous",
		"/tenants/acme;x=1/orders":              "400 tenant_ambiguous",
		"/tenants/acme#/../umbrella":            "400 tenant_ambiguous",
		"/tenants/.acme":                        "400 tenant_ambiguous",
		"/tenants/ac me":                        "400 tenant_ambiguous",
		"/tenants/acmé":                         "400 tenant_ambiguous",
		"/tenants/" + strings.Repeat("a", 129):  "400 tenant_ambiguous",
		"/tenants/" + strings.Repeat("a", 9000): "400 tenant_ambiguous",
	} {
		got := policytest.Run(t, p, policytest.Request{Path: target, Identity: identity("tenant:acme"), Headers: []string{"x-tenant: umbrella"}})
		if got.String() != want {
			t.Errorf("%.60s: %v, want %s", target, got, want)
		}
		if v, n := got.Header("x-tenant"); (n != 0) != got.Continued() || n != 0 && v != "acme" {
			t.Errorf("%.60s: the upstream is told %q", target, v)
		}
	}
}

func TestIdentities(t *testing.T) {
	const both = `{"path_prefix": "/", "claim": "org"}`
	claims := func(org string, scopes ...string) *policies.Identity {
		id := identity(scopes...)
		id.Claims = []policies.Entry{{Key: "other", Value: "acme"}, {Key: "org", Value: org}}
		return id
	}
	for name, c := range map[string]struct {
		params string
		id     *policies.Identity
		want   string
	}{
		"nobody":             {both, nil, "403 identity_missing"},
		"no tenants":         {both, identity(), "403 tenant_mismatch"},
		"scope":              {both, identity("orders", "tenant:acme"), "continue"},
		"other prefix":       {both, identity("acme", "atenant:acme", "tenant:", "tenant"), "403 tenant_mismatch"},
		"claim":              {both, claims("acme"), "continue"},
		"scope beside claim": {both, claims("umbrella", "tenant:acme"), "continue"},
		"other claim":        {both, claims("umbrella"), "403 tenant_mismatch"},
		"claim not asked":    {`{"path_prefix": "/"}`, claims("acme"), "403 tenant_mismatch"},
		"scope not asked":    {`{"path_prefix": "/", "scope_prefix": "", "claim": "org"}`, identity("tenant:acme"), "403 tenant_mismatch"},
		"the only one":       {`{"claim": "org"}`, claims("acme"), "continue"},
		"the same twice":     {`{"claim": "org"}`, claims("acme", "tenant:acme"), "continue"},
		"one of two":         {`{"claim": "org"}`, claims("acme", "tenant:umbrella"), "403 tenant_missing"},
		"none of none":       {`{}`, identity("orders"), "403 tenant_missing"},
		"illegal only":       {`{}`, identity("tenant:a\nb"), "403 tenant_missing"},
		"illegal and legal":  {`{}`, identity("tenant:..", "tenant:acme"), "continue"},
	} {
		t.Run(name, func(t *testing.T) {
			env := policytest.NewEnv(t)
			got := policytest.Run(t, policytest.Build(t, Definition(), env, c.params), policytest.Request{Path: "/acme", Identity: c.id})
			if got.String() != c.want {
				t.Errorf("%v, want %s", got, c.want)
			}
			if denied := env.Count("denied"); (denied == 1) == got.Continued() {
				t.Errorf("%d denied", denied)
			}
		})
	}
}

func TestHeaderThatIsReadAndSet(t *testing.T) {
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"header_name": "x-tenant"}`)
	for name, c := range map[string]struct {
		headers []string
		want    string
	}{
		"one":            {[]string{"X-Tenant: acme"}, "continue"},
		"none":           {nil, "403 tenant_missing"},
		"empty":          {[]string{"x-tenant: "}, "400 tenant_ambiguous"},
		"other":          {[]string{"x-tenant: umbrella"}, "403 tenant_mismatch"},
		"list":           {[]string{"x-tenant: acme, umbrella"}, "400 tenant_ambiguous"},
		"repeated":       {[]string{"x-tenant: acme", "x-tenant: acme"}, "400 tenant_ambiguous"},
		"two spellings":  {[]string{"x-tenant: acme", "x_tenant: umbrella"}, "400 tenant_ambiguous"},
		"other spelling": {[]string{"x_tenant: acme"}, "400 tenant_ambiguous"},
	} {
		got := policytest.Run(t, p, policytest.Request{Headers: c.headers, Identity: identity("tenant:acme")})
		if got.String() != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
		if v, n := got.Header("x-tenant"); got.Continued() && (v != "acme" || n != 1) {
			t.Errorf("%s: the upstream is told %q", name, v)
		}
	}
}

// Whatever the path: what is let through means acme to a server that cleans paths as well as to one that doesn't.
func FuzzPath(f *testing.F) {
	for _, p := range []string{"/tenants/acme/x", "/tenants/acme/../umbrella", "/tenants//umbrella/", "/tenants/acme/.", "//", "/tenants/acme%2f", "/tenants/acme;/"} {
		f.Add(p)
	}
	policy := policytest.Build(f, Definition(), policytest.NewEnv(f), `{"path_prefix": "/tenants/"}`)
	f.Fuzz(func(t *testing.T, target string) {
		got := policytest.Run(t, policy, policytest.Request{Path: target, Identity: identity("tenant:acme")})
		if got.Err != nil {
			t.Fatal(got.Err)
		}
		if !got.Continued() {
			return
		}
		target, _, _ = strings.Cut(target, "?")
		for _, read := range []string{target, path.Clean(target), strings.ReplaceAll(target, "\\", "/")} {
			if s := strings.Split(read, "/"); !slices.Equal(s[:min(3, len(s))], []string{"", "tenants", "acme"}) {
				t.Errorf("%q was let through", target)
			}
		}
	})
}

func run(t testing.TB) func() {
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"path_prefix": "/tenants/"}`).(*Policy)
	request := policytest.Request{Path: "/tenants/acme/orders?page=2", Headers: []string{"x-tenant: umbrella"}}.HeaderMap()
	x, ctx, id := new(policies.Exchange), t.Context(), policies.Identity{Subject: "alice", Scopes: []string{"orders.read", "tenant:acme"}}
	return func() {
		x.Reset()
		if err := x.BeginRequest("r", request, true); err != nil {
			t.Fatal(err)
		}
		x.ReplayIdentity(id)
		if v, err := p.OnRequestHeaders(ctx, x.Request()); err != nil || !v.IsContinue() || len(x.Changes()) != 2 {
			t.Fatal(v, err, x.Changes())
		}
	}
}

func TestNoAllocations(t *testing.T) {
	if n := testing.AllocsPerRun(100, run(t)); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPath(b *testing.B) {
	run := run(b)
	b.ReportAllocs()
	for b.Loop() {
		run()
	}
}
