package jwtvalidation

import (
	"context"
	"crypto"
	"crypto/rsa"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/policytest"
)

func param(more string) string { return `{"issuer":"corporate",` + more + `}` }

func TestClaimsInHeaders(t *testing.T) {
	w := newWorld(t)
	for name, tc := range map[string]struct {
		params  string
		changes m
		want    string // of x-claim; "none" for no header, or the refusal
	}{
		"list":                    {`{"groups":"x-claim"}`, m{"groups": []any{"dev", "ops", 1, true, nil}}, `["dev","ops",1,true,null]`},
		"object":                  {`{"groups":"x-claim"}`, m{"groups": m{"é": "a\r\nb"}}, `{"\u00e9":"a\u000d\u000ab"}`},
		"empty list":              {`{"groups":"x-claim"}`, m{"groups": []string{}}, `[]`},
		"list, comma":             {`{"groups":{"header":"x-claim","format":"comma"}}`, m{"groups": []any{"dev", 2}}, `dev,2`},
		"list, comma in it":       {`{"groups":{"header":"x-claim","format":"comma"}}`, m{"groups": []any{"dev,admin"}}, `none`},
		"list of lists, comma":    {`{"groups":{"header":"x-claim","format":"comma"}}`, m{"groups": []any{[]any{"x"}}}, `none`},
		"list, line break":        {`{"groups":{"header":"x-claim","format":"comma"}}`, m{"groups": []any{"a\nb"}}, `none`},
		"list, base64":            {`{"groups":{"header":"x-claim","format":"base64"}}`, m{"groups": []any{"dev"}}, `WyJkZXYiXQ==`},
		"not ASCII":               {`{"name":"x-claim"}`, m{"name": "Zoë"}, `none`},
		"not ASCII, utf8":         {`{"name":{"header":"x-claim","format":"utf8"}}`, m{"name": "Zoë"}, `Zoë`},
		"not ASCII, percent":      {`{"name":{"header":"x-claim","format":"percent"}}`, m{"name": "Zoë"}, `Zo%C3%AB`},
		"not ASCII, base64":       {`{"name":{"header":"x-claim","format":"base64"}}`, m{"name": "Zoë"}, `Wm/Dqw==`},
		"not ASCII, json":         {`{"name":{"header":"x-claim","format":"json"}}`, m{"name": "Zoë"}, `"Zo\u00eb"`},
		"line break, utf8":        {`{"name":{"header":"x-claim","format":"utf8"}}`, m{"name": "a\r\nx-admin: 1"}, `none`},
		"next line, utf8":         {`{"name":{"header":"x-claim","format":"utf8"}}`, m{"name": "a\u0085b"}, `none`},
		"line break, percent":     {`{"name":{"header":"x-claim","format":"percent"}}`, m{"name": "a\r\nb"}, `a%0D%0Ab`},
		"object, text":            {`{"name":{"header":"x-claim","format":"text"}}`, m{"name": m{}}, `none`},
		"null":                    {`{"name":"x-claim"}`, m{"name": json.RawMessage("null")}, `none`},
		"missing":                 {`{"name":"x-claim"}`, nil, `none`},
		"path":                    {`{"/realm_access/roles":"x-claim"}`, m{"realm_access": m{"roles": []string{"a"}}}, `["a"]`},
		"list of names":           {`[{"claim":["realm_access","roles"],"header":"x-claim"}]`, m{"realm_access": m{"roles": []string{"a"}}}, `["a"]`},
		"too long":                {`{"name":"x-claim"}`, m{"name": strings.Repeat("x", 8<<10+1)}, `none`},
		"required, missing":       {`{"name":{"header":"x-claim","required":true}}`, nil, `403 claim_missing`},
		"required, not ASCII":     {`{"name":{"header":"x-claim","required":true}}`, m{"name": "Zoë"}, `403 claim_missing`},
		"required, empty":         {`{"name":{"header":"x-claim","required":true}}`, m{"name": ""}, `403 claim_missing`},
		"required, there":         {`{"name":{"header":"x-claim","required":true}}`, m{"name": "Zoe"}, `Zoe`},
		"number as it is":         {`{"n":"x-claim"}`, m{"n": json.RawMessage("1.50")}, `1.50`},
		"the default is a must":   {`null`, m{"sub": "Zoë"}, `401 token_subject`},
		"subject by its own name": {`{"sub":"x-claim"}`, m{"sub": "Zoë"}, `none`},
	} {
		t.Run(name, func(t *testing.T) {
			params := param(`"claims_to_headers":` + tc.params)
			if tc.params == "null" {
				params = corporate
			}
			p := w.policy(t, params)
			for range 2 { // The second time from memory.
				before := w.Count("claim_left_out")
				got := p.bearer(t, newToken(tc.changes), "X_Claim: forged")
				value, n := got.Header("x-claim")
				switch {
				case !got.Continued():
					value = got.String()
				case n == 0:
					value = "none"
				}
				if value != tc.want || n > 1 || got.Continued() && got.header("x_claim") != "" {
					t.Errorf("%q (%d), want %q", value, n, tc.want)
				}
				if counted := w.Count("claim_left_out") - before; counted != 0 && tc.want != "none" || counted == 0 && tc.want == "none" && name != "missing" {
					t.Errorf("counted %d", counted)
				}
			}
		})
	}
}

func TestAuthorization(t *testing.T) {
	w := newWorld(t)
	either := param(`"any_of":[{"scopes":["a","b"]},{"scopes":["c"]},{"claims":{"/realm_access/roles":["jobs"],"tenant":"acme"}}]`)
	for name, tc := range map[string]struct {
		params  string
		changes m
		want    string
	}{
		"nested claim":            {param(`"required_claims":{"/realm_access/roles":["admin"]}`), m{"realm_access": m{"roles": []string{"admin"}}}, "continue alice"},
		"nested claim, list":      {param(`"required_claims":[{"claim":["realm_access","roles"],"values":["admin"]}]`), m{"realm_access": m{"roles": []string{"admin"}}}, "continue alice"},
		"nested claim, other":     {param(`"required_claims":{"/realm_access/roles":["admin"]}`), m{"realm_access": m{"roles": []string{"x"}}}, "403 claim_missing"},
		"dots are a name":         {param(`"required_claims":{"realm_access.roles":["admin"]}`), m{"realm_access": m{"roles": []string{"admin"}}}, "403 claim_missing"},
		"dots as a name":          {param(`"required_claims":{"realm_access.roles":["admin"]}`), m{"realm_access.roles": "admin"}, "continue alice"},
		"slash as a name":         {param(`"required_claims":{"/roles":["admin"]}`), m{"/roles": "admin"}, "403 claim_missing"},
		"role":                    {param(`"required_claims":{"roles":["admin"]}`), m{"roles": []string{"x"}}, "403 claim_missing"},
		"role, expired":           {param(`"required_claims":{"roles":["admin"]}`), m{"roles": []string{"x"}, "exp": 1}, "401 token_expired"},
		"role, other audience":    {param(`"audience":["api"],"required_claims":{"roles":["admin"]}`), m{"roles": []string{"x"}}, "401 token_audience"},
		"any of, first":           {either, m{"scope": "b a"}, "continue alice"},
		"any of, half":            {either, m{"scope": "a"}, "403 any_of_missing"},
		"any of, second":          {either, m{"scp": []string{"c"}}, "continue alice"},
		"any of, claims":          {either, m{"realm_access": m{"roles": []string{"jobs"}}, "tenant": "acme"}, "continue alice"},
		"any of, one claim":       {either, m{"realm_access": m{"roles": []string{"jobs"}}}, "403 any_of_missing"},
		"any of, halves of two":   {either, m{"scope": "a", "tenant": "acme"}, "403 any_of_missing"},
		"any of, none":            {either, nil, "403 any_of_missing"},
		"any of and scope":        {param(`"required_scopes":["x"],"any_of":[{"scopes":["c"]}]`), m{"scope": "c"}, "403 scope_missing"},
		"subject of a daemon":     {param(`"subject_claim":["sub","client_id","azp"]`), m{"sub": nil, "client_id": "m2m", "azp": "x"}, "continue m2m"},
		"subject of a user":       {param(`"subject_claim":["sub","client_id"]`), m{"client_id": "m2m"}, "continue alice"},
		"subject, bad first":      {param(`"subject_claim":["sub","client_id"]`), m{"sub": "", "client_id": "m2m"}, "401 token_subject"},
		"subject, null first":     {param(`"subject_claim":["sub","client_id"]`), m{"sub": json.RawMessage("null"), "client_id": "m2m"}, "401 token_subject"},
		"subject, none":           {param(`"subject_claim":["sub","client_id"]`), m{"sub": nil}, "401 token_subject"},
		"subject by path":         {param(`"subject_claim":"/act/sub"`), m{"act": m{"sub": "bob"}}, "continue bob"},
		"subject with a control":  {param(`"claims_to_headers":{}`), m{"sub": "a\u0000b"}, "401 token_subject"},
		"no sub, where it counts": {corporate, m{"sub": nil, "client_id": "m2m"}, "401 token_subject"},
	} {
		if got := w.policy(t, tc.params).bearer(t, newToken(tc.changes)); got.String() != tc.want || !got.Continued() && got.Identity != nil {
			t.Errorf("%s: %v, want %s", name, got, tc.want)
		}
	}
}

func TestTypes(t *testing.T) {
	w := newWorld(t)
	for name, tc := range map[string]struct {
		params string
		typ    any
		want   string
	}{
		"own type":               {param(`"types":["JOSE","acme+jwt"]`), "application/ACME+jwt", "continue alice"},
		"JOSE":                   {param(`"types":["JOSE"]`), "JOSE", "continue alice"},
		"JOSE by default":        {corporate, "JOSE", "401 token_type"},
		"none":                   {corporate, nil, "continue alice"},
		"none where it is asked": {param(`"types":["at+jwt"]`), nil, "401 token_type"},
		"ID token":               {param(`"types":["at+jwt"]`), "JWT", "401 token_type"},
		"another media type":     {param(`"types":["at+jwt"]`), "text/at+jwt", "401 token_type"},
	} {
		if got := w.policy(t, tc.params).bearer(t, signClaims("RS256", m{"kid": "rsa", "typ": tc.typ}, claims(nil), rsaKey)); got.String() != tc.want {
			t.Errorf("%s: %v, want %s", name, got, tc.want)
		}
	}
}

func TestEd25519ByItsNewName(t *testing.T) {
	w := newWorld(t)
	input := b64(`{"alg":"Ed25519","kid":"ed"}`) + "." + b64(string(must(json.Marshal(claims(nil)))))
	token := input + "." + b64(string(must(edKey.Sign(nil, []byte(input), crypto.Hash(0)))))
	for params, want := range map[string]string{
		corporate:                         "continue alice",
		param(`"algorithms":["Ed25519"]`): "continue alice",
		param(`"algorithms":["EdDSA"]`):   "continue alice",
		param(`"algorithms":["ES256"]`):   "401 token_algorithm",
	} {
		if got := w.policy(t, params).bearer(t, token); got.String() != want {
			t.Errorf("%s: %v, want %s", params, got, want)
		}
	}
	if got := w.policy(t, corporate).bearer(t, strings.Replace(token, b64(`{"alg":"Ed25519","kid":"ed"}`), b64(`{"alg":"Ed25519","kid":"rsa"}`), 1)); got.String() != "401 token_key" {
		t.Errorf("with the id of an RSA key: %v", got)
	}
}

func TestKeysWithoutAKid(t *testing.T) {
	w := newWorld(t)
	token := newToken(nil) // of kid rsa
	five := []policies.VerificationKey{public("", "", rsaKey)}
	for i := range 4 { // Keys that differ, and that nothing was signed with.
		n := new(big.Int).Sub(otherRSA.N, big.NewInt(int64(2*i)))
		five = append(five, policies.VerificationKey{Public: &rsa.PublicKey{N: n, E: 65537}})
	}
	for name, tc := range map[string]struct {
		keys []policies.VerificationKey
		want string
	}{
		"the only key":            {[]policies.VerificationKey{public("", "", rsaKey)}, "continue alice"},
		"two of the type":         {[]policies.VerificationKey{public("", "", otherRSA), public("", "RS256", rsaKey)}, "continue alice"},
		"of another type":         {[]policies.VerificationKey{public("", "", p256)}, "401 token_key"},
		"bound to another alg":    {[]policies.VerificationKey{public("", "PS256", rsaKey)}, "401 token_key"},
		"beside another kid":      {[]policies.VerificationKey{public("other", "", otherRSA), public("", "", rsaKey)}, "continue alice"},
		"the kid is of another":   {[]policies.VerificationKey{public("rsa", "", otherRSA), public("", "", rsaKey)}, "401 token_signature"},
		"the kid is no such type": {[]policies.VerificationKey{public("rsa", "", p256), public("", "", rsaKey)}, "401 token_key"},
		"the key has another kid": {[]policies.VerificationKey{public("other", "", rsaKey)}, "401 token_key"},
		"five":                    {five, "401 token_key"},
		"four":                    {five[:4], "continue alice"},
	} {
		w.corporate.SetKeys(tc.keys...)
		if got := w.policy(t, corporate).bearer(t, token); got.String() != tc.want {
			t.Errorf("%s: %v, want %s", name, got, tc.want)
		}
	}
}

func TestReplacedKeyIsFetched(t *testing.T) {
	w := newWorld(t)
	w.corporate.SetKeys(public("rsa", "", otherRSA)).OnRefresh(func(context.Context) ([]policies.VerificationKey, error) { return corporateKeys, nil })
	p := w.policy(t, corporate)
	if got := p.bearer(t, newToken(nil)); got.String() != "continue alice" || w.corporate.Refreshes() != 1 {
		t.Errorf("%v after %d fetches", got, w.corporate.Refreshes())
	}
	// A token that nobody signed is refused after the fetch, and within the cool-down without one.
	bad := sign("RS256", header(""), payload, otherRSA)
	if got := p.bearer(t, bad); got.String() != "401 token_signature" || w.corporate.Refreshes() != 2 {
		t.Errorf("%v after %d fetches", got, w.corporate.Refreshes())
	}
	w.corporate.CoolDown(true)
	for _, token := range []string{bad, sign("RS256", `{"alg":"RS256","kid":"invented"}`, payload, rsaKey)} {
		if await(t, p, token) || w.corporate.Refreshes() != 2 {
			t.Errorf("a junk token waits in the cool-down, or makes a fetch: %d", w.corporate.Refreshes())
		}
	}
	// While the issuer is down, a bad signature stays one: it is no way to on_failure.
	w.corporate.CoolDown(false).OnRefresh(func(context.Context) ([]policies.VerificationKey, error) { return nil, errDown })
	if got := p.bearer(t, bad); got.String() != "401 token_signature" {
		t.Errorf("while the issuer is down: %v", got)
	}
}

func TestIssuerTemplates(t *testing.T) {
	var tenants []policies.Issuer
	for _, name := range []string{"t1", "t2", "t3", "t4", "t5"} {
		tenants = append(tenants, policytest.NewIssuer("https://login.example/"+name).SetKeys(corporateKeys...))
	}
	template := policytest.NewIssuer("https://login.example/{tenant}").SetTenants(tenants...).SetKeys(corporateKeys...)
	for _, n := range []int{2, 5} { // In a list, and in a map.
		template.SetTenants(tenants[:n]...)
		w := policytest.NewEnv(t, policytest.WithIssuer("login", template), policytest.WithIssuer("t1", tenants[0].(*policytest.Issuer)))
		p := policytest.Build(t, Definition(), w, `{"issuer":"login"}`).(*Policy)
		for iss, want := range map[string]string{
			"https://login.example/t1": "continue alice", "https://login.example/t2": "continue alice", "https://login.example/t6": "401 token_issuer",
			"https://login.example/{tenant}": "401 token_issuer", "https://login.example/": "401 token_issuer", "": "401 token_issuer",
		} {
			for range 2 {
				if got := p.bearer(t, newToken(m{"iss": iss})); got.String() != want || got.Continued() && got.Identity.Issuer != iss {
					t.Errorf("%d tenants, %s: %v, want %s", n, iss, got, want)
				}
			}
		}
		if _, err := Definition().Build(w, json.RawMessage(`{"issuer":["login","t1"]}`)); err == nil || !strings.Contains(err.Error(), `issuer[1]: "t1" has the same iss`) {
			t.Errorf("a tenant beside its template: %v", err)
		}
	}
}

func TestPlaces(t *testing.T) {
	w := newWorld(t)
	good, bad := newToken(nil), newToken(m{"exp": 1})
	all := `"cookie_name":"session","query_param":"access_token"`
	for name, tc := range map[string]struct {
		params  string
		path    string
		headers []string
		want    string
		after   string // path, authorization and cookie, where they are to be checked
	}{
		"header":                   {all, "/a", []string{"authorization: bearer " + good}, "continue alice", "/a|bearer " + good + "|"},
		"cookie":                   {all, "/a", []string{"cookie: a=b; session=" + good + "; c=d"}, "continue alice", "/a||a=b; c=d"},
		"cookie, forwarded":        {all + `,"forward_token":true`, "/a", []string{"cookie: session=" + good}, "continue alice", "/a||session=" + good},
		"query":                    {all, "/a?x=1&access_token=" + good + "&y", nil, "continue alice", "/a?x=1&y||"},
		"query, escaped name":      {all, "/a?acc%65ss_token=" + good, nil, "continue alice", "/a||"},
		"header stripped":          {`"forward_token":false`, "/a", []string{"authorization: Bearer " + good}, "continue alice", "/a||"},
		"header first":             {all, "/a?access_token=" + bad, []string{"authorization: Bearer " + good, "cookie: session=" + bad}, "continue alice", "/a|Bearer " + good + "|"},
		"cookie before query":      {all, "/a?access_token=" + bad, []string{"cookie: session=" + good}, "continue alice", "/a||"},
		"a bad one comes first":    {all, "/a?access_token=" + good, []string{"cookie: session=" + bad}, "401 token_expired", ""},
		"Basic beside the cookie":  {all, "/a", []string{"authorization: Basic eDp5", "cookie: session=" + good}, "continue alice", "/a|Basic eDp5|"},
		"empty header":             {all, "/a", []string{"authorization: Bearer ", "cookie: session=" + good}, "continue alice", "/a||"},
		"two cookies":              {all, "/a", []string{"cookie: session=" + good + "; session=x"}, "401 token_repeated", ""},
		"two cookies, a space":     {all, "/a", []string{"cookie: session=" + good + "; session =x"}, "401 token_repeated", ""},
		"two cookie fields":        {all, "/a", []string{"cookie: session=" + good, "cookie: session=" + good}, "401 token_repeated", ""},
		"two in the query":         {all, "/a?access_token=" + good + "&access_token=", nil, "401 token_repeated", ""},
		"one that is no encoding":  {all, "/a?access_token=%zz&access_token=" + good, nil, "401 token_repeated", ""},
		"no encoding":              {all, "/a?access_token=%zz", nil, "401 token_malformed", ""},
		"header twice":             {all, "/a", []string{"authorization: Bearer " + good, "authorization: Basic x"}, "401 token_repeated", ""},
		"nothing":                  {all, "/a", nil, "401 token_missing", ""},
		"cookie where none counts": {`"required":true`, "/a", []string{"cookie: session=" + good}, "401 token_missing", ""},
		"optional, nothing":        {all + `,"required":false`, "/a?b", []string{"cookie: a=b"}, "anonymous", "/a?b||a=b"},
		"optional, empty":          {all + `,"required":false`, "/a?access_token=", []string{"authorization: Bearer ", "cookie: session=; a=b"}, "anonymous", "/a||a=b"},
		"optional, Basic":          {all + `,"required":false`, "/a", []string{"authorization: Basic x"}, "anonymous", "/a|Basic x|"},
		"optional, bad":            {all + `,"required":false`, "/a", []string{"authorization: Bearer x"}, "401 token_malformed", ""},
		"optional, expired":        {all + `,"required":false`, "/a", []string{"cookie: session=" + bad}, "401 token_expired", ""},
		"optional, repeated":       {all + `,"required":false`, "/a", []string{"cookie: session=; session="}, "401 token_repeated", ""},
		"no header at all":         {`"header_name":"",` + all, "/a", []string{"authorization: Bearer " + good}, "401 token_missing", ""},
		"header of its own":        {`"header_name":"X-Token","scheme":""`, "/a", []string{"x-token: " + good}, "continue alice", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := outcome{policytest.Run(t, w.policy(t, param(tc.params)), policytest.Request{Path: tc.path, Headers: append([]string{"X_User_Id: admin", "x-user-id: admin"}, tc.headers...)})}
			text := got.String()
			if got.Continued() && got.Identity == nil {
				text = "anonymous"
				if got.header("x-user-id") != "" {
					t.Error("without a token, the identity header stays")
				}
			}
			after := got.header(":path") + "|" + got.header("authorization") + "|" + got.header("cookie")
			if text != tc.want || tc.after != "" && after != tc.after {
				t.Errorf("%s, then %s; want %s, then %s", text, after, tc.want, tc.after)
			}
		})
	}
}

// TestClaimsSetOfTheIdentity: later policies see all claims, nested, also where the token comes from memory.
func TestClaimsSetOfTheIdentity(t *testing.T) {
	w := newWorld(t)
	p := w.policy(t, corporate)
	roles := must(policies.ParseClaimPath("/realm_access/roles/1"))
	for range 2 {
		got := p.bearer(t, newToken(m{"realm_access": m{"roles": []string{"admin", "ops"}}}))
		if role, ok := got.Identity.ClaimsSet().Get(roles).Text(); !ok || role != "ops" {
			t.Errorf("%q, %v", role, ok)
		}
	}
	if w.Count("cache_hit") != 1 {
		t.Errorf("%d hits, want 1", w.Count("cache_hit"))
	}
}

func TestRealmAndResourceMetadata(t *testing.T) {
	p := newWorld(t).policy(t, param(`"realm":"accounts","resource_metadata":"https://api.example/.well-known/oauth-protected-resource","required_scopes":["a"]`))
	const metadata = `, resource_metadata="https://api.example/.well-known/oauth-protected-resource"`
	for want, got := range map[string]outcome{
		`Bearer realm="accounts", error="invalid_token", error_description="a token is required"` + metadata: p.run(t),
		`Bearer realm="accounts", error="insufficient_scope", scope="a"` + metadata:                          p.bearer(t, newToken(nil)),
	} {
		if value, _ := got.Answer("www-authenticate"); value != want {
			t.Errorf("%s, want %s", value, want)
		}
	}
}

func TestBuildRefusesOfClaims(t *testing.T) {
	for params, want := range map[string]string{
		`"required_claims":{"":["a"]}`:                              "empty claim name",
		`"required_claims":{"/a~":["a"]}`:                           `claim path "/a~"`,
		`"required_claims":[{"claim":[],"values":["a"]}]`:           "empty list of names",
		`"required_claims":[{"claim":"a"}]`:                         "needs claim and values",
		`"required_claims":[{"claim":"a","values":["a"],"x":1}]`:    `unknown field "x"`,
		`"required_claims":"a"`:                                     "expected an object",
		`"any_of":[]`:                                               "any_of: an empty list",
		`"any_of":[{}]`:                                             "any_of[0]: empty",
		`"any_of":[{"scope":["a"]}]`:                                "any_of[0].scope: unknown parameter",
		`"any_of":[{"scopes":["a b"]}]`:                             "any_of[0].scopes[0]: ",
		`"any_of":[{"claims":{"a":[]}}]`:                            "any_of[0].claims.a: an empty list",
		`"claims_to_headers":{"a":{"header":"x-a","format":"hex"}}`: `claims_to_headers.a: unknown format "hex", expected one of base64, comma, json, percent, text, utf8`,
		`"claims_to_headers":{"a":{"headers":"x-a"}}`:               `unknown field "headers"`,
		`"claims_to_headers":{"a":1}`:                               "claims_to_headers: ",
		`"claims_to_headers":[{"header":"x-a"}]`:                    "entry 0 has no claim",
		`"claims_to_headers":{"a":"cookie"}`:                        "claims_to_headers.a: ",
		`"subject_claim":[]`:                                        "subject_claim: empty",
		`"subject_claim":1`:                                         "subject_claim: expected a claim",
		`"types":[]`:                                                "types: empty",
		`"types":[""]`:                                              "types[0]: ",
		`"header_name":""`:                                          "header_name: empty",
		`"cookie_name":"a b"`:                                       "cookie_name: ",
		`"query_param":"a b"`:                                       "query_param: ",
		`"realm":"a\"b"`:                                            "realm: ",
		`"resource_metadata":"api.example"`:                         "resource_metadata: ",
		`"resource_metadata":"https://api.example/\""`:              "resource_metadata: ",
		`"required_claims":{"a":"x","a":"y"}`:                       "more than once",
		`"claims_to_headers":{"a":"x-a","a":"x-b"}`:                 "more than once",
	} {
		if _, err := Definition().Build(newWorld(t), json.RawMessage(param(params))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", params, err, want)
		}
	}
}

func TestDotsInNamesAreWarnedOf(t *testing.T) {
	for params, want := range map[string]int{
		`"required_claims":{"realm_access.roles":["admin"]},"claims_to_headers":{"realm_access.roles":"x-roles"}`: 1,
		`"any_of":[{"claims":{"a.b":"x"}}],"subject_claim":["c.d"]`:                                               2,
		`"required_claims":{"/realm_access/roles":["admin"],"https://acme.example/roles":["x"]}`:                  0,
	} {
		if warnings := newWorld(t).policy(t, param(params)).Warnings(); len(warnings) != want {
			t.Errorf("%s: %d warnings, want %d: %v", params, len(warnings), want, warnings)
		}
	}
}
