package policies

import (
	"bytes"
	"strings"
	"sync"
)

// overwritten is a metadata value that a later one replaced.
type overwritten struct {
	index int // in metadata
	value string
}

// Mark is a point to go back to.
type Mark struct {
	changes     int
	metadata    int
	undo        int
	identity    Identity
	hasIdentity bool
	state       []byte
}

// Mark remembers the state before a policy runs. It does not allocate.
func (x *Exchange) Mark() Mark {
	return Mark{len(x.changes), len(x.metadata), len(x.undo), x.identity, x.hasIdentity, x.state}
}

// Rollback undoes all since m but removals that stay: a policy that failed, or runs in shadow, changes nothing. headerMaps are the buffers given to BeginRequest and BeginResponse.
func (x *Exchange) Rollback(m Mark, requestHeaders, responseHeaders []byte) error {
	x.err = nil
	x.identity, x.hasIdentity = m.identity, m.hasIdentity
	x.state = m.state
	x.content.undo()
	x.skipsBody = false
	for i := len(x.undo) - 1; i >= m.undo; i-- {
		x.metadata[x.undo[i].index].Value = x.undo[i].value
	}
	clear(x.undo[m.undo:])
	x.undo = x.undo[:m.undo]
	clear(x.metadata[m.metadata:])
	x.metadata = x.metadata[:m.metadata]
	if len(x.changes) == m.changes {
		return nil
	}
	kept := x.stay(x.changes[:m.changes], m)
	if len(kept) == len(x.changes) {
		return nil
	}
	// Slow path: lay the changes before m over the headers anew.
	if err := x.request.headers.parse(requestHeaders); err != nil {
		return err
	}
	if err := x.response.headers.parse(responseHeaders); err != nil {
		return err
	}
	if x.stage == stageTrailers {
		if err := x.parseTrailers(); err != nil {
			return err
		}
	}
	clear(x.changes[len(kept):])
	x.changes = x.changes[:0]
	for _, c := range kept {
		x.lay(&c)
	}
	return x.err
}

// Snapshot is the state at a mark, with nothing in it that a policy's run after the mark writes to, but for removals that stay.
type Snapshot struct {
	route              string
	requestEndOfStream bool
	responding         bool
	endOfStream        bool
	identity           Identity
	hasIdentity        bool
	metadata           []Entry
	changes            []Change
	earlier            int
	stage              stage
	content            content
	state              []byte
	trailerMap         []byte
	stayed             *stayed
	source             []byte
	trustedHops        uint32
}

// stayed are the removals that stay, of a policy that runs after a snapshot: the only thing that it and whoever uses the snapshot share.
type stayed struct {
	mu      sync.Mutex
	changes []Change
}

func (s *stayed) add(c Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes = append(s.changes, c)
}

func (s *stayed) all() []Change {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Change(nil), s.changes...)
}

// Snapshot copies the state at m. Unlike a Mark, it does not need x to be restored: a policy that is still using x, long after its timeout, can
// be left alone with it. Of x, only the last snapshot learns of removals that stay.
func (x *Exchange) Snapshot(m Mark) Snapshot {
	metadata := append([]Entry(nil), x.metadata...)
	for i := len(x.undo) - 1; i >= m.undo; i-- {
		metadata[x.undo[i].index].Value = x.undo[i].value
	}
	x.stayed = new(stayed)
	return Snapshot{
		stayed: x.stayed,
		route:  x.route, requestEndOfStream: x.request.endOfStream,
		responding: x.responding, endOfStream: x.response.endOfStream,
		identity: m.identity, hasIdentity: m.hasIdentity,
		metadata: metadata[:m.metadata],
		changes:  x.stay(append([]Change(nil), x.changes[:m.changes]...), m),
		earlier:  x.earlier,
		stage:    x.stage, content: x.content.asOffered(), state: m.state, trailerMap: bytes.Clone(x.trailerMap),
		source: bytes.Clone(x.source), trustedHops: x.trustedHops,
	}
}

// Exchange makes a new exchange in the state of the snapshot. It aliases the header maps given, which are to be copies of those that x was made from: nothing is
// shared with x that x's policies could see change.
func (s Snapshot) Exchange(requestHeaders, responseHeaders []byte) (*Exchange, error) {
	x := new(Exchange)
	if err := x.BeginRequest(s.route, requestHeaders, s.requestEndOfStream); err != nil {
		return nil, err
	}
	x.SetSource(s.source, s.trustedHops)
	if s.responding {
		if err := x.BeginResponse(responseHeaders, s.endOfStream); err != nil {
			return nil, err
		}
	}
	x.stage, x.content, x.state, x.trailerMap = s.stage, s.content, s.state, s.trailerMap
	if s.stage == stageTrailers {
		if err := x.parseTrailers(); err != nil {
			return nil, err
		}
	}
	for _, c := range append(s.changes, s.stayed.all()...) {
		c.Name, c.Value = strings.Clone(c.Name), bytes.Clone(c.Value)
		x.lay(&c)
	}
	x.earlier = s.earlier
	x.metadata = s.metadata
	x.identity, x.hasIdentity = s.identity, s.hasIdentity
	return x, x.err
}

// stay appends to before the changes since m that outlive the failure of the policy that made them. before may be x.changes[:m.changes] itself.
func (x *Exchange) stay(before []Change, m Mark) []Change {
	for _, c := range x.changes[m.changes:] {
		if c.Stays {
			before = append(before, c)
		}
	}
	return before
}
