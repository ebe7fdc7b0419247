package jwtvalidation

import (
	"net/http"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

// refusals are the answers to requests that are not let through, made once.
type refusals struct {
	missing   policies.Verdict
	repeated  policies.Verdict
	malformed policies.Verdict
	algorithm policies.Verdict
	issuer    policies.Verdict
	key       policies.Verdict
	signature policies.Verdict
	expired   policies.Verdict
	early     policies.Verdict
	audience  policies.Verdict
	typ       policies.Verdict
	noExpiry  policies.Verdict
	times     policies.Verdict
	subject   policies.Verdict
	scopes    policies.Verdict
	scope     policies.Verdict
	claim     policies.Verdict
	anyOf     policies.Verdict
}

func newRefusals(p *Params) refusals {
	scheme := p.Scheme
	if scheme == "" {
		scheme = "Bearer"
	}
	challenge := scheme + ` realm="` + p.Realm + `", error="`
	metadata := ""
	if p.ResourceMetadata != "" { // RFC 9728 section 5.1
		metadata = `, resource_metadata="` + p.ResourceMetadata + `"`
	}
	// RFC 6750 section 3. A missing token gets an error attribute too, which section 3.1 advises against: clients of this engine are promised one
	// in every 401, and it shows nothing that the status does not.
	refuse := func(reason, message string) policies.Verdict {
		return policies.Deny(http.StatusUnauthorized, reason).WithMessage(message).
			WithHeader("www-authenticate", challenge+`invalid_token", error_description="`+message+`"`+metadata)
	}
	// RFC 6750 section 3.1: a token that is valid, but does not permit the request. Another login would not mend it.
	refuseAccess := func(reason, message, attributes string) policies.Verdict {
		return policies.Deny(http.StatusForbidden, reason).WithMessage(message).
			WithHeader("www-authenticate", challenge+`insufficient_scope"`+attributes+metadata)
	}
	scope := ""
	if len(p.RequiredScopes) > 0 {
		scope = `, scope="` + strings.Join(p.RequiredScopes, " ") + `"`
	}
	const invalid = "the token is not valid"
	return refusals{
		missing:   refuse("token_missing", "a token is required").WithDetail("no token in " + placeNames(p)),
		repeated:  refuse("token_repeated", "more than one token").WithDetail("more than one token in one of: " + placeNames(p)),
		malformed: refuse("token_malformed", invalid).WithDetail("the token is too long, or is encoded where it must not be"),
		algorithm: refuse("token_algorithm", invalid).WithDetail("alg is none of " + strings.Join(p.Algorithms, ", ")),
		typ:       refuse("token_type", invalid).WithDetail("typ is none of " + strings.Join(p.Types, ", ")),
		issuer:    refuse("token_issuer", invalid).WithDetail("claim iss is that of none of the issuers " + strings.Join(p.Issuer, ", ")),
		key:       refuse("token_key", invalid),
		signature: refuse("token_signature", invalid),
		// The others are for those who have a token with a valid signature.
		expired:  refuse("token_expired", "the token has expired"),
		early:    refuse("token_not_yet_valid", "the token is not valid yet"),
		audience: refuse("token_audience", invalid).WithDetail("claim aud has none of " + strings.Join(p.Audience, ", ")),
		noExpiry: refuse("token_expiry_missing", invalid).WithDetail("the token has no claim exp, and require_expiry is on"),
		times:    refuse("token_time", invalid),
		subject:  refuse("token_subject", invalid),
		scopes:   refuse("token_scopes", invalid),
		scope:    refuseAccess("scope_missing", "the token does not have the scope that this takes", scope),
		claim:    refuseAccess("claim_missing", "the token does not have the claims that this takes", ""),
		anyOf: refuseAccess("any_of_missing", "the token has neither the scopes nor the claims that this takes", "").
			WithDetail("the token has none of: " + alternatives(p.AnyOf)),
	}
}

func alternatives(list []Alternative) string {
	names := make([]string, len(list))
	for i := range list {
		names[i] = list[i].String()
	}
	return strings.Join(names, " or ")
}

// placeNames names where a token may be.
func placeNames(p *Params) string {
	var all []string
	for _, place := range placesOf(p, p.HeaderName) {
		name := [...]string{inHeader: "header ", inCookie: "cookie ", inQuery: "query parameter "}[place.kind] + place.name
		if place.scheme != "" {
			name += " (scheme " + place.scheme + ")"
		}
		all = append(all, name)
	}
	return strings.Join(all, " or ")
}

// because returns the refusal with a detail of this token, which is for operators.
func because(refusal *policies.Verdict, detail string) *policies.Verdict {
	v := refusal.WithDetail(detail)
	return &v
}
