package policies

import (
	"errors"
	"fmt"

	"github.com/policy-engine/policy-engine/fastpath/httpsyntax"
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
		if err := httpsyntax.Name(c.Name); err != nil {
			x.fail(fmt.Errorf("remove header %q: %w", c.Name, err))
			return
		}
		if !h.remove(c.Name) {
			return // Nothing to tell Envoy.
		}
	case SetPath, SetPathAndRoute:
		if err := httpsyntax.Path(c.Value); err != nil {
			x.fail(fmt.Errorf("set path %q: %w", c.Value, err))
			return
		}
		h.set(":path", c.Value)
	case SetMethod:
		if err := httpsyntax.Method(c.Value); err != nil {
			x.fail(fmt.Errorf("set method %q: %w", c.Value, err))
			return
		}
		h.set(":method", c.Value)
	case SetStatus:
		if err := httpsyntax.StatusText(c.Value); err != nil {
			x.fail(fmt.Errorf("set status %q: %w", c.Value, err))
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
