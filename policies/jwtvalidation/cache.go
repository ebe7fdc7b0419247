package jwtvalidation

import (
	"crypto/sha256"
	"encoding/json"
	"io"

	"github.com/maypok86/otter/v2"

	"github.com/policy-engine/policy-engine/policies"
)

// maxCacheSize is in bytes, for all routes of a worker together: about 30,000 tokens.
const maxCacheSize = 32 << 20

// cache remembers tokens that were found good, one for all instances of the policy in a worker. A token is good for an instance by its parameters, so that these
// are part of the key: instances with the same parameters share entries, through changes of the configuration too.
//
// What refuses a token is never remembered: nobody can fill the cache with tokens that no issuer signed.
type cache struct {
	entries *otter.Cache[cacheKey, *verified]
}

// cacheKey holds digests: the cache is no store of tokens.
type cacheKey struct {
	token  [sha256.Size]byte
	params [sha256.Size]byte
}

// verified is what is left of a token that was found good: what the request gets, and what has to be looked at again each time. Immutable.
type verified struct {
	issuer     policies.Issuer
	generation uint64 // of the key set that verified the signature
	lifetime   lifetime
	identity   policies.Identity
	headers    []policies.Header // for the upstream
	leftOut    int               // claims that can't be the value of a header
}

func openCache() (io.Closer, error) {
	entries, err := otter.New(&otter.Options[cacheKey, *verified]{
		MaximumWeight: maxCacheSize,
		Weigher:       func(_ cacheKey, v *verified) uint32 { return v.size() },
	})
	if err != nil {
		return nil, err
	}
	return &cache{entries}, nil
}

// get returns what is known of the token, nil if nothing. Its issuer must be one of issuers, and the issuer's key set still the one that verified
// it. It does not allocate.
func (c *cache) get(key cacheKey, issuers *issuers) *verified {
	v, ok := c.entries.GetIfPresent(key)
	if !ok {
		return nil
	}
	set := v.issuer.Keys()
	if set == nil || set.Generation != v.generation || !issuers.has(v.issuer) {
		c.entries.Invalidate(key)
		return nil
	}
	return v
}

func (c *cache) put(key cacheKey, v *verified) { c.entries.Set(key, v) }

func (c *cache) remove(key cacheKey) { c.entries.Invalidate(key) }

// Close frees the entries.
func (c *cache) Close() error {
	c.entries.InvalidateAll()
	c.entries.StopAllGoroutines()
	return nil
}

// size is about what the entry takes, in bytes.
func (v *verified) size() uint32 {
	const fixed = 512 // the entry, its key, slices, and what the cache keeps of them
	n := fixed + len(v.identity.Subject)
	for _, s := range v.identity.Scopes {
		n += 16 + len(s)
	}
	for _, e := range v.identity.Claims {
		n += 32 + len(e.Value)
	}
	for i := range v.headers {
		n += 32 + len(v.headers[i].Value)
	}
	if set := v.identity.ClaimsSet(); set != nil {
		n += set.Size()
	}
	return uint32(n)
}

// fingerprint is the same for the same parameters.
func fingerprint(p *Params) ([sha256.Size]byte, error) {
	text, err := json.Marshal(p) // Sorts maps.
	return sha256.Sum256(text), err
}
