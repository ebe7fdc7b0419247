package policies

import (
	"errors"
	"fmt"
)

// Bodies is what a policy needs of bodies.
type Bodies struct {
	// WholeRequest and WholeResponse: the policy wants the body as a whole.
	WholeRequest, WholeResponse bool
	// RequestChunks and ResponseChunks: it takes chunks.
	RequestChunks, ResponseChunks bool
	// Decoded: it wants them with their content coding undone.
	Decoded bool
	// ReadOnly: it never replaces one.
	ReadOnly bool
}

func bodiesOf(p any) (b Bodies) {
	_, b.WholeRequest = p.(RequestBody)
	_, b.WholeResponse = p.(ResponseBody)
	_, b.RequestChunks = p.(RequestChunks)
	_, b.ResponseChunks = p.(ResponseChunks)
	_, b.Decoded = p.(DecodedBodies)
	_, b.ReadOnly = p.(ReadOnlyBodies)
	return b
}

// stage is what of a message runs through the policies.
type stage uint8

const (
	stageHeaders stage = iota
	stageBody          // the whole body
	stageChunk
	stageTrailers
)

// content is the body, or the piece of it, that the policy that runs is given, and what it makes of it.
type content struct {
	bytes    []byte
	none     bool // the message has no body
	last     bool
	readOnly bool

	replaced bool
	out      []byte
	held     int // bytes at the end of bytes that are held back
	changes  int // how many there were before the policy ran
}

// undo takes back what the policy did.
func (c *content) undo() { c.replaced, c.out, c.held = false, nil, 0 }

func (c content) asOffered() content {
	c.undo()
	return c
}

// BeginBody says that a body phase runs, after all Replays. none: the message has no body; the policies are given an empty one.
func (x *Exchange) BeginBody(none bool) {
	x.stage = stageBody
	x.content = content{none: none}
}

// Offer gives the body to the policy that runs next: all of it, or the next chunk. The bytes are read only for all, and must stay as they are until Reset. chunk says that
// the policy takes chunks, last that the body ends here, readOnly that the policy must not replace it.
func (x *Exchange) Offer(body []byte, chunk, last, readOnly bool) {
	x.stage = stageBody
	if chunk {
		x.stage = stageChunk
	}
	x.content = content{bytes: body, none: x.content.none, last: last, readOnly: readOnly, changes: len(x.changes)}
}

// Passed returns what the policy that ran passes on: what it put in place of what it was offered, or a part of that; and what it holds back. Both alias what
// was offered, or the policy's memory.
func (x *Exchange) Passed() (out []byte, replaced bool, held []byte) {
	c := &x.content
	cut := len(c.bytes) - c.held
	if c.replaced {
		return c.out, true, c.bytes[cut:]
	}
	return c.bytes[:cut], false, c.bytes[cut:]
}

// DropDigests removes the headers that tell a body by its bytes, after a policy has replaced the whole body: they are of the one that came. What the policy itself has set with the new
// one stays.
func (x *Exchange) DropDigests() {
	h := &x.request.headers
	if x.responding {
		h = &x.response.headers
	}
	before := x.changes[:len(x.changes):len(x.changes)]
	for _, name := range digests {
		if _, n := h.get(name); n > 0 && !hasSet(before[x.content.changes:], name) {
			x.lay(&Change{Kind: RemoveHeader, Response: x.responding, Name: name})
		}
	}
}

// digests are the validator (RFC 9110 section 8.8.3) and the checksums (RFC 9530, and RFC 3230 and RFC 1864 before it) of a body.
var digests = [...]string{"etag", "content-digest", "repr-digest", "digest", "content-md5"}

func hasSet(changes []Change, name string) bool {
	for i := range changes {
		if c := &changes[i]; c.Name == name && !c.Trailer && (c.Kind == SetHeader || c.Kind == AppendHeader) {
			return true
		}
	}
	return false
}

// BeginTrailers fills in the trailers of the request, or of the response if it has begun, and says that their phase runs. It aliases headerMap. The Replays
// of the trailers' changes come after it.
func (x *Exchange) BeginTrailers(headerMap []byte) error {
	x.stage, x.trailerMap = stageTrailers, headerMap
	return x.parseTrailers()
}

func (x *Exchange) parseTrailers() error {
	if x.responding {
		return x.response.trailers.parse(x.trailerMap)
	}
	return x.request.trailers.parse(x.trailerMap)
}

// GiveState gives the policy that runs next what it left with SetState in an earlier call. It is read only for all, and must stay as it is until Reset.
func (x *Exchange) GiveState(state []byte) { x.state = state }

// State is what the policy that ran left for its next call. It may alias the policy's memory.
func (x *Exchange) State() []byte { return x.state }

// TakeSkipsBody reports whether the policy that ran skips the body of the message, and forgets it.
func (x *Exchange) TakeSkipsBody() bool {
	skips := x.skipsBody
	x.skipsBody = false
	return skips
}

func (x *Exchange) skipBody(response bool) {
	x.check()
	if x.stage != stageHeaders || x.responding != response {
		x.fail(errors.New("skip body: it is not the phase of the message's headers"))
		return
	}
	x.skipsBody = true
}

func (x *Exchange) replaceBody(b []byte) {
	x.check()
	c := &x.content
	switch {
	case x.stage != stageBody && x.stage != stageChunk:
		x.fail(errors.New("set body: it is not the phase of a body"))
	case c.none:
		x.fail(errors.New("set body: the message has none (HasBody)"))
	case c.readOnly:
		x.fail(errors.New("set body: the policy says that it only reads (ReadsBodiesOnly)"))
	default:
		c.replaced, c.out = true, b
	}
}

func (x *Exchange) holdBack(n int) {
	x.check()
	c := &x.content
	switch {
	case n < 0 || n > len(c.bytes):
		x.fail(fmt.Errorf("hold %d bytes back: the chunk has %d", n, len(c.bytes)))
	case n > 0 && c.last:
		x.fail(fmt.Errorf("hold %d bytes back: the chunk is the last one", n))
	default:
		c.held = n
	}
}

// Chunk is a piece of a body. It is valid only during the call of the phase method.
type Chunk struct{ x *Exchange }

// Chunk returns the chunk that was offered.
func (x *Exchange) Chunk() Chunk { return Chunk{x} }

// Bytes returns what the policy held back of the body before, followed by what has come since. It may be empty. It is read only, and valid only during the call.
func (c Chunk) Bytes() []byte { c.x.check(); return c.x.content.bytes }

// Last reports whether the body ends with this chunk. Trailers may follow.
func (c Chunk) Last() bool { c.x.check(); return c.x.content.last }

// Replace sends b in place of Bytes, but for what Hold holds back of them. b may be empty, and longer than what it replaces; the policy must not change it any more.
func (c Chunk) Replace(b []byte) { c.x.replaceBody(b) }

// Hold keeps the last n of Bytes back: they are not sent now, and are there again in front of the next chunk. It is for what
// may go on in the next chunk, and is bounded by the worker's limit for state. Of the last chunk nothing can be held back. When the policy fails and the operator lets the
// body go on, what it held back goes on too, in its place.
func (c Chunk) Hold(n int) { c.x.holdBack(n) }
