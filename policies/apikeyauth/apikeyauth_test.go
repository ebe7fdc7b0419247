package apikeyauth

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

const (
	all      = `{"key_store":"partners","query_param":"api_key","cookie_name":"session-key"}`
	optional = `{"key_store":"partners","query_param":"api_key","cookie_name":"session-key","required":false}`
)

func TestDecisions(t *testing.T) {
	w := newWorld(t)
	key := func(value string) field { return field{"x-api-key", value} }
	cookie := func(value string) field { return field{"cookie", value} }
	for name, tc := range map[string]struct {
		params string
		path   string
		fields []field
		want   string
	}{
		"key in the header":             {all, "/", []field{key("key-alice")}, "continue alice"},
		"header name in capitals":       {all, "/", []field{{"X-API-Key", "key-alice"}}, "continue alice"},
		"key in the query":              {all, "/?a=1&api_key=key-bob&b=2", nil, "continue bob"},
		"key in the query, encoded":     {all, "/?%61pi_key=" + url.QueryEscape("ключ =&;"), nil, "continue odd"},
		"key in a cookie":               {all, "/", []field{cookie("a=1; session-key=key-bob; b=2")}, "continue bob"},
		"key in a quoted cookie":        {all, "/", []field{cookie(`session-key="key-bob"`)}, "continue bob"},
		"key in the second cookie line": {all, "/", []field{cookie("a=1"), cookie("session-key=key-bob")}, "continue bob"},
		"key before it expires":         {all, "/", []field{key("key-soon")}, "continue soon"},

		"key as large as it gets": {all, "/", []field{key(largest)}, "continue largest"},

		"no key":                         {all, "/", nil, "401 api_key_missing"},
		"empty key":                      {all, "/", []field{key("")}, "401 api_key_missing"},
		"empty query parameter":          {all, "/?api_key=", nil, "401 api_key_missing"},
		"query parameter without value":  {all, "/?api_key", nil, "401 api_key_missing"},
		"empty cookie":                   {all, "/", []field{cookie("session-key=")}, "401 api_key_missing"},
		"unknown key":                    {all, "/", []field{key("key-mallory")}, "401 api_key_invalid"},
		"key with other case":            {all, "/", []field{key("KEY-ALICE")}, "401 api_key_invalid"},
		"key with a space":               {all, "/", []field{key("key-alice ")}, "401 api_key_invalid"},
		"two keys in one line":           {all, "/", []field{key("key-alice,key-bob")}, "401 api_key_invalid"},
		"the digest in place of the key": {all, "/", []field{key("2d3c9b0ea7ab6ca6ea2a6f4b5b0e2b6a")}, "401 api_key_invalid"},
		"expired key":                    {all, "/", []field{key("key-late")}, "401 api_key_invalid"},
		"huge key":                       {all, "/", []field{key(tooLarge)}, "401 api_key_invalid"},
		"undecodable key":                {all, "/?api_key=%zz", nil, "401 api_key_invalid"},

		"header twice":                 {all, "/", []field{key("key-alice"), key("key-alice")}, "401 api_key_repeated"},
		"header twice, one empty":      {all, "/", []field{key("key-alice"), key("")}, "401 api_key_repeated"},
		"header in two spellings":      {all, "/", []field{key("key-alice"), {"x_api_key", "key-bob"}}, "401 api_key_repeated"},
		"header in another spelling":   {all, "/", []field{{"x_api_key", "key-alice"}}, "401 api_key_invalid"},
		"query twice":                  {all, "/?api_key=key-alice&api_key=key-alice", nil, "401 api_key_repeated"},
		"query twice, one encoded":     {all, "/?api_key=key-alice&api%5fkey=key-bob", nil, "401 api_key_repeated"},
		"query twice, one undecodable": {all, "/?api_key=key-alice&api_key=%zz", nil, "401 api_key_repeated"},
		"cookie twice":                 {all, "/", []field{cookie("session-key=key-alice; session-key=key-bob")}, "401 api_key_repeated"},
		"cookie twice, with a space":   {all, "/", []field{cookie("session-key=key-alice; session-key =key-bob")}, "401 api_key_repeated"},
		"cookie in two lines":          {all, "/", []field{cookie("session-key=key-alice"), cookie("session-key=key-bob")}, "401 api_key_repeated"},
		"header and query":             {all, "/?api_key=key-alice", []field{key("key-alice")}, "401 api_key_repeated"},
		"header and cookie":            {all, "/", []field{key("key-alice"), cookie("session-key=key-alice")}, "401 api_key_repeated"},
		"query and cookie":             {all, "/?api_key=key-alice", []field{cookie("session-key=key-alice")}, "401 api_key_repeated"},
		"empty header and query":       {all, "/?api_key=key-alice", []field{key("")}, "401 api_key_repeated"},

		"header when only the query counts": {`{"key_store":"partners","header_name":"","query_param":"k"}`, "/?k=key-bob", []field{key("key-alice")}, "continue bob"},
		"query when only the header counts": {`{"key_store":"partners"}`, "/?api_key=key-alice", nil, "401 api_key_missing"},

		"optional, no key":         {optional, "/", nil, "continue"},
		"optional, empty key":      {optional, "/", []field{key("")}, "continue"},
		"optional, good key":       {optional, "/", []field{key("key-alice")}, "continue alice"},
		"optional, wrong key":      {optional, "/", []field{key("key-mallory")}, "401 api_key_invalid"},
		"optional, expired key":    {optional, "/", []field{key("key-late")}, "401 api_key_invalid"},
		"optional, two keys":       {optional, "/", []field{key("key-alice"), key("key-bob")}, "401 api_key_repeated"},
		"optional, other spelling": {optional, "/", []field{{"x_api_key", "key-alice"}}, "401 api_key_invalid"},
		"optional, undecodable":    {optional, "/?api_key=%zz", nil, "401 api_key_invalid"},
		"optional, huge key":       {optional, "/", []field{key(tooLarge)}, "401 api_key_invalid"},

		"scope there":                 {`{"key_store":"partners","scopes":["orders.read"]}`, "/", []field{key("key-alice")}, "continue alice"},
		"all scopes there":            {`{"key_store":"partners","scopes":["orders.write","orders.read"]}`, "/", []field{key("key-alice")}, "continue alice"},
		"one scope missing":           {`{"key_store":"partners","scopes":["orders.read","orders.delete"]}`, "/", []field{key("key-alice")}, "403 scope_missing"},
		"part of a scope":             {`{"key_store":"partners","scopes":["orders"]}`, "/", []field{key("key-alice")}, "403 scope_missing"},
		"scope of no scopes":          {`{"key_store":"partners","scopes":["orders.read"]}`, "/", []field{key("key-bob")}, "403 scope_missing"},
		"optional with scope, no key": {`{"key_store":"partners","scopes":["orders.read"],"required":false}`, "/", nil, "continue"},
	} {
		t.Run(name, func(t *testing.T) {
			got := w.policy(t, tc.params).run(t, tc.path, tc.fields...)
			if got.String() != tc.want {
				t.Errorf("%v, want %s", got, tc.want)
			}
			if !got.Continued() && got.subject() != "" {
				t.Errorf("refused, but the identity is %q", got.subject())
			}
		})
	}
}

func TestRefusalsTellNothing(t *testing.T) {
	p := newWorld(t).policy(t, `{"key_store":"partners","scopes":["orders.read"]}`)
	answer := func(value string) policies.Verdict { return p.run(t, "/", field{"x-api-key", value}).Verdict }
	unknown, expired := answer("key-mallory"), answer("key-late")
	if string(unknown.Body()) != string(expired.Body()) || unknown.Status() != expired.Status() || unknown.Reason() != expired.Reason() {
		t.Errorf("unknown and expired keys get different answers: %s and %s", unknown.Body(), expired.Body())
	}
	for _, v := range []policies.Verdict{unknown, expired, answer("")} {
		if v.Status() != 401 || len(v.Headers()) != 1 || v.Headers()[0] != (policies.Header{Name: "www-authenticate", Value: `ApiKey realm="api"`}) {
			t.Errorf("status %d with %v, want 401 with a challenge", v.Status(), v.Headers())
		}
	}
	if v := answer("key-bob"); v.Status() != 403 || len(v.Headers()) != 0 {
		t.Errorf("without the scope: status %d with %v, want 403", v.Status(), v.Headers())
	}
}

// spellings are those that some server takes for X-User-ID.
var spellings = []string{"x-user-id", "X-User-ID", "x_user_id", "X_User-Id", "x-user_id", "X_USER_ID"}

func TestIdentityHeaderOfTheClientNeverPasses(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct{ name, params, key, want string }{
		{"good key", all, "key-alice", "alice"},
		{"no key, optional", optional, "", ""},
		{"no key", all, "", ""},
		{"wrong key", all, "key-mallory", ""},
		{"no scope", `{"key_store":"partners","scopes":["x"]}`, "key-alice", ""},
	} {
		for _, spelling := range spellings {
			t.Run(tc.name+" "+spelling, func(t *testing.T) {
				got := w.policy(t, tc.params).run(t, "/", field{spelling, "admin"}, field{"x-api-key", tc.key}, field{spelling, "root"})
				for _, h := range got.Headers {
					if strings.EqualFold(strings.ReplaceAll(h.Name, "_", "-"), "x-user-id") && h.Value != tc.want {
						t.Errorf("%s: %s passes", h.Name, h.Value)
					}
				}
				if got.header("x-user-id") != tc.want {
					t.Errorf("the identity header is %q, want %q", got.header("x-user-id"), tc.want)
				}
			})
		}
	}
}

func TestIdentity(t *testing.T) {
	got := newWorld(t).policy(t, all).run(t, "/", field{"x-api-key", "key-alice"})
	id := got.Identity
	if id == nil || id.Subject != "alice" || id.Method != "apiKeyAuth" || id.Issuer != "partners" || !id.HasScope("orders.write") {
		t.Errorf("identity %+v", id)
	}
	got = newWorld(t).policy(t, `{"key_store":"partners","identity_header":""}`).run(t, "/", field{"x-api-key", "key-alice"}, field{"x-user-id", "admin"})
	if got.subject() != "alice" || got.header("x-user-id") != "admin" {
		t.Errorf("without an identity header: subject %q, header %q", got.subject(), got.header("x-user-id"))
	}
}

func TestStrip(t *testing.T) {
	keep := strings.Replace(all, "{", `{"strip_credential":false,`, 1)
	for name, tc := range map[string]struct {
		params, path string
		fields       []field
		wantPath     string
		wantKey      string
		wantCookie   string
	}{
		"header":                {all, "/a?b=1", []field{{"X-API-Key", "key-bob"}}, "/a?b=1", "", ""},
		"query alone":           {all, "/a?api_key=key-bob", nil, "/a", "", ""},
		"query among others":    {all, "/a?x=1&api_key=key-bob&y=%20", nil, "/a?x=1&y=%20", "", ""},
		"query encoded":         {all, "/a?x=1&%61pi_key=key-bob", nil, "/a?x=1", "", ""},
		"cookie alone":          {all, "/", []field{{"cookie", "session-key=key-bob"}}, "/", "", ""},
		"cookie among others":   {all, "/", []field{{"cookie", "a=1; session-key=key-bob; b=\"2\""}}, "/", "", "a=1; b=\"2\""},
		"cookie with spaces":    {all, "/", []field{{"cookie", "a=1;session-key = key-bob ;b=2"}}, "/", "", "a=1; b=2"},
		"cookie in two lines":   {all, "/", []field{{"cookie", "a=1"}, {"cookie", "session-key=key-bob"}}, "/", "", "a=1"},
		"other cookie stays":    {all, "/", []field{{"x-api-key", "key-bob"}, {"cookie", "my-session-key=1;b=2"}}, "/", "", "my-session-key=1;b=2"},
		"unrelated cookies":     {all, "/", []field{{"x-api-key", "key-bob"}, {"cookie", "a=1;b=2"}}, "/", "", "a=1;b=2"},
		"kept header":           {keep, "/", []field{{"x-api-key", "key-bob"}}, "/", "key-bob", ""},
		"kept query":            {keep, "/?api_key=key-bob", nil, "/?api_key=key-bob", "", ""},
		"kept cookie":           {keep, "/", []field{{"cookie", "session-key=key-bob"}}, "/", "", "session-key=key-bob"},
		"empty one of optional": {optional, "/?api_key=", nil, "/", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := newWorld(t).policy(t, tc.params).run(t, tc.path, tc.fields...)
			if !got.Continued() {
				t.Fatal(got)
			}
			if p := got.header(":path"); p != tc.wantPath {
				t.Errorf("path %q, want %q", p, tc.wantPath)
			}
			if got.header("x-api-key") != tc.wantKey || got.header("cookie") != tc.wantCookie {
				t.Errorf("key header %q, cookie %q; want %q, %q", got.header("x-api-key"), got.header("cookie"), tc.wantKey, tc.wantCookie)
			}
		})
	}
}

func TestStoreThatCantTellIsNoDecision(t *testing.T) {
	w := newWorld(t)
	failure := errors.New("never loaded")
	w.store.Fail(failure)
	for _, params := range []string{all, optional} {
		got := w.policy(t, params).run(t, "/", field{"x-api-key", "key-alice"})
		if !errors.Is(got.Err, failure) || got.subject() != "" || got.header("x-user-id") != "" {
			t.Errorf("%v, want the error of the store", got)
		}
	}
}

func TestClockMovesOn(t *testing.T) {
	w := newWorld(t)
	p := w.policy(t, all)
	if got := p.run(t, "/", field{"x-api-key", "key-soon"}); got.String() != "continue soon" {
		t.Fatal(got)
	}
	w.Advance(time.Second)
	if got := p.run(t, "/", field{"x-api-key", "key-soon"}); got.String() != "401 api_key_invalid" {
		t.Fatal(got)
	}
	if w.Count("key_expired") != 1 || w.Count("key_unknown") != 0 {
		t.Errorf("counts: %d expired, %d unknown", w.Count("key_expired"), w.Count("key_unknown"))
	}
}

func TestBuildRefuses(t *testing.T) {
	for params, want := range map[string]string{
		`{}`:                     "key_store: missing",
		`{"key_store":"others"}`: `key_store: unknown key store "others"; there are partners`,
		`{"key_store":"partners","header_name":""}`:                                   "header_name: empty",
		`{"key_store":"partners","header_name":"a b"}`:                                "header_name: ",
		`{"key_store":"partners","header_name":"Host"}`:                               "header_name: ",
		`{"key_store":"partners","header_name":"cookie"}`:                             "header_name: ",
		`{"key_store":"partners","identity_header":":path"}`:                          "identity_header: ",
		`{"key_store":"partners","identity_header":"x_api-key"}`:                      "identity_header: the same as header_name",
		`{"key_store":"partners","query_param":"a b"}`:                                "query_param: ",
		`{"key_store":"partners","cookie_name":"a=b"}`:                                "cookie_name: ",
		`{"key_store":"partners","cookie_name":"a b"}`:                                "cookie_name: ",
		`{"key_store":"partners","scopes":["ok","a b"]}`:                              "scopes[1]: ",
		`{"key_store":"partners","scopes":[""]}`:                                      "scopes[0]: ",
		`{"key_store":"partners","required":"yes"}`:                                   "required: ",
		`{"key_store":"partners","keystore":"x"}`:                                     "keystore: unknown parameter",
		`{"header_name":"a b","identity_header":"","cookie_name":"=","scopes":[" "]}`: "cookie_name: ",
	} {
		if _, err := Definition().Build(newWorld(t), json.RawMessage(params)); err == nil || !strings.Contains("\n"+err.Error(), "\n"+want) {
			t.Errorf("%s: error %v, want a line with %q", params, err, want)
		}
	}
}

func TestAllowedRequestDoesNotAllocate(t *testing.T) {
	w := newWorld(t)
	for name, tc := range map[string]struct {
		params string
		fields []field
	}{
		"header":            {`{"key_store":"partners","scopes":["orders.read"]}`, []field{{"x-api-key", "key-alice"}}},
		"all sources":       {all, []field{{"x-api-key", "key-alice"}, {"cookie", "a=1; b=2"}}},
		"kept cookie":       {strings.Replace(all, "{", `{"strip_credential":false,`, 1), []field{{"cookie", "a=1; session-key=key-alice"}}},
		"optional and none": {optional, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := w.policy(t, tc.params)
			run := runner(t, p, tc.fields...)
			if n := testing.AllocsPerRun(1000, run); n != 0 {
				t.Errorf("%v allocations, want none", n)
			}
		})
	}
}

// runner returns a function that runs the policy on a request of which it reuses all memory.
func runner(t testing.TB, p *Policy, fields ...field) func() {
	x, headers := new(policies.Exchange), request("/orders?page=2", fields...).HeaderMap()
	return func() {
		x.Reset()
		if err := x.BeginRequest("orders", headers, true); err != nil {
			t.Fatal(err)
		}
		if v, err := p.OnRequestHeaders(context.Background(), x.Request()); err != nil || !v.IsContinue() {
			t.Fatal(v, err)
		}
	}
}

func BenchmarkAllowed(b *testing.B) {
	run := runner(b, newWorld(b).policy(b, `{"key_store":"partners","scopes":["orders.read"]}`), field{"x-api-key", "key-alice"}, field{"accept", "*/*"}, field{"user-agent", "bench"})
	b.ReportAllocs()
	for b.Loop() {
		run()
	}
}

func BenchmarkParseOnly(b *testing.B) {
	x, headers := new(policies.Exchange), request("/orders?page=2", field{"x-api-key", "key-alice"}, field{"accept", "*/*"}, field{"user-agent", "bench"}).HeaderMap()
	b.ReportAllocs()
	for b.Loop() {
		x.Reset()
		if err := x.BeginRequest("orders", headers, true); err != nil {
			b.Fatal(err)
		}
	}
}

func TestREADME(t *testing.T) {
	store := policytest.NewKeyStore(map[string]policies.Key{
		"key-alice": {ID: "alice", Scopes: []string{"orders.read"}},
		"key-bob":   {ID: "bob"},
		"key-late":  {ID: "late", Expires: policytest.Start},
	})
	policytest.RunExamples(t, "README.md", Definition(), policytest.NewEnv(t, policytest.WithKeyStore("partners", store)))
}
