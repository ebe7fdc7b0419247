package jwks

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/policies"
)

const (
	// coolDown is the least time between two fetches that requests asked for.
	coolDown = 30 * time.Second
	// discoveryAge is how long a discovered jwks_uri is used while its key set can be fetched.
	discoveryAge = time.Hour
	// maxWaiting is how many requests may wait for a fetch: a flood of tokens with invented key ids must not fill the worker.
	maxWaiting = 128

	minBackoff = time.Second
	maxBackoff = time.Minute
	// logInterval is the least time between two log lines of one series of failures.
	logInterval = time.Hour
)

var (
	errClosed  = errors.New("refresh key set: the issuer was closed")
	errWaiting = errors.New("refresh key set: too many requests wait for it")
)

// remote follows the key set of a URL. One goroutine does all the fetching.
type remote struct {
	uri    string // empty until it is discovered
	client *http.Client
	remoteSettings

	// What follows is for issuers without a jwks_uri.
	issuer     string // empty for those with one
	allowHTTP  bool
	discovered time.Time

	demand chan struct{} // wakes the goroutine; holds one
	cancel context.CancelFunc
	closed chan struct{}

	mu       sync.Mutex
	flight   *flight   // the fetch that is in flight or about to begin, nil if there is none
	waiting  int       // requests in refresh
	demanded time.Time // when a request last asked for a fetch
}

type remoteSettings struct {
	clock     policies.Clock
	log       *slog.Logger
	load      func(content []byte) error
	failed    func()
	transport http.RoundTripper // nil means a real one
}

// flight is one fetch, which many may wait for.
type flight struct {
	done chan struct{}
	err  error // set before done is closed
}

func follow(cfg config.JWTIssuer, s remoteSettings) (*remote, error) {
	source := cfg.JWKSURI
	if source == "" {
		source = cfg.Issuer
	}
	if err := checkURL(source, cfg.AllowHTTP); err != nil {
		return nil, err
	}
	authorities, err := readAuthorities(cfg.CAFile)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &remote{
		uri:            cfg.JWKSURI,
		allowHTTP:      cfg.AllowHTTP,
		client:         newClient(s.transport, cfg.Timeout, authorities),
		remoteSettings: s,
		demand:         make(chan struct{}, 1),
		cancel:         cancel,
		closed:         make(chan struct{}),
		flight:         &flight{done: make(chan struct{})}, // Requests before the first fetch wait for it.
	}
	if r.uri == "" {
		r.issuer = cfg.Issuer
	}
	go r.run(ctx)
	return r, nil
}

func (r *remote) close() error {
	r.cancel()
	<-r.closed
	r.client.CloseIdleConnections()
	return nil
}

// refresh waits for a fetch that is under way, or asks for one when the cool-down allows.
func (r *remote) refresh(ctx context.Context) error {
	f, err := r.join()
	if f == nil {
		return err
	}
	defer r.leave()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	case <-r.closed:
		return errClosed
	}
}

// mayRefresh reports whether refresh would wait for a fetch.
func (r *remote) mayRefresh() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting < maxWaiting && (r.flight != nil || !r.cooling(r.clock.Now()))
}

// cooling reports whether requests asked for a fetch a short time ago. A clock that was set back must not stretch the cool-down.
func (r *remote) cooling(now time.Time) bool {
	since := now.Sub(r.demanded)
	return since >= 0 && since < coolDown
}

// join counts the caller among those who wait, unless there is nothing to wait for.
func (r *remote) join() (*flight, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flight == nil {
		now := r.clock.Now()
		if r.cooling(now) {
			return nil, nil
		}
		r.demanded = now
		r.flight = &flight{done: make(chan struct{})}
		r.demand <- struct{}{} // Never waits: there is one demand for each flight at most.
	}
	if r.waiting >= maxWaiting {
		return nil, errWaiting
	}
	r.waiting++
	return r.flight, nil
}

func (r *remote) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting--
}

// run fetches, now and then whenever the last answer has aged or a request asks for it.
func (r *remote) run(ctx context.Context) {
	defer close(r.closed)
	failures, loaded := 0, false
	var logged time.Time // when a failure was last logged
	for {
		next, err := r.fetch(ctx)
		if err == errClosed {
			return
		}
		if err == nil {
			if failures > 0 {
				r.log.Info("key set fetched again", "failures", failures)
			}
			failures, loaded = 0, true
			// Up to a tenth early: workers that started together do not stay together, and no set is used longer than allowed.
			next -= time.Duration(rand.Int64N(int64(next) / 10))
		} else {
			next = min(minBackoff<<min(failures, 10), maxBackoff)
			next -= time.Duration(rand.Int64N(int64(next) / 4))
			if now := r.clock.Now(); failures == 0 || now.Sub(logged) >= logInterval {
				logged = now
				if loaded {
					r.log.Error("key set not fetched; the last good one stays in use", "error", err, "failures", failures+1)
				} else {
					r.log.Error("key set not fetched; none was ever loaded, so that no token of this issuer can be verified", "error", err, "failures", failures+1)
				}
			}
			failures++
			r.failed()
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-r.demand:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// fetch does one fetch, as the flight that requests wait for.
func (r *remote) fetch(ctx context.Context) (time.Duration, error) {
	r.mu.Lock()
	if r.flight == nil {
		r.flight = &flight{done: make(chan struct{})}
	}
	f := r.flight
	r.mu.Unlock()

	content, next, err := r.get(ctx)
	switch {
	case ctx.Err() != nil:
		err = errClosed
	case err == nil:
		err = r.load(content)
	}

	r.mu.Lock()
	r.flight = nil
	// A demand that came together with the timer was for this fetch.
	select {
	case <-r.demand:
	default:
	}
	r.mu.Unlock()
	f.err = err
	close(f.done)
	return next, err
}

// get fetches the key set, after it has discovered where that is if need be.
func (r *remote) get(ctx context.Context) ([]byte, time.Duration, error) {
	if now := r.clock.Now(); r.issuer != "" && (r.uri == "" || now.Sub(r.discovered) >= discoveryAge || now.Before(r.discovered)) {
		uri, err := discover(ctx, r.client, r.issuer, r.allowHTTP)
		if err != nil {
			return nil, 0, err
		}
		r.uri, r.discovered = uri, now
	}
	content, next, err := fetch(ctx, r.client, r.uri)
	if err != nil && r.issuer != "" {
		r.uri = "" // The set may have moved.
	}
	return content, next, err
}
