// Package jwks keeps the key sets of token issuers, from files and from URLs, and follows them as they change.
package jwks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/filemode"
	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/watch"
)

// Issuer is a token issuer with its current key set, or a template of issuers. It is safe for concurrent use.
type Issuer struct {
	url    string
	log    *slog.Logger
	clock  policies.Clock
	set    atomic.Pointer[policies.KeySet]
	loaded [32]byte // identifies the keys of set; used by one load at a time

	confirmed atomic.Int64  // when the set was last loaded, also if it was the same; in Unix nanoseconds, 0 for never
	failures  atomic.Uint64 // of loads and fetches
	broken    atomic.Int64  // since when loads and fetches fail, in Unix nanoseconds; 0 if the last one did not

	file   *watch.File // nil when the keys come from a URL
	remote *remote     // nil when the keys come from a file

	tenants []policies.Issuer
	// parts are the issuers of tenants that have key sets of their own. Then this one has none.
	parts []*Issuer
}

// Status is what is known of the keys of an issuer; of a template, of all its key sets together.
type Status struct {
	// Loaded reports whether each key set was loaded once.
	Loaded bool
	// Keys is how many keys there are.
	Keys int
	// Confirmed is when the keys were last loaded, also if they were the same; of several, the earliest. Zero means never.
	Confirmed time.Time
	// Failures counts loads and fetches that failed.
	Failures uint64
	// Broken is since when loads and fetches fail, of several key sets the earliest; zero if the last ones did not.
	Broken time.Time
}

// tenantVariable stands for the tenant in the URLs of a template.
const tenantVariable = "{tenant}"

// Open makes the issuer, and follows its keys until Close. A file that can't be read, or has no usable key, is an error. A URL is fetched in
// the background: until that has succeeded once, Keys returns nil. In both cases, a later failure leaves the last good set in use.
func Open(cfg config.JWTIssuer, clock policies.Clock, log *slog.Logger) (*Issuer, error) {
	return open(cfg, log, remoteSettings{clock: clock})
}

func open(cfg config.JWTIssuer, log *slog.Logger, s remoteSettings) (*Issuer, error) {
	if len(cfg.Tenants) == 0 {
		return openOne(cfg, log, s)
	}
	own := cfg.JWKSFile == "" && (cfg.JWKSURI == "" || strings.Contains(cfg.JWKSURI, tenantVariable))
	if !own {
		i, err := openOne(cfg, log, s)
		if err != nil {
			return nil, err
		}
		for _, t := range cfg.Tenants {
			i.tenants = append(i.tenants, &tenant{i, strings.ReplaceAll(cfg.Issuer, tenantVariable, t)})
		}
		return i, nil
	}
	template := &Issuer{url: cfg.Issuer, log: log, clock: s.clock}
	for _, t := range cfg.Tenants {
		one := cfg
		one.Tenants = nil
		one.Issuer, one.JWKSURI = strings.ReplaceAll(cfg.Issuer, tenantVariable, t), strings.ReplaceAll(cfg.JWKSURI, tenantVariable, t)
		i, err := openOne(one, log.With("tenant", t), s)
		if err != nil {
			return nil, errors.Join(err, template.Close())
		}
		template.parts = append(template.parts, i)
		template.tenants = append(template.tenants, i)
	}
	return template, nil
}

func openOne(cfg config.JWTIssuer, log *slog.Logger, s remoteSettings) (*Issuer, error) {
	i := &Issuer{url: cfg.Issuer, log: log.With("jwt_issuer", cfg.Name), clock: s.clock}
	var err error
	switch {
	case cfg.Issuer == "":
		err = errors.New("its issuer is empty, expected the iss of its tokens")
	case cfg.JWKSFile != "" && cfg.JWKSURI != "":
		err = errors.New("it has jwks_uri and jwks_file, expected one of them at most")
	case cfg.JWKSFile != "":
		i.file, err = watch.Follow(watch.Settings{
			Path: cfg.JWKSFile, MaxSize: maxSetSize, Check: filemode.CheckFile, Load: i.install, Log: i.log,
			Failed: func(err error) {
				i.failed()
				i.log.Error("file not loaded; what was loaded before stays in use", "file", cfg.JWKSFile, "error", err)
			},
		})
	default:
		s.load, s.failed, s.log = i.install, i.failed, i.log
		i.remote, err = follow(cfg, s)
	}
	if err != nil {
		return nil, fmt.Errorf("open JWT issuer %q: %w", cfg.Name, err)
	}
	return i, nil
}

// URL returns the iss of the issuer's tokens; of a template, that with {tenant}.
func (i *Issuer) URL() string { return i.url }

// Keys returns the current key set, nil if none was ever loaded. It takes no lock and does not allocate.
func (i *Issuer) Keys() *policies.KeySet { return i.set.Load() }

// Refresh fetches the keys anew if they come from a URL and the last fetch for this reason is 30 seconds ago or more; all calls during a
// fetch wait for that one. It returns the current set, which may be nil, and why it is not newer: the fetch failed, ctx ended, the issuer is
// closed, or too many calls are waiting already.
func (i *Issuer) Refresh(ctx context.Context) (*policies.KeySet, error) {
	var err error
	if i.remote != nil {
		err = i.remote.refresh(ctx)
	}
	return i.Keys(), err
}

// MayRefresh reports whether Refresh would fetch the keys now, or wait for a fetch.
func (i *Issuer) MayRefresh() bool { return i.remote != nil && i.remote.mayRefresh() }

// Tenants returns the issuers of a template, nil for an issuer that is none.
func (i *Issuer) Tenants() []policies.Issuer { return i.tenants }

// tenant is an issuer of a template whose tenants share a key set.
type tenant struct {
	*Issuer
	url string
}

func (t *tenant) URL() string                { return t.url }
func (t *tenant) Tenants() []policies.Issuer { return nil }

// Status returns what is known of the keys.
func (i *Issuer) Status() Status {
	if len(i.parts) == 0 {
		s := Status{Failures: i.failures.Load()}
		if broken := i.broken.Load(); broken != 0 {
			s.Broken = time.Unix(0, broken)
		}
		if set := i.Keys(); set != nil {
			s.Loaded, s.Keys, s.Confirmed = true, len(set.Keys), time.Unix(0, i.confirmed.Load())
		}
		return s
	}
	all := Status{Loaded: true}
	for n, part := range i.parts {
		s := part.Status()
		all.Loaded = all.Loaded && s.Loaded
		all.Keys += s.Keys
		all.Failures += s.Failures
		if !s.Broken.IsZero() && (all.Broken.IsZero() || s.Broken.Before(all.Broken)) {
			all.Broken = s.Broken
		}
		if n == 0 || s.Confirmed.Before(all.Confirmed) {
			all.Confirmed = s.Confirmed
		}
	}
	return all
}

// Close ends the following. The keys stay.
func (i *Issuer) Close() error {
	var errs []error
	for _, part := range i.parts {
		errs = append(errs, part.Close())
	}
	if i.file != nil {
		errs = append(errs, i.file.Close())
	}
	if i.remote != nil {
		errs = append(errs, i.remote.close())
	}
	return errors.Join(errs...)
}

// failed notes a load or fetch that failed.
func (i *Issuer) failed() {
	i.failures.Add(1)
	i.broken.CompareAndSwap(0, i.clock.Now().UnixNano())
}

// install makes the set in content the current one. Calls are never concurrent.
func (i *Issuer) install(content []byte) error {
	keys, ignored, err := Parse(content)
	if err != nil {
		return err
	}
	i.broken.Store(0)
	defer func() { i.confirmed.Store(i.clock.Now().UnixNano()) }()
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
