package extproc

import (
	"bytes"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/fastpath/headername"
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
	set := m.owned.Headers
	for i := range m.fields {
		// Slow path: only requests with such a header take it.
		if name := m.fields[i].Name; set.Has(name) && !m.removeHeader(name) {
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
	removal := &workerv1.Mutation{Kind: workerv1.Mutation_KIND_REMOVE_HEADER, Name: string(bytes.ToLower(name))}
	if m.changes.replaces(removal.Name) {
		return true // Another line of the same name.
	}
	if len(m.changes.list) >= maxSpellings || checkMutation(requestHeaders, removal) != nil {
		return false
	}
	// An encoded Context with another element of request_mutations at its end is that Context with one more.
	encoded, err := (&workerv1.Context{RequestMutations: []*workerv1.Mutation{removal}}).MarshalVT()
	if err != nil {
		return false
	}
	m.changes.add([]*workerv1.Mutation{removal})
	m.context = append(m.context, encoded...)
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
