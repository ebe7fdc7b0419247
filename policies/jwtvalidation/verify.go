package jwtvalidation

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/policy-engine/policy-engine/policies"
)

// verify decides on a token that the cache does not know. It waits only for keys that are not there, and not on this goroutine.
func (p *Policy) verify(r *policies.Request, key cacheKey, raw []byte) (policies.Verdict, error) {
	t, err := parseToken(raw)
	if err != nil {
		return p.refusals.malformed, nil
	}
	alg := p.algorithm(t.algorithm)
	if alg == nil {
		return p.refusals.algorithm, nil
	}
	issuer := p.issuer(t)
	if issuer == nil {
		return p.refusals.issuer, nil
	}
	if set := issuer.Keys(); set != nil && (!t.hasKid || knows(set, t.kid)) {
		return p.decide(r, key, t, alg, issuer, set), nil
	}
	p.awaits.Inc()
	return policies.Await(func(ctx context.Context) (policies.Verdict, error) {
		set, err := issuer.Refresh(ctx)
		if set == nil {
			set = issuer.Keys()
		}
		if set == nil {
			if err == nil {
				err = errors.New("no key set was ever loaded")
			}
			return policies.Verdict{}, fmt.Errorf("get keys of issuer %q: %w", issuer.URL(), err)
		}
		// Whether or not the fetch succeeded: a token whose key is not in the set that there is can't be let in, and is no reason for on_failure. Who invents key
		// ids would otherwise choose on_failure for themselves while the issuer is down.
		return p.decide(r, key, t, alg, issuer, set), nil
	}), nil
}

// algorithm returns the algorithm of that name if the policy takes it.
func (p *Policy) algorithm(name string) *algorithm {
	for _, a := range p.algorithms {
		if a.name == name {
			return a
		}
	}
	return nil
}

// issuer returns who the token says has signed it, if that is one of ours. Until the signature is verified with that issuer's keys, it is no more than a claim.
func (p *Policy) issuer(t *token) policies.Issuer {
	iss, _ := t.claims["iss"].(string)
	for _, i := range p.issuers {
		if iss != "" && i.URL() == iss {
			return i
		}
	}
	return nil
}

func knows(set *policies.KeySet, kid string) bool {
	return slices.ContainsFunc(set.Keys, func(k policies.VerificationKey) bool { return k.ID == kid })
}

// decide verifies the signature with the issuer's keys, and then checks what the token says.
func (p *Policy) decide(r *policies.Request, key cacheKey, t *token, alg *algorithm, issuer policies.Issuer, set *policies.KeySet) policies.Verdict {
	keys := candidates(set, t, alg)
	if len(keys) == 0 {
		return p.refusals.key
	}
	if !slices.ContainsFunc(keys, func(k *policies.VerificationKey) bool { return alg.verify(k, t.signed, t.signature) }) {
		return p.refusals.signature
	}
	v, refusal := p.accept(t)
	if refusal != nil {
		return *refusal
	}
	v.issuer, v.generation, v.identity.Issuer = issuer, set.Generation, issuer.URL()
	p.cache.put(key, v)
	p.admit(r, v)
	return policies.Continue()
}

// candidates returns the keys that may have signed the token. With a kid, those of that kid that fit the algorithm: all of them, since different keys may share one (RFC 7517
// section 4.5). Without, the only one that fits: to try more would let anybody cost us as many verifications as the issuer has keys.
func candidates(set *policies.KeySet, t *token, alg *algorithm) []*policies.VerificationKey {
	var keys []*policies.VerificationKey
	for i := range set.Keys {
		if k := &set.Keys[i]; (!t.hasKid || k.ID == t.kid) && alg.fits(k) {
			keys = append(keys, k)
		}
	}
	if !t.hasKid && len(keys) > 1 {
		return nil
	}
	return keys
}

// accept checks what a token of verified signature says, and keeps what a request gets of it.
func (p *Policy) accept(t *token) (*verified, *policies.Verdict) {
	v := &verified{}
	var err error
	if v.lifetime, err = readLifetime(t.claims); err != nil {
		return nil, &p.refusals.claims
	}
	if p.mustExpire && v.lifetime.expires == never {
		return nil, &p.refusals.claims
	}
	// Before all else: a token out of its time has no scopes to tell of.
	if refusal := p.untimely(&v.lifetime); refusal != nil {
		return nil, refusal
	}
	if len(p.audience) > 0 && !audienceFits(t.claims["aud"], p.audience) {
		return nil, &p.refusals.audience
	}
	for i := range p.requirements {
		if !p.requirements[i].met(t.claims) {
			return nil, &p.refusals.claims
		}
	}
	subject, _ := t.claims["sub"].(string)
	if subject == "" {
		return nil, &p.refusals.claims
	}
	scopes, err := readScopes(t.claims)
	if err != nil {
		return nil, &p.refusals.claims
	}
	entries, err := facts(t.claims, p.claims)
	if err != nil {
		return nil, &p.refusals.claims
	}
	for _, scope := range p.scopes {
		if !slices.Contains(scopes, scope) {
			return nil, &p.refusals.scope
		}
	}
	v.identity = policies.Identity{Subject: subject, Method: name, Scopes: scopes, Claims: entries}
	for _, e := range entries {
		v.headers = append(v.headers, policies.Header{Name: p.targets[slices.Index(p.claims, e.Key)], Value: e.Value})
	}
	return v, nil
}
