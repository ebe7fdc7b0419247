package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/apikeyauth"
	"github.com/policy-engine/policy-engine/policies/jsonschemavalidation"
	"github.com/policy-engine/policy-engine/policies/jwtvalidation"
	"github.com/policy-engine/policy-engine/policies/policytest"
	"github.com/policy-engine/policy-engine/policies/ratelimit"
	"github.com/policy-engine/policy-engine/policies/redact"
	"github.com/policy-engine/policy-engine/policies/requestsizelimit"
	"github.com/policy-engine/policy-engine/policies/respond"
	"github.com/policy-engine/policy-engine/policies/rewritepath"
	"github.com/policy-engine/policy-engine/policies/tenantguard"
	"github.com/policy-engine/policy-engine/policies/tokenquota"
)

// hidden is in whatever clients send in this test: in credentials, queries and bodies. No detail may have it.
const hidden = "S3CR3T"

var signer = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// signed is a request with a token of the issuer.
func signed(claims string) policytest.Request { return signedBy(`{"alg":"EdDSA","kid":"k1"}`, claims) }

func signedBy(header, claims string) policytest.Request {
	input := b64(header) + "." + b64(claims)
	return withHeader("authorization: Bearer " + input + "." + b64(string(ed25519.Sign(signer, []byte(input)))))
}

func withHeader(lines ...string) policytest.Request { return policytest.Request{Headers: lines} }

// refusal is one way to be refused by a policy.
type refusal struct {
	reason string
	params string
	// request is sent times times.
	request policytest.Request
	times   int
	// body is that of the request, or of the response if there is one.
	body     string
	response *policytest.Response
	// detail is what the detail must have.
	detail string
}

func refusals() map[string]struct {
	definition policies.Definition
	folder     string
	cases      []refusal
} {
	now := policytest.Start.Unix()
	times := fmt.Sprintf(`"iss":"https://idp.example","name":"%s","exp":%d`, hidden, now+3600)
	claims := func(more string) policytest.Request { return signed(`{` + times + more + `}`) }
	const sub = `,"sub":"alice"`
	key := "x-api-key: " + hidden
	jwt := func(more string) string {
		return `{"issuer":"corporate","algorithms":["EdDSA"],"types":["JWT"],"claims_to_headers":{}` + more + `}`
	}
	json := withHeader("content-type: application/json")
	json.Body, json.Method = true, "POST"
	typed := func(contentType string, more ...string) policytest.Request {
		return policytest.Request{Method: "POST", Body: true, Headers: append([]string{"content-type: " + contentType}, more...)}
	}
	const schema = `{"schema":{"type":"object","properties":{"n":{"maximum":1}}}`
	long := strings.Repeat("a/", 9000)
	alice := &policies.Identity{Subject: "alice", Scopes: []string{"tenant:a"}}
	as := func(id *policies.Identity, lines ...string) policytest.Request {
		return policytest.Request{Identity: id, Headers: lines}
	}
	type entry = struct {
		definition policies.Definition
		folder     string
		cases      []refusal
	}
	return map[string]entry{
		"apiKeyAuth": {apikeyauth.Definition(), "apikeyauth", []refusal{
			{reason: "api_key_missing", params: `{"key_store":"partners","query_param":"key"}`, detail: "header x-api-key or query parameter key"},
			{reason: "api_key_repeated", params: `{"key_store":"partners"}`, request: withHeader(key, key), detail: "x-api-key"},
			{reason: "api_key_invalid", params: `{"key_store":"partners"}`, request: withHeader(key + "x"), detail: "key store partners"},
			{reason: "api_key_invalid", params: `{"key_store":"partners"}`, request: withHeader("x-api-key: " + strings.Repeat(hidden, 1000)), detail: "too long"},
			{reason: "api_key_invalid", params: `{"key_store":"partners"}`, request: withHeader(key + "-late"), detail: "key late of key store partners expired"},
			{reason: "api_key_invalid", params: `{"key_store":"partners"}`, request: withHeader(key + "-early"), detail: "key early of key store partners is not valid before"},
			{reason: "scope_missing", params: `{"key_store":"partners","scopes":["write"]}`, request: withHeader(key), detail: "key m2m of key store partners lacks scope write"},
			{
				reason: "claim_missing", params: `{"key_store":"partners","claims_to_headers":{"plan":{"header":"x-plan","required":true}}}`,
				request: withHeader(key), detail: "key m2m of key store partners lacks plan",
			},
		}},
		"jwtValidation": {jwtvalidation.Definition(), "jwtvalidation", []refusal{
			{reason: "token_missing", params: jwt(""), detail: "header Authorization (scheme Bearer)"},
			{reason: "token_repeated", params: jwt(""), request: withHeader("authorization: Bearer "+hidden, "authorization: Bearer "+hidden), detail: "Authorization"},
			{reason: "token_malformed", params: jwt(""), request: withHeader("authorization: Bearer " + hidden), detail: "not three parts"},
			{reason: "token_malformed", params: jwt(""), request: withHeader("authorization: Bearer " + strings.Repeat(hidden, 10000)), detail: "longer than"},
			{reason: "token_algorithm", params: jwt(""), request: signedBy(`{"alg":"HS256"}`, `{`+times+`}`), detail: "EdDSA"},
			{reason: "token_type", params: jwt(""), request: signedBy(`{"alg":"EdDSA","typ":"x"}`, `{`+times+`}`), detail: "JWT"},
			{reason: "token_issuer", params: jwt(""), request: signed(`{"iss":"` + hidden + `"}`), detail: "corporate"},
			{reason: "token_key", params: jwt(""), request: signedBy(`{"alg":"EdDSA","kid":"k2"}`, `{`+times+`}`), detail: `https://idp.example has no key for EdDSA tokens with kid "k2"`},
			{reason: "token_signature", params: jwt(""), request: func() policytest.Request {
				r := claims(sub)
				r.Headers[0] = r.Headers[0][:len(r.Headers[0])-8] + "AAAAAAAA"
				return r
			}(), detail: `no key of issuer https://idp.example verifies`},
			{reason: "token_expired", params: jwt(""), request: signed(fmt.Sprintf(`{"iss":"https://idp.example","sub":"a","exp":%d}`, now-100)), detail: "100 s ago"},
			{reason: "token_not_yet_valid", params: jwt(""), request: claims(fmt.Sprintf(`%s,"nbf":%d`, sub, now+100)), detail: "100 s ahead"},
			{reason: "token_audience", params: jwt(`,"audience":["orders"]`), request: claims(sub), detail: "orders"},
			{reason: "token_expiry_missing", params: jwt(""), request: signed(`{"iss":"https://idp.example","sub":"a"}`), detail: "require_expiry"},
			{reason: "token_time", params: jwt(""), request: signed(`{"iss":"https://idp.example","sub":"a","exp":"` + hidden + `"}`), detail: "exp is not a time"},
			{reason: "token_subject", params: jwt(""), request: claims(""), detail: "subject_claim sub"},
			{reason: "token_scopes", params: jwt(""), request: claims(sub + `,"scope":{"a":"` + hidden + `"}`), detail: "scope is neither"},
			{reason: "scope_missing", params: jwt(`,"required_scopes":["write"]`), request: claims(sub), detail: "scope write is missing"},
			{reason: "claim_missing", params: jwt(`,"required_claims":{"/realm_access/roles":["admin"]}`), request: claims(sub + `,"realm_access":{"roles":["` + hidden + `"]}`), detail: "claim /realm_access/roles is none of [admin]"},
			{reason: "any_of_missing", params: jwt(`,"any_of":[{"scopes":["write"]},{"claims":{"role":"admin"}}]`), request: claims(sub), detail: "write or claim role"},
		}},
		"rateLimit": {ratelimit.Definition(), "ratelimit", []refusal{
			{reason: "rate_limited", params: `{"requests":1,"per":"1h","burst":1,"key":"header:x-api-key"}`, request: withHeader(key), times: 2, detail: "limit of 1 per 1h0m0s (burst 1, cost 1) by header:x-api-key"},
		}},
		"tokenQuota": {tokenquota.Definition(), "tokenquota", []refusal{
			{reason: "quota_exhausted", params: `{"tokens":1,"per":"1h","estimate":1,"key":"header:x-api-key"}`, request: withHeader(key), times: 2, detail: "quota of 1 tokens per 1h0m0s by header:x-api-key"},
		}},
		"requestSizeLimit": {requestsizelimit.Definition(), "requestsizelimit", []refusal{
			{reason: "headers_too_large", params: `{"max_header_count":3}`, request: withHeader(key), detail: "max_header_count, which is 3"},
			{reason: "headers_too_large", params: `{"max_header_bytes":30}`, request: withHeader(key), detail: "max_header_bytes, which is 30"},
			{reason: "body_too_large", params: `{"max_body_bytes":3}`, request: typed("text/plain", "content-length: 4"), detail: "max_body_bytes, which is 3"},
			{reason: "content_length_malformed", params: `{"max_body_bytes":3}`, request: typed("text/plain", "content-length: "+hidden), detail: "content-length"},
			{reason: "length_required", params: `{"max_body_bytes":3}`, request: typed("text/plain"), detail: "unannounced"},
		}},
		"jsonSchemaValidation": {jsonschemavalidation.Definition(), "jsonschemavalidation", []refusal{
			{reason: "body_missing", params: schema + `,"required":true}`, request: json, detail: "required"},
			{reason: "content_type_unsupported", params: schema + `}`, request: typed("text/"+hidden, "content-length: 2"), body: `{}`, detail: "application/json"},
			{reason: "body_too_large", params: schema + `,"max_body_bytes":3}`, request: json, body: `{"n":"` + hidden + `"}`, detail: "max_body_bytes, which is 3"},
			{reason: "body_malformed", params: schema + `}`, request: json, body: `{"` + hidden, detail: "at byte"},
			{reason: "body_too_complex", params: schema + `,"max_depth":2}`, request: json, body: `{"` + hidden + `":[[[[1]]]]}`, detail: "nested too deep"},
			{reason: "body_invalid", params: schema + `}`, request: json, body: `{"n":2,"x":"` + hidden + `"}`, detail: "/properties/n/maximum"},
			{
				reason: "pattern_budget", params: `{"schema":{"pattern":"a{1,50}b"},"max_pattern_steps":1000}`, request: json,
				body: `"` + hidden + strings.Repeat("a", 5000) + `"`, detail: "max_pattern_steps, which is 1000",
			},
			{reason: "response_invalid", params: schema + `}`, response: &policytest.Response{Headers: []string{"content-type: application/json"}, Body: true}, body: `{"n":2,"x":"` + hidden + `"}`, detail: "/properties/n/maximum"},
		}},
		"tenantGuard": {tenantguard.Definition(), "tenantguard", []refusal{
			{reason: "identity_missing", params: `{"header_name":"x-org"}`, detail: "identity"},
			{reason: "tenant_ambiguous", params: `{"header_name":"x-org"}`, request: as(alice, "x-org: "+hidden, "x-org: b"), detail: "header x-org"},
			{reason: "tenant_missing", params: `{"header_name":"x-org"}`, request: as(alice), detail: "header x-org"},
			{reason: "tenant_missing", params: `{}`, request: as(&policies.Identity{Subject: "alice"}), detail: "scopes tenant:"},
			{reason: "tenant_mismatch", params: `{"path_prefix":"/tenants/"}`, request: policytest.Request{Identity: alice, Path: "/tenants/" + hidden}, detail: "path after /tenants/ is not in scopes tenant:"},
		}},
		"rewritePath": {rewritepath.Definition(), "rewritepath", []refusal{
			{reason: "path_ambiguous", params: `{"regex":"^/a","to":"/b"}`, request: policytest.Request{Path: "/a/../" + hidden}, detail: "dot segments"},
			{reason: "path_too_long", params: `{"regex":"^/a","to":"/b"}`, request: policytest.Request{Path: "/a?" + hidden + long}, detail: "16384"},
			{reason: "path_unsafe", params: `{"regex":"/a(.*)","to":"/{1}"}`, request: policytest.Request{Path: "/a/" + hidden}, detail: "rewritten"},
			{reason: "path_unmatched", params: `{"regex":"^/a$","to":"/b","unmatched":"deny"}`, request: policytest.Request{Path: "/" + hidden}, detail: "unmatched"},
		}},
		"respond": {respond.Definition(), "respond", []refusal{
			{reason: "closed", params: `{"status":503,"reason":"closed"}`, request: withHeader(key), detail: "503"},
		}},
		"redact": {redact.Definition(), "redact", []refusal{
			{reason: "charset", params: `{"literals":["x"]}`, request: typed("text/plain; charset=" + hidden), detail: "charset"},
			{reason: "framed_body", params: `{"literals":["x"]}`, request: typed("application/grpc"), detail: "application/grpc"},
			{reason: "partial_content", params: `{"literals":["x"]}`, request: typed("text/plain", "content-range: bytes 0-1/"+hidden), detail: "content-range"},
		}},
	}
}

// TestEveryRefusalHasADetail: each reason that a policy refuses for has a detail for operators, which has nothing of what the client sent in a
// credential, a query or a body, and which the client does not get.
func TestEveryRefusalHasADetail(t *testing.T) {
	for name, policy := range refusals() {
		var seen []string
		for _, c := range policy.cases {
			seen = append(seen, c.reason)
			t.Run(name+"/"+c.reason, func(t *testing.T) {
				got := refuseOnce(t, policy.definition, &c)
				v := got.Verdict
				if got.Err != nil || !v.IsImmediate() || v.Reason() != c.reason {
					t.Fatalf("got %s %v", got, got.Err)
				}
				if v.Detail() == "" || !strings.Contains(v.Detail(), c.detail) || strings.Contains(v.Detail(), hidden) {
					t.Errorf("detail %q, want %q in it", v.Detail(), c.detail)
				}
				for _, h := range v.Headers() {
					if strings.Contains(h.Value, v.Detail()) {
						t.Errorf("the client gets the detail in %s", h.Name)
					}
				}
				// What is malformed about a body of its own, the client is told in the same words.
				if c.reason != "body_malformed" && c.reason != "body_too_complex" && strings.Contains(string(v.Body()), v.Detail()) {
					t.Errorf("the client gets the detail: %s", v.Body())
				}
			})
		}
		for _, reason := range reasonsIn(t, filepath.Join("../../policies", policy.folder)) {
			if !slices.Contains(seen, reason) {
				t.Errorf("%s refuses for %q, and no case here shows the detail", name, reason)
			}
		}
	}
	// No policy that refuses is left out.
	folders, err := filepath.Glob("../../policies/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		known := false
		for _, policy := range refusals() {
			known = known || policy.folder == filepath.Base(folder)
		}
		if reasons := reasonsIn(t, folder); len(reasons) > 0 && !known {
			t.Errorf("the policy of %s refuses for %v, and has no cases here", folder, reasons)
		}
	}
}

// refuse runs a case.
func refuseOnce(t *testing.T, d policies.Definition, c *refusal) *policytest.Result {
	t.Helper()
	hour := time.Hour
	store := policytest.NewKeyStore(map[string]policies.Key{
		hidden:            {ID: "m2m"},
		hidden + "-late":  {ID: "late", Expires: policytest.Start.Add(-hour)},
		hidden + "-early": {ID: "early", NotBefore: policytest.Start.Add(hour)},
	})
	issuer := policytest.NewIssuer("https://idp.example").CoolDown(true).SetKeys(policies.VerificationKey{ID: "k1", Public: signer.Public()})
	env := policytest.NewEnv(t, policytest.WithKeyStore("partners", store), policytest.WithIssuer("corporate", issuer))
	p := policytest.Build(t, d, env, c.params)
	var got *policytest.Result
	for range max(1, c.times) {
		x := policytest.NewExchange(c.request)
		if c.response != nil {
			x.Respond(*c.response)
		}
		switch _, body := p.(policies.RequestBody); {
		case c.response != nil:
			got = x.OnResponseBody(t, p, c.body)
		case body:
			got = x.OnRequestBody(t, p, c.body)
		default:
			got = x.OnRequestHeaders(t, p)
		}
	}
	return got
}

var denied = regexp.MustCompile(`(?:\bDeny\([^,()]+, |\brefuse\w*\()"([a-z0-9_]+)"`)

// reasonsIn finds what the code of a folder refuses for.
func reasonsIn(t *testing.T, folder string) (reasons []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") || filepath.Base(folder) == "policytest" {
			continue
		}
		code, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range denied.FindAllSubmatch(code, -1) {
			reasons = append(reasons, string(m[1]))
		}
	}
	return reasons
}
