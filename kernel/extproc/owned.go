package extproc

import (
	"bytes"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/fastpath/headername"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// maxSpellings is how many spellings of owned headers one request may have. Each costs one of the changes that Envoy takes.
const maxSpellings = 16

// removeOwned removes the owned headers that the client sent, in every spelling, for the upstream and for the policies. It runs before
// the first policy: whatever keeps a policy from running later, the client's headers are gone. What policies set comes after it.
//
// It returns why the request must not go on, nil if it may.
func (m *Machine) removeOwned() *refusal {
	m.owned = m.table.Owned(m.route)
	if m.owned == nil {
		return m.onlyReserved()
	}
	m.spellings = 0
	headers, replaced := m.owned.Headers, m.owned.Replaced
	for i := range m.fields {
		name := m.fields[i].Name
		// Slow path: only requests with such a header take it.
		if headers.Has(name) && !m.removeHeader(name) || replaced.Has(name) && !m.changes.remove(name) {
			return &malformedRequest
		}
	}
	return nil
}

// onlyReserved refuses a request with a header that a policy may own, while it is not known which headers are owned.
func (m *Machine) onlyReserved() *refusal {
	for i := range m.fields {
		if !headername.Reserved(m.fields[i].Name) {
			return &workerUnavailable
		}
	}
	return nil
}

// removeHeader removes a header of the client. It reports false if Envoy would not remove it, or if there are too many of them.
func (m *Machine) removeHeader(name []byte) bool {
	before := len(m.changes.list)
	if !m.changes.remove(name) {
		return false
	}
	if len(m.changes.list) == before {
		return true
	}
	m.spellings++
	return m.spellings <= maxSpellings && m.hide(string(bytes.ToLower(name)))
}

// hide removes a header of the client for the policies that follow. It reports false if there is no room for that.
func (m *Machine) hide(name string) bool {
	// An encoded Context with another element of request_mutations at its end is that Context with one more.
	removal := &workerv1.Mutation{Kind: workerv1.Mutation_KIND_REMOVE_HEADER, Name: name}
	encoded, err := (&workerv1.Context{RequestMutations: []*workerv1.Mutation{removal}}).MarshalVT()
	if err != nil || len(m.context)+len(encoded) > maxContext {
		return false
	}
	m.context = append(m.context, encoded...)
	return true
}

// hideReplaced removes, for the policies that follow, the headers of the client that a policy which did not run replaces. For the
// upstream they are removed already. It reports false if that is not possible, or if it is not known which headers they are. In later
// phases the headers have passed.
func (m *Machine) hideReplaced(s *route.Segment, policy int) bool {
	switch {
	case m.stage != requestHeaders:
		return true
	case m.owned == nil:
		return false
	}
	for _, replaced := range m.owned.ReplacedBy(s.Chain, policy) {
		fields, err := headermap.Parse(nil, m.requestMap)
		if err != nil {
			return false
		}
		for i := range fields {
			name := string(bytes.ToLower(fields[i].Name))
			if headername.Equal(name, replaced) && !m.changes.sets(name) && !m.hide(name) {
				return false
			}
		}
	}
	return true
}

// removeOwnedTrailers removes owned headers and credentials from the request's trailers: from trailerMap, which the policies get, and
// by the answer to Envoy. It reports false if that is not possible. m.fields are those of trailerMap.
func (m *Machine) removeOwnedTrailers() bool {
	m.removedTrailers = m.removedTrailers[:0]
	for i := range m.fields {
		name := m.fields[i].Name
		if !m.ownedTrailer(name) {
			continue
		}
		lower := string(bytes.ToLower(name))
		if len(m.removedTrailers) >= maxSpellings || checkHeader(lower, "") != nil {
			return false
		}
		m.removedTrailers = append(m.removedTrailers, lower)
	}
	// Fast path.
	if len(m.removedTrailers) == 0 {
		return true
	}
	var left []byte
	for i := range m.fields {
		if f := &m.fields[i]; !m.ownedTrailer(f.Name) {
			left = headermap.AppendField(left, string(f.Name), string(f.Value))
		}
	}
	m.trailerMap = left
	return true
}

func (m *Machine) ownedTrailer(name []byte) bool {
	if m.owned == nil {
		return !headername.Reserved(name)
	}
	return m.owned.Trailers.Has(name)
}
