package jwks

import (
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/policy-engine/policy-engine/config"
)

// site serves documents by URL, in a bubble's time.
type site struct {
	mu    sync.Mutex
	pages map[string]string
	seen  []string
}

func (s *site) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, r.URL.String())
	body, ok := s.pages[r.URL.String()]
	status := http.StatusOK
	if !ok {
		status = http.StatusNotFound
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func (s *site) set(url, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pages == nil {
		s.pages = map[string]string{}
	}
	s.pages[url] = body
}

func (s *site) visits(url string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.seen {
		if u == url {
			n++
		}
	}
	return n
}

// visit opens an issuer of the site, in a time of its own.
func visit(t *testing.T, s *site, cfg config.JWTIssuer, test func(t *testing.T, i *Issuer, logs *lockedBuffer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		logs := new(lockedBuffer)
		cfg.Name = "corporate"
		i, err := open(cfg, slog.New(slog.NewTextHandler(logs, nil)), remoteSettings{clock: bubbleClock{}, transport: s})
		if err != nil {
			t.Fatal(err)
		}
		defer i.Close()
		synctest.Wait()
		test(t, i, logs)
	})
}

const (
	idp       = "https://idp.example"
	wellKnown = "/.well-known/openid-configuration"
)

func TestDiscovery(t *testing.T) {
	for name, tc := range map[string]struct {
		issuer, at, document string
		keys, want           string
	}{
		"issuer":               {idp, idp + wellKnown, `{"issuer":"https://idp.example","jwks_uri":"https://keys.example/jwks"}`, "a", ""},
		"with a path":          {idp + "/realms/x", idp + "/realms/x" + wellKnown, `{"issuer":"https://idp.example/realms/x","jwks_uri":"https://keys.example/jwks"}`, "a", ""},
		"with a slash":         {idp + "/", idp + wellKnown, `{"issuer":"https://idp.example/","jwks_uri":"https://keys.example/jwks"}`, "a", ""},
		"another issuer":       {idp, idp + wellKnown, `{"issuer":"https://evil.example","jwks_uri":"https://keys.example/jwks"}`, "nil", "expected \\\"https://idp.example\\\" exactly"},
		"a slash more":         {idp, idp + wellKnown, `{"issuer":"https://idp.example/","jwks_uri":"https://keys.example/jwks"}`, "nil", "exactly"},
		"other case":           {idp, idp + wellKnown, `{"issuer":"https://IDP.example","jwks_uri":"https://keys.example/jwks"}`, "nil", "exactly"},
		"no issuer":            {idp, idp + wellKnown, `{"jwks_uri":"https://keys.example/jwks"}`, "nil", "exactly"},
		"issuer in capitals":   {idp, idp + wellKnown, `{"ISSUER":"https://idp.example","jwks_uri":"https://keys.example/jwks"}`, "nil", "exactly"},
		"issuer twice":         {idp, idp + wellKnown, `{"issuer":"https://evil.example","issuer":"https://idp.example","jwks_uri":"https://keys.example/jwks"}`, "nil", "more than once"},
		"no jwks_uri":          {idp, idp + wellKnown, `{"issuer":"https://idp.example"}`, "nil", "is not an http or https URL"},
		"jwks_uri in plain":    {idp, idp + wellKnown, `{"issuer":"https://idp.example","jwks_uri":"http://keys.example/jwks"}`, "nil", "can be changed on its way"},
		"jwks_uri is a file":   {idp, idp + wellKnown, `{"issuer":"https://idp.example","jwks_uri":"file:///etc/passwd"}`, "nil", "is not an http or https URL"},
		"jwks_uri is a number": {idp, idp + wellKnown, `{"issuer":"https://idp.example","jwks_uri":1}`, "nil", "jwks_uri is not a string"},
		"no document":          {idp, idp + "/elsewhere", "", "nil", "status 404"},
		"HTML":                 {idp, idp + wellKnown, "<html>", "nil", "neither a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &site{}
			s.set(tc.at, tc.document)
			s.set("https://keys.example/jwks", setA)
			s.set("http://keys.example/jwks", setA)
			visit(t, s, config.JWTIssuer{Issuer: tc.issuer}, func(t *testing.T, i *Issuer, logs *lockedBuffer) {
				if kids(i) != tc.keys || tc.want != "" && logs.count(tc.want) != 1 {
					t.Errorf("keys %s, want %s, and %q logged in %s", kids(i), tc.keys, tc.want, &logs.b)
				}
			})
		})
	}
}

func TestDiscoveryFollowsTheDocument(t *testing.T) {
	s := &site{}
	document := func(uri string) { s.set(idp+wellKnown, `{"issuer":"https://idp.example","jwks_uri":"`+uri+`"}`) }
	document("https://keys.example/1")
	s.set("https://keys.example/1", setA)
	visit(t, s, config.JWTIssuer{Issuer: idp}, func(t *testing.T, i *Issuer, _ *lockedBuffer) {
		time.Sleep(30 * time.Minute)
		if n, k := s.visits(idp+wellKnown), s.visits("https://keys.example/1"); n != 1 || k < 6 {
			t.Errorf("%d visits of the document and %d of the set in half an hour, want 1 of the document", n, k)
		}
		document("https://keys.example/2")
		s.set("https://keys.example/2", setAB)
		time.Sleep(discoveryAge)
		synctest.Wait()
		if kids(i) != "a,b" {
			t.Errorf("keys %s, want those of the new place", kids(i))
		}
	})
}

func TestTemplates(t *testing.T) {
	one := string(set(member(p384.Public(), m{"kid": "one"})))
	two := string(set(member(p521.Public(), m{"kid": "two"})))
	for name, tc := range map[string]struct {
		cfg   config.JWTIssuer
		pages map[string]string
		want  string
	}{
		"one key set": {
			config.JWTIssuer{JWKSURI: "https://keys.example/all"},
			map[string]string{"https://keys.example/all": setA},
			"https://login.example/t1/v2.0: a; https://login.example/t2/v2.0: a",
		},
		"key sets by tenant": {
			config.JWTIssuer{JWKSURI: "https://keys.example/{tenant}"},
			map[string]string{"https://keys.example/t1": one, "https://keys.example/t2": two},
			"https://login.example/t1/v2.0: one; https://login.example/t2/v2.0: two",
		},
		"discovery by tenant": {
			config.JWTIssuer{},
			map[string]string{
				"https://login.example/t1/v2.0" + wellKnown: `{"issuer":"https://login.example/t1/v2.0","jwks_uri":"https://keys.example/t1"}`,
				// The document of another tenant: its keys must not count for this one.
				"https://login.example/t2/v2.0" + wellKnown: `{"issuer":"https://login.example/t1/v2.0","jwks_uri":"https://keys.example/t1"}`,
				"https://keys.example/t1":                   one,
			},
			"https://login.example/t1/v2.0: one; https://login.example/t2/v2.0: nil",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &site{pages: tc.pages}
			tc.cfg.Issuer, tc.cfg.Tenants = "https://login.example/{tenant}/v2.0", []string{"t1", "t2"}
			visit(t, s, tc.cfg, func(t *testing.T, i *Issuer, _ *lockedBuffer) {
				var got []string
				for _, tenant := range i.Tenants() {
					ids := "nil"
					if set := tenant.Keys(); set != nil {
						ids = set.Keys[0].ID
					}
					got = append(got, tenant.URL()+": "+ids)
					if tenant.Tenants() != nil {
						t.Error("a tenant is a template")
					}
				}
				if strings.Join(got, "; ") != tc.want {
					t.Errorf("got %s, want %s", strings.Join(got, "; "), tc.want)
				}
				if loaded := !strings.Contains(tc.want, "nil"); i.Status().Loaded != loaded {
					t.Errorf("loaded %v, want %v", i.Status().Loaded, loaded)
				}
			})
		})
	}
}

func TestStatusOfKeys(t *testing.T) {
	s := &site{}
	visit(t, s, config.JWTIssuer{Issuer: idp, JWKSURI: "https://keys.example/jwks"}, func(t *testing.T, i *Issuer, logs *lockedBuffer) {
		if st := i.Status(); st.Loaded || st.Keys != 0 || !st.Confirmed.IsZero() || st.Failures != 1 {
			t.Errorf("before the first set: %+v", st)
		}
		if logs.count("none was ever loaded") != 1 || logs.count("the last good one") != 0 {
			t.Errorf("logged %s", &logs.b)
		}
		s.set("https://keys.example/jwks", setA)
		time.Sleep(maxBackoff)
		synctest.Wait()
		first := i.Status()
		if !first.Loaded || first.Keys != 1 || time.Since(first.Confirmed) > maxBackoff {
			t.Errorf("after the first set: %+v", first)
		}
		time.Sleep(defaultAge)
		synctest.Wait()
		if st := i.Status(); !st.Confirmed.After(first.Confirmed) {
			t.Error("the same set does not count as confirmed")
		}
		s.set("https://keys.example/jwks", "broken")
		time.Sleep(defaultAge)
		synctest.Wait()
		if st := i.Status(); !st.Loaded || st.Failures <= first.Failures || logs.count("the last good one stays in use") != 1 {
			t.Errorf("after a broken set: %+v, logged %s", st, &logs.b)
		}
	})
}

// TestBadSignaturesFetchTwiceAMinute: a flood of calls that want another key set leads to two fetches a minute, and no call waits for those.
func TestBadSignaturesFetchTwiceAMinute(t *testing.T) {
	e := &endpoint{status: 200, body: setA, header: http.Header{"Cache-Control": {"max-age=3600"}}}
	bubble(t, e, func(t *testing.T, i *Issuer, _ *lockedBuffer) {
		synctest.Wait()
		before := e.count()
		for range 6000 { // 10 minutes
			if i.MayRefresh() {
				if _, err := i.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := e.count() - before; n != 20 {
			t.Errorf("%d fetches in 10 minutes, want 20", n)
		}
	})
}

func TestFetchTimeout(t *testing.T) {
	e := &endpoint{status: 200, body: setA, delay: 3 * time.Second}
	synctest.Test(t, func(t *testing.T) {
		i, err := open(config.JWTIssuer{Name: "slow", Issuer: idp, JWKSURI: "https://keys.example/jwks", Timeout: 2 * time.Second},
			slog.New(slog.DiscardHandler), remoteSettings{clock: bubbleClock{}, transport: e})
		if err != nil {
			t.Fatal(err)
		}
		defer i.Close()
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if st := i.Status(); st.Loaded || st.Failures == 0 {
			t.Errorf("%+v, want a fetch that takes 3 seconds to fail after 2", st)
		}
	})
}

// TestAuthorities runs a server whose certificate no authority of the system knows.
func TestAuthorities(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, setA) }))
	defer server.Close()
	server.Config.ErrorLog = nil
	file := filepath.Join(t.TempDir(), "ca.pem")
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Fetch(t.Context(), server.URL, "", "", false); err == nil {
		t.Error("fetched from a server that no authority of the system knows")
	}
	got, from, err := Fetch(t.Context(), server.URL, "", file, false)
	if err != nil || string(got) != setA || from != server.URL {
		t.Errorf("with ca_file: %q from %q, %v", got, from, err)
	}
	for name, bad := range map[string]string{"missing": file + "x", "no certificate": filepath.Join(t.TempDir(), "empty")} {
		if name != "missing" {
			if err := os.WriteFile(bad, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if i, err := Open(config.JWTIssuer{Name: "a", Issuer: idp, JWKSURI: server.URL, CAFile: bad}, bubbleClock{}, slog.New(slog.DiscardHandler)); err == nil {
			_ = i.Close()
			t.Errorf("%s: accepted as ca_file", name)
		}
	}
}

func TestPlainHTTP(t *testing.T) {
	for url, want := range map[string][2]bool{
		"https://keys.example/jwks":     {true, true},
		"http://127.0.0.1:8080/jwks":    {true, true},
		"http://localhost/jwks":         {true, true},
		"http://[::1]/jwks":             {true, true},
		"http://keys.svc.cluster/jwks":  {false, true},
		"http://127.0.0.1.nip.io/jwks":  {false, true},
		"http://localhost.example/jwks": {false, true},
		"ftp://keys.example/jwks":       {false, false},
		"https://u:p@keys.example/jwks": {false, false},
		"https:///jwks":                 {false, false},
	} {
		if got := [2]bool{checkURL(url, false) == nil, checkURL(url, true) == nil}; got != want {
			t.Errorf("%s: accepted %v without and %v with allow_http, want %v", url, got[0], got[1], want)
		}
	}
}
