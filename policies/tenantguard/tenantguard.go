// Package tenantguard is the policy tenantGuard: it keeps the clients of one tenant out of the data of another.
package tenantguard

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

const (
	name    = "tenantGuard"
	version = "1.0.0"
)

// Params are the policy's parameters.
type Params struct {
	PathPrefix   string             `json:"path_prefix,omitempty" jsonschema:"description=The request's tenant is the path segment after this prefix; /tenants/ for instance."`
	HeaderName   string             `json:"header_name,omitempty" jsonschema:"description=The request's tenant is the value of this header."`
	ScopePrefix  string             `json:"scope_prefix,omitempty" jsonschema:"default=tenant:,description=Scopes of the identity that begin with this name its tenants. Empty: none do."`
	Claim        policies.ClaimPath `json:"claim,omitzero" jsonschema:"description=Claim of the identity that names one of its tenants: a name or a JSON Pointer."`
	TenantHeader string             `json:"tenant_header,omitempty" jsonschema:"default=X-Tenant,description=Request header that tells the upstream the tenant. Empty: none."`
}

// Defaults sets what the configuration leaves out.
func (p *Params) Defaults() {
	*p = Params{ScopePrefix: "tenant:", TenantHeader: "X-Tenant"}
}

func (p *Params) check() error {
	var problems []error
	bad := func(param, format string, args ...any) {
		problems = append(problems, policies.BadParam(param, format, args...))
	}
	if p.PathPrefix != "" && (p.HeaderName != "") {
		bad("header_name", "path_prefix is given too; the tenant has one place")
	}
	if p.PathPrefix != "" && (p.PathPrefix[0] != '/' || !strings.HasSuffix(p.PathPrefix, "/") || ambiguous([]byte(p.PathPrefix))) {
		bad("path_prefix", "%q is not legal; legal is a path such as /tenants/, with a slash at both ends and no %%, //, . or ..", p.PathPrefix)
	}
	if p.ScopePrefix == "" && p.Claim.IsZero() {
		bad("scope_prefix", "it is empty, and claim too: no identity would have a tenant")
	}
	for param, header := range map[string]string{"header_name": p.HeaderName, "tenant_header": p.TenantHeader} {
		if err := policies.CheckHeader(header, ""); header != "" && err != nil {
			bad(param, "%v", err)
		} else if err := policies.CheckOwnedHeader(header); param == "tenant_header" && header != "" && err != nil {
			bad(param, "%v", err)
		}
	}
	return errors.Join(problems...)
}

// Definition returns the policy's entry for a worker's registry.
func Definition() policies.Definition { return policies.Define(name, version, build) }

// Policy is tenantGuard at one place of the configuration.
type Policy struct {
	source       source
	scopePrefix  string
	claim        policies.ClaimPath // zero: none
	tenantHeader string

	stranger  policies.Verdict
	ambiguous policies.Verdict
	missing   policies.Verdict
	several   policies.Verdict
	mismatch  policies.Verdict
	denied    policies.Counter
}

func build(env policies.Env, params Params) (*Policy, error) {
	if err := params.check(); err != nil {
		return nil, err
	}
	place := "path after " + params.PathPrefix
	if params.HeaderName != "" {
		place = "header " + params.HeaderName
	}
	tenants := params.tenants()
	return &Policy{
		source: source{
			prefix: params.PathPrefix, header: strings.ToLower(params.HeaderName),
			owned: params.HeaderName != "" && policies.SameHeader(params.HeaderName, params.TenantHeader),
		},
		scopePrefix:  params.ScopePrefix,
		claim:        params.Claim,
		tenantHeader: strings.ToLower(params.TenantHeader),

		stranger: policies.Deny(http.StatusForbidden, "identity_missing").WithMessage("who makes the request is not known").
			WithDetail("no policy before this one set an identity"),
		ambiguous: policies.Deny(http.StatusBadRequest, "tenant_ambiguous").WithMessage("the request can be read as one of several tenants").
			WithDetail("the tenant is ambiguous or malformed in " + place),
		missing: policies.Deny(http.StatusForbidden, "tenant_missing").WithMessage("the request names no tenant").
			WithDetail("no tenant in " + place),
		several: policies.Deny(http.StatusForbidden, "tenant_missing").WithMessage("the identity does not have just one tenant, and the request names none").
			WithDetail("the identity does not have exactly one tenant in " + tenants),
		mismatch: policies.Deny(http.StatusForbidden, "tenant_mismatch").WithMessage("the tenant is not one of yours").
			WithDetail("the tenant in " + place + " is not in " + tenants + " of the identity"),
		denied: env.Counter("denied"),
	}, nil
}

// tenants names where an identity has its tenants.
func (p *Params) tenants() string {
	var places []string
	if p.ScopePrefix != "" {
		places = append(places, "scopes "+p.ScopePrefix+"…")
	}
	if !p.Claim.IsZero() {
		places = append(places, "claim "+p.Claim.String())
	}
	return strings.Join(places, " or ")
}

// Warnings implements policies.Warner.
func (p *Policy) Warnings() (warnings []error) {
	for _, err := range []error{policies.ClaimWarning("claim", p.claim), policies.PatternWarning("path_prefix", p.source.prefix), policies.PatternWarning("scope_prefix", p.scopePrefix)} {
		if err != nil {
			warnings = append(warnings, err)
		}
	}
	return warnings
}

// OwnedHeaders implements policies.Owner.
func (p *Policy) OwnedHeaders() []string {
	if p.tenantHeader == "" {
		return nil
	}
	return []string{p.tenantHeader}
}

// OnRequestHeaders compares the request's tenant with those of the identity.
func (p *Policy) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	tenant, refusal := p.decide(r)
	// Whatever follows, only the policy tells the upstream the tenant. It comes after decide, which may read the same header.
	if p.tenantHeader != "" {
		r.RemoveSpellings(p.tenantHeader)
	}
	if refusal != nil {
		p.denied.Inc()
		return *refusal, nil
	}
	if p.tenantHeader != "" {
		r.SetHeader(p.tenantHeader, tenant)
	}
	return policies.Continue(), nil
}

// decide returns the request's tenant as the identity has it, or why there is none.
func (p *Policy) decide(r *policies.Request) (tenant string, refusal *policies.Verdict) {
	id := r.Identity()
	if id == nil {
		return "", &p.stranger
	}
	if !p.source.given() {
		if tenant = p.only(id); tenant == "" {
			return "", &p.several
		}
		return tenant, nil
	}
	named, found := p.source.find(r)
	switch found {
	case foundNone:
		return "", &p.missing
	case foundAmbiguous:
		return "", &p.ambiguous
	}
	if tenant = p.match(id, named); tenant == "" {
		return "", &p.mismatch
	}
	return tenant, nil
}

// match returns the identity's tenant of that name, empty if it has none. Its text is the identity's, which outlives the request's bytes.
func (p *Policy) match(id *policies.Identity, named []byte) string {
	for tenant := range p.tenants(id) {
		if tenant == string(named) {
			return tenant
		}
	}
	return ""
}

// only returns the tenant of an identity that has just one.
func (p *Policy) only(id *policies.Identity) (only string) {
	for tenant := range p.tenants(id) {
		if only != "" && tenant != only {
			return ""
		}
		only = tenant
	}
	return only
}

// tenants goes through the identity's tenants. What is no legal name is none.
func (p *Policy) tenants(id *policies.Identity) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		if p.scopePrefix != "" {
			for _, scope := range id.Scopes {
				if tenant, ok := strings.CutPrefix(scope, p.scopePrefix); ok && legal(tenant) && !yield(tenant) {
					return
				}
			}
		}
		if !p.claim.IsZero() {
			if tenant, ok := id.ClaimAt(p.claim); ok && legal(tenant) {
				yield(tenant)
			}
		}
	}
}

var _ policies.RequestHeaders = (*Policy)(nil)
