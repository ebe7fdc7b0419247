package policytest

import (
	"context"
	"crypto/sha256"
	"sync"

	"github.com/policy-engine/policy-engine/policies"
)

// KeyStore is a policies.KeyStore of keys given in the clear.
type KeyStore struct {
	mu   sync.Mutex
	keys map[[sha256.Size]byte]*policies.Key
	err  error
}

// NewKeyStore makes a key store: the map's keys are the API keys as clients send them.
func NewKeyStore(keys map[string]policies.Key) *KeyStore {
	s := &KeyStore{}
	s.Set(keys)
	return s
}

// Set replaces all keys.
func (s *KeyStore) Set(keys map[string]policies.Key) {
	byDigest := make(map[[sha256.Size]byte]*policies.Key, len(keys))
	for secret, key := range keys {
		byDigest[sha256.Sum256([]byte(secret))] = &key
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = byDigest
}

// Fail makes every Lookup fail with err, until it is called with nil.
func (s *KeyStore) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Lookup implements policies.KeyStore.
func (s *KeyStore) Lookup(digest *[sha256.Size]byte) (*policies.Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	return s.keys[*digest], nil
}

// Issuer is a policies.Issuer whose keys the test sets.
type Issuer struct {
	url string

	mu        sync.Mutex
	set       *policies.KeySet
	refreshes int
	refresh   func(context.Context) ([]policies.VerificationKey, error)
	tenants   []policies.Issuer
	cool      bool
}

// NewIssuer makes an issuer whose key set was never loaded: see SetKeys.
func NewIssuer(url string) *Issuer { return &Issuer{url: url} }

// SetKeys makes keys the current key set, of another generation.
func (i *Issuer) SetKeys(keys ...policies.VerificationKey) *Issuer {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.setKeys(keys)
	return i
}

func (i *Issuer) setKeys(keys []policies.VerificationKey) {
	var generation uint64 = 1
	if i.set != nil {
		generation = i.set.Generation + 1
	}
	i.set = &policies.KeySet{Generation: generation, Keys: keys}
}

// OnRefresh says what a Refresh fetches. Without it, Refresh returns the current key set.
func (i *Issuer) OnRefresh(fetch func(context.Context) ([]policies.VerificationKey, error)) *Issuer {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.refresh = fetch
	return i
}

// Refreshes returns how often Refresh was called.
func (i *Issuer) Refreshes() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.refreshes
}

// SetTenants makes the issuer a template that stands for these issuers.
func (i *Issuer) SetTenants(tenants ...policies.Issuer) *Issuer {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.tenants = tenants
	return i
}

// CoolDown makes MayRefresh return false, as after a fetch, until it is called with false.
func (i *Issuer) CoolDown(cool bool) *Issuer {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cool = cool
	return i
}

// MayRefresh implements policies.Issuer.
func (i *Issuer) MayRefresh() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return !i.cool
}

// Tenants implements policies.Issuer.
func (i *Issuer) Tenants() []policies.Issuer {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.tenants
}

// URL implements policies.Issuer.
func (i *Issuer) URL() string { return i.url }

// Keys implements policies.Issuer.
func (i *Issuer) Keys() *policies.KeySet {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.set
}

// Refresh implements policies.Issuer.
func (i *Issuer) Refresh(ctx context.Context) (*policies.KeySet, error) {
	i.mu.Lock()
	i.refreshes++
	fetch := i.refresh
	i.mu.Unlock()
	if fetch == nil {
		return i.Keys(), nil
	}
	keys, err := fetch(ctx)
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.setKeys(keys)
	return i.set, nil
}

var (
	_ policies.KeyStore = (*KeyStore)(nil)
	_ policies.Issuer   = (*Issuer)(nil)
)
