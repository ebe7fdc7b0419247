package jwks

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestStartsWhileTheEndpointIsDown(t *testing.T) {
	e := &endpoint{status: 200, body: setA, err: errors.New("connection refused")}
	bubble(t, e, func(t *testing.T, i *Issuer, logs *lockedBuffer) {
		if set, err := i.Refresh(t.Context()); set != nil || err == nil {
			t.Errorf("refresh before the first set: %v, %v; want the fetch's error", set, err)
		}
		time.Sleep(10 * time.Minute)
		if n := e.count(); n < 10 || n > 25 {
			t.Errorf("%d fetches in 10 minutes, want a back-off up to a minute", n)
		}
		if kids(i) != "nil" || logs.count("level=ERROR") != 1 {
			t.Errorf("keys %s, %d errors logged; want nil and the error once", kids(i), logs.count("level=ERROR"))
		}
		e.set(func(e *endpoint) { e.err = nil })
		time.Sleep(maxBackoff)
		synctest.Wait()
		if kids(i) != "a" || i.Keys().Generation != 1 || logs.count("fetched again") != 1 {
			t.Errorf("keys %s after the endpoint is back, want a", kids(i))
		}
	})
}

func TestRefreshBeforeTheFirstSetWaitsForIt(t *testing.T) {
	e := &endpoint{status: 200, body: setA, delay: 3 * time.Second}
	bubble(t, e, func(t *testing.T, i *Issuer, _ *lockedBuffer) {
		set, err := i.Refresh(t.Context())
		if err != nil || set == nil || len(set.Keys) != 1 || e.count() != 1 {
			t.Errorf("set %v, error %v, %d fetches", set, err, e.count())
		}
	})
}

func TestFollowsTheEndpoint(t *testing.T) {
	e := &endpoint{status: 200, body: setA, header: http.Header{"Cache-Control": {"public, max-age=600"}}}
	bubble(t, e, func(t *testing.T, i *Issuer, _ *lockedBuffer) {
		synctest.Wait()
		before := i.Keys()
		time.Sleep(9*time.Minute - time.Second)
		if n := e.count(); n != 1 {
			t.Fatalf("%d fetches before 90 %% of max-age, want 1", n)
		}
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if n := e.count(); n != 2 || i.Keys() != before {
			t.Fatalf("%d fetches after max-age, want 2, and the same set while nothing has changed", n)
		}
		e.set(func(e *endpoint) { e.body = setAB })
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if kids(i) != "a,b" || i.Keys().Generation != before.Generation+1 {
			t.Errorf("keys %s of generation %d, want a,b of another one", kids(i), i.Keys().Generation)
		}
		e.set(func(e *endpoint) { e.body = `{"keys":[]}` })
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if kids(i) != "" {
			t.Errorf("keys %s, want none: all are revoked", kids(i))
		}
	})
}

func TestKeepsTheLastGoodSet(t *testing.T) {
	for name, bad := range map[string]func(*endpoint){
		"endpoint down": func(e *endpoint) { e.err = errors.New("connection refused") },
		"status 500":    func(e *endpoint) { e.status = 500 },
		"status 204":    func(e *endpoint) { e.status, e.body = 204, "" },
		"HTML":          func(e *endpoint) { e.body = "<html>try later</html>" },
		"too large":     func(e *endpoint) { e.body = setAB + strings.Repeat(" ", 1<<20) },
		"no usable key": func(e *endpoint) { e.body = string(set(member(p256, nil))) },
		"hangs":         func(e *endpoint) { e.delay = time.Hour },
		"redirect to elsewhere": func(e *endpoint) {
			e.status, e.header = 302, http.Header{"Location": {"https://evil.example/jwks.json"}}
		},
		"redirect to http": func(e *endpoint) {
			e.status, e.header = 302, http.Header{"Location": {"http://issuer.example/jwks.json"}}
		},
		"redirect for ever": func(e *endpoint) { e.status, e.header = 302, http.Header{"Location": {"/jwks.json"}} },
	} {
		t.Run(name, func(t *testing.T) {
			e := &endpoint{status: 200, body: setA}
			bubble(t, e, func(t *testing.T, i *Issuer, logs *lockedBuffer) {
				synctest.Wait()
				before := i.Keys()
				e.set(bad)
				set, err := i.Refresh(t.Context())
				if err == nil || set != before {
					t.Errorf("refresh: set %v, error %v; want the last good one and an error", set, err)
				}
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				if i.Keys() != before || before == nil {
					t.Errorf("keys %s, want the last good set", kids(i))
				}
				if n := logs.count("level=ERROR"); n < 2 || n > 3 {
					t.Errorf("%d errors logged in 2 hours, want one at first and one each hour", n)
				}
			})
		})
	}
}

func TestRedirects(t *testing.T) {
	for location, want := range map[string]bool{
		"/other.json":                          true,
		"https://issuer.example/other.json":    true,
		"https://evil.example/jwks.json":       false,
		"//evil.example/jwks.json":             false,
		"https://issuer.example:444/jwks.json": false,
		"http://issuer.example/jwks.json":      false,
	} {
		visits := 0
		transport := roundTrip(func(r *http.Request) (*http.Response, error) {
			status, header := 200, http.Header{}
			if visits++; visits == 1 {
				status = 302
				header.Set("Location", location)
			}
			return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(setA)), Request: r}, nil
		})
		_, _, err := fetch(t.Context(), newClient(transport, 0, nil), "https://issuer.example/jwks.json")
		if (err == nil) != want || visits > 1 && !want {
			t.Errorf("%s: error %v after %d requests, want followed: %v", location, err, visits, want)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestUnknownKidStormMakesOneFetch(t *testing.T) {
	e := &endpoint{status: 200, body: setA, delay: time.Second}
	bubble(t, e, func(t *testing.T, i *Issuer, _ *lockedBuffer) {
		time.Sleep(2 * time.Second)
		e.set(func(e *endpoint) { e.body = setAB })
		storm := func() {
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() {
					if set, err := i.Refresh(t.Context()); err != nil || len(set.Keys) != 2 {
						t.Errorf("refresh: %v, %v; want the new set", set, err)
					}
				})
			}
			all.Wait()
		}
		storm()
		if n := e.count(); n != 2 {
			t.Fatalf("%d fetches, want the first and one more", n)
		}
		// Within the cool-down there is no other one, and nobody waits.
		began := time.Now()
		for range 10 {
			storm()
		}
		if n := e.count(); n != 2 || time.Since(began) > 0 {
			t.Errorf("%d fetches and %v within the cool-down, want no more and no wait", n, time.Since(began))
		}
		time.Sleep(coolDown)
		storm()
		if n := e.count(); n != 3 {
			t.Errorf("%d fetches after the cool-down, want one more", n)
		}
	})
}

func TestWaitingIsBounded(t *testing.T) {
	e := &endpoint{status: 200, body: setA, delay: 5 * time.Second}
	bubble(t, e, func(t *testing.T, i *Issuer, _ *lockedBuffer) {
		var all sync.WaitGroup
		for range maxWaiting {
			all.Go(func() {
				if _, err := i.Refresh(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if _, err := i.Refresh(t.Context()); !errors.Is(err, errWaiting) {
			t.Errorf("one more: error %v, want %v", err, errWaiting)
		}
		all.Wait()
		time.Sleep(coolDown)
		if _, err := i.Refresh(t.Context()); err != nil {
			t.Errorf("after all have left: %v", err)
		}
	})
}

func TestRefreshEndsWithItsContext(t *testing.T) {
	e := &endpoint{status: 200, body: setA, delay: 8 * time.Second}
	bubble(t, e, func(t *testing.T, i *Issuer, _ *lockedBuffer) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if set, err := i.Refresh(ctx); set != nil || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, %v", set, err)
		}
		// The fetch goes on for the others.
		if set, err := i.Refresh(t.Context()); set == nil || err != nil || e.count() != 1 {
			t.Errorf("%v, %v, %d fetches", set, err, e.count())
		}
	})
}

func TestRefreshEndsWithTheIssuer(t *testing.T) {
	e := &endpoint{status: 200, body: setA, delay: 8 * time.Second}
	bubble(t, e, func(t *testing.T, i *Issuer, _ *lockedBuffer) {
		errs := make(chan error)
		go func() {
			_, err := i.Refresh(t.Context())
			errs <- err
		}()
		synctest.Wait()
		if err := i.Close(); err != nil {
			t.Error(err)
		}
		if err := <-errs; !errors.Is(err, errClosed) {
			t.Errorf("waiting: %v, want %v", err, errClosed)
		}
		for range 2 {
			if _, err := i.Refresh(t.Context()); !errors.Is(err, errClosed) {
				t.Errorf("after the close: %v, want %v", err, errClosed)
			}
		}
	})
}

func TestAge(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"":                             defaultAge,
		"public":                       defaultAge,
		"max-age=600":                  10 * time.Minute,
		"public, MAX-AGE=600":          10 * time.Minute,
		`max-age="600"`:                10 * time.Minute,
		"max-age=0":                    minAge,
		"max-age=1":                    minAge,
		"max-age=999999":               maxAge,
		"max-age=99999999999999999999": maxAge,
		"max-age=-1":                   defaultAge,
		"max-age=x":                    defaultAge,
		"s-maxage=600":                 defaultAge,
		"max-age=600, no-store":        minAge,
		"no-cache":                     minAge,
	} {
		if got := age(http.Header{"Cache-Control": {value}}); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}
