// Package auditlog is the policy auditLog: it writes down who asked for what, and what became of it.
package auditlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

const (
	name    = "auditLog"
	version = "1.0.0"
)

// Definition returns the policy's entry for a worker's registry.
func Definition() policies.Definition { return policies.Define(name, version, build) }

// Policy is auditLog at one place of the configuration.
type Policy struct {
	event    event
	queue    *queue
	log      *slog.Logger // of the lines without a file
	required bool
	lost     policies.Counter
}

var errLost = errors.New("the audit log takes no more: its queue is full, or its file can't be written")

func build(env policies.Env, params Params) (*Policy, error) {
	if err := params.check(); err != nil {
		return nil, err
	}
	var claims []policies.ClaimPath
	for _, name := range params.Claims {
		claim, err := policies.ParseClaimPath(name)
		if err != nil {
			return nil, policies.BadParam("claims", "%v", err)
		}
		claims = append(claims, claim)
	}
	shared, err := env.Shared(params.File, func() (io.Closer, error) {
		return newQueue(params.File, env.Clock(), env.Logger(), env.Counter("lost")), nil
	})
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	return &Policy{
		event: event{
			clock:           env.Clock(),
			route:           env.Route(),
			query:           params.Query,
			requestHeaders:  lowered(params.RequestHeaders),
			responseHeaders: lowered(params.ResponseHeaders),
			claims:          claims,
			metadata:        params.Metadata,
			redact:          newNames(credentials, params.Redact),
		},
		queue:    shared.(*queue),
		log:      env.Logger(),
		required: params.Required,
		lost:     env.Counter("lost"),
	}, nil
}

func lowered(names []string) []string {
	var lower []string
	for _, name := range names {
		lower = append(lower, strings.ToLower(name))
	}
	return lower
}

// Warnings implements policies.Warner.
func (p *Policy) Warnings() (warnings []error) {
	for i, claim := range p.event.claims {
		if err := policies.ClaimWarning(fmt.Sprintf("claims[%d]", i), claim); err != nil {
			warnings = append(warnings, err)
		}
	}
	return warnings
}

// OnRequestHeaders writes down the request as it stands at this place of the chain.
func (p *Policy) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	l, ok := p.queue.take(p.required)
	if !ok {
		return p.losing()
	}
	l.log, l.id = p.log, append(l.id[:0], r.ID()...)
	l.text = p.event.ofRequest(l.text[:0], r)
	p.queue.put(l)
	return policies.Continue(), nil
}

// OnResponseHeaders writes down the request as it went upstream, and the status that came back.
func (p *Policy) OnResponseHeaders(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	l, ok := p.queue.take(p.required)
	if !ok {
		return p.losing()
	}
	l.log, l.id = p.log, append(l.id[:0], r.Request().ID()...)
	l.text = p.event.ofResponse(l.text[:0], r)
	p.queue.put(l)
	return policies.Continue(), nil
}

// losing counts a line that can't be written; where every line is required, the operator's on_failure says what follows.
func (p *Policy) losing() (policies.Verdict, error) {
	p.lost.Inc()
	if p.required {
		return policies.Verdict{}, errLost
	}
	return policies.Continue(), nil
}

var (
	_ policies.RequestHeaders  = (*Policy)(nil)
	_ policies.ResponseHeaders = (*Policy)(nil)
)
