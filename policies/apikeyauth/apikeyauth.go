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

	"github.com/policy-engine/policy-engine/policies"
)

const (
	name    = "apiKeyAuth"
	version = "1.0.0"

	// maxKeySize is in bytes; hashing is the only work that a client without a key can cause.
	maxKeySize = 4 << 10

	// challenge names the scheme, as a 401 must (RFC 9110 section 11.6.1). There is no registered scheme for API keys.
	challenge = `ApiKey realm="api"`
)

// Params are the policy's parameters.
type Params struct {
	KeyStore        string   `json:"key_store" jsonschema:"minLength=1,description=Name of the key store in the worker's configuration (key_stores)."`
	HeaderName      string   `json:"header_name,omitempty" jsonschema:"default=X-API-Key,description=Header that carries the key. Empty: none."`
	QueryParam      string   `json:"query_param,omitempty" jsonschema:"description=Query parameter that may carry the key."`
	CookieName      string   `json:"cookie_name,omitempty" jsonschema:"description=Cookie that may carry the key."`
	Required        bool     `json:"required,omitempty" jsonschema:"default=true,description=Refuse requests without a key. A wrong key is always refused."`
	Scopes          []string `json:"scopes,omitempty" jsonschema:"description=Scopes that the key must have; all of them."`
	IdentityHeader  string   `json:"identity_header,omitempty" jsonschema:"default=X-User-ID,description=Request header that tells the upstream the key's id. Empty: none."`
	StripCredential bool     `json:"strip_credential,omitempty" jsonschema:"default=true,description=Take the key out of the request before the upstream sees it."`
}

// Defaults sets what the configuration leaves out.
func (p *Params) Defaults() {
	*p = Params{HeaderName: "X-API-Key", Required: true, IdentityHeader: "X-User-ID", StripCredential: true}
}

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
	issuer         string

	missing  policies.Verdict
	invalid  policies.Verdict
	repeated policies.Verdict
	scope    policies.Verdict

	unknown   policies.Counter
	expired   policies.Counter
	anonymous policies.Counter
}

func build(env policies.Env, params Params) (*Policy, error) {
	if err := params.check(); err != nil {
		return nil, err
	}
	store, err := env.KeyStore(params.KeyStore)
	if err != nil {
		return nil, policies.BadParam("key_store", "%v", err)
	}
	refuse := func(reason, message string) policies.Verdict {
		return policies.Deny(http.StatusUnauthorized, reason).WithMessage(message).WithHeader("www-authenticate", challenge)
	}
	return &Policy{
		store: store,
		clock: env.Clock(),
		sources: sources{
			header: strings.ToLower(params.HeaderName),
			query:  params.QueryParam,
			cookie: params.CookieName,
		},
		required:       params.Required,
		strip:          params.StripCredential,
		scopes:         slices.Clone(params.Scopes),
		identityHeader: strings.ToLower(params.IdentityHeader),
		issuer:         params.KeyStore,

		missing: refuse("api_key_missing", "an API key is required"),
		// One answer to unknown and expired keys: whoever guesses learns nothing.
		invalid:  refuse("api_key_invalid", "the API key is not valid"),
		repeated: refuse("api_key_repeated", "more than one API key"),
		scope:    policies.Deny(http.StatusForbidden, "scope_missing").WithMessage("the API key does not have the scope that this takes"),

		unknown:   env.Counter("key_unknown"),
		expired:   env.Counter("key_expired"),
		anonymous: env.Counter("anonymous"),
	}, nil
}

// OwnedHeaders implements policies.Owner.
func (p *Policy) OwnedHeaders() []string {
	if p.identityHeader == "" {
		return nil
	}
	return []string{p.identityHeader}
}

// CredentialHeaders implements policies.CredentialReader.
func (p *Policy) CredentialHeaders() []string {
	if p.sources.header == "" {
		return nil
	}
	return []string{p.sources.header}
}

// OnRequestHeaders finds the key and says who the client is.
func (p *Policy) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	// First of all, and whatever follows: only this engine tells the upstream who the client is.
	if p.identityHeader != "" {
		r.RemoveSpellings(p.identityHeader)
	}
	found := p.sources.find(r)
	switch {
	case found.count > 1:
		return p.repeated, nil
	case found.malformed || len(found.value) > maxKeySize:
		p.unknown.Inc()
		return p.invalid, nil
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
		return p.invalid, nil
	case !key.Expires.IsZero() && !p.clock.Now().Before(key.Expires):
		p.expired.Inc()
		return p.invalid, nil
	}
	for _, scope := range p.scopes {
		if !slices.Contains(key.Scopes, scope) {
			return p.scope, nil
		}
	}
	if p.strip {
		p.sources.strip(r, &found)
	}
	r.SetIdentity(policies.Identity{Subject: key.ID, Method: name, Issuer: p.issuer, Scopes: key.Scopes})
	if p.identityHeader != "" {
		r.SetHeader(p.identityHeader, key.ID)
	}
	return policies.Continue(), nil
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
