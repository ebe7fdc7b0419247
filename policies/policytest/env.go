package policytest

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/fastpath/lane"
	"github.com/policy-engine/policy-engine/policies"
)

// Start is what the clock of a new environment shows.
var Start = time.Date(2026, time.January, 2, 3, 4, 5, 0, time.UTC)

// Env is a policies.Env whose clock stands still, and that tells what was logged and counted. It is safe for concurrent use.
type Env struct {
	*world
	route    string
	instance string
}

// world is what all places of a test share.
type world struct {
	clock     *Clock
	keyStores map[string]policies.KeyStore
	issuers   map[string]policies.Issuer
	client    *http.Client
	log       *lines

	mu       sync.Mutex
	counters map[string]*counter
	shared   map[string]*sharedValue
}

type sharedValue struct {
	once  sync.Once
	value io.Closer
	err   error
}

// Option is a property of an environment.
type Option func(*Env)

// WithRoute names the route; "route" without it.
func WithRoute(name string) Option { return func(e *Env) { e.route = name } }

// WithTime sets the clock; it shows Start without it.
func WithTime(now time.Time) Option { return func(e *Env) { e.clock.Set(now) } }

// WithKeyStore adds a key store. NewKeyStore makes one.
func WithKeyStore(name string, s policies.KeyStore) Option {
	return func(e *Env) { e.keyStores[name] = s }
}

// WithIssuer adds a token issuer. NewIssuer makes one.
func WithIssuer(name string, i policies.Issuer) Option {
	return func(e *Env) { e.issuers[name] = i }
}

// WithHTTPClient sets the client for outgoing calls. Without it, every call fails.
func WithHTTPClient(c *http.Client) Option { return func(e *Env) { e.client = c } }

// NewEnv makes an environment. What policies share through it is closed at the end of the test.
func NewEnv(t testing.TB, options ...Option) *Env {
	t.Helper()
	w := &world{
		clock:     NewClock(Start),
		keyStores: map[string]policies.KeyStore{},
		issuers:   map[string]policies.Issuer{},
		client:    &http.Client{Transport: noNetwork{}},
		log:       &lines{},
		counters:  map[string]*counter{},
		shared:    map[string]*sharedValue{},
	}
	e := &Env{world: w, route: "route", instance: "policy_chain[0]"}
	for _, o := range options {
		o(e)
	}
	t.Cleanup(func() { w.closeShared(t) })
	return e
}

// At returns the environment of another place in the configuration; all but the place is the same. Two policies that are built with
// one place are generations of one policy, those of two places are two policies.
func (e *Env) At(instance string) *Env {
	return &Env{world: e.world, route: e.route, instance: instance}
}

// Logger implements policies.Env; see Lines.
func (e *Env) Logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(e.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Clock implements policies.Env; see Set and Advance.
func (e *Env) Clock() policies.Clock { return e.clock }

// Set sets the clock, backwards too.
func (e *Env) Set(now time.Time) { e.clock.Set(now) }

// Advance moves the clock on.
func (e *Env) Advance(d time.Duration) { e.clock.Advance(d) }

// Route implements policies.Env.
func (e *Env) Route() string { return e.route }

// Instance implements policies.Env.
func (e *Env) Instance() string { return e.instance }

// KeyStore implements policies.Env.
func (e *Env) KeyStore(name string) (policies.KeyStore, error) {
	if s, ok := e.keyStores[name]; ok {
		return s, nil
	}
	return nil, fmt.Errorf("unknown key store %q; there are %s", name, names(e.keyStores))
}

// Issuer implements policies.Env.
func (e *Env) Issuer(name string) (policies.Issuer, error) {
	if i, ok := e.issuers[name]; ok {
		return i, nil
	}
	return nil, fmt.Errorf("unknown token issuer %q; there are %s", name, names(e.issuers))
}

func names[V any](m map[string]V) string {
	if len(m) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}

// Counter implements policies.Env; see Count.
func (e *Env) Counter(event string) policies.Counter { return e.counter(event) }

// Count returns how often the event was counted.
func (e *Env) Count(event string) int { return e.counter(event).value() }

func (w *world) counter(event string) *counter {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.counters[event]
	if c == nil {
		c = &counter{}
		w.counters[event] = c
	}
	return c
}

// Shared implements policies.Env. The values live until the end of the test.
func (e *Env) Shared(key string, open func() (io.Closer, error)) (any, error) {
	e.mu.Lock()
	v := e.shared[key]
	if v == nil {
		v = &sharedValue{}
		e.shared[key] = v
	}
	e.mu.Unlock()
	v.once.Do(func() { v.value, v.err = open() })
	return v.value, v.err
}

func (w *world) closeShared(t testing.TB) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, v := range w.shared {
		if v.value == nil {
			continue
		}
		if err := v.value.Close(); err != nil {
			t.Errorf("close shared value %q: %v", key, err)
		}
	}
}

// HTTPClient implements policies.Env.
func (e *Env) HTTPClient() *http.Client {
	c := *e.client
	c.Transport = waiting{cmp.Or[http.RoundTripper](c.Transport, http.DefaultTransport)}
	return &c
}

// waiting refuses calls that are made where a policy must not wait, as a worker does.
type waiting struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (w waiting) RoundTrip(r *http.Request) (*http.Response, error) {
	if lane.Under(inlineFrame) {
		return nil, lane.ErrInline
	}
	return w.RoundTripper.RoundTrip(r)
}

// Lines returns what was logged, a line for each record.
func (e *Env) Lines() []string { return e.log.all() }

type noNetwork struct{}

func (noNetwork) RoundTrip(r *http.Request) (*http.Response, error) {
	return nil, fmt.Errorf("call of %s: this environment has no network; use WithHTTPClient", r.URL.Host)
}

type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) Inc() {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
}

func (c *counter) value() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// lines keeps what is written, line by line.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.FieldsFunc(l.buf.String(), func(r rune) bool { return r == '\n' })
}

var _ policies.Env = (*Env)(nil)
