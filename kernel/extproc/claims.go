package extproc

import (
	"math"
	"strings"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// disclaimFrom takes away what a client may not say of itself, of all policies of the request flow from one on: the request goes on without them.
func (m *Machine) disclaimFrom(s *route.Segment, index int) bool {
	if m.stage != requestHeaders {
		return true // See disclaim.
	}
	r := &m.route.Request
	for _, segments := range [...][]route.Segment{r.Headers, r.Body, r.Trailers} {
		for i := range segments {
			other := &segments[i]
			first := 0
			if other.Position < s.Position {
				continue
			}
			if other.Position == s.Position {
				first = index
			}
			if !m.disclaim(other, first, math.MaxInt) {
				return false
			}
		}
	}
	return true
}

// disclaim takes away what a client may not say of itself, of the segment's policies from first to last, which did not run and so did not do it themselves; what policies before
// them have set stays. It reports false if that can't be: the worker has not told what its policies claim, or there is no room for more changes. Then the request must not go on.
//
// In later phases the headers have passed: with the policy, which ran in the header phase, or without what it claims.
func (m *Machine) disclaim(s *route.Segment, first, last int) bool {
	if m.stage != requestHeaders {
		return true
	}
	for i := range s.Policies {
		p := &s.Policies[i]
		if p.Index < first || p.Index > last {
			continue
		}
		names, known := s.Claims.Of(s.Chain, p.Index)
		if !known {
			return false
		}
		for _, name := range names {
			if !m.removeSpellings(name) {
				return false
			}
		}
	}
	return true
}

// removeSpellings removes the client's own header of that name, in every spelling that a server may take for it, for the upstream and for the policies that follow. It may allocate.
func (m *Machine) removeSpellings(name string) bool {
	fields, err := headermap.Parse(nil, m.requestMap)
	if err != nil {
		return false
	}
	for i := range fields {
		spelling := strings.ToLower(string(fields[i].Name))
		if !sameSpelling(spelling, name) || m.changes.replaces(spelling) {
			continue
		}
		removal := &workerv1.Mutation{Kind: workerv1.Mutation_KIND_REMOVE_HEADER, Name: spelling}
		if checkMutation(requestHeaders, removal) != nil || !m.changes.fits([]*workerv1.Mutation{removal}) {
			return false
		}
		// An encoded Context with another element of request_mutations at its end is that Context with one more.
		encoded, err := (&workerv1.Context{RequestMutations: []*workerv1.Mutation{removal}}).MarshalVT()
		if err != nil || len(m.context)+len(encoded) > maxContext {
			return false
		}
		m.changes.add([]*workerv1.Mutation{removal})
		m.context = append(m.context, encoded...)
	}
	return true
}

// sameSpelling reports whether a server may take one name, in lower case, for the other.
func sameSpelling(a, b string) bool {
	return strings.ReplaceAll(a, "_", "-") == strings.ReplaceAll(strings.ToLower(b), "_", "-")
}
