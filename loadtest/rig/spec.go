// Package rig starts what is measured, each as a process of its own: Envoy, what it asks, and where requests go.
package rig

import (
	"fmt"
	"slices"
	"strings"
)

// Asked is what Envoy does for a request.
type Asked int

// What may be asked.
const (
	Nothing      Asked = iota // no filter
	Native                    // Envoy's own filters for the same policies
	NativeCached              // the same, with the cache of jwt_authn
	NoOp                      // a server of ext_proc that does nothing
	Engine                    // this engine
)

// Spec is a system to measure.
type Spec struct {
	Asked Asked
	// Program is that of a NoOp.
	Program string

	// Of an Engine.
	Chain      []string // policies, in their order
	Transport  string   // fast or grpc; fast if empty
	Workers    int      // 1 or 2, among which the chain is divided; 1 if 0
	OneProcess bool     // kernel and workers in one process
	Routes     int      // of kernel and Envoy; 1 if 0
	Traced     float64  // the share of requests of which spans are sent to a receiver on this machine
	Profiled   bool     // kernel and workers have contention profiles; those of other kinds they always have

	// Alone is an Engine without Envoy: whoever speaks as Envoy does asks it at Server.
	Alone bool

	// Upstream is where Envoy sends requests, HOST:PORT. If it is empty, they go to a listener of the same Envoy, which answers at once, with what it
	// got as the client's identity in x-identity.
	Upstream string
	// UpstreamRequests is how many requests Envoy may have in flight to that upstream, over HTTP/2, so that they need not as
	// many descriptors; as the printed configuration says, over HTTP/1.1, if it is 0. With it, Envoy explains the answers
	// that are its own in burst.ReasonHeader.
	UpstreamRequests int

	prefixes []string // of the paths of requests; those of its routes if empty
	version  int      // of the configuration: each has another rate limit on each route
}

// policy is how a policy of a chain is configured for a load.
type policy struct {
	params     map[string]any
	response   bool // it stands in the response flow
	identifies bool // the upstream gets the client's identity
}

// limit is what a rate limit admits each second: never less than a load of one client can be.
const limit = 1_000_000

// policies are those that a chain may have.
var policies = map[string]policy{
	"apiKeyAuth":      {params: map[string]any{"key_store": "clients"}, identifies: true},
	"jwtValidation":   {params: map[string]any{"issuer": "loadtest"}, identifies: true},
	"rateLimit":       {params: map[string]any{"requests": limit, "per": "1s"}},
	"securityHeaders": {response: true},
}

// DefaultChain is the chain of the project's goals.
var DefaultChain = []string{"apiKeyAuth", "jwtValidation", "rateLimit"}

// Identifies reports whether the upstream must get the identity of each client.
func (s *Spec) Identifies() bool {
	switch s.Asked {
	case Native, NativeCached:
		return true
	case Engine:
		return slices.ContainsFunc(s.Chain, func(name string) bool { return policies[name].identifies })
	}
	return false
}

// enforces reports whether requests without the credential of that policy must be refused.
func (s *Spec) enforces(policy string) bool {
	switch s.Asked {
	case Native, NativeCached:
		return slices.Contains(DefaultChain, policy)
	case Engine:
		return slices.Contains(s.Chain, policy)
	}
	return false
}

// Check completes a spec, and tells what is wrong with it.
func (s *Spec) Check() error {
	if s.Transport == "" {
		s.Transport = "fast"
	}
	s.Workers = max(s.Workers, 1)
	for i, name := range s.Chain {
		if _, ok := policies[name]; !ok {
			return fmt.Errorf("policy %q has no configuration for a load; legal are %s", name, strings.Join(policyNames(), ", "))
		}
		if slices.Contains(s.Chain[:i], name) {
			return fmt.Errorf("policy %q is in the chain twice", name)
		}
	}
	switch {
	case s.Transport != "fast" && s.Transport != "grpc":
		return fmt.Errorf("transport %q is not legal; legal are fast and grpc", s.Transport)
	case s.Workers > 2:
		return fmt.Errorf("%d workers are not legal; legal are 1 and 2", s.Workers)
	case s.Workers == 2 && len(s.Chain) < 2:
		return fmt.Errorf("a chain of %d policies can't be divided among 2 workers", len(s.Chain))
	case s.OneProcess && s.Workers > 1:
		return fmt.Errorf("one process has the standard policies in one worker; legal is 1 worker")
	case s.Alone && s.Asked != Engine:
		return fmt.Errorf("without Envoy, there is only the engine to ask")
	case s.Routes > maxRoutes:
		return fmt.Errorf("%d routes are not legal; legal are 1 to %d", s.Routes, maxRoutes)
	}
	return nil
}

// Describe tells what an Engine is made of.
func (s *Spec) Describe() string {
	form := "kernel and 1 worker"
	switch {
	case s.OneProcess:
		form = "one process"
	case s.Workers == 2:
		form = "kernel and 2 workers"
	}
	return fmt.Sprintf("%s, transport %s, chain %s, routes: %d", form, s.Transport, strings.Join(s.Chain, " → "), max(s.Routes, 1))
}

func policyNames() []string {
	var names []string
	for name := range policies {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// divide returns the policies of each worker.
func (s *Spec) divide() [][]string {
	if s.Workers < 2 {
		return [][]string{s.Chain}
	}
	half := len(s.Chain) / 2
	return [][]string{s.Chain[:half], s.Chain[half:]}
}

const (
	maxRoutes = 1_000_000
	// maxLoaded is how many of many routes get requests.
	maxLoaded = 16
)

// route is a route of the kernel and of Envoy.
type route struct {
	name, prefix string
}

// routes returns all routes, and those of them that get requests, spread over the kernel's table. Envoy looks through its routes one after the other, the longest
// prefix first; those with requests come first there, or the measurement would be of that search.
func (s *Spec) routes() (all, loaded []route) {
	n := max(s.Routes, 1)
	every := max(n/maxLoaded, 1)
	for i := range n {
		r := route{name: RouteName(i), prefix: fmt.Sprintf("/r/%06d", i)}
		if i%every == every-1 && len(loaded) < maxLoaded {
			r.prefix = fmt.Sprintf("/loaded/%06d", i)
			loaded = append(loaded, r)
		}
		all = append(all, r)
	}
	return all, loaded
}

// paths are the prefixes below which requests are on a route with the chain.
func (s *Spec) paths() []string {
	if len(s.prefixes) > 0 {
		return s.prefixes
	}
	_, loaded := s.routes()
	paths := make([]string, len(loaded))
	for i, r := range loaded {
		paths[i] = r.prefix
	}
	return paths
}
