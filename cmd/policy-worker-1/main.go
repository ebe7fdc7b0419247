// Command policy-worker-1 is the worker with the standard policies. A worker with policies of one's own is a copy of this file with a line more.
package main

import (
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
	"github.com/policy-engine/policy-engine/policies/tokenquota"
	"github.com/policy-engine/policy-engine/worker"
)

// version is set by the build.
var version = "dev"

func main() {
	worker.Main(
		version,
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
	)
}
