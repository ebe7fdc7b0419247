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
		`{"key_store":"partners","schemes":["bearer","a b"]}`:                         "schemes[1]: ",
		`{"key_store":"partners","schemes":["bearer",""]}`:                            "schemes[1]: ",
		`{"key_store":"partners","schemes":["bearer","Bearer"]}`:                      `schemes[1]: "Bearer" is in the list already`,
		`{"key_store":"partners","schemes":["a","b","c","d","e","f","g","h","i"]}`:    "schemes: must have at most 8",
		`{"key_store":"partners","claims_to_headers":{"plan":"x_user_id"}}`:           "claims_to_headers.plan: header \"x_user_id\" is the identity_header",
		`{"key_store":"partners","claims_to_headers":{"plan":"x_api_key"}}`:           "claims_to_headers.plan: header \"x_api_key\" carries the credential",
		`{"key_store":"partners","claims_to_headers":{"plan":"authorization"}}`:       "claims_to_headers.plan: ",
		`{"key_store":"partners","claims_to_headers":{"a":"x-a","b":"X_A"}}`:          "claims_to_headers.b: header \"X_A\" carries claim \"a\" already",
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
		"scheme":            {`{"key_store":"partners","schemes":["bearer"]}`, []field{{"authorization", "Bearer key-alice"}}},
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

// TestSchemes: a key after a scheme in the header Authorization.
func TestSchemes(t *testing.T) {
	const (
		bearer  = `{"key_store":"partners","schemes":["bearer","Token"],"query_param":"api_key","cookie_name":"session-key"}`
		only    = `{"key_store":"partners","schemes":["bearer"],"header_name":""}`
		same    = `{"key_store":"partners","schemes":["bearer"],"header_name":"Authorization"}`
		anybody = `{"key_store":"partners","schemes":["bearer"],"required":false}`
	)
	auth := func(value string) field { return field{"authorization", value} }
	for name, tc := range map[string]struct {
		params string
		path   string
		fields []field
		want   string
		left   string // of the header
	}{
		"bearer":                   {bearer, "/", []field{auth("Bearer key-alice")}, "continue alice", ""},
		"other case":               {bearer, "/", []field{{"Authorization", "bEARER key-alice"}}, "continue alice", ""},
		"second scheme":            {bearer, "/", []field{auth("token key-alice")}, "continue alice", ""},
		"several spaces":           {bearer, "/", []field{auth(" Bearer   key-alice")}, "continue alice", ""},
		"header of its own":        {bearer, "/", []field{{"x-api-key", "key-bob"}}, "continue bob", ""},
		"only by scheme":           {only, "/", []field{auth("Bearer key-alice"), {"x-api-key", "key-bob"}}, "continue alice", ""},
		"named as the header too":  {same, "/", []field{auth("Bearer key-alice")}, "continue alice", ""},
		"without the scheme":       {same, "/", []field{auth("key-alice")}, "401 api_key_missing", "key-alice"},
		"another scheme":           {bearer, "/", []field{auth("Basic key-alice")}, "401 api_key_missing", "Basic key-alice"},
		"another scheme and a key": {bearer, "/", []field{auth("Basic abc"), {"x-api-key", "key-bob"}}, "continue bob", "Basic abc"},
		"part of a scheme":         {bearer, "/", []field{auth("Bear key-alice")}, "401 api_key_missing", "Bear key-alice"},
		"longer scheme":            {bearer, "/", []field{auth("Bearer2 key-alice")}, "401 api_key_missing", "Bearer2 key-alice"},
		"scheme alone":             {bearer, "/", []field{auth("Bearer")}, "401 api_key_missing", "Bearer"},
		"scheme and a space":       {bearer, "/", []field{auth("Bearer ")}, "401 api_key_missing", "Bearer "},
		"unknown key":              {bearer, "/", []field{auth("Bearer key-mallory")}, "401 api_key_invalid", "Bearer key-mallory"},
		"two words":                {bearer, "/", []field{auth("Bearer key-alice x")}, "401 api_key_invalid", "Bearer key-alice x"},
		"tab":                      {bearer, "/", []field{auth("Bearer\tkey-alice")}, "401 api_key_invalid", "Bearer\tkey-alice"},
		"comma":                    {bearer, "/", []field{auth("Bearer,key-alice")}, "401 api_key_invalid", "Bearer,key-alice"},
		"colon":                    {bearer, "/", []field{auth("Bearer:key-alice")}, "401 api_key_invalid", "Bearer:key-alice"},

		"twice":                     {bearer, "/", []field{auth("Bearer key-alice"), auth("Bearer key-alice")}, "401 api_key_repeated", ""},
		"with another scheme":       {bearer, "/", []field{auth("Basic abc"), auth("Bearer key-alice")}, "401 api_key_repeated", ""},
		"twice with other schemes":  {bearer, "/", []field{auth("Basic abc"), auth("Basic def"), {"x-api-key", "key-bob"}}, "401 api_key_repeated", ""},
		"other keys in two places":  {bearer, "/", []field{auth("Bearer key-alice"), {"x-api-key", "key-bob"}}, "401 api_key_repeated", ""},
		"the same key in two":       {bearer, "/", []field{auth("Bearer key-alice"), {"x-api-key", "key-alice"}}, "401 api_key_repeated", ""},
		"scheme and query":          {bearer, "/?api_key=key-bob", []field{auth("Bearer key-alice")}, "401 api_key_repeated", ""},
		"scheme and cookie":         {bearer, "/", []field{auth("Bearer key-alice"), {"cookie", "session-key=key-bob"}}, "401 api_key_repeated", ""},
		"empty scheme and a header": {bearer, "/", []field{auth("Bearer "), {"x-api-key", "key-bob"}}, "401 api_key_repeated", ""},

		"optional, none":           {anybody, "/", nil, "continue", ""},
		"optional, another scheme": {anybody, "/", []field{auth("Basic abc")}, "continue", "Basic abc"},
		"optional, scheme alone":   {anybody, "/", []field{auth("Bearer")}, "continue", ""},
		"optional, tab":            {anybody, "/", []field{auth("Bearer\tkey-mallory")}, "401 api_key_invalid", "Bearer\tkey-mallory"},
		"optional, unknown key":    {anybody, "/", []field{auth("Bearer key-mallory")}, "401 api_key_invalid", "Bearer key-mallory"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newWorld(t).policy(t, tc.params)
			path := tc.path
			got := p.run(t, path, tc.fields...)
			if got.String() != tc.want {
				t.Errorf("%v, want %s", got, tc.want)
			}
			if got.Continued() && got.header("authorization") != tc.left {
				t.Errorf("the upstream sees the authorization %q, want %q", got.header("authorization"), tc.left)
			}
		})
	}
	kept := newWorld(t).policy(t, strings.Replace(bearer, "{", `{"strip_credential":false,`, 1))
	if got := kept.run(t, "/", field{"authorization", "Bearer key-alice"}); got.header("authorization") != "Bearer key-alice" {
		t.Errorf("with strip_credential: false, the upstream sees %q", got.header("authorization"))
	}
	for params, want := range map[string]string{
		bearer: `ApiKey realm="api", Bearer realm="api", Token realm="api"`,
		only:   `Bearer realm="api"`,
		strings.Replace(bearer, "Token", "apikey", 1): `ApiKey realm="api", Bearer realm="api"`,
	} {
		got := newWorld(t).policy(t, params).run(t, "/")
		if h := got.Verdict.Headers(); len(h) != 1 || h[0] != (policies.Header{Name: "www-authenticate", Value: want}) {
			t.Errorf("%s: %v, want the challenge %s", params, h, want)
		}
	}
	p := newWorld(t).policy(t, bearer)
	if got := strings.Join(p.CredentialHeaders(), " "); got != "x-api-key authorization" {
		t.Errorf("the policy reads credentials from %s", got)
	}
}

// TestCookiesThatCannotBeRead: a server may read a cookie where the policy sees none.
func TestCookiesThatCannotBeRead(t *testing.T) {
	p := newWorld(t).policy(t, optional)
	for _, cookie := range []string{"session-key", "a=1; session-key ; b=2"} {
		if got := p.run(t, "/", field{"cookie", cookie}); got.String() != "401 api_key_invalid" {
			t.Errorf("%q: %v", cookie, got)
		}
	}
}

// TestLifetimesOfKeys: a client has several keys, each with a lifetime of its own.
func TestLifetimesOfKeys(t *testing.T) {
	at := func(d time.Duration) time.Time { return policytest.Start.Add(d) }
	w := newWorld(t)
	w.store.Set(map[string]policies.Key{
		"old":  {ID: "alice", Expires: at(time.Hour)},
		"new":  {ID: "alice", NotBefore: at(30 * time.Minute)},
		"both": {ID: "alice", NotBefore: at(30 * time.Minute), Expires: at(time.Hour)},
	})
	p := w.policy(t, all)
	for _, step := range []struct{ old, new, both string }{
		{"continue alice", "401 api_key_invalid", "401 api_key_invalid"},
		{"continue alice", "continue alice", "continue alice"},
		{"401 api_key_invalid", "continue alice", "401 api_key_invalid"},
	} {
		for key, want := range map[string]string{"old": step.old, "new": step.new, "both": step.both} {
			if got := p.run(t, "/", field{"x-api-key", key}); got.String() != want {
				t.Errorf("%v after the start, %s: %v, want %s", w.Clock().Now().Sub(policytest.Start), key, got, want)
			}
		}
		w.Advance(30 * time.Minute)
	}
	if w.Count("key_early") != 2 || w.Count("key_expired") != 2 {
		t.Errorf("counts: %d early, %d expired", w.Count("key_early"), w.Count("key_expired"))
	}
}

// TestClaimsOfKeys: groups and metadata become claims of the identity, and headers.
func TestClaimsOfKeys(t *testing.T) {
	claims, err := policies.KeyClaims([]string{"dev", "ops"}, []policies.Entry{{Key: "plan", Value: "gold"}, {Key: "owner", Value: "Zoë"}})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.store.Set(map[string]policies.Key{"key-alice": {ID: "alice", Claims: claims}, "key-bob": {ID: "bob"}})
	const headers = `{"key_store":"partners","claims_to_headers":{"groups":{"header":"X-Groups","format":"comma"},"plan":"X-Plan","owner":"X-Owner"}}`
	forged := []field{{"X_Groups", "root"}, {"x-plan", "free"}, {"x.owner", "mallory"}}
	for key, want := range map[string]map[string]string{
		"key-alice": {"x-groups": "dev,ops", "x-plan": "gold", "x-owner": "", "x_groups": "", "x.owner": ""},
		"key-bob":   {"x-groups": "", "x-plan": "", "x-owner": "", "x_groups": "", "x.owner": ""},
	} {
		got := w.policy(t, headers).run(t, "/", append(forged, field{"x-api-key", key})...)
		if !got.Continued() {
			t.Fatal(got)
		}
		for name, value := range want {
			if got.header(name) != value {
				t.Errorf("%s: header %s is %q, want %q", key, name, got.header(name), value)
			}
		}
		for path, value := range map[string]string{"plan": "gold", "/groups/1": "ops", "owner": "Zoë"} {
			p, err := policies.ParseClaimPath(path)
			if err != nil {
				t.Fatal(err)
			}
			if key == "key-bob" {
				value = ""
			}
			if claim, _ := got.Identity.ClaimAt(p); claim != value {
				t.Errorf("%s: claim %s is %q, want %q", key, path, claim, value)
			}
		}
	}
	if w.Count("claim_left_out") != 1 {
		t.Errorf("%d claims left out, want the owner's", w.Count("claim_left_out"))
	}
	required := w.policy(t, `{"key_store":"partners","claims_to_headers":{"plan":{"header":"X-Plan","required":true}}}`)
	if got := required.run(t, "/", field{"x-api-key", "key-alice"}); got.header("x-plan") != "gold" {
		t.Error(got)
	}
	if got := required.run(t, "/", field{"x-api-key", "key-bob"}, field{"x-plan", "gold"}); got.String() != "403 claim_missing" || got.subject() != "" {
		t.Error(got)
	}
	if got := strings.Join(w.policy(t, headers).OwnedHeaders(), " "); got != "x-user-id x-groups x-owner x-plan" {
		t.Errorf("owned headers: %s", got)
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
	claims, err := policies.KeyClaims([]string{"dev", "ops"}, []policies.Entry{{Key: "plan", Value: "gold"}})
	if err != nil {
		t.Fatal(err)
	}
	day := 24 * time.Hour
	store := policytest.NewKeyStore(map[string]policies.Key{
		"key-alice": {ID: "alice", Scopes: []string{"orders.read"}, Claims: claims},
		"key-bob":   {ID: "bob"},
		"key-old":   {ID: "carol", Expires: policytest.Start.Add(day)},
		"key-new":   {ID: "carol", NotBefore: policytest.Start.Add(-day)},
		"key-late":  {ID: "late", Expires: policytest.Start},
		"key-early": {ID: "early", NotBefore: policytest.Start.Add(day)},
	})
	policytest.RunExamples(t, "README.md", Definition(), policytest.NewEnv(t, policytest.WithKeyStore("partners", store)))
}
