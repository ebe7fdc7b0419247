// Package rewritepath is the policy rewritePath: it gives the upstream another path than the client asked for.
package rewritepath

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/policy-engine/policy-engine/fastpath/view"
	"github.com/policy-engine/policy-engine/policies"
)

const (
	name    = "rewritePath"
	version = "1.0.0"
)

// maxTarget is the longest path with its query, in bytes: of a request, and of what comes out.
const maxTarget = 16 << 10

// Definition returns the policy's entry for a worker's registry.
func Definition() policies.Definition { return policies.Define(name, version, build) }

// Policy is rewritePath at one place of the configuration.
type Policy struct {
	rule      rule
	reroute   bool
	unmatched policies.Verdict // Continue where the path may stay
	lenient   *lenient         // finds paths that may not stay, where others may

	ambiguous policies.Verdict
	unsafe    policies.Verdict
	tooLong   policies.Verdict
	costly    policies.Verdict
	rewritten policies.Counter
	refused   policies.Counter
}

func build(env policies.Env, params Params) (*Policy, error) {
	rule, err := params.compile()
	if err != nil {
		return nil, err
	}
	p := &Policy{
		rule:    rule,
		reroute: params.Reroute,
		ambiguous: policies.Deny(http.StatusBadRequest, "path_ambiguous").WithMessage("the path can be read in more than one way").
			WithDetail("the path has dot segments, empty segments, characters or encodings that servers read in different ways"),
		unsafe: policies.Deny(http.StatusBadRequest, "path_unsafe").WithMessage("the path has no safe form for the upstream").
			WithDetail("the rewritten path can be read in more than one way: see the replacement"),
		tooLong: policies.Deny(http.StatusRequestURITooLong, "path_too_long").WithMessage("the path is too long").
			WithDetail(fmt.Sprintf("the path with its query, before or after the rewrite, exceeds %d bytes", maxTarget)),
		costly: policies.Deny(http.StatusRequestURITooLong, policies.ReasonPatternBudget).WithMessage("the path takes too long to be read").
			WithDetail(fmt.Sprintf("matching regex takes more than %d steps", policies.DefaultPatternSteps)),
		rewritten: env.Counter("rewritten"),
		refused:   env.Counter("refused"),
	}
	if params.Unmatched == unmatchedDeny {
		p.unmatched = policies.Deny(http.StatusNotFound, "path_unmatched").WithMessage("there is nothing under this path").
			WithDetail("the path does not match the rule, and unmatched is deny")
		return p, nil
	}
	if p.lenient, err = newLenient(&p.rule, params.Regex); err != nil {
		return nil, policies.BadParam("regex", "%v", err)
	}
	return p, nil
}

// OnRequestHeaders rewrites the path, and leaves the query as it is.
func (p *Policy) OnRequestHeaders(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
	target := r.Path()
	path, query := target, []byte(nil)
	if i := bytes.IndexByte(target, '?'); i >= 0 {
		path, query = target[:i], target[i:]
	}
	switch {
	case len(target) > maxTarget:
		return p.refuse(p.tooLong)
	case !safe(path) || !visible(query):
		return p.refuse(p.ambiguous)
	}
	budget := *policies.NewPatternBudget(ctx, policies.DefaultPatternSteps)
	if err := p.rule.charge(path, &budget); err != nil {
		return p.failed(err)
	}
	var found spans
	if !p.rule.match(path, &found) {
		if p.unmatched.IsDeny() {
			return p.refuse(p.unmatched)
		}
		matched, err := p.lenient.match(path, &budget)
		switch {
		case err != nil:
			return p.failed(err)
		case matched:
			return p.refuse(p.ambiguous)
		}
		return p.unmatched, nil
	}
	// Fast path: what is left is a part of what was there.
	if rest, ok := p.rule.cut(target); ok {
		p.rewritten.Inc()
		p.set(r, view.String(rest))
		return policies.Continue(), nil
	}
	size := p.rule.size(&found) + len(query)
	if size > maxTarget {
		return p.refuse(p.tooLong)
	}
	to := p.rule.append(make([]byte, 0, size), path, &found)
	if !safe(to) {
		return p.refuse(p.unsafe)
	}
	p.rewritten.Inc()
	p.set(r, view.String(append(to, query...)))
	return policies.Continue(), nil
}

func (p *Policy) set(r *policies.Request, path string) {
	if p.reroute {
		r.SetPathAndRoute(path)
		return
	}
	r.SetPath(path)
}

// failed refuses a path on which the expression takes too many steps. Other errors are those of a call that was abandoned.
func (p *Policy) failed(err error) (policies.Verdict, error) {
	if errors.Is(err, policies.ErrPatternBudget) {
		return p.refuse(p.costly)
	}
	return policies.Verdict{}, err
}

func (p *Policy) refuse(v policies.Verdict) (policies.Verdict, error) {
	p.refused.Inc()
	return v, nil
}

var _ policies.RequestHeaders = (*Policy)(nil)
