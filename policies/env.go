package policies

import (
	"context"
	"crypto"
	"io"
	"log/slog"
	"net/http"
	"time"
)

// Env is what a policy may use of the world. All of it is safe for concurrent use, and all of it has a fake in policytest.
type Env interface {
	// Logger logs with the policy's name and route attached. Never log a credential.
	Logger() *slog.Logger
	// Clock tells the time.
	Clock() Clock
	// Route is the name of the route that the policy stands on.
	Route() string
	// Instance names this place of the policy in the configuration. It is the same in every generation in which the
	// policy stands at the same place, and the same for no two places.
	Instance() string
	// KeyStore returns the key store of that name from the worker's configuration, or an error that lists the names there are.
	KeyStore(name string) (KeyStore, error)
	// Issuer returns the token issuer of that name from the worker's configuration (jwt_issuers), or an error that lists the names there are.
	Issuer(name string) (Issuer, error)
	// Counter returns the counter policy_worker_policy_events_total{policy, event}. For handles resolved at load time.
	Counter(event string) Counter
	// Shared returns the value of that key, made by open at the first call. The value lives on when the configuration is
	// reloaded, as long as one generation uses it, and is closed after that. Keys are private to the policy's name (but see Definition.SharingWith).
	Shared(key string, open func() (io.Closer, error)) (any, error)
	// HTTPClient has the worker's limits for outgoing calls: timeouts, sizes, no redirects to another host.
	HTTPClient() *http.Client
}

// Clock tells the time; tests have one that stands still.
type Clock interface {
	Now() time.Time
}

// Counter counts events.
type Counter interface {
	Inc()
}

// KeyStore finds API keys by digest, so that no key has to be kept.
type KeyStore interface {
	// Lookup returns the key whose SHA-256 is digest. It does not block and does not allocate. The Key is read only.
	// An error means that the store can't tell (never loaded); a key that is not there is nil without an error.
	Lookup(digest *[32]byte) (*Key, error)
}

// Key is what is known of an API key. A client may have several, each with its own lifetime.
type Key struct {
	// ID names the client.
	ID string
	// Scopes are what the client may do.
	Scopes []string
	// Claims are the groups and the metadata of the key (see KeyClaims), nil if it has none.
	Claims *ClaimsSet
	// NotBefore is when the key's life begins; the zero time means always.
	NotBefore time.Time
	// Expires is the end of the key's life; the zero time means never.
	Expires time.Time
}

// Begun reports whether the key's life has begun at that time.
func (k *Key) Begun(now time.Time) bool { return k.NotBefore.IsZero() || !now.Before(k.NotBefore) }

// Expired reports whether the key's life has ended at that time.
func (k *Key) Expired(now time.Time) bool { return !k.Expires.IsZero() && !now.Before(k.Expires) }

// Issuer is who signs tokens, with the keys that verify them.
type Issuer interface {
	// URL is the value of iss that the issuer's tokens carry.
	URL() string
	// Keys returns the current key set. It does not block and does not allocate. Nil means that no set was ever loaded.
	Keys() *KeySet
	// Refresh fetches the key set anew because Keys does not have the key of a token, and returns the set after that. Calls during a fetch share
	// it; within the cool-down after one, Refresh returns the current set at once. It may block until ctx ends: call it from Await.
	Refresh(ctx context.Context) (*KeySet, error)
	// MayRefresh reports whether Refresh would fetch the set now, or wait for a fetch. It does not block.
	MayRefresh() bool
	// Tenants returns the issuers that an issuer template stands for, nil for an issuer that is none. A template itself has signed no token.
	Tenants() []Issuer
}

// KeySet is an immutable set of verification keys.
type KeySet struct {
	// Generation is another one for every change of the issuer's keys.
	Generation uint64
	// Keys are the public keys. Read only.
	Keys []VerificationKey
}

// VerificationKey is a public key that verifies signatures (RFC 7517).
type VerificationKey struct {
	// ID is the kid; may be empty.
	ID string
	// Algorithm is the alg that the key is bound to; empty when the set does not say.
	Algorithm string
	// Public is an *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey.
	Public crypto.PublicKey
}
