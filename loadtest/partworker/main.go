// Command partworker is a worker for measurements: it offers those of the standard policies that $POLICIES names, so that a chain can be divided among workers,
// and shows its profiles on $PROFILE_ADDRESS, if that is set. What it runs is the same as in policy-worker-1.
package main

import (
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof" // on http.DefaultServeMux
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
	if err == nil {
		err = profile(os.Getenv("PROFILE_ADDRESS"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
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

// profile serves profiles to peers on this machine.
func profile(address string) error {
	if address == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("PROFILE_ADDRESS %q: %w", address, err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("PROFILE_ADDRESS %q is not on the loopback interface", address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("serve profiles: %w", err)
	}
	// Every contention above 10 µs, and a hundredth of those on mutexes.
	runtime.SetBlockProfileRate(10_000)
	runtime.SetMutexProfileFraction(100)
	go func() {
		_ = http.Serve(l, nil) // It ends with the process.
	}()
	return nil
}
