package worker

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/policy-engine/policy-engine/policies"
)

// environment is what all policies of a worker share.
type environment struct {
	log        *slog.Logger
	clock      policies.Clock
	keyStores  map[string]policies.KeyStore
	issuers    map[string]policies.Issuer
	meters     *meters
	shared     *sharedValues
	httpClient *http.Client
}

// env is the environment of one policy instance.
type env struct {
	*environment
	generation *generation
	policy     string
	shares     string // the policy whose shared values it uses
	route      string
	instance   string
}

func (e *env) Logger() *slog.Logger     { return e.log.With("policy", e.policy, "route", e.route) }
func (e *env) Clock() policies.Clock    { return e.clock }
func (e *env) Route() string            { return e.route }
func (e *env) Instance() string         { return e.instance }
func (e *env) HTTPClient() *http.Client { return e.httpClient }

func (e *env) KeyStore(name string) (policies.KeyStore, error) {
	if s, ok := e.keyStores[name]; ok {
		return s, nil
	}
	return nil, missing("key store", "key_stores", name, e.keyStores)
}

func (e *env) Issuer(name string) (policies.Issuer, error) {
	if i, ok := e.issuers[name]; ok {
		return i, nil
	}
	return nil, missing("token issuer", "jwt_issuers", name, e.issuers)
}

func missing[T any](thing, key, name string, there map[string]T) error {
	if len(there) == 0 {
		return fmt.Errorf("unknown %s %q; %s of the worker's configuration is empty", thing, name, key)
	}
	return fmt.Errorf("unknown %s %q; legal are %s (%s of the worker's configuration)", thing, name, strings.Join(slices.Sorted(maps.Keys(there)), ", "), key)
}

func (e *env) Counter(event string) policies.Counter { return e.meters.event(e.policy, event) }

// Shared implements policies.Env.
func (e *env) Shared(key string, open func() (io.Closer, error)) (any, error) {
	g, k := e.generation, sharedKey{e.shares, key}
	if v, err := g.sharedValue(k); err != nil {
		return nil, err
	} else if v != nil {
		return v.value, nil
	}
	v, err := e.shared.use(k, open)
	if err != nil {
		return nil, err
	}
	extra, err := g.keep(k, v)
	if extra {
		e.shared.drop(v)
	}
	if err != nil {
		return nil, err
	}
	return v.value, nil
}

var _ policies.Env = (*env)(nil)
