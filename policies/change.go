package policies

import (
	"errors"
	"fmt"
)

// Change is one recorded change of a request or response, in the order in which policies made them.
type Change struct {
	Kind     ChangeKind
	Response bool   // of the response, not the request
	Trailer  bool   // of the trailers, not the headers
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
	// SetPathAndRoute is SetPath, and Envoy chooses the route by the new path.
	SetPathAndRoute ChangeKind = 7
)

var errGone = errors.New("change of the request in a response phase: it has gone upstream")

// change records a change that a policy makes, if the phase allows it. An illegal change is recorded as the error instead.
func (x *Exchange) change(c Change) {
	x.check()
	switch {
	case x.responding && !c.Response:
		x.fail(errGone)
	case c.Trailer && x.stage != stageTrailers:
		x.fail(errors.New("change of the trailers in another phase than theirs"))
	case !c.Trailer && x.stage == stageTrailers:
		x.fail(errors.New("change of the headers in a trailers phase: they have gone"))
	case !c.Trailer && x.stage == stageChunk:
		x.fail(errors.New("change of the headers by a policy of chunks: they may have gone"))
	default:
		x.lay(&c)
	}
}

// lay records c and lays it over the headers or trailers.
func (x *Exchange) lay(c *Change) {
	h := x.fieldsOf(c)
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
		if framesBody(c.Name) {
			x.fail(fmt.Errorf("remove header %q: it tells how the body goes, and follows by itself", c.Name))
			return
		}
		if !h.remove(c.Name) {
			return // Nothing to tell Envoy.
		}
	case SetPath, SetPathAndRoute:
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
	x.changes = append(x.changes, *c)
	if c.Stays && x.stayed != nil {
		x.stayed.add(*c)
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

// fieldsOf are the headers or trailers that a change is of.
func (x *Exchange) fieldsOf(c *Change) *headers {
	switch {
	case c.Response && c.Trailer:
		return &x.response.trailers
	case c.Response:
		return &x.response.headers
	case c.Trailer:
		return &x.request.trailers
	}
	return &x.request.headers
}

func (x *Exchange) fail(err error) {
	if x.err == nil {
		x.err = err
	}
}
