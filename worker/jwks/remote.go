package jwks

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/policy-engine/policy-engine/policies"
)

const (
	// coolDown is the least time between two fetches that requests asked for.
	coolDown = 30 * time.Second
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
	uri    string
	client *http.Client
	remoteSettings

	demand chan struct{} // wakes the goroutine; holds one
	cancel context.CancelFunc
	closed chan struct{}

	mu       sync.Mutex
	flight   *flight   // the fetch that is under way or about to begin, nil if there is none
	waiting  int       // requests in refresh
	demanded time.Time // when a request last asked for a fetch
}

type remoteSettings struct {
	clock     policies.Clock
	log       *slog.Logger
	load      func(content []byte) error
	transport http.RoundTripper // nil means a real one
}

// flight is one fetch, which many may wait for.
type flight struct {
	done chan struct{}
	err  error // set before done is closed
}

func follow(uri string, s remoteSettings) (*remote, error) {
	if err := checkURI(uri); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &remote{
		uri:            uri,
		client:         newClient(s.transport),
		remoteSettings: s,
		demand:         make(chan struct{}, 1),
		cancel:         cancel,
		closed:         make(chan struct{}),
		flight:         &flight{done: make(chan struct{})}, // Requests before the first fetch wait for it.
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

// join counts the caller among those who wait, unless there is nothing to wait for.
func (r *remote) join() (*flight, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flight == nil {
		now := r.clock.Now()
		// A clock that was set back must not stretch the cool-down.
		if since := now.Sub(r.demanded); since >= 0 && since < coolDown {
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
	failures := 0
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
			failures = 0
			// Up to a tenth early: workers that started together do not stay together, and no set is used longer than allowed.
			next -= time.Duration(rand.Int64N(int64(next) / 10))
		} else {
			next = min(minBackoff<<min(failures, 10), maxBackoff)
			next -= time.Duration(rand.Int64N(int64(next) / 4))
			if now := r.clock.Now(); failures == 0 || now.Sub(logged) >= logInterval {
				logged = now
				r.log.Error("key set not fetched; the last good one stays in use", "error", err, "failures", failures+1)
			}
			failures++
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

	content, next, err := fetch(ctx, r.client, r.uri)
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
