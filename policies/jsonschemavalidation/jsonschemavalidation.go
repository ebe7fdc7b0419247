// Package jsonschemavalidation is the policy jsonSchemaValidation: it lets only those bodies pass that are JSON and fit
// a JSON Schema.
package jsonschemavalidation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

const (
	name    = "jsonSchemaValidation"
	version = "1.0.0"
)

// maxInline is the longest body, in bytes, that is checked at once, within inline: that takes 1 ms or 2 at most. A
// longer one, or one whose schema takes more, is checked beside other requests.
const maxInline = 2 << 10

var inline = limits{steps: 5_000, patternSteps: 200_000}

// errNotInline is the error of a check that needs more than inline.
var errNotInline = errors.New("the check takes longer than others may wait for")

// Definition returns the policy's entry for a worker's registry.
func Definition() policies.Definition { return policies.Define(name, version, build) }

// Policy is jsonSchemaValidation at one place of the configuration.
type Policy struct {
	schema    *checkers
	types     mediaTypes
	required  bool
	maxBody   int64 // bytes; 0: no limit of its own
	bounds    bounds
	limits    limits
	methods   methods
	maxErrors int
	status    int

	missing     policies.Verdict
	unsupported policies.Verdict
	tooLarge    policies.Verdict
	tooMuchText policies.Verdict
	response    policies.Verdict
	log         *slog.Logger
	events      events
}

type events struct{ malformed, invalid, response policies.Counter }

func build(env policies.Env, params Params) (*Policy, error) {
	schema, err := params.check()
	if err != nil {
		return nil, err
	}
	return &Policy{
		schema:    schema,
		types:     params.ContentTypes,
		required:  params.Required,
		maxBody:   params.MaxBodyBytes,
		bounds:    bounds{depth: params.MaxDepth, values: params.MaxValues},
		limits:    limits{steps: params.MaxSteps, patternSteps: params.MaxPatternSteps},
		methods:   params.Methods,
		maxErrors: params.MaxErrors,
		status:    params.Status,

		missing: policies.Deny(http.StatusBadRequest, "body_missing").WithMessage("a JSON body is required").
			WithDetail("the body is empty, and required is true"),
		unsupported: policies.Deny(http.StatusUnsupportedMediaType, "content_type_unsupported").WithMessage("the content-type is not one that is taken here").
			WithDetail("the content-type is none of " + strings.Join(params.ContentTypes, ", ") + ", or is there more than once"),
		tooLarge: policies.Deny(http.StatusRequestEntityTooLarge, "body_too_large").WithMessage("the body is too large").
			WithDetail(fmt.Sprintf("the body exceeds max_body_bytes, which is %d", params.MaxBodyBytes)),
		tooMuchText: policies.Deny(http.StatusRequestEntityTooLarge, "pattern_budget").WithMessage("the body has too much text for the patterns of the schema").
			WithDetail(fmt.Sprintf("the patterns of the schema take more than max_pattern_steps, which is %d", params.MaxPatternSteps)),
		response: policies.Deny(http.StatusBadGateway, "response_invalid").WithMessage("the upstream's response is not what it should be"),
		log:      env.Logger(),
		events:   events{env.Counter("malformed"), env.Counter("invalid"), env.Counter("response_invalid")},
	}, nil
}

// DecodesBodies: what is checked is what a recipient makes of the body.
func (p *Policy) DecodesBodies() {}

// ReadsBodiesOnly: the body goes on as it came, byte by byte.
func (p *Policy) ReadsBodiesOnly() {}

// OnRequestBody refuses what does not fit.
func (p *Policy) OnRequestBody(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
	body := r.Body()
	if !p.methods.apply(r, len(body) > 0) {
		return policies.Continue(), nil
	}
	if len(body) == 0 {
		if p.required {
			return p.missing, nil
		}
		return policies.Continue(), nil
	}
	value, n := r.Header("content-type")
	switch {
	// Another spelling, or a second one, might be the one that the upstream goes by.
	case n != 1 || r.Spellings("content-type") != 1 || !p.types.allow(value):
		return p.unsupported, nil
	case p.maxBody > 0 && int64(len(body)) > p.maxBody:
		return p.tooLarge, nil
	case len(body) <= maxInline:
		if verdict, err := p.judge(ctx, body, p.limits.within(inline)); !errors.Is(err, errNotInline) {
			return verdict, err
		}
	}
	return policies.Await(func(ctx context.Context) (policies.Verdict, error) { return p.judge(ctx, body, p.limits) }), nil
}

// judge checks the body of a request.
func (p *Policy) judge(ctx context.Context, body []byte, most limits) (policies.Verdict, error) {
	value, depth, flaw := parse(body, p.bounds)
	if flaw != nil {
		p.events.malformed.Inc()
		return policies.Deny(http.StatusBadRequest, flaw.reason).WithMessage(flaw.Error()).WithDetail(flaw.Error()), nil
	}
	invalid, err := p.schema.check(ctx, value, most.at(depth))
	switch {
	case err != nil:
		return policies.Verdict{}, err
	case most != p.limits && exhausted(invalid):
		return policies.Verdict{}, errNotInline
	case errors.Is(invalid, errTooLong):
		p.events.malformed.Inc()
		return policies.Deny(http.StatusBadRequest, tooComplex).WithMessage("the body is not taken: " + errTooLong.Error()).
			WithDetail(fmt.Sprintf("the schema takes more than max_steps, which is %d", p.limits.steps)), nil
	case errors.Is(invalid, policies.ErrPatternBudget):
		p.events.malformed.Inc()
		return p.tooMuchText, nil
	case invalid != nil:
		p.events.invalid.Inc()
		return policies.Deny(p.status, "body_invalid").WithBody("application/json", report(invalid, p.maxErrors)).
			WithDetail("the body does not fit the schema at " + firstKeyword(invalid)), nil
	}
	return policies.Continue(), nil
}

// OnResponseBody puts 502 in the place of a successful response that does not fit. Others say why there is no result,
// in a form of their own.
func (p *Policy) OnResponseBody(ctx context.Context, r *policies.Response) (policies.Verdict, error) {
	status := r.Status()
	if status < 200 || status > 299 || string(r.Request().Method()) == http.MethodHead {
		return policies.Continue(), nil
	}
	if !p.methods.apply(r.Request(), false) {
		return policies.Continue(), nil
	}
	body := r.Body()
	if len(body) == 0 {
		if p.required && status != http.StatusNoContent && status != http.StatusResetContent {
			return p.refuseResponse("it has no body"), nil
		}
		return policies.Continue(), nil
	}
	value, n := r.Header("content-type")
	switch {
	case n != 1 || !p.types.allow(value):
		return p.refuseResponse("its content-type is another one"), nil
	case p.maxBody > 0 && int64(len(body)) > p.maxBody:
		return p.refuseResponse("it is too large"), nil
	case len(body) <= maxInline:
		if verdict, err := p.judgeResponse(ctx, body, p.limits.within(inline)); !errors.Is(err, errNotInline) {
			return verdict, err
		}
	}
	return policies.Await(func(ctx context.Context) (policies.Verdict, error) { return p.judgeResponse(ctx, body, p.limits) }), nil
}

func (p *Policy) judgeResponse(ctx context.Context, body []byte, most limits) (policies.Verdict, error) {
	value, depth, flaw := parse(body, p.bounds)
	if flaw != nil {
		return p.refuseResponse(flaw.reason), nil
	}
	invalid, err := p.schema.check(ctx, value, most.at(depth))
	switch {
	case err != nil:
		return policies.Verdict{}, err
	case most != p.limits && exhausted(invalid):
		return policies.Verdict{}, errNotInline
	case errors.Is(invalid, errTooLong):
		return p.refuseResponse(tooComplex), nil
	case errors.Is(invalid, policies.ErrPatternBudget):
		return p.refuseResponse(policies.ReasonPatternBudget), nil
	case invalid != nil:
		return p.refuseResponse("it does not fit at " + firstKeyword(invalid)), nil
	}
	return policies.Continue(), nil
}

// refuseResponse tells the client nothing of the response, and the log nothing of its content.
func (p *Policy) refuseResponse(why string) policies.Verdict {
	p.events.response.Inc()
	p.log.Debug("response refused", "why", why)
	return p.response.WithDetail("the upstream's response is refused: " + why)
}

var (
	_ policies.RequestBody    = (*Policy)(nil)
	_ policies.ResponseBody   = (*Policy)(nil)
	_ policies.DecodedBodies  = (*Policy)(nil)
	_ policies.ReadOnlyBodies = (*Policy)(nil)
)
