// Package requestsizelimit holds the policies requestSizeLimit, which goes by what a request announces, and requestSizeLimitStreamed, which counts the bytes of the body as they come.
package requestsizelimit

import (
	"context"

	"github.com/policy-engine/policy-engine/policies"
)

const (
	name         = "requestSizeLimit"
	streamedName = "requestSizeLimitStreamed"
	version      = "1.0.0"
)

// Definition returns the entry of requestSizeLimit for a worker's registry.
func Definition() policies.Definition { return policies.Define(name, version, build) }

// StreamedDefinition returns the entry of requestSizeLimitStreamed. It is a policy of its own because what a policy needs of bodies follows from its type, and
// requestSizeLimit needs nothing.
func StreamedDefinition() policies.Definition {
	return policies.Define(streamedName, version, buildStreamed)
}

// Policy is requestSizeLimit at one place of the configuration.
type Policy struct {
	headers       headerLimits
	body          bodyLimit
	lengthMissing policies.Verdict
	unannounced   bool // bodies without a content-length pass
}

// OnRequestHeaders refuses a request by its headers, before anything of its body is read.
func (p *Policy) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	if v, ok := p.headers.check(r); !ok {
		return v, nil
	}
	if !p.body.on {
		return policies.Continue(), nil
	}
	length, announced, ok := contentLength(r)
	switch {
	case !ok:
		return p.body.malformed(), nil
	case announced && length > p.body.limit:
		return p.body.refuse(), nil
	case !announced && r.HasBody() && !p.unannounced:
		p.body.limited.Inc()
		return p.lengthMissing, nil
	}
	return policies.Continue(), nil
}

// Streamed is requestSizeLimitStreamed at one place of the configuration.
type Streamed struct {
	headers headerLimits
	body    bodyLimit
}

// OnRequestHeaders refuses what is announced as too long, before anything of it is read.
func (p *Streamed) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	if v, ok := p.headers.check(r); !ok {
		return v, nil
	}
	switch length, announced, ok := contentLength(r); {
	case !ok:
		return p.body.malformed(), nil
	case announced && length > p.body.limit:
		return p.body.refuse(), nil
	}
	return policies.Continue(), nil
}

// OnRequestChunk counts, whatever was announced.
func (p *Streamed) OnRequestChunk(_ context.Context, r *policies.Request, c policies.Chunk) (policies.Verdict, error) {
	seen, err := decodeCount(r.State())
	if err != nil {
		return policies.Verdict{}, err
	}
	// Neither is more than 2^62, so there is no overflow.
	if seen += int64(len(c.Bytes())); seen > p.body.limit {
		return p.body.refuse(), nil
	}
	// Fast path: a body in one chunk leaves nothing.
	if !c.Last() && len(c.Bytes()) > 0 {
		r.SetState(encodeCount(seen))
	}
	return policies.Continue(), nil
}

// ReadsBodiesOnly implements policies.ReadOnlyBodies.
func (*Streamed) ReadsBodiesOnly() {}

var (
	_ policies.RequestHeaders = (*Policy)(nil)
	_ policies.RequestHeaders = (*Streamed)(nil)
	_ policies.RequestChunks  = (*Streamed)(nil)
	_ policies.ReadOnlyBodies = (*Streamed)(nil)
)
