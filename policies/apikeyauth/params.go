package apikeyauth

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
	"github.com/policy-engine/policy-engine/policies"
)

// Params are the policy's parameters.
type Params struct {
	KeyStore        string                `json:"key_store" jsonschema:"minLength=1,description=Name of the key store in the worker's configuration (key_stores)."`
	HeaderName      string                `json:"header_name,omitempty" jsonschema:"default=X-API-Key,description=Header that carries the key. Empty: none."`
	Schemes         []string              `json:"schemes,omitempty" jsonschema:"description=Schemes of the header Authorization that may carry the key; bearer for instance. Empty: none."`
	CookieName      string                `json:"cookie_name,omitempty" jsonschema:"description=Cookie that may carry the key."`
	QueryParam      string                `json:"query_param,omitempty" jsonschema:"description=Query parameter that may carry the key."`
	Required        bool                  `json:"required,omitempty" jsonschema:"default=true,description=Refuse requests without a key. A wrong key is always refused."`
	Scopes          []string              `json:"scopes,omitempty" jsonschema:"description=Scopes that the key must have; all of them."`
	IdentityHeader  string                `json:"identity_header,omitempty" jsonschema:"default=X-User-ID,description=Request header that tells the upstream the key's id. Empty: none."`
	ClaimsToHeaders policies.ClaimHeaders `json:"claims_to_headers,omitempty" jsonschema:"description=Request headers that carry the groups and the metadata of the key to the upstream: the claim and the header's name."`
	StripCredential bool                  `json:"strip_credential,omitempty" jsonschema:"default=true,description=Remove the key from the request before the upstream sees it."`
}

// Defaults sets what the configuration leaves out.
func (p *Params) Defaults() {
	*p = Params{HeaderName: "X-API-Key", Required: true, IdentityHeader: "X-User-ID", StripCredential: true}
}

// maxSchemes bounds what is compared with each request.
const maxSchemes = 8

// check returns all that is wrong with the parameters.
func (p *Params) check() error {
	var errs []error
	bad := func(param, format string, args ...any) {
		errs = append(errs, policies.BadParam(param, format, args...))
	}
	if p.KeyStore == "" {
		bad("key_store", "missing; expected the name of a key store in the worker's configuration")
	}
	p.checkPlaces(bad)
	if p.IdentityHeader != "" {
		if err := policies.CheckOwnedHeader(p.IdentityHeader); err != nil {
			bad("identity_header", "%v; expected a header name such as X-User-ID", err)
		}
		if policies.SameHeader(p.IdentityHeader, p.HeaderName) {
			bad("identity_header", "the same as header_name; expected another header")
		}
	}
	for i := range p.ClaimsToHeaders {
		if h := &p.ClaimsToHeaders[i]; p.IdentityHeader != "" && policies.SameHeader(h.Header, p.IdentityHeader) {
			bad("claims_to_headers."+h.Claim.String(), "header %q is the identity_header; expected another header", h.Header)
		}
	}
	for i, scope := range p.Scopes {
		if scope == "" || strings.ContainsFunc(scope, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '\\' }) {
			bad(fmt.Sprintf("scopes[%d]", i), "%q is not a scope; expected visible ASCII characters without quotes and backslashes", scope)
		}
	}
	return errors.Join(append(errs, p.ClaimsToHeaders.Check(p.HeaderName)...)...)
}

func (p *Params) checkPlaces(bad func(param, format string, args ...any)) {
	if p.HeaderName == "" && len(p.Schemes) == 0 && p.QueryParam == "" && p.CookieName == "" {
		bad("header_name", "empty, and so are schemes, cookie_name and query_param; expected at least one place for the key")
	}
	if p.HeaderName != "" {
		if err := policies.CheckCredentialHeader(p.HeaderName, "X-API-Key"); err != nil {
			bad("header_name", "%v", err)
		}
	}
	if len(p.Schemes) > maxSchemes {
		bad("schemes", "must have at most %d schemes, got %d", maxSchemes, len(p.Schemes))
	}
	for i, scheme := range p.Schemes {
		at := fmt.Sprintf("schemes[%d]", i)
		switch {
		case !httpsyntax.Token(scheme):
			bad(at, "%q is not a scheme; expected a token such as bearer (RFC 9110 section 11.1)", scheme)
		case slices.ContainsFunc(p.Schemes[:i], func(s string) bool { return strings.EqualFold(s, scheme) }):
			bad(at, "%q is in the list already; schemes compare without regard to case", scheme)
		}
	}
	if strings.ContainsFunc(p.QueryParam, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		bad("query_param", "%q is not a name; expected visible ASCII characters", p.QueryParam)
	}
	// RFC 6265 section 4.1.1: a cookie's name is a token, as a header's is.
	if p.CookieName != "" && !httpsyntax.Token(p.CookieName) {
		bad("cookie_name", "%q is not a cookie name; expected letters, digits and !#$%%&'*+-.^_`|~", p.CookieName)
	}
}
