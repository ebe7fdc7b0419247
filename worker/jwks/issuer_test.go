package jwks

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/policy-engine/policy-engine/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubbleClock is the clock of a synctest bubble.
type bubbleClock struct{}

func (bubbleClock) Now() time.Time { return time.Now() }

// endpoint is a JWKS endpoint without a network: waiting for it is waiting in the bubble's time.
type endpoint struct {
	mu      sync.Mutex
	body    string
	header  http.Header
	status  int
	err     error
	delay   time.Duration
	fetches int
}

func (e *endpoint) set(change func(*endpoint)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(e)
}

func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fetches
}

func (e *endpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	e.mu.Lock()
	e.fetches++
	delay := e.delay
	e.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return nil, e.err
	}
	header := e.header
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: e.status, Header: header, Body: io.NopCloser(strings.NewReader(e.body)), Request: r}, nil
}

var (
	setA  = string(set(member(p256.Public(), m{"kid": "a"})))
	setAB = string(set(member(p256.Public(), m{"kid": "a"}), member(p384.Public(), m{"kid": "b"})))
)

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// bubble runs a test with an issuer of the endpoint, in a time of its own.
func bubble(t *testing.T, e *endpoint, test func(t *testing.T, i *Issuer, logs *lockedBuffer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		logs := new(lockedBuffer)
		i, err := open(config.JWTIssuer{Name: "corporate", Issuer: "https://issuer.example", JWKSURI: "https://issuer.example/jwks.json"},
			slog.New(slog.NewTextHandler(logs, nil)), remoteSettings{clock: bubbleClock{}, transport: e})
		if err != nil {
			t.Fatal(err)
		}
		defer i.Close()
		test(t, i, logs)
	})
}

func kids(i *Issuer) string {
	s := i.Keys()
	if s == nil {
		return "nil"
	}
	var ids []string
	for _, k := range s.Keys {
		ids = append(ids, k.ID)
	}
	return strings.Join(ids, ",")
}

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
		_, _, err := fetch(t.Context(), newClient(transport), "https://issuer.example/jwks.json")
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

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.json")
	if err := os.WriteFile(bad, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]config.JWTIssuer{
		"no issuer":          {JWKSURI: "https://a.example"},
		"no source":          {Issuer: "i"},
		"two sources":        {Issuer: "i", JWKSURI: "https://a.example", JWKSFile: bad},
		"file URL":           {Issuer: "i", JWKSURI: "file:///etc/passwd"},
		"no host":            {Issuer: "i", JWKSURI: "https:///jwks"},
		"with a password":    {Issuer: "i", JWKSURI: "https://u:p@a.example"},
		"no URL":             {Issuer: "i", JWKSURI: "::"},
		"missing file":       {Issuer: "i", JWKSFile: filepath.Join(dir, "missing")},
		"file without a set": {Issuer: "i", JWKSFile: bad},
	} {
		if i, err := Open(cfg, bubbleClock{}, slog.New(slog.DiscardHandler)); err == nil {
			_ = i.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "jwks.json")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path+".tmp", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".tmp", path); err != nil {
			t.Fatal(err)
		}
	}
	write(setA)
	logs := new(lockedBuffer)
	i, err := Open(config.JWTIssuer{Name: "demo", Issuer: "https://demo.example", JWKSFile: path}, bubbleClock{}, slog.New(slog.NewTextHandler(logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if i.URL() != "https://demo.example" || kids(i) != "a" {
		t.Fatalf("issuer %q, keys %s", i.URL(), kids(i))
	}
	if set, err := i.Refresh(t.Context()); err != nil || set != i.Keys() {
		t.Errorf("refresh: %v, %v; want the current set", set, err)
	}
	write(setAB)
	eventually(t, "the new set is there", func() bool { return kids(i) == "a,b" && i.Keys().Generation == 2 })
	write("broken")
	eventually(t, "the bad file is logged", func() bool { return logs.count("level=ERROR") == 1 })
	if kids(i) != "a,b" || i.Keys().Generation != 2 {
		t.Errorf("keys %s, want the last good ones", kids(i))
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within 10 s: %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func TestKeysDoesNotAllocate(t *testing.T) {
	i := &Issuer{log: slog.New(slog.DiscardHandler)}
	if err := i.install([]byte(setA)); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if i.Keys() == nil {
			t.Error("no keys")
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
