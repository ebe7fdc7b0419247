package main

import (
	"slices"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/apikeyauth"
	"github.com/policy-engine/policy-engine/policies/auditlog"
	"github.com/policy-engine/policy-engine/policies/jsonschemavalidation"
	"github.com/policy-engine/policy-engine/policies/jwtvalidation"
	"github.com/policy-engine/policy-engine/policies/modifyheaders"
	"github.com/policy-engine/policy-engine/policies/ratelimit"
	"github.com/policy-engine/policy-engine/policies/redact"
	"github.com/policy-engine/policy-engine/policies/requestsizelimit"
	"github.com/policy-engine/policy-engine/policies/respond"
	"github.com/policy-engine/policy-engine/policies/rewritepath"
	"github.com/policy-engine/policy-engine/policies/securityheaders"
	"github.com/policy-engine/policy-engine/policies/tenantguard"
	"github.com/policy-engine/policy-engine/policies/tokenquota"
)

// catalogue has the policies of the workers that come with the engine, by name.
type catalogue map[string]policies.Definition

func newCatalogue() catalogue {
	c := catalogue{}
	for _, d := range []policies.Definition{
		apikeyauth.Definition(),
		auditlog.Definition(),
		jsonschemavalidation.Definition(),
		jwtvalidation.Definition(),
		modifyheaders.Definition(),
		ratelimit.Definition(),
		ratelimit.HeadersDefinition(),
		redact.Definition(),
		requestsizelimit.Definition(),
		requestsizelimit.StreamedDefinition(),
		respond.Definition(),
		rewritepath.Definition(),
		securityheaders.Definition(),
		tokenquota.Definition(),
		tokenquota.UsageDefinition(),
		tenantguard.Definition(),
	} {
		c[d.Name()] = d
	}
	return c
}

func (c catalogue) names() string {
	var names []string
	for name := range c {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
