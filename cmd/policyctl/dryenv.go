package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/policies"
)

// dryEnv is what policies are built with to see whether they can be. It knows the names of the workers' configurations, holds no key, and
// reaches no network.
type dryEnv struct {
	route, instance string
	world           *dryWorld
}

// dryWorld is what all policies share. close ends what they opened.
type dryWorld struct {
	now       func() time.Time
	keyStores []string
	issuers   map[string]string // iss by name
	partial   bool              // a worker's configuration has mistakes: what it names can't be known, and every name is taken
	closers   []io.Closer
}

var errDry = errors.New("not available while a configuration is checked")

func newDryWorld(now func() time.Time, workers []*config.Worker, partial bool) *dryWorld {
	w := &dryWorld{now: now, partial: partial, issuers: map[string]string{}}
	for _, cfg := range workers {
		for _, k := range cfg.KeyStores {
			w.keyStores = append(w.keyStores, k.Name)
		}
		for _, i := range cfg.JWTIssuers {
			w.issuers[i.Name] = i.Issuer
		}
	}
	return w
}

func (w *dryWorld) close() error {
	var errs []error
	for _, c := range slices.Backward(w.closers) {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func (e dryEnv) Logger() *slog.Logger            { return slog.New(slog.DiscardHandler) }
func (e dryEnv) Clock() policies.Clock           { return dryClock(e.world.now) }
func (e dryEnv) Route() string                   { return e.route }
func (e dryEnv) Instance() string                { return e.instance }
func (e dryEnv) Counter(string) policies.Counter { return dryCounter{} }
func (e dryEnv) HTTPClient() *http.Client        { return &http.Client{Transport: dryTransport{}} }

func (e dryEnv) KeyStore(name string) (policies.KeyStore, error) {
	if e.world.partial || slices.Contains(e.world.keyStores, name) {
		return dryStore{}, nil
	}
	return nil, unknownName("key store", "key_stores", name, e.world.keyStores)
}

func (e dryEnv) Issuer(name string) (policies.Issuer, error) {
	if url, ok := e.world.issuers[name]; ok {
		return dryIssuer(url), nil
	}
	if e.world.partial {
		return dryIssuer(name), nil // Two names are two issuers.
	}
	var names []string
	for n := range e.world.issuers {
		names = append(names, n)
	}
	return nil, unknownName("token issuer", "jwt_issuers", name, names)
}

func unknownName(thing, key, name string, names []string) error {
	if len(names) == 0 {
		return fmt.Errorf("unknown %s %q; the workers' configurations have no %s", thing, name, key)
	}
	slices.Sort(names)
	return fmt.Errorf("unknown %s %q; legal are %s (%s of the workers' configurations)", thing, name, strings.Join(slices.Compact(names), ", "), key)
}

// Shared opens anew for each policy: what they would share does not matter here.
func (e dryEnv) Shared(_ string, open func() (io.Closer, error)) (any, error) {
	v, err := open()
	if err != nil {
		return nil, err
	}
	e.world.closers = append(e.world.closers, v)
	return v, nil
}

type dryClock func() time.Time

func (c dryClock) Now() time.Time { return c() }

type dryCounter struct{}

func (dryCounter) Inc() {}

type dryStore struct{}

func (dryStore) Lookup(*[32]byte) (*policies.Key, error) { return nil, errDry }

type dryIssuer string

func (i dryIssuer) URL() string                                     { return string(i) }
func (dryIssuer) Keys() *policies.KeySet                            { return nil }
func (dryIssuer) MayRefresh() bool                                  { return false }
func (dryIssuer) Tenants() []policies.Issuer                        { return nil }
func (dryIssuer) Refresh(context.Context) (*policies.KeySet, error) { return nil, errDry }

type dryTransport struct{}

func (dryTransport) RoundTrip(*http.Request) (*http.Response, error) { return nil, errDry }

var _ policies.Env = dryEnv{}
