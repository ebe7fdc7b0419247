// Command policy-engine is kernel and workers in one process: the standard policies in the first worker, those of policy-worker-2 in the second. An engine with policies of
// one's own is a copy of this file with a line more.
package main

import (
	"github.com/policy-engine/policy-engine/engine"
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

// version is set by the build.
var version = "dev"

func main() {
	engine.Main(
		version,
		engine.Policies{
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
		},
		engine.Policies{
			tenantguard.Definition(),
		},
	)
}
