package requestsizelimit

import (
	"errors"
	"fmt"

	"github.com/policy-engine/policy-engine/policies"
)

// Params are the parameters of requestSizeLimit.
type Params struct {
	MaxBodyBytes   *int64 `json:"max_body_bytes,omitempty" jsonschema:"minimum=0,maximum=1099511627776,description=The longest body that a request may announce. Default: no limit."`
	Unannounced    string `json:"unannounced,omitempty" jsonschema:"enum=refuse,enum=pass,default=refuse,description=What becomes of a request with a body without content-length."`
	MaxHeaderCount *int64 `json:"max_header_count,omitempty" jsonschema:"minimum=1,maximum=10000,description=How many header fields a request may have; pseudo-headers count too. Default: no limit."`
	MaxHeaderBytes *int64 `json:"max_header_bytes,omitempty" jsonschema:"minimum=1,maximum=1048576,description=How long the names and values of all header fields may be together. Default: no limit."`
}

// Defaults sets what the configuration leaves out.
func (p *Params) Defaults() { *p = Params{Unannounced: unannouncedRefuse} }

// StreamedParams are the parameters of requestSizeLimitStreamed.
type StreamedParams struct {
	MaxBodyBytes   *int64 `json:"max_body_bytes" jsonschema:"required,minimum=0,maximum=1099511627776,description=The longest body of a request, counted as it comes."`
	MaxHeaderCount *int64 `json:"max_header_count,omitempty" jsonschema:"minimum=1,maximum=10000,description=How many header fields a request may have; pseudo-headers count too. Default: no limit."`
	MaxHeaderBytes *int64 `json:"max_header_bytes,omitempty" jsonschema:"minimum=1,maximum=1048576,description=How long the names and values of all header fields may be together. Default: no limit."`
}

const (
	unannouncedRefuse = "refuse"
	unannouncedPass   = "pass"
)

// The largest values of the parameters.
const (
	maxBodyBytes   = 1 << 40 // 1 TiB
	maxHeaderCount = 10_000
	maxHeaderBytes = 1 << 20 // Envoy itself takes less.
)

// problems collects what is wrong with parameters.
type problems []error

func (p *problems) bad(param, format string, args ...any) {
	*p = append(*p, policies.BadParam(param, format, args...))
}

// within returns the value, or 0 if there is none.
func (p *problems) within(param string, value *int64, least, most int64) int64 {
	if value == nil {
		return 0
	}
	if *value < least || *value > most {
		p.bad(param, "%d is not legal; legal are %d to %d", *value, least, most)
	}
	return *value
}

// refusalOfHeaders is the refusal of headers that exceed a limit.
func refusalOfHeaders(limit string, value *int64) policies.Verdict {
	v := policies.Deny(431, "headers_too_large")
	if value != nil {
		v = v.WithDetail(fmt.Sprintf("the request's headers exceed %s, which is %d", limit, *value))
	}
	return v
}

func (p *problems) headers(env policies.Env, count, bytes *int64) headerLimits {
	return headerLimits{
		count:   p.within("max_header_count", count, 1, maxHeaderCount),
		bytes:   p.within("max_header_bytes", bytes, 1, maxHeaderBytes),
		many:    refusalOfHeaders("max_header_count", count),
		long:    refusalOfHeaders("max_header_bytes", bytes),
		limited: env.Counter("headers"),
	}
}

func (p *problems) body(env policies.Env, bytes *int64) bodyLimit {
	limit := p.within("max_body_bytes", bytes, 0, maxBodyBytes)
	return bodyLimit{
		on:    bytes != nil,
		limit: limit,
		tooLarge: policies.Deny(413, "body_too_large").WithMessage(fmt.Sprintf("the body may have %d bytes", limit)).
			WithDetail(fmt.Sprintf("the body exceeds max_body_bytes, which is %d", limit)),
		bad:     policies.Deny(400, "content_length_malformed").WithDetail("content-length is there more than once, or is no number"),
		limited: env.Counter("body"),
	}
}

func build(env policies.Env, params Params) (*Policy, error) {
	var found problems
	if params.MaxBodyBytes == nil && params.MaxHeaderCount == nil && params.MaxHeaderBytes == nil {
		found.bad("max_body_bytes", "nothing is limited; one of max_body_bytes, max_header_count and max_header_bytes is needed")
	}
	p := &Policy{
		headers:     found.headers(env, params.MaxHeaderCount, params.MaxHeaderBytes),
		body:        found.body(env, params.MaxBodyBytes),
		unannounced: params.Unannounced == unannouncedPass,
		lengthMissing: policies.Deny(411, "length_required").WithMessage("the body needs a content-length").
			WithDetail("the body has no content-length, and unannounced is refuse"),
	}
	if params.Unannounced != unannouncedRefuse && params.Unannounced != unannouncedPass {
		found.bad("unannounced", "%q is not legal; legal are refuse and pass", params.Unannounced)
	}
	return p, errors.Join(found...)
}

func buildStreamed(env policies.Env, params StreamedParams) (*Streamed, error) {
	var found problems
	if params.MaxBodyBytes == nil {
		found.bad("max_body_bytes", "it is missing; legal are 0 to %d", int64(maxBodyBytes))
	}
	p := &Streamed{
		headers: found.headers(env, params.MaxHeaderCount, params.MaxHeaderBytes),
		body:    found.body(env, params.MaxBodyBytes),
	}
	return p, errors.Join(found...)
}
