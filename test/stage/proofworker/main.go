// Command proofworker is a worker with standard policies, one that proves to the upstream that the chain has run, and one that makes trouble when it is told to.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/apikeyauth"
	"github.com/policy-engine/policy-engine/policies/auditlog"
	"github.com/policy-engine/policy-engine/policies/jsonschemavalidation"
	"github.com/policy-engine/policy-engine/policies/jwtvalidation"
	"github.com/policy-engine/policy-engine/policies/ratelimit"
	"github.com/policy-engine/policy-engine/policies/redact"
	"github.com/policy-engine/policy-engine/policies/rewritepath"
	"github.com/policy-engine/policy-engine/policies/securityheaders"
	"github.com/policy-engine/policy-engine/test/proof"
	"github.com/policy-engine/policy-engine/worker"
)

func main() {
	// Next to the worker's configuration stand the key of the proofs, and what trouble the process is to make.
	config := configFile(os.Args[1:])
	key, err := proof.Read(config + ".proof-key")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	follow(config + ".trouble")
	worker.Main(
		"faults",
		apikeyauth.Definition(),
		auditlog.Definition(),
		jsonschemavalidation.Definition(),
		jwtvalidation.Definition(),
		ratelimit.Definition(),
		redact.Definition(),
		rewritepath.Definition(),
		securityheaders.Definition(),
		policies.Define("proof", "1", func(policies.Env, noParams) (*prover, error) { return &prover{key}, nil }),
		policies.Define("proofOfBody", "1", func(policies.Env, noParams) (*bodyProver, error) { return &bodyProver{key}, nil }),
		policies.Define("trouble", "1", func(policies.Env, noParams) (*trouble, error) { return &trouble{}, nil }),
		policies.Define("burn", "1", func(policies.Env, noParams) (*burn, error) { return &burn{}, nil }),
		policies.Define("wait", "1", func(policies.Env, noParams) (*wait, error) { return &wait{}, nil }),
	)
}

// configFile is the value of --config.
func configFile(args []string) string {
	for i, arg := range args {
		if arg == "--config" && i+1 < len(args) {
			return args[i+1]
		}
		if value, ok := strings.CutPrefix(arg, "--config="); ok {
			return value
		}
	}
	return ""
}
