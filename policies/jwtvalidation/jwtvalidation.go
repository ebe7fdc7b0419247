// Package jwtvalidation is the policy jwtValidation: it takes requests with a JSON Web Token (RFC 7519) of an issuer that is trusted.
package jwtvalidation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/policies"
)

const (
	name    = "jwtValidation"
	version = "1.0.0"
)

// Definition returns the policy's entry for a worker's registry.
func Definition() policies.Definition { return policies.Define(name, version, build) }

// Policy is jwtValidation at one place of the configuration.
type Policy struct {
	clock    policies.Clock
	cache    *cache
	params   [sha256.Size]byte // part of the cache's keys
	refusals refusals

	issuers      []policies.Issuer
	algorithms   []*algorithm
	audience     []string
	scopes       []string
	requirements []requirement
	header       string // in lower case
	scheme       string
	leeway       time.Duration
	mustExpire   bool
	forward      bool
	claims       []string // that go into headers
	targets      []string // the headers of claims, in lower case

	hits   policies.Counter
	misses policies.Counter
	awaits policies.Counter
}

func build(env policies.Env, params Params) (*Policy, error) {
	params.defaultCollections()
	if err := params.check(); err != nil {
		return nil, err
	}
	issuers, err := resolve(env, params.Issuer)
	if err != nil {
		return nil, err
	}
	identity, err := fingerprint(&params)
	if err != nil {
		return nil, fmt.Errorf("identify parameters: %w", err)
	}
	// Each generation holds the cache, also if it finds the policy made.
	verified, err := env.Shared("verified", openCache)
	if err != nil {
		return nil, fmt.Errorf("open token cache: %w", err)
	}
	made, err := env.Shared("policy "+string(identity[:]), func() (io.Closer, error) {
		return reused{newPolicy(env, &params, issuers, identity, verified.(*cache))}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("share the policy: %w", err)
	}
	return made.(reused).policy, nil
}

// reused is a policy that stands at several places with the same parameters: it knows nothing of its place, and 3 KB for each of 100,000 routes add up.
type reused struct{ policy *Policy }

// Close implements io.Closer, as shared values do.
func (reused) Close() error { return nil }

func newPolicy(env policies.Env, params *Params, issuers []policies.Issuer, identity [sha256.Size]byte, verified *cache) *Policy {
	p := &Policy{
		clock:      env.Clock(),
		cache:      verified,
		params:     identity,
		refusals:   newRefusals(params),
		issuers:    issuers,
		audience:   slices.Clone(params.Audience),
		scopes:     slices.Clone(params.RequiredScopes),
		header:     strings.ToLower(params.HeaderName),
		scheme:     params.Scheme,
		leeway:     time.Duration(params.Leeway),
		mustExpire: params.RequireExpiry,
		forward:    params.ForwardToken,
		hits:       env.Counter("cache_hit"),
		misses:     env.Counter("cache_miss"),
		awaits:     env.Counter("keys_awaited"),
	}
	for _, a := range params.Algorithms {
		p.algorithms = append(p.algorithms, findAlgorithm(a))
	}
	p.requirements, _ = requirements(params.RequiredClaims) // check has seen to its error.
	for _, claim := range slices.Sorted(maps.Keys(params.ClaimsToHeaders)) {
		p.claims = append(p.claims, claim)
		p.targets = append(p.targets, strings.ToLower(params.ClaimsToHeaders[claim]))
	}
	return p
}

func resolve(env policies.Env, names []string) ([]policies.Issuer, error) {
	var issuers []policies.Issuer
	var errs []error
	for i, n := range names {
		param := fmt.Sprintf("issuer[%d]", i)
		if len(names) == 1 {
			param = "issuer"
		}
		issuer, err := env.Issuer(n)
		if err != nil {
			errs = append(errs, policies.BadParam(param, "%v", err))
			continue
		}
		for _, other := range issuers {
			if other.URL() == issuer.URL() {
				errs = append(errs, policies.BadParam(param, "%q has the same iss as another one here; legal are issuers that a token's iss tells apart", n))
			}
		}
		issuers = append(issuers, issuer)
	}
	return issuers, errors.Join(errs...)
}

// OwnedHeaders implements policies.Owner.
func (p *Policy) OwnedHeaders() []string { return p.targets }

// CredentialHeaders implements policies.CredentialReader.
func (p *Policy) CredentialHeaders() []string { return []string{p.header} }

// OnRequestHeaders finds the token and says who the client is.
func (p *Policy) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	// First of all, and whatever follows: only this engine tells the upstream who the client is.
	for _, target := range p.targets {
		r.RemoveSpellings(target)
	}
	raw, refusal := p.token(r)
	if refusal != nil {
		return *refusal, nil
	}
	key := cacheKey{sha256.Sum256(raw), p.params}
	// Fast path: the token is known to be good.
	if v := p.cache.get(key, p.issuers); v != nil {
		p.hits.Inc()
		if refusal := p.untimely(&v.lifetime); refusal != nil {
			p.cache.remove(key)
			return *refusal, nil
		}
		p.admit(r, v)
		return policies.Continue(), nil
	}
	// Slow path: verify it.
	p.misses.Inc()
	return p.verify(r, key, raw)
}

// token returns the request's only token, or why there is none.
func (p *Policy) token(r *policies.Request) ([]byte, *policies.Verdict) {
	value, n := r.Header(p.header)
	switch {
	case n > 1 || r.Spellings(p.header) != n:
		return nil, &p.refusals.repeated
	case n == 0:
		return nil, &p.refusals.missing
	}
	if p.scheme != "" {
		scheme, rest, ok := bytes.Cut(value, []byte{' '})
		// RFC 9110 section 11.1: schemes compare without regard to case.
		if !ok || !equalFold(scheme, p.scheme) {
			return nil, &p.refusals.missing
		}
		value = bytes.TrimLeft(rest, " ")
	}
	if len(value) == 0 {
		return nil, &p.refusals.missing
	}
	if len(value) > maxTokenSize {
		return nil, &p.refusals.malformed
	}
	return value, nil
}

func equalFold(b []byte, s string) bool {
	return len(b) == len(s) && bytes.EqualFold(b, []byte(s))
}

// untimely looks at what changes with time.
func (p *Policy) untimely(l *lifetime) *policies.Verdict {
	now := p.clock.Now()
	switch {
	case l.expired(now, p.leeway):
		return &p.refusals.expired
	case !l.begun(now, p.leeway):
		return &p.refusals.early
	}
	return nil
}

// admit lets the request go on with what the token says.
func (p *Policy) admit(r *policies.Request, v *verified) {
	if !p.forward {
		r.RemoveHeader(p.header)
	}
	r.SetIdentity(v.identity)
	for i := range v.headers {
		r.SetHeader(v.headers[i].Name, v.headers[i].Value)
	}
}

var _ policies.RequestHeaders = (*Policy)(nil)
