// Package jwtvalidation is the policy jwtValidation: it admits requests with a JSON Web Token (RFC 7519) of an issuer that is trusted.
package jwtvalidation

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
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

	issuers      issuers
	algorithms   []*algorithm
	types        []string // as mediaType returns them
	audience     []string
	subject      Paths
	scopes       []string
	requirements ClaimRules
	anyOf        []Alternative
	places       []place
	required     bool
	leeway       time.Duration
	mustExpire   bool
	claims       policies.ClaimHeaders // that go into headers
	targets      []string              // the headers of claims, in lower case

	hits      policies.Counter
	misses    policies.Counter
	awaits    policies.Counter
	anonymous policies.Counter
	leftOut   policies.Counter

	warnings []error
}

// Warnings implements policies.Warner.
func (p *Policy) Warnings() []error { return p.warnings }

func build(env policies.Env, params Params) (*Policy, error) {
	params.defaultCollections()
	if err := params.check(); err != nil {
		return nil, err
	}
	trusted, err := resolve(env, params.Issuer)
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
		return reused{newPolicy(env, &params, trusted, identity, verified.(*cache))}, nil
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

func newPolicy(env policies.Env, params *Params, trusted []policies.Issuer, identity [sha256.Size]byte, verified *cache) *Policy {
	p := &Policy{
		clock:        env.Clock(),
		cache:        verified,
		params:       identity,
		refusals:     newRefusals(params),
		issuers:      newIssuers(trusted),
		audience:     slices.Clone(params.Audience),
		subject:      params.SubjectClaim,
		scopes:       slices.Clone(params.RequiredScopes),
		requirements: params.RequiredClaims,
		anyOf:        params.AnyOf,
		places:       placesOf(params, strings.ToLower(params.HeaderName)),
		required:     params.Required,
		leeway:       time.Duration(params.Leeway),
		mustExpire:   params.RequireExpiry,
		claims:       params.ClaimsToHeaders,
		hits:         env.Counter("cache_hit"),
		misses:       env.Counter("cache_miss"),
		awaits:       env.Counter("keys_awaited"),
		anonymous:    env.Counter("anonymous"),
		leftOut:      env.Counter("claim_left_out"),
		warnings:     params.warnings(),
	}
	for _, a := range params.Algorithms {
		p.algorithms = append(p.algorithms, findAlgorithm(a))
	}
	for _, t := range params.Types {
		p.types = append(p.types, mediaType(t))
	}
	for i := range p.claims {
		p.targets = append(p.targets, strings.ToLower(p.claims[i].Header))
	}
	return p
}

// resolve returns the issuers of these names, the tenants of a template each by itself.
func resolve(env policies.Env, names []string) ([]policies.Issuer, error) {
	var all []policies.Issuer
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
		these := issuer.Tenants()
		if these == nil {
			these = []policies.Issuer{issuer}
		}
		if slices.ContainsFunc(these, func(a policies.Issuer) bool {
			return slices.ContainsFunc(all, func(b policies.Issuer) bool { return a.URL() == b.URL() })
		}) {
			errs = append(errs, policies.BadParam(param, "%q has the same iss as another one here, expected issuers that a token's iss tells apart", n))
		}
		all = append(all, these...)
	}
	return all, errors.Join(errs...)
}

// issuers are those that a policy trusts, by iss.
type issuers struct {
	list  []policies.Issuer
	byURL map[string]policies.Issuer // nil if the list is short
}

// maxListed is the longest list that is searched faster than a map.
const maxListed = 4

func newIssuers(list []policies.Issuer) issuers {
	i := issuers{list: list}
	if len(list) > maxListed {
		i.byURL = make(map[string]policies.Issuer, len(list))
		for _, issuer := range list {
			i.byURL[issuer.URL()] = issuer
		}
	}
	return i
}

// find returns the issuer of tokens with this iss, nil if there is none.
func (i *issuers) find(iss string) policies.Issuer {
	if i.byURL != nil {
		return i.byURL[iss]
	}
	for _, issuer := range i.list {
		if iss != "" && issuer.URL() == iss {
			return issuer
		}
	}
	return nil
}

func (i *issuers) has(issuer policies.Issuer) bool {
	if i.byURL != nil {
		return i.byURL[issuer.URL()] == issuer
	}
	return slices.Contains(i.list, issuer)
}

// OwnedHeaders implements policies.Owner.
func (p *Policy) OwnedHeaders() []string { return p.targets }

// CredentialHeaders implements policies.CredentialReader.
func (p *Policy) CredentialHeaders() []string {
	for i := range p.places {
		if p.places[i].kind == inHeader {
			return []string{p.places[i].name}
		}
	}
	return nil
}

// OnRequestHeaders finds the token and says who the client is.
func (p *Policy) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	// First of all, and whatever follows: only this engine tells the upstream who the client is.
	for _, target := range p.targets {
		r.RemoveSpellings(target)
	}
	f, refusal := p.find(r)
	switch {
	case refusal != nil:
		return *refusal, nil
	case f.raw == nil && p.required:
		return p.refusals.missing, nil
	case f.raw == nil:
		p.anonymous.Inc()
		p.strip(r, &f)
		return policies.Continue(), nil
	case len(f.raw) > maxTokenSize:
		return p.refusals.malformed.WithDetail(fmt.Sprintf("the token is longer than %d bytes", maxTokenSize)), nil
	}
	key := cacheKey{sha256.Sum256(f.raw), p.params}
	// Fast path: the token is known to be valid.
	if v := p.cache.get(key, &p.issuers); v != nil {
		p.hits.Inc()
		if refusal := p.untimely(&v.lifetime); refusal != nil {
			p.cache.remove(key)
			return *refusal, nil
		}
		p.admit(r, v, &f)
		return policies.Continue(), nil
	}
	// Slow path: verify it.
	p.misses.Inc()
	return p.verify(r, key, &f)
}

// untimely looks at what changes with time.
func (p *Policy) untimely(l *lifetime) *policies.Verdict {
	now := p.clock.Now()
	switch {
	case l.expired(now, p.leeway):
		return because(&p.refusals.expired, "claim exp is "+distance(now, l.expires)+" ago, leeway "+p.leeway.String())
	case !l.begun(now, p.leeway):
		return because(&p.refusals.early, "claim nbf or iat is "+distance(now, l.notBefore)+" ahead, leeway "+p.leeway.String())
	}
	return nil
}

// distance is how far a time in milliseconds is from now, in whole seconds.
func distance(now time.Time, at int64) string {
	return strconv.FormatInt(abs(now.UnixMilli()-at)/1000, 10) + " s"
}

func abs(n int64) int64 { return max(n, -n) }

// admit lets the request go on with what the token says.
func (p *Policy) admit(r *policies.Request, v *verified, f *found) {
	p.strip(r, f)
	r.SetIdentity(v.identity)
	for i := range v.headers {
		r.SetHeader(v.headers[i].Name, v.headers[i].Value)
	}
	for range v.leftOut {
		p.leftOut.Inc()
	}
}

var _ policies.RequestHeaders = (*Policy)(nil)
