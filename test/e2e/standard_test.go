package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/fastpath/headername"
	"github.com/policy-engine/policy-engine/test/harness"
)

const standardRoutes = `  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 2s}
    - {name: worker-w, socket_path: "${RUN_DIR}/w.sock", timeout: 2s}
  route_policies:
    - route_name: key
      request_flow: {policy_chain: [{policy: apiKeyAuth, params: {key_store: partners, query_param: api_key, cookie_name: api-key}}]}
    - route_name: key-scope
      request_flow: {policy_chain: [{policy: apiKeyAuth, params: {key_store: partners, scopes: [orders.read]}}]}
    - route_name: key-optional
      request_flow: {policy_chain: [{policy: apiKeyAuth, params: {key_store: partners, required: false}}]}
    - route_name: token
      request_flow: {policy_chain: [{policy: jwtValidation, params: {issuer: corporate, audience: [api], required_scopes: [accounts.read], forward_token: false}}]}
    - route_name: limit
      request_flow:
        policy_chain:
          - {policy: apiKeyAuth, params: {key_store: partners}}
          - {policy: rateLimit, params: {requests: 3, per: 1h}}
    - route_name: limit-without-identity
      request_flow: {policy_chain: [{policy: rateLimit, params: {requests: 3, per: 1h}}]}
    - route_name: key-witness
      request_flow:
        policy_chain:
          - {policy: apiKeyAuth, params: {key_store: partners}}
          - {policy: witnessW, params: {name: after}}
      response_flow:
        policy_chain:
          - {policy: witnessW, params: {name: back, set_header: {x-powered-by: witness}}}
          - {policy: securityHeaders}
          - {policy: modifyHeaders, params: {set: {x-gateway: e2e}, remove: [x-upstream]}}
`

// standard is an engine with the standard policies, a key store and an issuer.
type standard struct {
	*harness.Engine
	issuer *issuer
}

func startStandard(t *testing.T, routes string) *standard {
	t.Helper()
	return startStandardWith(t, routes, nil)
}

// startStandardWith starts an engine with another upstream than the one of all tests, unless it is nil, and arguments for `policyctl envoy`.
func startStandardWith(t *testing.T, routes string, upstream http.Handler, envoyArgs ...string) *standard {
	t.Helper()
	dir := t.TempDir()
	writeKeys(t, dir)
	i := newIssuer(t, dir)
	return &standard{issuer: i, Engine: harness.StartEngine(t, harness.Spec{
		Kernel: routes, Upstream: upstream, EnvoyArgs: envoyArgs,
		Workers: []harness.WorkerSpec{
			{Name: "worker-1", Program: "policy-worker-1", Config: `  name: worker-1
  socket_path: ${RUN_DIR}/worker-1.sock
  key_stores: {partners: {file: "${E2E_DIR}/keys.yaml"}}
  jwt_issuers: {corporate: {issuer: "` + issuerURL + `", jwks_file: "${E2E_DIR}/jwks.json"}}
`},
			testWorker("w", "worker-w", "W"),
		},
		Env: []string{"E2E_DIR=" + dir},
	})}
}

func TestStandardPolicies(t *testing.T) {
	t.Parallel()
	e := startStandard(t, standardRoutes)
	t.Run("apiKeyAuth", func(t *testing.T) { apiKeyAuth(t, e.Engine) })
	t.Run("jwtValidation", func(t *testing.T) { jwtValidation(t, e) })
	t.Run("rateLimit", func(t *testing.T) { rateLimit(t, e.Engine) })
	t.Run("identity headers through Envoy", func(t *testing.T) { spoofThroughEnvoy(t, e) })
	t.Run("identity headers at the kernel", func(t *testing.T) { spoofAtKernel(t, e) })
	t.Run("response chain over two workers", func(t *testing.T) { responseChain(t, e.Engine) })
	good := e.issuer.token(nil)
	checkLogs(t, e.Engine, []string{"worker-1", "w"},
		keyAlice, keyBob, keyCarol, keyLate, keyWrong, good[:strings.IndexByte(good, '.')], "Bearer ")
}

func apiKeyAuth(t *testing.T, e *harness.Engine) {
	refusals := []struct {
		name   string
		target string
		lines  []string
		status int
		code   string
	}{
		{"none", "/key", nil, 401, "API_KEY_MISSING"},
		{"unknown", "/key", []string{"X-API-Key: " + keyWrong}, 401, "API_KEY_INVALID"},
		{"expired", "/key", []string{"X-API-Key: " + keyLate}, 401, "API_KEY_INVALID"},
		{"empty", "/key", []string{"X-API-Key: "}, 401, ""},
		{"the digest instead of the key", "/key", []string{"X-API-Key: 00" + strings.Repeat("ab", 31)}, 401, "API_KEY_INVALID"},
		{"with more behind", "/key", []string{"X-API-Key: " + keyAlice + "x"}, 401, "API_KEY_INVALID"},
		{"twice, the same", "/key", []string{"X-API-Key: " + keyAlice, "X-API-Key: " + keyAlice}, 401, "API_KEY_REPEATED"},
		{"twice, good and bad", "/key", []string{"X-API-Key: " + keyAlice, "x-api-key: " + keyWrong}, 401, "API_KEY_REPEATED"},
		{"two in one line", "/key", []string{"X-API-Key: " + keyAlice + ", " + keyAlice}, 401, "API_KEY_INVALID"},
		{"header and query", "/key?api_key=" + keyAlice, []string{"X-API-Key: " + keyAlice}, 401, "API_KEY_REPEATED"},
		{"query twice", "/key?api_key=" + keyAlice + "&api%5Fkey=" + keyBob, nil, 401, "API_KEY_REPEATED"},
		{"header and cookie", "/key", []string{"X-API-Key: " + keyAlice, "Cookie: api-key=" + keyBob}, 401, "API_KEY_REPEATED"},
		{"cookie twice", "/key", []string{"Cookie: api-key=" + keyAlice + "; api-key=" + keyBob}, 401, "API_KEY_REPEATED"},
		{"in a header that is not it", "/key", []string{"X-API-Keys: " + keyAlice, "Authorization: " + keyAlice}, 401, "API_KEY_MISSING"},
		{"in a place that is not configured", "/key-scope?api_key=" + keyAlice, nil, 401, "API_KEY_MISSING"},
		{"very long", "/key", []string{"X-API-Key: " + strings.Repeat("x", 5000)}, 401, "API_KEY_INVALID"},
		{"without the scope", "/key-scope", []string{"X-API-Key: " + keyBob}, 403, "SCOPE_MISSING"},
		{"optional, but wrong", "/key-optional", []string{"X-API-Key: " + keyWrong}, 401, "API_KEY_INVALID"},
	}
	for _, tt := range refusals {
		t.Run(tt.name, func(t *testing.T) {
			r := get(t, e, tt.status, tt.target, append(tt.lines, mustNotArrive+"apiKeyAuth refuses")...)
			if tt.code != "" {
				wantCode(t, r, tt.code)
			}
			if tt.status == 401 && r.Header.Get("Www-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
		})
	}
	for name, lines := range map[string][]string{
		"/key":                            {"X-API-Key: " + keyAlice},
		"/key?page=2&api_key=" + keyAlice: nil,
		"/key?cookie":                     {"Cookie: theme=dark; api-key=" + keyAlice},
		"/key-scope":                      {"x-api-key: " + keyAlice},
		"/key-optional?with":              {"X-API-Key: " + keyAlice},
	} {
		before := e.Upstream.Count()
		get(t, e, 200, name, lines...)
		up := arrived(t, e, before)
		wantHeader(t, up.Header, "X-User-Id", "alice")
		wantHeader(t, up.Header, "X-Api-Key", "")
		if strings.Contains(up.Path, keyAlice) || strings.Contains(strings.Join(up.Header.Values("Cookie"), ""), keyAlice) {
			t.Errorf("the upstream sees the key: %+v", up)
		}
	}
	before := e.Upstream.Count()
	get(t, e, 200, "/key-optional")
	wantHeader(t, arrived(t, e, before).Header, "X-User-Id", "")
}

func jwtValidation(t *testing.T, e *standard) {
	i := e.issuer
	good := i.token(nil)
	parts := strings.Split(good, ".")
	rs := map[string]any{"alg": "RS256", "typ": "JWT", "kid": keyID}
	other := newIssuer(t, t.TempDir())
	now := time.Now().Unix()
	refusals := []struct {
		name   string
		lines  []string
		status int
	}{
		{"none", nil, 401},
		{"empty", []string{"Authorization: "}, 401},
		{"no token", []string{"Authorization: Bearer "}, 401},
		{"another scheme", []string{"Authorization: Basic " + good}, 401},
		{"no scheme", []string{"Authorization: " + good}, 401},
		{"twice", []string{"Authorization: Bearer " + good, "Authorization: Bearer " + good}, 401},
		{"two in one line", []string{"Authorization: Bearer " + good + ", Bearer " + good}, 401},
		{"in another header", []string{"X-Authorization: Bearer " + good}, 401},
		{"two parts", []string{"Authorization: Bearer " + parts[0] + "." + parts[1]}, 401},
		{"four parts", []string{"Authorization: Bearer " + good + ".x"}, 401},
		{"no signature", []string{"Authorization: Bearer " + parts[0] + "." + parts[1] + "."}, 401},
		{"padded", []string{"Authorization: Bearer " + good + "="}, 401},
		{"signature of another token", []string{"Authorization: Bearer " + parts[0] + "." + strings.Split(i.token(map[string]any{"sub": "admin"}), ".")[1] + "." + parts[2]}, 401},
		{"alg none", []string{"Authorization: Bearer " + encode64([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + parts[1] + "."}, 401},
		{"alg None", []string{"Authorization: Bearer " + i.sign(map[string]any{"alg": "None", "kid": keyID}, claims(nil))}, 401},
		{"alg HS256 with the public key", []string{"Authorization: Bearer " + confused(t, i)}, 401},
		{"alg RS512 over an RS256 signature", []string{"Authorization: Bearer " + i.sign(map[string]any{"alg": "RS512", "kid": keyID}, claims(nil))}, 401},
		{"unknown kid", []string{"Authorization: Bearer " + i.sign(map[string]any{"alg": "RS256", "kid": "other"}, claims(nil))}, 401},
		{"another key under the same kid", []string{"Authorization: Bearer " + other.token(nil)}, 401},
		{"its own key in the header", []string{"Authorization: Bearer " + other.sign(map[string]any{"alg": "RS256", "jwk": map[string]any{"kty": "RSA", "n": encode64(other.key.N.Bytes()), "e": "AQAB"}}, claims(nil))}, 401},
		{"crit", []string{"Authorization: Bearer " + i.sign(map[string]any{"alg": "RS256", "kid": keyID, "crit": []string{"exp"}}, claims(nil))}, 401},
		{"another issuer", []string{"Authorization: Bearer " + i.token(map[string]any{"iss": "https://other.example"})}, 401},
		{"no issuer", []string{"Authorization: Bearer " + i.token(map[string]any{"iss": nil})}, 401},
		{"another audience", []string{"Authorization: Bearer " + i.token(map[string]any{"aud": "other"})}, 401},
		{"no audience", []string{"Authorization: Bearer " + i.token(map[string]any{"aud": nil})}, 401},
		{"expired", []string{"Authorization: Bearer " + i.token(map[string]any{"exp": now - 120})}, 401},
		{"no expiry", []string{"Authorization: Bearer " + i.token(map[string]any{"exp": nil})}, 401},
		{"expiry is a text", []string{"Authorization: Bearer " + i.token(map[string]any{"exp": strconv.FormatInt(now+600, 10)})}, 401},
		{"not yet valid", []string{"Authorization: Bearer " + i.token(map[string]any{"nbf": now + 120})}, 401},
		{"no subject", []string{"Authorization: Bearer " + i.token(map[string]any{"sub": nil})}, 401},
		{"subject with a line break", []string{"Authorization: Bearer " + i.token(map[string]any{"sub": "alice\r\nx-user-id: admin"})}, 401},
		{"a member twice", []string{"Authorization: Bearer " + i.signText(i.json(rs), `{"sub":"alice",`+i.json(claims(map[string]any{"sub": "admin"}))[1:])}, 401},
		{"no JSON", []string{"Authorization: Bearer " + i.signText(i.json(rs), "alice")}, 401},
		{"very long", []string{"Authorization: Bearer " + i.token(map[string]any{"more": strings.Repeat("x", 17<<10)})}, 401},
		{"no scope", []string{"Authorization: Bearer " + i.token(map[string]any{"scope": nil})}, 403},
		{"another scope", []string{"Authorization: Bearer " + i.token(map[string]any{"scope": "accounts.reader xaccounts.read"})}, 403},
	}
	for _, tt := range refusals {
		t.Run(tt.name, func(t *testing.T) {
			r := get(t, e.Engine, tt.status, "/token", append(tt.lines, mustNotArrive+"jwtValidation refuses")...)
			want := `error="invalid_token"`
			if tt.status == 403 {
				want = `error="insufficient_scope"`
			}
			if got := r.Header.Get("Www-Authenticate"); !strings.HasPrefix(got, "Bearer ") || !strings.Contains(got, want) {
				t.Errorf("WWW-Authenticate is %q, want one with %s", got, want)
			}
		})
	}
	for range 2 { // The second time it is known.
		before := e.Upstream.Count()
		get(t, e.Engine, 200, "/token", "Authorization: Bearer "+good)
		up := arrived(t, e.Engine, before)
		wantHeader(t, up.Header, "X-User-Id", "alice")
		wantHeader(t, up.Header, "Authorization", "")
	}
}

// confused is a token of HS256 whose secret is the issuer's public key.
func confused(t *testing.T, i *issuer) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&i.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	input := encode64([]byte(i.json(map[string]any{"alg": "HS256", "kid": keyID}))) + "." + encode64([]byte(i.json(claims(nil))))
	mac.Write([]byte(input))
	return input + "." + encode64(mac.Sum(nil))
}

func rateLimit(t *testing.T, e *harness.Engine) {
	// What authentication refuses costs nobody anything.
	for range 5 {
		get(t, e, 401, "/limit", mustNotArrive+"no key")
	}
	for range 3 {
		get(t, e, 200, "/limit", "X-API-Key: "+keyAlice)
	}
	for range 3 {
		r := get(t, e, 429, "/limit", "X-API-Key: "+keyAlice, mustNotArrive+"over the limit")
		wantCode(t, r, "RATE_LIMITED")
		if after, err := strconv.Atoi(r.Header.Get("Retry-After")); err != nil || after < 1 || after > 1200 {
			t.Errorf("Retry-After is %q, want 1 to 1200 seconds", r.Header.Get("Retry-After"))
		}
	}
	get(t, e, 200, "/limit", "X-API-Key: "+keyBob) // another client has another bucket
	wantCode(t, get(t, e, 500, "/limit-without-identity", mustNotArrive+"nobody to limit"), "POLICY_FAILED")
}

// tokenCharacters are the characters of header names that are neither letters nor digits (RFC 9110 section 5.6.2).
const tokenCharacters = "!#$%&'*+-.^_`|~"

// spellings are ways to write x-user-id that some server reads as the same name: in each case, with each character.
func spellings() []string {
	all := []string{"X-User-ID", "X-USER-ID", "x-User-Id", "X_USER_ID", "x-user_id", "x_user-id", "X-USER_ID", "X_User-Id", "x.user+id"}
	for _, c := range tokenCharacters {
		all = append(all, fmt.Sprintf("x%cuser%cid", c, c))
	}
	return all
}

// isIdentity reports whether a server could read a header as x-user-id.
func isIdentity(name string) bool { return headername.Equal(name, "x-user-id") }

func spoofThroughEnvoy(t *testing.T, e *standard) {
	routes := []struct {
		target, want string
		lines        []string
	}{
		{"/key", "alice", []string{"X-API-Key: " + keyAlice}},
		{"/key-optional", "", nil},
		{"/key-optional", "alice", []string{"X-API-Key: " + keyAlice}},
		{"/token", "alice", []string{"Authorization: Bearer " + e.issuer.token(nil)}},
	}
	for _, name := range spellings() {
		for _, route := range routes {
			before := e.Upstream.Count()
			lines := append(route.lines, name+": admin", name+": root")
			r := harness.Send(t, e.Listen, http.MethodGet, route.target, lines...)
			if strings.Contains(name, "_") {
				if r.Status != 400 || e.Upstream.Count() != before {
					t.Errorf("%s on %s: %v; Envoy is to refuse names with underscores", name, route.target, r)
				}
				continue
			}
			if r.Status != 200 {
				t.Errorf("%s on %s: %v", name, route.target, r)
				continue
			}
			for got, values := range arrived(t, e.Engine, before).Header {
				if isIdentity(got) && strings.Join(values, ",") != route.want {
					t.Errorf("%s on %s: the upstream gets %s: %q, want %q", name, route.target, got, values, route.want)
				}
			}
		}
		get(t, e.Engine, map[bool]int{true: 400, false: 401}[strings.Contains(name, "_")], "/key", name+": admin", mustNotArrive+"an identity without a key")
	}
}

// spoofAtKernel sends what Envoy would refuse: the kernel does not rely on it.
func spoofAtKernel(t *testing.T, e *standard) {
	kernel := dialKernel(t, e.ExtProc)
	for _, name := range spellings() {
		for route, credential := range map[string]string{"key": "x-api-key: " + keyAlice, "token": "authorization: Bearer " + e.issuer.token(nil), "key-optional": "x-nothing: 1"} {
			r, err := kernel.exchange(route, credential, name+": admin", "x-user-id: root", name+": operator")
			if outcome(r, err) != "pass" {
				t.Errorf("%s on %s: answer %v, error %v", name, route, r, err)
				continue
			}
			_, removed := set(r, strings.ToLower(name))
			value, _ := set(r, "x-user-id")
			if strings.EqualFold(name, "x-user-id") && value != "" {
				removed = true // replaced
			}
			want := "alice"
			if route == "key-optional" {
				want = ""
			}
			if !removed || value != want {
				t.Errorf("%s on %s: removed %v, x-user-id is set to %q, want %q; answer %v", name, route, removed, value, want, r)
			}
		}
		if got := outcome(kernel.exchange("key", name+": admin")); got != "401" {
			t.Errorf("%s without a key: %s", name, got)
		}
	}
	for _, c := range tokenCharacters {
		other := fmt.Sprintf("x%capi%ckey: %s", c, c, keyBob)
		if got := outcome(kernel.exchange("key", "x-api-key: "+keyAlice, other)); got != "401" {
			t.Errorf("a key in %q beside another one: %s, want 401", other, got)
		}
		if got := outcome(kernel.exchange("key", other)); c != '-' && got != "401" {
			t.Errorf("a key in %q alone: %s, want 401", other, got)
		}
	}
	for _, lines := range [][]string{
		{"x_api_key: " + keyAlice}, {"X-API_KEY: " + keyAlice}, {"x-api-key: " + keyAlice, "x_api_key: " + keyBob}, {"x-api-key: " + keyAlice, "X-API-KEY: " + keyBob},
	} {
		if got := outcome(kernel.exchange("key", lines...)); got != "401" {
			t.Errorf("%q: %s, want 401", lines, got)
		}
	}
}

func responseChain(t *testing.T, e *harness.Engine) {
	r := get(t, e, 200, "/key-witness", "X-API-Key: "+keyAlice, harness.AnswerHeader+": x-frame-options SAMEORIGIN")
	wantHeader(t, r.Header, "X-Seen-Back", "200  | GET /key-witness header=after+ metadata=after> identity=alice/apiKeyAuth/[orders.read]/")
	wantHeader(t, r.Header, "X-Content-Type-Options", "nosniff")
	wantHeader(t, r.Header, "X-Frame-Options", "DENY")
	wantHeader(t, r.Header, "X-Gateway", "e2e")
	wantHeader(t, r.Header, "X-Powered-By", "") // set by a policy before securityHeaders, which takes it away
	wantHeader(t, r.Header, "X-Upstream", "")
	// A denied request has no response phase: nothing of it may be needed.
	get(t, e, 401, "/key-witness", mustNotArrive+"no key")
}
