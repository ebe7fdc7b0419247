package extproc

import "github.com/policy-engine/policy-engine/fastpath/contentcoding"

// narrowCodings removes from accept-encoding what the engine cannot decode, so that the upstream does not answer with it
// where a policy wants the response decoded. What policies set comes after it. It reports false if the header cannot be
// changed.
func (m *Machine) narrowCodings() bool {
	var room [4][]byte
	lines := room[:0]
	for i := range m.fields {
		if f := &m.fields[i]; string(f.Name) == acceptEncoding {
			lines = append(lines, f.Value)
		}
	}
	// Fast path: what clients usually accept can be undone.
	value, narrower := contentcoding.Narrow(lines)
	return !narrower || m.changes.set(acceptEncoding, value)
}

const acceptEncoding = "accept-encoding"
