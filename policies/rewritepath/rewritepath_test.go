package rewritepath

import (
	"encoding/json"
	"net/url"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

func TestExamples(t *testing.T) {
	policytest.RunExamples(t, "README.md", Definition(), policytest.NewEnv(t))
}

func TestParameters(t *testing.T) {
	groups := strings.Repeat("(a)", 17)
	for params, want := range map[string]string{
		``:                 "prefix: 0 of prefix, template and regex are given; legal is one",
		`{"prefix": "/a"}`: `to: "" is not legal`,
		`{"prefix": "/a", "regex": "/b", "to": "/"}`:                     "prefix: 2 of prefix, template and regex are given",
		`{"prefix": "a", "to": "/"}`:                                     `prefix: "a" is not legal`,
		`{"prefix": "/a/", "to": "/"}`:                                   `prefix: "/a/" ends with a slash; legal is "/a"`,
		`{"prefix": "/a//b", "to": "/"}`:                                 "prefix: ",
		`{"prefix": "/a/../b", "to": "/"}`:                               "prefix: ",
		`{"prefix": "/%61", "to": "/"}`:                                  "prefix: ",
		`{"prefix": "/a?b", "to": "/"}`:                                  "prefix: ",
		`{"prefix": "/{a}", "to": "/"}`:                                  "prefix: ",
		`{"prefix": "/a", "to": "b"}`:                                    `to: "b" is not legal`,
		`{"prefix": "/a", "to": "/b/"}`:                                  `to: "/b/" ends with a slash; legal is "/b"`,
		`{"prefix": "/a", "to": "/b?c=1"}`:                               "to: ",
		`{"prefix": "/a", "to": "/b#c"}`:                                 "to: ",
		`{"prefix": "/a", "to": "/.."}`:                                  "to: ",
		`{"prefix": "/a", "to": "//b"}`:                                  "to: ",
		`{"prefix": "/a", "to": "/{1}"}`:                                 "to: ",
		`{"prefix": "/a", "to": "/a b"}`:                                 "to: ",
		`{"prefix": "/a", "to": "/é"}`:                                   "to: ",
		`{"prefix": "/a", "to": "/%2f"}`:                                 "to: ",
		`{"prefix": "/a", "to": "/b", "unmatched": ""}`:                  `unmatched: "" is not legal; legal are deny and continue`,
		`{"template": "a", "to": "/"}`:                                   "template: \"a\" does not begin with a slash",
		`{"template": "/{a}b", "to": "/"}`:                               `template: "{a}b" is not legal`,
		`{"template": "/a{b}", "to": "/"}`:                               `template: "a{b}" is not legal`,
		`{"template": "/{a", "to": "/"}`:                                 `template: "{a" is not legal`,
		`{"template": "/{}", "to": "/"}`:                                 `template: "{}" is not legal`,
		`{"template": "/{A}", "to": "/"}`:                                `template: "{A}" is not legal`,
		`{"template": "/{1}", "to": "/"}`:                                `template: "{1}" is not legal`,
		`{"template": "/{a}/{a}", "to": "/"}`:                            "template: {a} is there twice",
		`{"template": "/{a...}/b", "to": "/"}`:                           "template: {a...} is not the last segment",
		`{"template": "/a//{b}", "to": "/"}`:                             "template: \"/a//{b}\" matches no path",
		`{"template": "/a/./{b}", "to": "/"}`:                            "matches no path",
		`{"template": "/a?b", "to": "/"}`:                                "matches no path",
		`{"template": "/{a}", "to": "/{b}"}`:                             "to: {b} is not legal; legal are {a}",
		`{"template": "/{a}", "to": "/{a"}`:                              "to: {a} is not legal",
		`{"template": "/{a}", "to": "/{}"}`:                              "to: {} is not legal",
		`{"template": "/{a}", "to": "{a}"}`:                              "to: ",
		`{"template": "/{a}", "to": "/a}"}`:                              "to: ",
		`{"template": "/` + strings.Repeat("x/", 1100) + `", "to": "/"}`: "template: it has 2201 bytes; legal are 2048",
		`{"regex": "/(", "to": "/"}`:                                     "regex: ",
		`{"regex": "a)|(b", "to": "/"}`:                                  "regex: ",
		`{"regex": "/(?=a)", "to": "/"}`:                                 "regex: ",
		`{"regex": "/a{2000}", "to": "/"}`:                               "regex: ",
		`{"regex": "/((a{100}){100}){100}", "to": "/"}`:                  "regex: ",
		`{"regex": "/` + groups + `", "to": "/"}`:                        "regex: it has 17 groups; legal are 16",
		`{"regex": "/(a)", "to": "/{2}"}`:                                "to: {2} is not legal; legal are {1}",
		`{"regex": "/(a)", "to": "/{0}"}`:                                "to: {0} is not legal",
		`{"regex": "/(a)", "to": "/{01}"}`:                               "to: {01} is not legal",
		`{"regex": "/(a)", "to": "/{-1}"}`:                               "to: {-1} is not legal",
		`{"regex": "/a", "to": "/{1}"}`:                                  "to: {1} is not legal; legal are no names",
		`{"regex": "/(?P<a>x)(?P<a>y)", "to": "/"}`:                      "regex: ",
		`{"regex": "/a", "to": "/` + strings.Repeat("x", 2048) + `"}`:    "to: it has 2049 bytes",
		`{"prefix": 1}`:                                                  "prefix: number is not legal here",
		`{"from": "/a", "to": "/b"}`:                                     "from: unknown parameter; legal are prefix, template, regex, to, reroute, unmatched",
	} {
		_, err := Definition().Build(policytest.NewEnv(t), json.RawMessage(params))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %s", params, err, want)
		}
	}
}

func rewrite(t testing.TB, p any, target string) (*policytest.Result, string) {
	t.Helper()
	got := policytest.Run(t, p, policytest.Request{Path: target})
	to, _ := got.Header(":path")
	return got, to
}

func TestRewrites(t *testing.T) {
	const (
		strip    = `{"prefix": "/api", "to": "/"}`
		move     = `{"prefix": "/api", "to": "/v1/x"}`
		root     = `{"prefix": "/", "to": "/v1"}`
		nothing  = `{"prefix": "/", "to": "/"}`
		users    = `{"template": "/users/{id}", "to": "/u/{id}"}`
		files    = `{"template": "/files/{path...}", "to": "/static/{path}"}`
		fixed    = `{"template": "/old/", "to": "/new"}`
		whole    = `{"regex": "/a|/b/.*", "to": "/c"}`
		optional = `{"regex": "/x(/y)?(/z)?", "to": "/w{1}{2}"}`
		greedy   = `{"regex": "/(?i)admin(.*)", "to": "/public{1}"}`
	)
	for _, c := range []struct{ params, target, want string }{
		{strip, "/api/orders?a=1", "/orders?a=1"},
		{strip, "/api/", "/"},
		{strip, "/api?a", "/?a"},
		{strip, "/api/?a?b=/api/", "/?a?b=/api/"},
		{strip, "/api/a;x=1/b", "/a;x=1/b"},
		{strip, "/api/a%20b%7E~!$&'()*+,=:@", "/a%20b%7E~!$&'()*+,=:@"},
		{strip, "/api/.well-known/a..b", "/.well-known/a..b"},
		{strip, "/api/100%25", "/100%25"},
		{strip, "/API/x", "404 path_unmatched"},
		{strip, "/api;x=1/y", "404 path_unmatched"},
		{strip, "/x/api/y", "404 path_unmatched"},
		{strip, "/", "404 path_unmatched"},
		{strip, "*", "400 path_ambiguous"},
		{strip, "api/x", "400 path_ambiguous"},
		{strip, "http://a/api/x", "400 path_ambiguous"},
		{strip, "/api/x?a#b", "400 path_ambiguous"},
		{strip, "/api/x?a b", "400 path_ambiguous"},
		{strip, "/api/x?\x7f", "400 path_ambiguous"},
		{strip, "/api//evil.example/x", "400 path_ambiguous"},
		{strip, "/api/" + strings.Repeat("a", maxTarget), "414 path_too_long"},
		{move, "/api", "/v1/x"},
		{move, "/api/", "/v1/x/"},
		{move, "/api/y?q", "/v1/x/y?q"},
		{move, "/api/" + strings.Repeat("a", maxTarget-5), "414 path_too_long"},
		{root, "/", "/v1/"},
		{root, "/a", "/v1/a"},
		{nothing, "/a?b", "/a?b"},
		{users, "/users/7", "/u/7"},
		{users, "/users/7?x", "/u/7?x"},
		{users, "/users/7/", "404 path_unmatched"},
		{users, "/users/", "404 path_unmatched"},
		{users, "/users", "404 path_unmatched"},
		{users, "/users/..", "400 path_ambiguous"},
		{users, "/users/a%2fb", "400 path_ambiguous"},
		{users, "/userz/7", "404 path_unmatched"},
		{files, "/files/", "/static/"},
		{files, "/files/a/b/", "/static/a/b/"},
		{files, "/files", "404 path_unmatched"},
		{files, "/files/a/../../etc", "400 path_ambiguous"},
		{fixed, "/old/", "/new"},
		{fixed, "/old", "404 path_unmatched"},
		{fixed, "/old/x", "404 path_unmatched"},
		{whole, "/a", "/c"},
		{whole, "/b/x/y", "/c"},
		{whole, "/a/b/x", "404 path_unmatched"},
		{whole, "/x/a", "404 path_unmatched"},
		{optional, "/x", "/w"},
		{optional, "/x/y", "/w/y"},
		{optional, "/x/z", "/w/z"},
		{greedy, "/ADMIN/x", "/public/x"},
		{greedy, "/admin/%2E%2E/x", "400 path_ambiguous"},
		{`{"regex": "/([^/]*)/([^/]*)", "to": "/{2}{1}"}`, "/./.", "400 path_ambiguous"},
		// Legal where they stood, not where they come to stand.
		{`{"regex": "/a(.*)b", "to": "/{1}"}`, "/a..b", "400 path_unsafe"},
		{`{"regex": "/a(.*)", "to": "/b{1}"}`, "/a/x", "/b/x"},
		{`{"regex": "/a(.*)", "to": "/{1}"}`, "/a/x", "400 path_unsafe"},
		{`{"regex": "/(.)-(.)", "to": "/%{1}{2}"}`, "", "legal"},
		{`{"template": "/{a}/{b}", "to": "/{a}{b}"}`, "/x;/y", "/x;y"},
		{`{"template": "/{a}/{b}", "to": "/x{a}.{b}"}`, "/%41/b", "400 path_ambiguous"},
	} {
		if c.want == "legal" { // The text before a part is checked by itself.
			if _, err := Definition().Build(policytest.NewEnv(t), json.RawMessage(c.params)); err == nil {
				t.Errorf("%s was taken", c.params)
			}
			continue
		}
		got, to := rewrite(t, policytest.Build(t, Definition(), policytest.NewEnv(t), c.params), c.target)
		if got.Continued() {
			if to != c.want {
				t.Errorf("%s on %.60s: %.60s, want %.60s", c.params, c.target, to, c.want)
			}
		} else if got.String() != c.want || len(got.Changes) != 0 {
			t.Errorf("%s on %.60s: %v, want %.60s", c.params, c.target, got, c.want)
		}
	}
}

func TestEvents(t *testing.T) {
	env := policytest.NewEnv(t)
	p := policytest.Build(t, Definition(), env, `{"prefix": "/api", "to": "/"}`)
	for _, target := range []string{"/api/a", "/api", "/other", "/api/..", "/api/" + strings.Repeat("a", maxTarget)} {
		rewrite(t, p, target)
	}
	if env.Count("rewritten") != 2 || env.Count("refused") != 3 {
		t.Errorf("%d rewritten, %d refused", env.Count("rewritten"), env.Count("refused"))
	}
}

// vectors are paths from Envoy's own tests and from advisories about proxies that read a path otherwise than their upstream.
type vectors struct {
	Invalid   []string          `json:"invalid"`
	Normalize [][2]string       `json:"normalize"`
	Merge     [][2]string       `json:"merge_slashes"`
	Unescape  [][2]string       `json:"unescape_slashes"`
	Fragment  [][2]string       `json:"remove_query_fragment"`
	Advisory  map[string]string `json:"extra_bypass_from_advisories"`
}

// What anybody would normalise to another path is not rewritten.
func TestVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/path_vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"prefix": "/", "to": "/below"}`)
	n := 0
	refused := func(target string) {
		t.Helper()
		n++
		if got, to := rewrite(t, p, target); got.Continued() || !strings.HasPrefix(got.String(), "400 ") {
			t.Errorf("%s: %v, %s", target, got, to)
		}
	}
	for _, target := range v.Invalid {
		refused(target)
	}
	for _, pairs := range [][][2]string{v.Normalize, v.Merge, v.Unescape} {
		for _, pair := range pairs {
			if pair[0] == "" {
				continue
			}
			before, _, _ := strings.Cut(pair[0], "?")
			after, _, _ := strings.Cut(pair[1], "?")
			if before != after {
				refused(pair[0])
			}
		}
	}
	for _, pair := range v.Fragment {
		if strings.Contains(pair[0], "#") {
			refused(pair[0])
			continue
		}
		if _, to := rewrite(t, p, pair[0]); to != "/below"+pair[0] {
			t.Errorf("%s: %s", pair[0], to)
		}
	}
	admin := policytest.Build(t, Definition(), policytest.NewEnv(t), `{"prefix": "/admin", "to": "/public"}`)
	for target := range v.Advisory {
		n++
		got, to := rewrite(t, admin, target)
		if got.Continued() && to != "/public/" {
			t.Errorf("%s: %s", target, to)
		}
	}
	if n < 20 {
		t.Errorf("%d vectors", n)
	}
}

// FuzzStaysBelow: whatever a client sends, the upstream gets a path below the prefix, in each way to read it.
func FuzzStaysBelow(f *testing.F) {
	for _, seed := range []string{
		"/api/x", "/api", "/api/../x", "/api/%2e%2e/x", "/api//x", "/api/a\\..\\x", "/api/..;/x", "/api/%c0%ae%c0%ae/", "/api/%252e%252e/x", "/api/x?y#z", "/api/%", "/api/%2", "/api/;/x", "/api/%%32%65",
	} {
		f.Add(seed)
	}
	var all []any
	for _, params := range []string{
		`{"prefix": "/api", "to": "/below"}`, `{"template": "/api/{a}/{rest...}", "to": "/below/{rest}/{a}"}`, `{"regex": "/api(.*)", "to": "/below/{1}"}`, `{"regex": "(.*)", "to": "/below{1}"}`,
	} {
		all = append(all, policytest.Build(f, Definition(), policytest.NewEnv(f), params))
	}
	f.Fuzz(func(t *testing.T, target string) {
		for i, p := range all {
			got, to := rewrite(t, p, target)
			if got.Err != nil {
				t.Fatal(got.Err)
			}
			if !got.Continued() {
				continue
			}
			read, _, _ := strings.Cut(to, "?")
			for range 3 {
				for _, again := range []string{read, strings.ReplaceAll(read, "\\", "/"), cutParameters(read)} {
					clean := path.Clean(again)
					if clean != "/below" && !strings.HasPrefix(clean, "/below/") && i < 3 || strings.Contains(again, "//") || strings.ContainsAny(again, "\\#") {
						t.Errorf("%q comes to %q, which is read as %q", target, to, clean)
					}
				}
				decoded, err := url.PathUnescape(read)
				if err != nil {
					break
				}
				read = decoded
				if strings.ContainsAny(read, "#") { // Encoded, it is not a fragment; who decodes it takes it for a character.
					break
				}
			}
		}
	})
}

func cutParameters(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}

func run(t testing.TB, params, path string) func() {
	p := policytest.Build(t, Definition(), policytest.NewEnv(t), params).(*Policy)
	request := policytest.Request{Path: path}.HeaderMap()
	x, ctx := new(policies.Exchange), t.Context()
	return func() {
		x.Reset()
		if err := x.BeginRequest("r", request, true); err != nil {
			t.Fatal(err)
		}
		if v, err := p.OnRequestHeaders(ctx, x.Request()); err != nil || !v.IsContinue() || len(x.Changes()) != 1 {
			t.Fatal(v, err, x.Changes())
		}
	}
}

// A prefix that is cut off costs nothing; another path is one piece of memory, as it has to outlive the method.
func TestAllocations(t *testing.T) {
	for params, most := range map[string]float64{
		`{"prefix": "/users", "to": "/"}`:                        0,
		`{"prefix": "/users", "to": "/v1"}`:                      1,
		`{"template": "/users/{id}/{rest...}", "to": "/{id}"}`:   1,
		`{"regex": "/users/([0-9]+)/.*", "to": "/accounts/{1}"}`: 2,
	} {
		if n := testing.AllocsPerRun(100, run(t, params, "/users/42/orders?page=2")); n > most {
			t.Errorf("%s: %v allocations, want %v", params, n, most)
		}
	}
}

func BenchmarkRewrite(b *testing.B) {
	for name, params := range map[string]string{
		"strip": `{"prefix": "/users", "to": "/"}`, "prefix": `{"prefix": "/users", "to": "/v1"}`,
		"template": `{"template": "/users/{id}/{rest...}", "to": "/{id}"}`, "regex": `{"regex": "/users/([0-9]+)/.*", "to": "/accounts/{1}"}`,
	} {
		b.Run(name, func(b *testing.B) {
			run := run(b, params, "/users/42/orders?page=2")
			b.ReportAllocs()
			for b.Loop() {
				run()
			}
		})
	}
}

// TestReroute: Envoy is asked to choose the route anew only where the configuration says so.
func TestReroute(t *testing.T) {
	for params, want := range map[string]policies.ChangeKind{
		`{"prefix": "/a", "to": "/b"}`:                           policies.SetPath,
		`{"prefix": "/a", "to": "/b", "reroute": true}`:          policies.SetPathAndRoute,
		`{"prefix": "/a", "to": "/", "reroute": true}`:           policies.SetPathAndRoute,
		`{"template": "/a/{x}", "to": "/{x}", "reroute": false}`: policies.SetPath,
	} {
		p := policytest.Build(t, Definition(), policytest.NewEnv(t), params)
		got := policytest.Run(t, p, policytest.Request{Path: "/a/c?x=1"})
		if got.Err != nil || len(got.Changes) != 1 || got.Changes[0].Kind != want {
			t.Errorf("%s: %v, want a change of kind %d", params, got, want)
		}
	}
}
