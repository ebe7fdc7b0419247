package jwks

import (
	"bytes"
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
	i := &Issuer{log: slog.New(slog.DiscardHandler), clock: bubbleClock{}}
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
