package policies

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"
)

// Exchange is one HTTP request and its response on their way through the policies of one call. It belongs to the worker core and to
// policytest, which make, fill, read and reuse it; a policy sees only its Request or Response.
//
// Nothing in it outlives the call: header names and values alias the buffers given to BeginRequest and BeginResponse, which must not change until
// Reset. An Exchange is not safe for concurrent use.
type Exchange struct {
	request  Request
	response Response

	route       string
	identity    Identity
	hasIdentity bool
	metadata    []Entry
	undo        []overwritten
	changes     []Change
	earlier     int // how many of changes were made by earlier calls
	err         error
	responding  bool // the request has gone upstream
	poisoned    bool
	stayed      *stayed // of the last Snapshot, nil without one
}

// Change is one recorded change of a request or response, in the order in which policies made them.
type Change struct {
	Kind     ChangeKind
	Response bool   // of the response, not the request
	Name     string // of the header, in lower case
	Value    []byte // read only; may alias the policy's or the call's memory
	// Stays is true for a removal that outlives the failure of its policy: see Request.RemoveSpellings.
	Stays bool
}

// ChangeKind is what a Change does. The values are those of the worker protocol's Mutation.Kind.
type ChangeKind uint8

// The kinds of changes.
const (
	SetHeader    ChangeKind = 1
	AppendHeader ChangeKind = 2
	RemoveHeader ChangeKind = 3
	SetPath      ChangeKind = 4
	SetMethod    ChangeKind = 5
	SetStatus    ChangeKind = 6
)

// ErrAfterCall is the panic of a policy that uses its Request or Response after its phase method returned.
var ErrAfterCall = errors.New("policies: request or response used after the phase method returned")

// Reset empties the exchange for its next use. It keeps its memory and no reference to anything else.
func (x *Exchange) Reset() {
	x.request.reset()
	x.response.reset()
	x.route = ""
	x.identity, x.hasIdentity = Identity{}, false
	clear(x.metadata)
	x.metadata = x.metadata[:0]
	clear(x.undo)
	x.undo = x.undo[:0]
	clear(x.changes)
	x.changes = x.changes[:0]
	x.earlier = 0
	x.err = nil
	x.responding, x.poisoned = false, false
	x.stayed = nil
}

// BeginRequest fills in the request: the HeaderMap that Envoy sent, and whether no body follows. It aliases headerMap.
func (x *Exchange) BeginRequest(route string, headerMap []byte, endOfStream bool) error {
	x.route = route
	x.request.x, x.response.x = x, x
	x.request.endOfStream = endOfStream
	return x.request.headers.parse(headerMap)
}

// BeginResponse fills in the response, after BeginRequest. It aliases headerMap.
func (x *Exchange) BeginResponse(headerMap []byte, endOfStream bool) error {
	x.responding = true
	x.response.endOfStream = endOfStream
	return x.response.headers.parse(headerMap)
}

// Replay lays a change that an earlier call made over the request or response, without recording it as a new one. Replays come
// before the first policy runs.
func (x *Exchange) Replay(c Change) error {
	if x.earlier != len(x.changes) {
		return errors.New("replay after a policy ran")
	}
	x.change(c)
	x.earlier = len(x.changes)
	return x.Err()
}

// ReplayMetadata sets metadata that an earlier call set. What is illegal is left to Err, as in ReplayIdentity.
func (x *Exchange) ReplayMetadata(e Entry) { x.setMetadata(e.Key, e.Value) }

// ReplayIdentity sets the identity that an earlier call established.
func (x *Exchange) ReplayIdentity(id Identity) { x.setIdentity(id) }

// Request returns the request.
func (x *Exchange) Request() *Request { return &x.request }

// Response returns the response.
func (x *Exchange) Response() *Response { return &x.response }

// Changes returns what the policies of this call changed, in order. It is valid until the next change or Reset.
func (x *Exchange) Changes() []Change { return x.changes[x.earlier:] }

// AllChanges returns what the policies of this and all earlier calls changed, in order. It is valid until the next change or Reset.
func (x *Exchange) AllChanges() []Change { return x.changes }

// Metadata returns all metadata, in the order of their first setting. It is valid until the next change or Reset.
func (x *Exchange) Metadata() []Entry { return x.metadata }

// Identity returns the identity, and whether there is one.
func (x *Exchange) Identity() (*Identity, bool) { return &x.identity, x.hasIdentity }

// Err returns the first illegal change that a policy tried, such as a header value with a line break. Such a change is the failure of the policy.
func (x *Exchange) Err() error { return x.err }

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
}

// Mark remembers the state before a policy runs. It does not allocate.
func (x *Exchange) Mark() Mark {
	return Mark{len(x.changes), len(x.metadata), len(x.undo), x.identity, x.hasIdentity}
}

// Rollback undoes all since m but removals that stay: a policy that failed, or runs in shadow, changes nothing. headerMaps are the buffers given to BeginRequest and BeginResponse.
func (x *Exchange) Rollback(m Mark, requestHeaders, responseHeaders []byte) error {
	x.err = nil
	x.identity, x.hasIdentity = m.identity, m.hasIdentity
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
	responding := x.responding
	clear(x.changes[len(kept):])
	x.changes, x.responding = x.changes[:0], false
	for _, c := range kept {
		x.change(c)
	}
	x.responding = responding
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
	stayed             *stayed
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
	}
}

// Exchange makes a new exchange in the state of the snapshot. It aliases the header maps given, which are to be copies of those that x was made from: nothing is
// shared with x that x's policies could see change.
func (s Snapshot) Exchange(requestHeaders, responseHeaders []byte) (*Exchange, error) {
	x := new(Exchange)
	if err := x.BeginRequest(s.route, requestHeaders, s.requestEndOfStream); err != nil {
		return nil, err
	}
	if s.responding {
		if err := x.BeginResponse(responseHeaders, s.endOfStream); err != nil {
			return nil, err
		}
	}
	x.responding = false // The request's changes are to be laid over it, as they were before.
	for _, c := range append(s.changes, s.stayed.all()...) {
		c.Name, c.Value = strings.Clone(c.Name), bytes.Clone(c.Value)
		x.change(c)
	}
	x.responding = s.responding
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

// Poison makes every use of the request and response panic with ErrAfterCall, until Revive or Reset.
func (x *Exchange) Poison() {
	x.poisoned = true
}

// Revive ends what Poison began, for the run of the next policy.
func (x *Exchange) Revive() {
	x.poisoned = false
}

func (x *Exchange) check() {
	if x.poisoned {
		panic(ErrAfterCall)
	}
}

// change records c and lays it over the headers. An illegal change is recorded as the error instead.
func (x *Exchange) change(c Change) {
	x.check()
	h := &x.request.headers
	switch {
	case c.Response:
		h = &x.response.headers
	case x.responding:
		x.fail(errors.New("change of the request in a response phase: it has gone upstream"))
		return
	}
	switch c.Kind {
	case SetHeader, AppendHeader:
		if err := checkHeader(c.Name, c.Value); err != nil {
			x.fail(err)
			return
		}
		c.Name = lowerName(c.Name)
		if c.Kind == SetHeader {
			h.set(c.Name, c.Value)
		} else {
			h.append(c.Name, c.Value)
		}
	case RemoveHeader:
		c.Name = lowerName(c.Name)
		if c.Name == "host" || c.Name == "" || c.Name[0] == ':' || envoyOwns(c.Name) {
			x.fail(fmt.Errorf("remove header %q: Envoy forbids it", c.Name))
			return
		}
		if !h.remove(c.Name) {
			return // Nothing to tell Envoy.
		}
	case SetPath:
		if err := checkPath(c.Value); err != nil {
			x.fail(err)
			return
		}
		h.set(":path", c.Value)
	case SetMethod:
		if len(c.Value) == 0 {
			x.fail(errors.New("set method: it is empty"))
			return
		}
		for _, b := range c.Value {
			if !tokenChar(b) {
				x.fail(fmt.Errorf("set method %q: not a token (RFC 9110 section 9.1)", c.Value))
				return
			}
		}
		h.set(":method", c.Value)
	case SetStatus:
		if len(c.Value) != 3 || c.Value[0] < '2' || c.Value[0] > '5' || !digit(c.Value[1]) || !digit(c.Value[2]) {
			x.fail(fmt.Errorf("set status %q: legal are 200 to 599", c.Value))
			return
		}
		h.set(":status", c.Value)
	default:
		x.fail(fmt.Errorf("change of unknown kind %d", c.Kind))
		return
	}
	x.changes = append(x.changes, c)
	if c.Stays && x.stayed != nil {
		x.stayed.add(c)
	}
}

// checkPath takes an origin-form or asterisk-form target (RFC 9112 section 3.2) of visible ASCII characters.
func checkPath(path []byte) error {
	if len(path) == 0 || path[0] != '/' && string(path) != "*" {
		return fmt.Errorf("set path %q: it must begin with '/'", path)
	}
	for _, c := range path {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return fmt.Errorf("set path %q: a character that must be percent-encoded (RFC 3986)", path)
		}
	}
	return nil
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

func (x *Exchange) fail(err error) {
	if x.err == nil {
		x.err = err
	}
}

func (x *Exchange) setMetadata(key, value string) {
	x.check()
	if !utf8.ValidString(key) || !utf8.ValidString(value) {
		x.fail(fmt.Errorf("set metadata %q: key or value is not valid UTF-8", key))
		return
	}
	for i := range x.metadata {
		if x.metadata[i].Key == key {
			x.undo = append(x.undo, overwritten{i, x.metadata[i].Value})
			x.metadata[i].Value = value
			return
		}
	}
	x.metadata = append(x.metadata, Entry{key, value})
}

// setIdentity refuses what the worker protocol can't carry.
func (x *Exchange) setIdentity(id Identity) {
	x.check()
	if err := id.check(); err != nil {
		x.fail(fmt.Errorf("set identity: %w", err))
		return
	}
	x.identity, x.hasIdentity = id, true
}

func (x *Exchange) getMetadata(key string) (string, bool) {
	x.check()
	for i := range x.metadata {
		if x.metadata[i].Key == key {
			return x.metadata[i].Value, true
		}
	}
	return "", false
}
