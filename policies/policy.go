// Package policies is the SDK: what a policy is given, what it may change, and what it decides.
//
// A policy is a value with one or more of the phase methods below. The worker finds them by type assertion, once,
// when the policy is registered, so a policy can't declare a need that it does not have.
package policies

import "context"

// RequestHeaders is implemented by policies that run when the headers of a request have arrived.
//
// Denied is a Verdict. An error means "could not decide"; what follows then is the operator's choice (on_failure), and
// denies by default.
type RequestHeaders interface {
	OnRequestHeaders(context.Context, *Request) (Verdict, error)
}

// ResponseHeaders is implemented by policies that run when the headers of a response have arrived.
type ResponseHeaders interface {
	OnResponseHeaders(context.Context, *Response) (Verdict, error)
}

// RequestBody is implemented by policies that want the whole body of a request. It is called once for every request, with an empty body where
// there is none (see Request.HasBody): what a policy demands of a body is not got round by leaving the body out. A body that is longer than the operator allows
// is refused (413) before it.
//
// Header changes are possible here, as the headers wait for the body.
type RequestBody interface {
	OnRequestBody(context.Context, *Request) (Verdict, error)
}

// RequestChunks is implemented by policies that take the body of a request piece by piece, as it comes; the upstream gets each piece before the
// next one. It is called at least once for every request, and exactly once with a chunk that is the last one. The headers have gone upstream: they can't be changed.
//
// Where another policy of the flow wants the whole body, the only chunk is the whole body.
type RequestChunks interface {
	OnRequestChunk(context.Context, *Request, Chunk) (Verdict, error)
}

// RequestTrailers is implemented by policies that run when trailers have come after the body of a request. Most requests have none.
type RequestTrailers interface {
	OnRequestTrailers(context.Context, *Request) (Verdict, error)
}

// ResponseBody is RequestBody for responses. A body that is too long is 502.
type ResponseBody interface {
	OnResponseBody(context.Context, *Response) (Verdict, error)
}

// ResponseChunks is RequestChunks for responses. A client that has got part of the response sees a refusal as a connection that breaks.
type ResponseChunks interface {
	OnResponseChunk(context.Context, *Response, Chunk) (Verdict, error)
}

// ResponseTrailers is RequestTrailers for responses.
type ResponseTrailers interface {
	OnResponseTrailers(context.Context, *Response) (Verdict, error)
}

// DecodedBodies is implemented by policies that want to see bodies with their content coding undone (RFC 9110 section 8.4.1: gzip, deflate, br, zstd). A body
// that has one is then taken as a whole, also by a policy of chunks; decoded, it is bounded as any body is, and to 200 times its length where that is more than
// 64 KiB (413, or 502 for a response). A body that no policy replaces goes on as it came; one that was replaced is encoded again. A coding that is not known, more than three, and
// what can't be decoded is refused (415, or 502 for a response). The header content-encoding still names the coding.
type DecodedBodies interface {
	DecodesBodies()
}

// ReadOnlyBodies is implemented by policies that never replace a body or a chunk. Where all policies are that take
// part in a streamed body, its content-length stays. A policy that sees by the headers that it will not replace the
// body calls SkipBody.
type ReadOnlyBodies interface {
	ReadsBodiesOnly()
}

// Owner is implemented by policies that set headers of the request on which the upstream relies, such as the one that names the client.
//
// No client can send an owned header: the kernel removes it in every spelling (see Request.RemoveSpellings) before the first policy
// runs, from headers and trailers, on every route, whether the policy is on the route or not. So the upstream and all policies see it
// only if a policy has set it. Request.ClientHeader returns what the client sent.
//
// The names are in lower case, and pass CheckOwnedHeader; those of a policy with given parameters never change.
type Owner interface {
	OwnedHeaders() []string
}

// Replacer is implemented by policies that remove or replace headers which clients may send. Where such a policy does not run, because it
// was skipped or has failed and the operator lets the request go on, the upstream does not get what the client sent in them, in any
// spelling. Unlike owned headers, this is so on the policy's own route only, and policies see the headers until the policy has run.
//
// The names are in lower case; those of a policy with given parameters never change.
type Replacer interface {
	ReplacedHeaders() []string
}

// CredentialReader is implemented by policies that read a credential from headers of the request. The kernel removes these headers, in
// every spelling, from the request's trailers, where no policy reads them, but an upstream may.
//
// The names are in lower case; those of a policy with given parameters never change.
type CredentialReader interface {
	CredentialHeaders() []string
}

// Blocking is implemented by policies whose phase methods may wait (network, disk, locks held long): each of
// their runs gets a goroutine of its own, and its context is cancelled when the policy's timeout has passed.
// All others run inline, one after the other, and must return without waiting. A policy that has to wait only
// now and then returns Await instead.
type Blocking interface {
	MayBlock()
}

// Phase is a moment in the life of an HTTP request at which policies run.
type Phase uint8

// The phases. Their values are those of the worker protocol. Chunks are of the body phases.
const (
	PhaseRequestHeaders   Phase = 1
	PhaseRequestBody      Phase = 2
	PhaseRequestTrailers  Phase = 3
	PhaseResponseHeaders  Phase = 4
	PhaseResponseBody     Phase = 5
	PhaseResponseTrailers Phase = 6
)

func (p Phase) String() string {
	if p == 0 || int(p) >= len(phaseNames) {
		return "unknown"
	}
	return phaseNames[p]
}

var phaseNames = [...]string{
	PhaseRequestHeaders: "request_headers", PhaseRequestBody: "request_body", PhaseRequestTrailers: "request_trailers",
	PhaseResponseHeaders: "response_headers", PhaseResponseBody: "response_body", PhaseResponseTrailers: "response_trailers",
}

// IsResponse reports whether the phase is one of the response flow.
func (p Phase) IsResponse() bool { return p >= PhaseResponseHeaders }

// phasesOf finds the phases of a policy by its methods. A typed nil has them too.
func phasesOf(p any) (phases []Phase) {
	_, requestHeaders := p.(RequestHeaders)
	_, requestBody := p.(RequestBody)
	_, requestChunks := p.(RequestChunks)
	_, requestTrailers := p.(RequestTrailers)
	_, responseHeaders := p.(ResponseHeaders)
	_, responseBody := p.(ResponseBody)
	_, responseChunks := p.(ResponseChunks)
	_, responseTrailers := p.(ResponseTrailers)
	for i, has := range [...]bool{
		requestHeaders, requestBody || requestChunks, requestTrailers, responseHeaders, responseBody || responseChunks, responseTrailers,
	} {
		if has {
			phases = append(phases, Phase(i+1))
		}
	}
	return phases
}
