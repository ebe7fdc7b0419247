package policies

import (
	"iter"

	"github.com/policy-engine/policy-engine/fastpath/view"
)

// HasBody reports whether a body follows the headers. An empty one may.
func (r *Request) HasBody() bool { r.x.check(); return !r.endOfStream && !r.x.noBody(true) }

// Body returns the whole body in a phase method for it, and nothing in all others. It is read only, and valid only during the call.
func (r *Request) Body() []byte {
	r.x.check()
	if r.x.stage != stageBody || r.x.responding {
		return nil
	}
	return r.x.content.bytes
}

// SetBody replaces the whole body, in a phase method for it. The content-length follows by itself, and so does the content coding for a policy that DecodesBodies;
// etag and digests of the body that came are removed unless the policy sets them with the new one. The policy must not change b any more. A message without
// a body (HasBody) can't be given one.
func (r *Request) SetBody(b []byte) { r.x.replaceBody(b) }

// SkipBody, in the header phase, leaves this policy out of the body of the request: its body or chunk method does not run. Where no policy
// that may replace the body is left, content-length and etag stay; where none is left at all, the body does not come to the engine.
func (r *Request) SkipBody() { r.x.skipBody(false) }

// Trailer returns the first value of the trailer, and how many fields of that name there are. There are none before the trailers phase.
func (r *Request) Trailer(name string) (value []byte, n int) {
	r.x.check()
	return r.trailers.get(name)
}

// Trailers goes through all trailer fields.
func (r *Request) Trailers() iter.Seq2[[]byte, []byte] { r.x.check(); return r.trailers.all() }

// SetTrailer replaces all values of the trailer, in a trailers phase.
func (r *Request) SetTrailer(name, value string) {
	r.x.change(Change{Kind: SetHeader, Trailer: true, Name: name, Value: view.Bytes(value)})
}

// AppendTrailer adds a value to the trailer, in a trailers phase.
func (r *Request) AppendTrailer(name, value string) {
	r.x.change(Change{Kind: AppendHeader, Trailer: true, Name: name, Value: view.Bytes(value)})
}

// RemoveTrailer takes the trailer away, if it is there, in a trailers phase.
func (r *Request) RemoveTrailer(name string) {
	r.x.change(Change{Kind: RemoveHeader, Trailer: true, Name: name})
}

// State returns what this policy, at this place of this flow, left with SetState in an earlier phase or chunk of the same HTTP request; nothing in its first.
// It is read only, and valid only during the call.
func (r *Request) State() []byte { r.x.check(); return r.x.state }

// SetState leaves bytes for this policy's later phases and chunks of the flow. They travel with the request, on whichever worker that runs, and
// count against the worker's limit for state: keep them few. What outlives the flow, for the response or for other policies, is Metadata. The policy must not change state any more.
func (r *Request) SetState(state []byte) { r.x.check(); r.x.state = state }

// HasBody reports whether a body follows the headers. An empty one may.
func (r *Response) HasBody() bool { r.x.check(); return !r.endOfStream && !r.x.noBody(false) }

// Body returns the whole body in a phase method for it, and nothing in all others. It is read only, and valid only during the call.
func (r *Response) Body() []byte {
	r.x.check()
	if r.x.stage != stageBody || !r.x.responding {
		return nil
	}
	return r.x.content.bytes
}

// SetBody replaces the whole body, in a phase method for it. The content-length follows by itself, and so does the content coding for a policy that DecodesBodies;
// etag and digests of the body that came are removed unless the policy sets them with the new one. The policy must not change b any more. A message without
// a body (HasBody) can't be given one.
func (r *Response) SetBody(b []byte) { r.x.replaceBody(b) }

// SkipBody, in the header phase, leaves this policy out of the body of the response: its body or chunk method does not run. Where no policy
// that may replace the body is left, content-length and etag stay; where none is left at all, the body does not come to the engine.
func (r *Response) SkipBody() { r.x.skipBody(true) }

// Trailer returns the first value of the trailer, and how many fields of that name there are. There are none before the trailers phase.
func (r *Response) Trailer(name string) (value []byte, n int) {
	r.x.check()
	return r.trailers.get(name)
}

// Trailers goes through all trailer fields.
func (r *Response) Trailers() iter.Seq2[[]byte, []byte] { r.x.check(); return r.trailers.all() }

// SetTrailer replaces all values of the trailer, in a trailers phase.
func (r *Response) SetTrailer(name, value string) {
	r.x.change(Change{Kind: SetHeader, Response: true, Trailer: true, Name: name, Value: view.Bytes(value)})
}

// AppendTrailer adds a value to the trailer, in a trailers phase.
func (r *Response) AppendTrailer(name, value string) {
	r.x.change(Change{Kind: AppendHeader, Response: true, Trailer: true, Name: name, Value: view.Bytes(value)})
}

// RemoveTrailer takes the trailer away, if it is there, in a trailers phase.
func (r *Response) RemoveTrailer(name string) {
	r.x.change(Change{Kind: RemoveHeader, Response: true, Trailer: true, Name: name})
}

// State returns what this policy, at this place of this flow, left with SetState in an earlier phase or chunk of the same HTTP request; nothing in its first.
// It is read only, and valid only during the call.
func (r *Response) State() []byte { r.x.check(); return r.x.state }

// SetState leaves bytes for this policy's later phases and chunks of the flow. They travel with the request, on whichever worker that runs, and
// count against the worker's limit for state: keep them few. What outlives the flow, for the response or for other policies, is Metadata. The policy must not change state any more.
func (r *Response) SetState(state []byte) { r.x.check(); r.x.state = state }

// noBody reports that the body phase that runs, of the request or of the response, is one of a message without a body.
func (x *Exchange) noBody(request bool) bool {
	return x.content.none && x.responding != request
}
