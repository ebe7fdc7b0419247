package policies

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/policy-engine/policy-engine/fastpath/headermap"
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
	stage       stage
	content     content
	skipsBody   bool   // the policy that runs skips the body of the message
	state       []byte // of the policy that runs
	trailerMap  []byte // what the trailers were made from
	clientMap   []byte // what the request's headers were made from
	source      []byte // the client's address as Envoy determined it; empty if Envoy did not send it
	trustedHops uint32
	client      []headermap.Field
	poisoned    bool
	stayed      *stayed // of the last Snapshot, nil without one
}

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
	x.stage, x.content, x.state, x.trailerMap, x.skipsBody = stageHeaders, content{}, nil, nil, false
	x.stayed, x.clientMap = nil, nil
	x.source, x.trustedHops = nil, 0
	clear(x.client)
	x.client = x.client[:0]
}

// BeginRequest fills in the request: the HeaderMap that Envoy sent, and whether no body follows. It aliases headerMap.
func (x *Exchange) BeginRequest(route string, headerMap []byte, endOfStream bool) error {
	x.route = route
	x.request.x, x.response.x = x, x
	x.request.endOfStream = endOfStream
	x.clientMap = headerMap
	return x.request.headers.parse(headerMap)
}

// SetSource sets what Request.ClientAddress is made from, after BeginRequest: Envoy's attribute source.address, empty
// if Envoy did not send it, and how many proxies in front of Envoy are trusted. It aliases address.
func (x *Exchange) SetSource(address []byte, trustedHops uint32) {
	x.source, x.trustedHops = address, trustedHops
}

// clientHeader implements Request.ClientHeader.
func (x *Exchange) clientHeader(name string) (value []byte, n int) {
	var err error
	if x.client, err = headermap.Parse(x.client[:0], x.clientMap); err != nil {
		return nil, 0 // BeginRequest has parsed it.
	}
	for i := range x.client {
		f := &x.client[i]
		if !equalSpelling(f.Name, name) {
			continue
		}
		n++
		if value == nil && equalFold(f.Name, name) {
			value = f.Value
		}
	}
	return value, n
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
	if x.responding && !c.Response {
		return errGone
	}
	x.lay(&c)
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
