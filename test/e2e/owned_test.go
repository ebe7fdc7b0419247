package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/fastpath/headername"
	"github.com/policy-engine/policy-engine/test/harness"
)

const ownedRoutes = `  unknown_route: continue
  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 2s, health_check: {interval: 100ms, timeout: 100ms}}
    - {name: worker-w, socket_path: "${RUN_DIR}/w.sock", timeout: 2s, health_check: {interval: 100ms, timeout: 100ms}}
  identity_headers: {keep_on: [kept]}
  route_policies:
    - route_name: key
      request_flow: {policy_chain: [{policy: apiKeyAuth, params: {key_store: partners}, on_failure: continue}]}
    - route_name: skip
      request_flow:
        policy_chain:
          - {policy: modifyHeaders, params: {set: {x-first: "1"}}, on_failure: skip_remaining}
          - {policy: apiKeyAuth, params: {key_store: partners}, on_failure: continue}
    - route_name: key-witness
      request_flow:
        policy_chain:
          - {policy: apiKeyAuth, params: {key_store: partners}, on_failure: continue}
          - {policy: answerW, params: {if: x-user-id, status: 418}}
    - route_name: skipped
      request_flow:
        policy_chain:
          - {policy: editW, params: {do: [skip]}}
          - {policy: apiKeyAuth, params: {key_store: partners}}
    - route_name: witness
      request_flow: {policy_chain: [{policy: answerW, params: {if: x-user-id, status: 418}}]}
    - route_name: response
      response_flow: {policy_chain: [{policy: securityHeaders}]}
    - route_name: replaced
      request_flow:
        policy_chain:
          - {policy: editW, params: {do: [skip]}}
          - {policy: modifyHeaders, params: {remove: [x-internal], set: {x-zone: gateway}}}
    - {route_name: public}
    - {route_name: kept}
`

// TestOwnedHeadersOnEveryRoute: no client can send an identity header, whatever the route's policies are, and in no spelling.
func TestOwnedHeadersOnEveryRoute(t *testing.T) {
	t.Parallel()
	e := startStandard(t, ownedRoutes)
	t.Run("through Envoy", func(t *testing.T) {
		for _, name := range spellings() {
			if strings.Contains(name, "_") {
				continue // Envoy refuses it: TestStandardPolicies.
			}
			for _, path := range []string{"/public", "/witness", "/response", "/skipped"} {
				before := e.Upstream.Count()
				get(t, e.Engine, 200, path, name+": admin", "X-User-ID: root")
				for got, values := range arrived(t, e.Engine, before).Header {
					if isIdentity(got) {
						t.Errorf("%s on %s: the upstream gets %s: %q", name, path, got, values)
					}
				}
			}
		}
	})
	t.Run("at the kernel", func(t *testing.T) {
		kernel := dialKernel(t, e.ExtProc)
		for _, name := range spellings() {
			for _, route := range []string{"public", "witness", "response", "skipped", "not configured"} {
				r, err := kernel.exchange(route, name+": admin", "x-user-id: root")
				if got := outcome(r, err); got != "pass" {
					t.Errorf("%s on %s: %s, %v", name, route, got, err)
					continue
				}
				for _, header := range []string{strings.ToLower(name), "x-user-id"} {
					if value, removed := set(r, header); !removed || value != "" {
						t.Errorf("%s on %s: %s removed %t, set to %q", name, route, header, removed, value)
					}
				}
			}
		}
	})
	t.Run("replaced by a skipped policy", func(t *testing.T) {
		for path, want := range map[string]string{"/replaced": "", "/public": "client"} {
			before := e.Upstream.Count()
			get(t, e.Engine, 200, path, "X-Internal: client", "X-Zone: client")
			got := arrived(t, e.Engine, before).Header
			wantHeader(t, got, "X-Internal", want)
			wantHeader(t, got, "X-Zone", want)
		}
	})
	t.Run("kept", func(t *testing.T) {
		before := e.Upstream.Count()
		get(t, e.Engine, 200, "/kept", "X-User-ID: root")
		wantHeader(t, arrived(t, e.Engine, before).Header, "X-User-Id", "root")
	})
	t.Run("too many spellings", func(t *testing.T) {
		lines := []string{mustNotArrive + "more spellings than are removed"}
		for _, c := range "!#$%&'*+-.^`|~" {
			for _, d := range "-." {
				lines = append(lines, "x"+string(c)+"user"+string(d)+"id: admin")
			}
		}
		if r := harness.Send(t, e.Listen, http.MethodGet, "/public", lines...); r.Status != 400 {
			t.Errorf("%v", r)
		}
	})
}

// TestOwnedHeadersWithoutTheirWorker: a request that may go on without the policy that names the client goes on without the client's
// own header.
func TestOwnedHeadersWithoutTheirWorker(t *testing.T) {
	t.Parallel()
	harness.NeedWorkerProcesses(t)
	e := startStandard(t, ownedRoutes)
	check := func(t *testing.T) {
		t.Helper()
		c := dialKernel(t, e.ExtProc)
		for _, name := range spellings() {
			for _, route := range []string{"key", "skip", "key-witness", "public"} {
				r, err := c.exchange(route, name+": admin", "x-user-id: root", name+": operator")
				if got := outcome(r, err); got != "pass" {
					t.Errorf("%s on %s: %s, %v", name, route, got, err)
					continue
				}
				for _, header := range []string{strings.ToLower(name), "x-user-id"} {
					if value, removed := set(r, header); !removed || value != "" {
						t.Errorf("%s on %s: %s removed %t, set to %q", name, route, header, removed, value)
					}
				}
			}
		}
		r := get(t, e.Engine, 200, "/key", "X-User-ID: root", "x-USER-id: admin")
		wantHeader(t, r.Header, "X-User-Id", "")
	}
	for _, line := range []string{"X-API-Key: " + keyAlice, "X-Nothing: 1"} {
		if want := map[bool]int{true: 200, false: 401}[strings.Contains(line, keyAlice)]; want != 0 {
			get(t, e.Engine, want, "/key", line)
		}
	}
	e.Worker("worker-1").Kill()
	waitHealth(t, e.Engine, "worker-1", 0)
	before := e.Upstream.Count()
	check(t)
	if got := arrived(t, e.Engine, before).Header; got.Get("X-User-Id") != "" {
		t.Errorf("the upstream got %v", got)
	}
	e.StartWorker("worker-1")
	waitHealth(t, e.Engine, "worker-1", 1)
	get(t, e.Engine, 401, "/key")
}

const trailerRoutes = `  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 2s}
    - {name: worker-w, socket_path: "${RUN_DIR}/w.sock", timeout: 2s}
  route_policies:
    - {route_name: public}
    - route_name: key
      request_flow: {policy_chain: [{policy: apiKeyAuth, params: {key_store: partners}}]}
    - route_name: whole
      request_flow: {policy_chain: [{policy: apiKeyAuth, params: {key_store: partners}}, {policy: bodyW, params: {name: w}}]}
    - route_name: chunks
      request_flow: {policy_chain: [{policy: apiKeyAuth, params: {key_store: partners}}, {policy: watchW, params: {name: w}}]}
      response_flow: {policy_chain: [{policy: securityHeaders}]}
`

// arrival is a request that an upstream has got.
type arrival struct{ headers, trailers http.Header }

// arrivals is an upstream of HTTP/2 that reads trailers.
type arrivals chan arrival

func (a arrivals) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	a <- arrival{r.Header, r.Trailer}
}

// TestOwnedHeadersInTrailers: neither owned headers nor credentials reach an HTTP/2 upstream in trailers, in any spelling, on routes
// whose trailers the engine sees and on those whose it does not see. On a route that passes by the engine, Envoy removes owned headers.
func TestOwnedHeadersInTrailers(t *testing.T) {
	t.Parallel()
	upstream := make(arrivals, 1)
	e := startStandardWith(t, trailerRoutes, upstream, "--upstream-http2", "--bypass", "/static")
	client := newClient(t, "HTTP/2")
	send := func(t *testing.T, path string, headers, trailers http.Header) arrival {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+e.Listen+path, io.NopCloser(strings.NewReader("hello")))
		if err != nil {
			t.Fatal(err)
		}
		req.Header, req.Trailer = headers, trailers
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Fatalf("%s: status %d", path, resp.StatusCode)
		}
		return <-upstream
	}
	key := http.Header{"X-Api-Key": {keyAlice}}
	for _, path := range []string{"/public", "/key", "/whole", "/chunks", "/static"} {
		t.Run(path, func(t *testing.T) {
			for _, c := range tokenCharacters {
				if c == '_' {
					continue // Envoy refuses it: below.
				}
				owned, credential := http.CanonicalHeaderKey("x"+string(c)+"user"+string(c)+"id"), http.CanonicalHeaderKey("x"+string(c)+"api"+string(c)+"key")
				trailers := http.Header{"X-Sum": {"1"}, "X-User-Id": {"root"}, owned: {"admin"}, credential: {keyBob}}
				got := send(t, path, key, trailers).trailers
				if got.Get("X-Sum") != "1" {
					t.Errorf("%q: the upstream got the trailers %v, which lack x-sum", c, got)
				}
				for name, values := range got {
					if len(values) > 0 && (isIdentity(name) || headername.Equal(name, "x-api-key")) {
						t.Errorf("%q: the upstream got the trailer %s: %v", c, name, values)
					}
				}
			}
		})
	}
	t.Run("bypass", func(t *testing.T) {
		for _, c := range tokenCharacters {
			if c == '_' {
				continue
			}
			headers := http.Header{http.CanonicalHeaderKey("x" + string(c) + "user" + string(c) + "id"): {"admin"}, "X-Other": {"1"}}
			got := send(t, "/static", headers, nil).headers
			if got.Get("X-Other") != "1" {
				t.Errorf("%q: the upstream got the headers %v, which lack x-other", c, got)
			}
			for name, values := range got {
				if isIdentity(name) {
					t.Errorf("%q: the upstream got %s: %v", c, name, values)
				}
			}
		}
	})
}
