// Package apikeyauth is the policy apiKeyAuth: it identifies clients by API keys.
package apikeyauth

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/policy-engine/policy-engine/policies"
)

const (
	name    = "apiKeyAuth"
	version = "1.0.0"

	// maxKeySize is in bytes; hashing is the only work that a client without a key can cause.
	maxKeySize = 4 << 10
)

// Definition returns the policy's entry for a worker's registry.
func Definition() policies.Definition { return policies.Define(name, version, build) }

// Policy is apiKeyAuth at one place of the configuration.
type Policy struct {
	store   policies.KeyStore
	clock   policies.Clock
	sources sources

	required       bool
	strip          bool
	scopes         []string
	identityHeader string // in lower case
	claims         policies.ClaimHeaders
	owned          []string // the identity header and the headers of claims, in lower case
	issuer         string

	missing  policies.Verdict
	invalid  policies.Verdict
	unlisted policies.Verdict // as invalid, with the detail that the store does not have the key
	repeated policies.Verdict
	scope    policies.Verdict
	claim    policies.Verdict

	unknown   policies.Counter
	early     policies.Counter
	expired   policies.Counter
	anonymous policies.Counter
	leftOut   policies.Counter

	warnings []error
}

// challenge names the schemes, as a 401 must (RFC 9110 section 11.6.1). ApiKey stands for the places that have none: there is no
// registered scheme for API keys.
func challenge(s *sources) string {
	var schemes []string
	if s.header != "" || s.query != "" || s.cookie != "" {
		schemes = append(schemes, "ApiKey")
	}
	for _, scheme := range s.schemes {
		if !slices.ContainsFunc(schemes, func(other string) bool { return strings.EqualFold(scheme, other) }) {
			schemes = append(schemes, strings.ToUpper(scheme[:1])+scheme[1:])
		}
	}
	return strings.Join(schemes, ` realm="api", `) + ` realm="api"`
}

func build(env policies.Env, params Params) (*Policy, error) {
	if err := params.check(); err != nil {
		return nil, err
	}
	store, err := env.KeyStore(params.KeyStore)
	if err != nil {
		return nil, policies.BadParam("key_store", "%v", err)
	}
	places := sources{
		header:  strings.ToLower(params.HeaderName),
		schemes: slices.Clone(params.Schemes),
		query:   params.QueryParam,
		cookie:  params.CookieName,
	}
	if len(places.schemes) > 0 && places.header == authorization {
		places.header = "" // With schemes, the header alone is not a key.
	}
	challenge := challenge(&places)
	refuse := func(reason, message string) policies.Verdict {
		return policies.Deny(http.StatusUnauthorized, reason).WithMessage(message).WithHeader("www-authenticate", challenge)
	}
	p := &Policy{
		store:          store,
		clock:          env.Clock(),
		sources:        places,
		required:       params.Required,
		strip:          params.StripCredential,
		scopes:         slices.Clone(params.Scopes),
		identityHeader: strings.ToLower(params.IdentityHeader),
		claims:         params.ClaimsToHeaders,
		issuer:         params.KeyStore,

		missing: refuse("api_key_missing", "an API key is required").WithDetail("no key in " + places.String()),
		// One answer to unknown, early and expired keys: whoever guesses learns nothing.
		invalid:  refuse("api_key_invalid", "the API key is not valid"),
		unlisted: refuse("api_key_invalid", "the API key is not valid").WithDetail("key store " + params.KeyStore + " has no such key"),
		repeated: refuse("api_key_repeated", "more than one API key").WithDetail("more than one key in " + places.String()),
		scope:    policies.Deny(http.StatusForbidden, "scope_missing").WithMessage("the API key does not have the scope that this takes"),
		claim:    policies.Deny(http.StatusForbidden, "claim_missing").WithMessage("the API key does not have the group or the metadata that this takes"),

		unknown:   env.Counter("key_unknown"),
		early:     env.Counter("key_early"),
		expired:   env.Counter("key_expired"),
		anonymous: env.Counter("anonymous"),
		leftOut:   env.Counter("claim_left_out"),
		warnings:  policies.PatternWarnings("scopes", params.Scopes),
	}
	if p.identityHeader != "" {
		p.owned = append(p.owned, p.identityHeader)
	}
	for i := range p.claims {
		p.claims[i].Header = strings.ToLower(p.claims[i].Header)
		p.owned = append(p.owned, p.claims[i].Header)
		if err := policies.ClaimWarning("claims_to_headers", p.claims[i].Claim); err != nil {
			p.warnings = append(p.warnings, err)
		}
	}
	return p, nil
}

// Warnings implements policies.Warner.
func (p *Policy) Warnings() []error { return p.warnings }

// OwnedHeaders implements policies.Owner.
func (p *Policy) OwnedHeaders() []string { return p.owned }

// CredentialHeaders implements policies.CredentialReader.
func (p *Policy) CredentialHeaders() (headers []string) {
	if p.sources.header != "" {
		headers = append(headers, p.sources.header)
	}
	if len(p.sources.schemes) > 0 {
		headers = append(headers, authorization)
	}
	return headers
}

// OnRequestHeaders finds the key and says who the client is.
func (p *Policy) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	// First of all, and whatever follows: only this engine tells the upstream who the client is.
	for _, header := range p.owned {
		r.RemoveSpellings(header)
	}
	found := p.sources.find(r)
	switch {
	case found.count > 1:
		return p.repeated, nil
	case found.malformed || len(found.value) > maxKeySize:
		p.unknown.Inc()
		return p.invalid.WithDetail("the key is malformed or too long"), nil
	case len(found.value) == 0 && p.required:
		return p.missing, nil
	case len(found.value) == 0:
		p.anonymous.Inc()
		if p.strip {
			p.sources.strip(r, &found)
		}
		return policies.Continue(), nil
	}
	key, err := p.lookup(found.value)
	switch {
	case err != nil:
		return policies.Verdict{}, fmt.Errorf("look up API key: %w", err)
	case key == nil:
		p.unknown.Inc()
		return p.unlisted, nil
	}
	if !key.Expires.IsZero() || !key.NotBefore.IsZero() {
		if refusal := p.untimely(key); refusal != nil {
			return *refusal, nil
		}
	}
	if refusal := p.authorize(key); refusal != nil {
		return *refusal, nil
	}
	if p.strip {
		p.sources.strip(r, &found)
	}
	r.SetIdentity(policies.Identity{Subject: key.ID, Method: name, Issuer: p.issuer, Scopes: key.Scopes}.WithClaimsSet(key.Claims))
	if p.identityHeader != "" {
		r.SetHeader(p.identityHeader, key.ID)
	}
	for i := range p.claims {
		p.carry(r, &p.claims[i], key)
	}
	return policies.Continue(), nil
}

// untimely checks the key's lifetime.
func (p *Policy) untimely(key *policies.Key) *policies.Verdict {
	now := p.clock.Now()
	switch {
	case key.Expired(now):
		p.expired.Inc()
		return p.because(&p.invalid, key, "expired "+key.Expires.UTC().Format(time.RFC3339))
	case !key.Begun(now):
		p.early.Inc()
		return p.because(&p.invalid, key, "is not valid before "+key.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// authorize checks whether a key that is valid permits the request.
func (p *Policy) authorize(key *policies.Key) *policies.Verdict {
	for _, scope := range p.scopes {
		if !slices.Contains(key.Scopes, scope) {
			return p.because(&p.scope, key, "lacks scope "+scope)
		}
	}
	for i := range p.claims {
		if h := &p.claims[i]; h.Required {
			if _, outcome := h.Value(key.Claims, policies.ClaimValue{}); outcome != policies.ClaimCarried {
				return p.because(&p.claim, key, "lacks "+h.Claim.String()+", or it cannot be the value of header "+h.Header)
			}
		}
	}
	return nil
}

// because returns the refusal of a known key with its id and why, for operators.
func (p *Policy) because(refusal *policies.Verdict, key *policies.Key, why string) *policies.Verdict {
	v := refusal.WithDetail("key " + key.ID + " of key store " + p.issuer + " " + why)
	return &v
}

// carry sets the header of a claim.
func (p *Policy) carry(r *policies.Request, h *policies.ClaimHeader, key *policies.Key) {
	switch value, outcome := h.Value(key.Claims, policies.ClaimValue{}); outcome {
	case policies.ClaimCarried:
		r.SetHeader(h.Header, value)
	case policies.ClaimUnfit:
		p.leftOut.Inc()
	}
}

// lookup finds a key by its SHA-256, so that nothing ever compares keys.
func (p *Policy) lookup(value []byte) (*policies.Key, error) {
	digest := getDigest()
	defer putDigest(digest)
	*digest = sha256.Sum256(value)
	return p.store.Lookup(digest)
}

// digests are reused: one on the stack would escape through the KeyStore interface.
var digests = sync.Pool{New: func() any { return new([sha256.Size]byte) }}

func getDigest() *[sha256.Size]byte { return digests.Get().(*[sha256.Size]byte) }

func putDigest(d *[sha256.Size]byte) {
	*d = [sha256.Size]byte{}
	digests.Put(d)
}

var _ policies.RequestHeaders = (*Policy)(nil)
