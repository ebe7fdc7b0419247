// Package jwks keeps the key sets of token issuers, from files and from URLs, and follows them as they change.
package jwks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/watch"
)

// Issuer is a token issuer with its current key set. It is safe for concurrent use.
type Issuer struct {
	url    string
	log    *slog.Logger
	set    atomic.Pointer[policies.KeySet]
	loaded [32]byte // identifies the keys of set; used by one load at a time

	file   *watch.File // nil when the keys come from a URL
	remote *remote     // nil when the keys come from a file
}

// Open makes the issuer, and follows its keys until Close. A file that can't be read, or has no usable key, is an error. A URL is fetched in the background: until that has
// succeeded once, Keys returns nil. In both cases, a later failure leaves the last good set in use.
func Open(cfg config.JWTIssuer, clock policies.Clock, log *slog.Logger) (*Issuer, error) {
	return open(cfg, log, remoteSettings{clock: clock})
}

func open(cfg config.JWTIssuer, log *slog.Logger, s remoteSettings) (*Issuer, error) {
	i := &Issuer{url: cfg.Issuer, log: log.With("jwt_issuer", cfg.Name)}
	var err error
	switch {
	case cfg.Issuer == "":
		err = errors.New("its issuer is empty; legal is the iss of its tokens")
	case (cfg.JWKSFile == "") == (cfg.JWKSURI == ""):
		err = errors.New("legal is one of jwks_uri and jwks_file")
	case cfg.JWKSFile != "":
		i.file, err = watch.Follow(watch.Settings{Path: cfg.JWKSFile, MaxSize: maxSetSize, Load: i.install, Log: i.log})
	default:
		s.load, s.log = i.install, i.log
		i.remote, err = follow(cfg.JWKSURI, s)
	}
	if err != nil {
		return nil, fmt.Errorf("open JWT issuer %q: %w", cfg.Name, err)
	}
	return i, nil
}

// URL returns the iss of the issuer's tokens.
func (i *Issuer) URL() string { return i.url }

// Keys returns the current key set, nil if none was ever loaded. It takes no lock and does not allocate.
func (i *Issuer) Keys() *policies.KeySet { return i.set.Load() }

// Refresh fetches the keys anew if they come from a URL and the last fetch for this reason is 30 seconds ago or more; all calls during a
// fetch wait for that one. It returns the current set, which may be nil, and why it is not newer: the fetch failed, ctx ended, the issuer is closed, or too many calls are waiting already.
func (i *Issuer) Refresh(ctx context.Context) (*policies.KeySet, error) {
	var err error
	if i.remote != nil {
		err = i.remote.refresh(ctx)
	}
	return i.Keys(), err
}

// Close ends the following. The keys stay.
func (i *Issuer) Close() error {
	if i.file != nil {
		return i.file.Close()
	}
	return i.remote.close()
}

// install makes the set in content the current one. Calls are never concurrent.
func (i *Issuer) install(content []byte) error {
	keys, ignored, err := Parse(content)
	if err != nil {
		return err
	}
	id, old := identify(keys), i.set.Load()
	if old != nil && id == i.loaded {
		return nil
	}
	next := &policies.KeySet{Generation: 1, Keys: keys}
	if old != nil {
		next.Generation = old.Generation + 1
	}
	i.loaded = id
	i.set.Store(next)
	i.log.Info("key set loaded", "keys", len(keys), "generation", next.Generation)
	if len(ignored) > 0 {
		i.log.Warn("keys of the key set left out", "error", errors.Join(ignored...))
	}
	return nil
}

var (
	_ policies.Issuer = (*Issuer)(nil)
	_ io.Closer       = (*Issuer)(nil)
)
