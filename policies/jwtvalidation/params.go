package jwtvalidation

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/invopop/jsonschema"

	"github.com/policy-engine/policy-engine/policies"
)

// Params are the policy's parameters.
type Params struct {
	Issuer           Names                 `json:"issuer" jsonschema:"description=Name of a token issuer in the worker's configuration (jwt_issuers) or a list of such."`
	Audience         []string              `json:"audience,omitempty" jsonschema:"description=Values of aud of which the token must have one. Empty: aud is not checked."`
	Algorithms       []string              `json:"algorithms,omitempty" jsonschema:"description=Accepted signature algorithms. Default: RS256 ES256 PS256 EdDSA. Ed25519 is another name of EdDSA.,enum=RS256,enum=RS384,enum=RS512,enum=PS256,enum=PS384,enum=PS512,enum=ES256,enum=ES384,enum=ES512,enum=EdDSA,enum=Ed25519"`
	Types            []string              `json:"types,omitempty" jsonschema:"description=Accepted values of the token's typ. A token without typ counts as JWT. Default: JWT at+jwt."`
	HeaderName       string                `json:"header_name,omitempty" jsonschema:"default=Authorization,description=Header that carries the token. Empty: none."`
	Scheme           string                `json:"scheme,omitempty" jsonschema:"default=Bearer,description=Scheme before the token. Empty: the header is the token."`
	CookieName       string                `json:"cookie_name,omitempty" jsonschema:"description=Cookie that may carry the token; used where the header has none."`
	QueryParam       string                `json:"query_param,omitempty" jsonschema:"description=Query parameter that may carry the token; used where neither header nor cookie have one."`
	Required         bool                  `json:"required,omitempty" jsonschema:"default=true,description=Refuse requests without a token. A token that is not valid is always refused."`
	SubjectClaim     Paths                 `json:"subject_claim,omitempty" jsonschema:"description=Claims of which the first that the token has is the subject of the identity. Default: sub."`
	RequiredScopes   []string              `json:"required_scopes,omitempty" jsonschema:"description=Scopes that the token must have; all of them."`
	RequiredClaims   ClaimRules            `json:"required_claims,omitempty" jsonschema:"description=Claims that the token must have: each with its value or a list of accepted values."`
	AnyOf            []Alternative         `json:"any_of,omitempty" jsonschema:"description=Alternatives of which the token must meet one."`
	ClaimsToHeaders  policies.ClaimHeaders `json:"claims_to_headers,omitempty" jsonschema:"description=Request headers that carry claims to the upstream: the claim and the header's name. Default: the subject in X-User-ID."`
	Leeway           policies.Duration     `json:"leeway,omitempty" jsonschema:"type=string,default=30s,description=How far the clocks of issuer and engine may differ."`
	RequireExpiry    bool                  `json:"require_expiry,omitempty" jsonschema:"default=true,description=Refuse tokens that do not expire."`
	ForwardToken     *bool                 `json:"forward_token,omitempty" jsonschema:"description=Whether the upstream sees the token. Default: true for a token in a header and false for others."`
	Realm            string                `json:"realm,omitempty" jsonschema:"default=api,description=Realm in WWW-Authenticate."`
	ResourceMetadata string                `json:"resource_metadata,omitempty" jsonschema:"description=URL of the protected resource's metadata (RFC 9728) in WWW-Authenticate."`
}

// Alternative is one of any_of: all of its scopes and claims are required.
type Alternative struct {
	Scopes []string   `json:"scopes,omitempty" jsonschema:"description=Scopes that the token must have; all of them."`
	Claims ClaimRules `json:"claims,omitempty" jsonschema:"description=Claims that the token must have: each with its value or a list of accepted values."`
}

// Defaults sets what the configuration leaves out, except lists and maps: decoding into those would add to them.
func (p *Params) Defaults() {
	*p = Params{
		HeaderName:    "Authorization",
		Scheme:        "Bearer",
		Required:      true,
		Leeway:        policies.Duration(30 * time.Second),
		RequireExpiry: true,
		Realm:         "api",
	}
}

// defaultCollections sets the defaults of lists and maps that the configuration leaves out, after decoding. An empty map stays empty.
func (p *Params) defaultCollections() {
	if p.Algorithms == nil {
		p.Algorithms = []string{"RS256", "ES256", "PS256", "EdDSA"}
	}
	if p.Types == nil {
		p.Types = []string{"JWT", "at+jwt"}
	}
	if p.SubjectClaim == nil {
		sub, _ := policies.ParseClaimPath("sub")
		p.SubjectClaim = Paths{sub}
	}
	if p.ClaimsToHeaders == nil {
		// The zero path is the subject, whichever claim it came from.
		p.ClaimsToHeaders = policies.ClaimHeaders{{Header: "X-User-ID", Required: true}}
	}
}

// Names is one name or a list of names.
type Names []string

// UnmarshalJSON takes a string or a list of strings.
func (n *Names) UnmarshalJSON(text []byte) error {
	var one string
	if err := json.Unmarshal(text, &one); err == nil {
		*n = Names{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(text, &many); err != nil {
		return policies.BadParam("issuer", "expected a name or a list of names, got %s", text)
	}
	*n = many
	return nil
}

// JSONSchema is for editors.
func (Names) JSONSchema() *jsonschema.Schema {
	name := &jsonschema.Schema{Type: "string"}
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{name, {Type: "array", Items: name}}}
}

const maxLeeway = 10 * time.Minute

// check returns all that is wrong with the parameters.
func (p *Params) check() error {
	var errs []error
	bad := func(param, format string, args ...any) {
		errs = append(errs, policies.BadParam(param, format, args...))
	}
	if len(p.Issuer) == 0 {
		bad("issuer", "missing, expected the name of a token issuer in the worker's configuration, or a list of names")
	}
	for i, a := range p.Audience {
		if a == "" {
			bad(fmt.Sprintf("audience[%d]", i), "empty, expected a value of aud")
		}
	}
	if len(p.Algorithms) == 0 {
		bad("algorithms", "empty, expected one or more of %s", algorithmNames())
	}
	for i, a := range p.Algorithms {
		if findAlgorithm(a) == nil {
			bad(fmt.Sprintf("algorithms[%d]", i), "unknown value %q, expected one of %s", a, algorithmNames())
		}
	}
	if len(p.Types) == 0 {
		bad("types", "empty, expected one or more values of typ, such as JWT")
	}
	for i, t := range p.Types {
		if !visible(t) {
			bad(fmt.Sprintf("types[%d]", i), "%q is not a media type, expected one such as JWT or at+jwt", t)
		}
	}
	if len(p.SubjectClaim) == 0 {
		bad("subject_claim", "empty, expected one or more claims, such as sub")
	}
	for i, s := range p.RequiredScopes {
		checkScope(fmt.Sprintf("required_scopes[%d]", i), s, bad)
	}
	for i, a := range p.AnyOf {
		at := fmt.Sprintf("any_of[%d]", i)
		if len(a.Scopes) == 0 && len(a.Claims) == 0 {
			bad(at, "empty, so that every token would meet it; expected scopes, claims or both")
		}
		for j, s := range a.Scopes {
			checkScope(fmt.Sprintf("%s.scopes[%d]", at, j), s, bad)
		}
		a.Claims.check(at+".claims", bad)
	}
	p.RequiredClaims.check("required_claims", bad)
	if p.AnyOf != nil && len(p.AnyOf) == 0 {
		bad("any_of", "an empty list, which no token can meet; expected one or more alternatives")
	}
	if p.Leeway < 0 || time.Duration(p.Leeway) > maxLeeway {
		bad("leeway", "must be between 0s and %v, got %v", maxLeeway, time.Duration(p.Leeway))
	}
	if strings.ContainsFunc(p.Realm, notQuotable) {
		bad("realm", "%q has characters that a quoted string can't have; expected printable ASCII without quotes and backslashes", p.Realm)
	}
	if u, err := url.Parse(p.ResourceMetadata); p.ResourceMetadata != "" &&
		(err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || strings.ContainsFunc(p.ResourceMetadata, notQuotable)) {
		bad("resource_metadata", "%q is not a URL, expected one such as https://api.example/.well-known/oauth-protected-resource", p.ResourceMetadata)
	}
	p.checkPlaces(bad)
	return errors.Join(append(errs, p.ClaimsToHeaders.Check(p.HeaderName)...)...)
}

func (p *Params) checkPlaces(bad func(param, format string, args ...any)) {
	if p.HeaderName == "" && p.CookieName == "" && p.QueryParam == "" {
		bad("header_name", "empty, and so are cookie_name and query_param; expected at least one place for the token")
	}
	if p.HeaderName != "" {
		if err := policies.CheckCredentialHeader(p.HeaderName, "Authorization"); err != nil {
			bad("header_name", "%v", err)
		}
	}
	if p.Scheme != "" && policies.CheckHeader(p.Scheme, "") != nil {
		bad("scheme", "%q is not a scheme, expected a token (RFC 9110 section 11.1), or an empty one", p.Scheme)
	}
	// RFC 6265 section 4.1.1: a cookie's name is a token, as a header's is.
	if p.CookieName != "" && (strings.ContainsAny(p.CookieName, "=;,") || policies.CheckHeader("x-"+p.CookieName, "") != nil) {
		bad("cookie_name", "%q is not a cookie name, expected letters, digits and !#$%%&'*+-.^_`|~", p.CookieName)
	}
	if p.QueryParam != "" && !visible(p.QueryParam) {
		bad("query_param", "%q is not a name, expected visible ASCII characters", p.QueryParam)
	}
}

func checkScope(param, s string, bad func(param, format string, args ...any)) {
	if !isScope(s) {
		bad(param, "%q is not a scope, expected visible ASCII characters without quotes and backslashes", s)
	}
}

// warnings are about values that look like patterns, and claims that look like paths: both are taken as they are.
func (p *Params) warnings() (all []error) {
	seen := map[string]bool{}
	add := func(param string, claim policies.ClaimPath) {
		if err := policies.ClaimWarning(param, claim); err != nil && !seen[claim.String()] {
			seen[claim.String()] = true
			all = append(all, err)
		}
	}
	all = append(policies.PatternWarnings("audience", p.Audience), policies.PatternWarnings("required_scopes", p.RequiredScopes)...)
	for _, path := range p.SubjectClaim {
		add("subject_claim", path)
	}
	for _, h := range p.ClaimsToHeaders {
		add("claims_to_headers", h.Claim)
	}
	for _, r := range p.RequiredClaims {
		add("required_claims", r.Claim)
	}
	for _, a := range p.AnyOf {
		for _, r := range a.Claims {
			add("any_of", r.Claim)
		}
	}
	return all
}

func algorithmNames() string {
	var names []string
	for _, a := range algorithms {
		names = append(names, a.name)
	}
	return strings.Join(names, ", ")
}

// isScope reports whether s is a scope token (RFC 6749 section 3.3).
func isScope(s string) bool { return visible(s) && !strings.ContainsFunc(s, notQuotable) }

// visible reports whether s has only visible ASCII characters, and one at least.
func visible(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f })
}

// notQuotable reports characters that a quoted string can't have as they are (RFC 9110 section 5.6.4).
func notQuotable(c rune) bool { return c < ' ' || c >= 0x7f || c == '"' || c == '\\' }
