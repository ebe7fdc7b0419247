// Package rules checks the rules of this repository that no compiler checks: who may import whom, and what a file may look like.
package rules

import (
	"fmt"
	"slices"
	"strings"
)

// Module is the module's path; everything under it is ours.
const Module = "github.com/policy-engine/policy-engine"

// Package is what the checks need of an entry of `go list -json`.
type Package struct {
	ImportPath   string
	Name         string
	Dir          string
	Doc          string
	Standard     bool
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

// Rule says which of our rooms the packages of a room may import. Patterns are paths below the module: "worker" is that package alone,
// "worker/..." it and everything below, "policies/*" the packages right below and not "policies" itself.
type Rule struct {
	Room string
	// May lists what all files may import, MayInTests what only tests may import too.
	May, MayInTests []string
	// Reason ends the sentence "… must not import …: ".
	Reason string
}

// ImportRules is the table of docs/ARCHITECTURE.md. The first rule whose Room matches a package counts.
var ImportRules = []Rule{
	{
		Room: "cmd/...", May: []string{"cmd/...", "engine", "kernel", "worker", "config", "policies", "policies/*", "telemetry"},
		Reason: "a program only puts rooms together; what it needs of a room's inside belongs into that room's front package",
	},
	{
		Room: "engine", May: []string{"kernel", "kernel/route", "kernel/workers", "worker", "config", "api/...", "policies", "limits", "telemetry"},
		Reason: "it puts kernel and worker into one process, which is why it may import both; it names no policy",
	},
	{
		Room: "kernel/...", May: []string{"kernel/...", "config", "api/...", "fastpath/...", "limits", "telemetry/...", "watch"}, MayInTests: []string{"test/grammar", "test/collector"},
		Reason: "the kernel knows workers by their protocol alone, so that a policy can never run, crash or leak in it",
	},
	{
		Room: "worker/...", May: []string{"worker/...", "config", "api/...", "policies", "fastpath/...", "limits", "telemetry/...", "watch"},
		MayInTests: []string{"policies/policytest", "test/collector"},
		Reason:     "the worker core runs any policy, so it must not know one; and it knows the kernel by the protocol alone",
	},
	{
		Room: "policies/policytest", May: []string{"policies", "fastpath/..."},
		Reason: "the author of a policy tests it without a worker",
	},
	{
		Room: "policies/ratelimit/bucket", May: []string{"policies", "fastpath/..."}, MayInTests: []string{"policies/policytest"},
		Reason: "it is what two policies count in, and knows neither",
	},
	{
		Room: "policies/*", May: []string{"policies", "policies/ratelimit/bucket", "fastpath/..."}, MayInTests: []string{"policies/policytest"},
		Reason: "a policy sees the SDK only, so that it can be written, tested and moved to another worker by itself",
	},
	{
		Room: "policies", May: []string{"fastpath/..."}, MayInTests: []string{"policies/policytest"},
		Reason: "the SDK is what authors of policies compile against: what it imports, they all import",
	},
	{Room: "config/...", May: []string{"config/..."}, Reason: "configuration is values; a room that acts on them imports it, not the other way round"},
	{Room: "limits", Reason: "every process uses it, so it is a leaf"},
	{Room: "watch", Reason: "every process uses it, so it is a leaf"},
	{Room: "telemetry/...", May: []string{"telemetry/..."}, MayInTests: []string{"test/collector"}, Reason: "every process uses it, so it is a leaf"},
	{Room: "api/...", May: []string{"api/..."}, Reason: "the protocols are a leaf: both sides import them"},
	{Room: "fastpath/...", May: []string{"fastpath/..."}, Reason: "mechanisms of speed are leaves: they know no room's words"},
	{
		Room: "bench/engine", MayInTests: []string{"test/harness"},
		Reason: "it drives the engine as processes; what it links in, it can't measure",
	},
	{
		Room: "bench/hop", MayInTests: []string{"api/...", "bench/engine", "config", "fastpath/...", "kernel/...", "worker/...", "policies", "policies/*"},
		Reason: "it has both ends of the way to a worker in one process, to measure them",
	},
	{Room: "bench/...", May: []string{"fastpath/..."}, Reason: "what the engine is measured against knows nothing of it but the transport"},
	{
		Room: "loadtest/partworker", May: []string{"policies", "policies/*", "worker"},
		Reason: "it is a worker program with some of the standard policies, as cmd/policy-worker-1 is one with all",
	},
	{Room: "loadtest/profiledkernel", May: []string{"kernel"}, Reason: "it is the kernel's program with contention profiles on"},
	{
		Room: "loadtest/...", May: []string{"loadtest/...", "test/burst", "test/process"}, MayInTests: []string{"bench/engine", "test/harness"},
		Reason: "what is measured are the programs as users have them; what a measurement links in, it does not measure",
	},
	{Room: "deploy/...", Reason: "the demo's upstream stands for a stranger's program"},
	{
		Room: "test/e2e/testworker", May: []string{"engine", "policies", "policies/*", "worker"},
		Reason: "it is a worker program with policies made for tests, as cmd/policy-worker-1 is one with the standard policies; and the one-process form of it",
	},
	{Room: "test/grammar", Reason: "it is Envoy's view of the protocol: what it says of the engine must not come from the engine"},
	{Room: "test/tap", May: []string{"test/grammar"}, Reason: "it stands between programs, and knows only what they say to each other"},
	{
		Room: "test/stage/proofworker", May: []string{"policies", "policies/*", "worker", "test/proof"},
		Reason: "it is a worker program with policies made for tests, as cmd/policy-worker-1 is one with the standard policies",
	},
	{Room: "test/proof", Reason: "worker and checker agree on it, and on nothing else"},
	{
		Room: "test/soak", May: []string{"test/...", "loadtest/chart"},
		Reason: "it drives the programs as processes, and draws what it measured as the load test does",
	},
	{Room: "test/collector", Reason: "it is the operator's receiver of spans: it knows them by their protocol alone"},
	{
		Room: "test/faults", May: []string{"test/...", "loadtest/chart"},
		Reason: "it drives the programs as processes, and draws what it measured as the load test does",
	},
	{Room: "test/burst", Reason: "it is clients and an upstream: it knows the engine by what they see of it"},
	{Room: "test/process", Reason: "it starts any program, so it knows none"},
	{
		Room: "test/mutations", MayInTests: []string{"api/...", "config", "kernel/extproc", "kernel/route", "policies", "worker/chain"},
		Reason: "it compares what the kernel and the worker refuse, which neither may import of the other",
	},
	{
		Room: "test/...", May: []string{"test/...", "config", "api/...", "fastpath/..."},
		Reason: "whole-system tests start the programs as processes; what they link in, they can't prove",
	},
}

// A Violation is an import that no rule allows.
type Violation struct {
	From, To string
	InTest   bool
	Reason   string
}

func (v Violation) String() string {
	kind := ""
	if v.InTest {
		kind = " (in a test)"
	}
	return fmt.Sprintf("%s must not import %s%s: %s", v.From, v.To, kind, v.Reason)
}

// CheckImports returns every import among our own packages that the rules forbid, and every package of ours that no rule names.
func CheckImports(rules []Rule, packages []Package) []Violation {
	var found []Violation
	for _, p := range packages {
		from, ours := room(p.ImportPath)
		if !ours {
			continue
		}
		i := slices.IndexFunc(rules, func(r Rule) bool { return matches(r.Room, from) })
		if i < 0 {
			found = append(found, Violation{From: from, To: "anything", Reason: "docs/ARCHITECTURE.md has no such room; name it there and in test/rules"})
			continue
		}
		check := func(imports []string, may []string, inTest bool) {
			for _, path := range imports {
				if to, ours := room(path); ours && to != from && !matchesAny(may, to) {
					found = append(found, Violation{from, to, inTest, rules[i].Reason})
				}
			}
		}
		check(p.Imports, rules[i].May, false)
		inTests := slices.Concat(rules[i].May, rules[i].MayInTests)
		check(p.TestImports, inTests, true)
		check(p.XTestImports, inTests, true)
	}
	return found
}

// CheckUnsafe returns the packages that import unsafe without being allowed to.
func CheckUnsafe(packages []Package, may []string) []Violation {
	var found []Violation
	for _, p := range packages {
		from, ours := room(p.ImportPath)
		if !ours || matchesAny(may, from) {
			continue
		}
		if slices.Contains(slices.Concat(p.Imports, p.TestImports, p.XTestImports), "unsafe") {
			found = append(found, Violation{From: from, To: "unsafe", Reason: "fastpath/view has the two functions that need it, with the rule of their validity, and fastpath/socket the two system calls"})
		}
	}
	return found
}

// CheckOnlyStandard returns what the packages of a room depend on, directly or not, that is neither ours nor of the standard library.
func CheckOnlyStandard(packages []Package, pattern, reason string) []Violation {
	standard := map[string]bool{"C": true}
	for _, p := range packages {
		standard[p.ImportPath] = p.Standard
	}
	var found []Violation
	for _, p := range packages {
		from, ours := room(p.ImportPath)
		if !ours || !matches(pattern, from) {
			continue
		}
		for _, dep := range p.Deps {
			if _, ours := room(dep); !ours && !standard[dep] {
				found = append(found, Violation{From: from, To: dep, Reason: reason})
			}
		}
	}
	return found
}

// CheckPackages returns what is wrong with the names and documentation of our packages.
func CheckPackages(packages []Package) []string {
	var found []string
	for _, p := range packages {
		from, ours := room(p.ImportPath)
		if !ours {
			continue
		}
		base := from[strings.LastIndexByte(from, '/')+1:]
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "types", "misc", "shared"}, base) {
			found = append(found, from+": the name says nothing; a package is one noun")
		}
		generated := strings.HasPrefix(from, "api/")
		if p.Doc == "" && !generated && len(p.Imports) > 0 {
			found = append(found, from+": has no sentence of documentation")
		}
	}
	return found
}

// room returns the path below the module.
func room(importPath string) (string, bool) {
	return strings.CutPrefix(importPath, Module+"/")
}

func matchesAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, path) })
}

func matches(pattern, path string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == base || strings.HasPrefix(path, base+"/")
	}
	if base, ok := strings.CutSuffix(pattern, "/*"); ok {
		rest, below := strings.CutPrefix(path, base+"/")
		return below && !strings.Contains(rest, "/")
	}
	return path == pattern
}
