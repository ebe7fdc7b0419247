package jwtvalidation

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"

	"github.com/policy-engine/policy-engine/policies"
)

// attempt is a token that the cache does not know, on its way to a decision.
type attempt struct {
	request   *policies.Request
	key       cacheKey
	found     found
	token     *token
	algorithm *algorithm
	issuer    policies.Issuer
}

// verify decides on a token that the cache does not know. It waits only for keys that are not there, and not on this goroutine.
func (p *Policy) verify(r *policies.Request, key cacheKey, f *found) (policies.Verdict, error) {
	t, err := parseToken(f.raw)
	if err != nil {
		return p.refusals.malformed.WithDetail(err.Error()), nil
	}
	alg := p.algorithm(t.algorithm)
	if alg == nil {
		return p.refusals.algorithm, nil
	}
	if !slices.Contains(p.types, t.typ) {
		return p.refusals.typ, nil
	}
	// Until the signature is verified with the keys of the issuer that the token names, the name proves nothing.
	iss := t.claims.Root().Member("iss")
	url, _ := iss.Text()
	issuer := p.issuers.find(url)
	if issuer == nil || iss.Kind() != policies.ClaimString {
		return p.refusals.issuer, nil
	}
	a := &attempt{request: r, key: key, found: *f, token: t, algorithm: alg, issuer: issuer}
	if set := issuer.Keys(); set != nil {
		refusal := p.authenticate(a, set)
		// A key that is there needs no fetch. Another signature may be by a key that is not there yet, also under a known kid: the issuer may have
		// replaced the key. MayRefresh bounds how often that leads to a fetch.
		if refusal == nil || !a.mayBeNew(set, refusal == &p.refusals.key) || !issuer.MayRefresh() {
			return p.decide(a, set, refusal), nil
		}
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
		// Whether or not the fetch succeeded: a token whose key is not in the set that there is can't be let in, and is no reason for on_failure. A client
		// that invents key ids would otherwise choose on_failure for itself while the issuer is down.
		return p.decide(a, set, p.authenticate(a, set)), nil
	}), nil
}

// algorithm returns the algorithm of that name if the policy accepts it.
func (p *Policy) algorithm(name string) *algorithm {
	if known := findAlgorithm(name); slices.Contains(p.algorithms, known) {
		return known
	}
	return nil
}

// authenticate verifies the signature with the issuer's keys. It returns nil, the refusal of a missing key or that of a wrong signature.
func (p *Policy) authenticate(a *attempt, set *policies.KeySet) *policies.Verdict {
	keys := candidates(set, a.token, a.algorithm)
	if len(keys) == 0 {
		return &p.refusals.key
	}
	for _, k := range keys {
		if a.algorithm.verify(k, a.token.signed, a.token.signature) {
			return nil
		}
	}
	return &p.refusals.signature
}

// mayBeNew reports whether a newer key set may have the key that signed the token. Where no key fits, that is so for key ids that the set
// does not have: a key that is there, and is of another type or bound to another algorithm, was not meant for the token.
func (a *attempt) mayBeNew(set *policies.KeySet, noKey bool) bool {
	return !noKey || a.token.hasKid && !slices.ContainsFunc(set.Keys, func(k policies.VerificationKey) bool { return k.ID == a.token.kid })
}

// decide ends an attempt whose signature was verified with the set, or refused: it checks the claims.
func (p *Policy) decide(a *attempt, set *policies.KeySet, refusal *policies.Verdict) policies.Verdict {
	if refusal != nil {
		return *p.explain(a, refusal)
	}
	v, refusal := p.accept(a.token)
	if refusal != nil {
		return *refusal
	}
	v.issuer, v.generation, v.identity.Issuer = a.issuer, set.Generation, a.issuer.URL()
	p.cache.put(a.key, v)
	p.admit(a.request, v, &a.found)
	return policies.Continue()
}

// maxShownKid is how much of a kid a detail shows, in bytes.
const maxShownKid = 64

// explain adds to the refusal of a signature which key it was.
func (p *Policy) explain(a *attempt, refusal *policies.Verdict) *policies.Verdict {
	which := "without a kid"
	if a.token.hasKid {
		which = fmt.Sprintf("with kid %.*q", maxShownKid, a.token.kid)
	}
	if refusal == &p.refusals.key {
		return because(refusal, fmt.Sprintf("issuer %s has no key for %s tokens %s", a.issuer.URL(), a.token.algorithm, which))
	}
	return because(refusal, fmt.Sprintf("no key of issuer %s verifies the %s signature of the token %s", a.issuer.URL(), a.token.algorithm, which))
}

// maxUnnamed is how many keys without a kid a token is tried with at most: each costs a verification, and clients without a valid token
// can cause them.
const maxUnnamed = 4

// candidates returns the keys that may have signed the token, each once, of those that fit the algorithm:
//
//   - those of the token's kid: all of them, since different keys may share one (RFC 7517 section 4.5);
//   - if the set has no key of that kid, the keys without a kid, unless there are more than maxUnnamed;
//   - for a token without a kid, the only key that fits.
func candidates(set *policies.KeySet, t *token, alg *algorithm) []*policies.VerificationKey {
	var named, others []*policies.VerificationKey
	known := false
	for i := range set.Keys {
		k := &set.Keys[i]
		known = known || t.hasKid && k.ID == t.kid
		switch {
		case !alg.fits(k):
		case t.hasKid && k.ID == t.kid:
			named = append(named, k)
		case (!t.hasKid || k.ID == "") && !slices.ContainsFunc(others, func(o *policies.VerificationKey) bool { return sameKey(o, k) }):
			others = append(others, k)
		}
	}
	switch {
	case known:
		return named
	case t.hasKid && len(others) > maxUnnamed, !t.hasKid && len(others) > 1:
		return nil
	}
	return others
}

// sameKey reports whether two entries of a set are the same key, perhaps under two key ids.
func sameKey(a, b *policies.VerificationKey) bool {
	k, ok := a.Public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b.Public)
}

// accept checks the claims of a token with a valid signature, and keeps what a request gets of it. A token that is not valid is refused before
// one that is valid but does not permit the request.
func (p *Policy) accept(t *token) (*verified, *policies.Verdict) {
	v, c := &verified{}, t.claims
	var err error
	if v.lifetime, err = readLifetime(c); err != nil {
		return nil, because(&p.refusals.times, "claim "+err.Error())
	}
	if p.mustExpire && v.lifetime.expires == never {
		return nil, &p.refusals.noExpiry
	}
	if refusal := p.untimely(&v.lifetime); refusal != nil {
		return nil, refusal
	}
	if len(p.audience) > 0 && !audienceFits(c.Root().Member("aud"), p.audience) {
		return nil, &p.refusals.audience
	}
	subject, err := readSubject(c, p.subject)
	if err != nil {
		return nil, because(&p.refusals.subject, "subject_claim "+p.subject.String()+": "+err.Error())
	}
	scopes, err := readScopes(c)
	if err != nil {
		return nil, because(&p.refusals.scopes, "claim "+err.Error())
	}
	v.identity = policies.Identity{Method: name, Scopes: scopes}.WithClaimsSet(c)
	v.identity.Subject, _ = subject.Text()
	if refusal := p.carry(v, c, subject); refusal != nil {
		return nil, refusal
	}
	return v, p.authorize(c, scopes)
}

// carry makes the headers of claims, and the claims of the identity as text.
func (p *Policy) carry(v *verified, c *policies.ClaimsSet, subject policies.ClaimValue) *policies.Verdict {
	for i := range p.claims {
		h := &p.claims[i]
		value, outcome := h.Value(c, subject)
		switch {
		case outcome == policies.ClaimCarried:
			v.headers = append(v.headers, policies.Header{Name: p.targets[i], Value: value})
			v.identity.Claims = append(v.identity.Claims, h.Entry(c, subject))
		case h.Claim.IsZero(): // The upstream must not take the request for one without an identity.
			return because(&p.refusals.subject, "the subject cannot be the value of header "+p.targets[i])
		case h.Required:
			return because(&p.refusals.claim, "claim "+h.Claim.String()+" is missing, or cannot be the value of header "+p.targets[i])
		case outcome == policies.ClaimUnfit:
			v.leftOut++
		}
	}
	return nil
}

// authorize checks whether a valid token permits the request.
func (p *Policy) authorize(c *policies.ClaimsSet, scopes []string) *policies.Verdict {
	for _, scope := range p.scopes {
		if !slices.Contains(scopes, scope) {
			return because(&p.refusals.scope, "scope "+scope+" is missing")
		}
	}
	if unmet := p.requirements.unmet(c); unmet != nil {
		return because(&p.refusals.claim, unmet.String())
	}
	if len(p.anyOf) > 0 && !slices.ContainsFunc(p.anyOf, func(a Alternative) bool { return a.met(c, scopes) }) {
		return &p.refusals.anyOf
	}
	return nil
}
