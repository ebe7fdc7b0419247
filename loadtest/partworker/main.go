// Command partworker is a worker for measurements: it offers those of the standard policies that $POLICIES names, so that a chain can be divided among workers,
// and has contention profiles if $CONTENTION_PROFILES is set. What it runs is the same as in policy-worker-1.
package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/policies/apikeyauth"
	"github.com/policy-engine/policy-engine/policies/jwtvalidation"
	"github.com/policy-engine/policy-engine/policies/modifyheaders"
	"github.com/policy-engine/policy-engine/policies/ratelimit"
	"github.com/policy-engine/policy-engine/policies/securityheaders"
	"github.com/policy-engine/policy-engine/worker"
)

func main() {
	offered, err := choose(os.Getenv("POLICIES"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if os.Getenv("CONTENTION_PROFILES") != "" {
		// Every contention above 10 µs, and a hundredth of those on mutexes.
		runtime.SetBlockProfileRate(10_000)
		runtime.SetMutexProfileFraction(100)
	}
	worker.Main("loadtest", offered...)
}

func choose(names string) ([]policies.Definition, error) {
	all := []policies.Definition{
		apikeyauth.Definition(), jwtvalidation.Definition(), modifyheaders.Definition(),
		ratelimit.Definition(), ratelimit.HeadersDefinition(), securityheaders.Definition(),
	}
	var chosen []policies.Definition
	for _, name := range strings.Split(names, ",") {
		i := slices.IndexFunc(all, func(d policies.Definition) bool { return d.Name() == name })
		if i < 0 {
			return nil, fmt.Errorf("POLICIES: %q is not a standard policy", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}
