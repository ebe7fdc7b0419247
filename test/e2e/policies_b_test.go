package e2e

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

const sizeRoutes = `  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 2s}
  route_policies:
    - route_name: announced
      request_flow: {policy_chain: [{policy: requestSizeLimit, params: {max_body_bytes: 1000, max_header_count: 30}}]}
    - route_name: counted
      request_flow: {policy_chain: [{policy: requestSizeLimitStreamed, params: {max_body_bytes: 100000}}]}
`

// bodyEngine is an engine with the standard policies alone.
func bodyEngine(t *testing.T, routes string, envoy ...string) *harness.Engine {
	t.Helper()
	return harness.StartEngine(t, harness.Spec{
		Kernel: routes, EnvoyArgs: envoy,
		Workers: []harness.WorkerSpec{{Name: "worker-1", Program: "policy-worker-1", Config: "  name: worker-1\n  socket_path: ${RUN_DIR}/worker-1.sock\n"}},
	})
}

func TestRequestSizes(t *testing.T) {
	t.Parallel()
	e := bodyEngine(t, sizeRoutes)
	get(t, e, 200, "/announced")
	before := e.Upstream.Count()
	post(t, e, 200, "/announced", strings.Repeat("x", 1000))
	if up := arrived(t, e, before); len(up.Body) != 1000 {
		t.Errorf("the upstream got %d bytes", len(up.Body))
	}
	wantCode(t, post(t, e, 413, "/announced", strings.Repeat("x", 1001), mustNotArrive+"too large"), "BODY_TOO_LARGE")
	wantCode(t, post(t, e, 411, "/announced", "x", "Transfer-Encoding: chunked", mustNotArrive+"without length"), "LENGTH_REQUIRED")
	lines := []string{mustNotArrive + "too many headers"}
	for range 30 {
		lines = append(lines, "X-More: 1")
	}
	wantCode(t, get(t, e, 431, "/announced", lines...), "HEADERS_TOO_LARGE")

	wantCode(t, post(t, e, 413, "/counted", strings.Repeat("x", 100_001), mustNotArrive+"too large"), "BODY_TOO_LARGE")
	get(t, e, 200, "/counted")
	for _, framing := range []string{"X-Framing: length", "Transfer-Encoding: chunked"} {
		before := e.Upstream.Count()
		r := post(t, e, 200, "/counted", strings.Repeat("x", 100_000), framing)
		if up := arrived(t, e, before); len(up.Body) != 100_000 {
			t.Errorf("%s: the upstream got %d bytes\n%v", framing, len(up.Body), r)
		}
	}
	// Announced by nothing: what is over the limit never arrives as a whole, whether or not the upstream saw the beginning.
	before = e.Upstream.Count()
	r, err := harness.TrySend(e.Listen, "POST", "/counted", "\x00"+strings.Repeat("x", 300_000), "Transfer-Encoding: chunked")
	if err == nil && r.Status != 413 {
		t.Errorf("300000 bytes: %v", r)
	}
	if n := e.Upstream.Count(); n != before {
		t.Errorf("%d whole requests arrived", n-before)
	}
	checkLogs(t, e, []string{"worker-1"})
}

const redactRoutes = `  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 2s}
  route_policies:
    - route_name: requests
      request_flow: {policy_chain: [{policy: redact, params: {literals: [secret], patterns: ["sk-[0-9]{4,10}"], replacement: "*"}}]}
    - route_name: responses
      response_flow: {policy_chain: [{policy: redact, params: {literals: [secret], patterns: ["sk-[0-9]{4,10}"], replacement: "*"}}]}
`

func TestRedaction(t *testing.T) {
	t.Parallel()
	for _, mode := range streamModes {
		t.Run(mode.name, func(t *testing.T) { redaction(t, mode.envoy) })
	}
}

func redaction(t *testing.T, envoy []string) {
	e := bodyEngine(t, redactRoutes, envoy...)
	long := strings.Repeat("x", 100_000)
	for _, framing := range []string{"X-Framing: length", "Transfer-Encoding: chunked"} {
		before := e.Upstream.Count()
		// The chunks are cut in the middle, which is in the middle of the first secret.
		post(t, e, 200, "/requests", "a sec"+"ret sk-0123", framing)
		if up := arrived(t, e, before); up.Body != "a * *" {
			t.Errorf("%s: the upstream got %q", framing, up.Body)
		}
		before = e.Upstream.Count()
		post(t, e, 200, "/requests", long+"secret"+long, framing)
		if up := arrived(t, e, before); up.Body != long+"*"+long {
			t.Errorf("%s: the upstream got %d bytes", framing, len(up.Body))
		}
		// The upstream tells what it got in its answer, which is JSON of more than one chunk.
		r := post(t, e, 200, "/responses", long+"secret"+long+" sk-01234567890", framing)
		if strings.Contains(r.Body, "secret") || !strings.Contains(r.Body, "x*x") || !strings.Contains(r.Body, "x *0\"") {
			t.Errorf("%s: the client got %d bytes, ends with %q", framing, len(r.Body), r.Body[max(0, len(r.Body)-50):])
		}
	}
	get(t, e, 200, "/requests")
	before := e.Upstream.Count()
	post(t, e, 200, "/requests", gzipped(t, "a secret"), "Content-Encoding: gzip")
	if up := arrived(t, e, before); up.Header.Get("Content-Encoding") != "gzip" || plain(t, up.Body) != "a *" {
		t.Errorf("the upstream got %q, %v", up.Body, up.Header)
	}
	for _, coding := range []string{"gzip", "unknown"} {
		wantCode(t, post(t, e, 415, "/requests", "a secret", "Content-Encoding: "+coding, mustNotArrive+"it can't be decoded"), "BODY_CODING")
		r := get(t, e, 502, "/responses", harness.AnswerHeader+": Content-Encoding "+coding)
		wantCode(t, r, "BODY_CODING")
		if strings.Contains(r.Body, "headers") {
			t.Errorf("a coded body passes: %v", r)
		}
	}
	wantCode(t, get(t, e, 502, "/responses", harness.Answer+": 206"), "PARTIAL_CONTENT")
	if r := harness.Send(t, e.Listen, "HEAD", "/responses"); r.Status != 200 {
		t.Errorf("HEAD: %v", r)
	}
	checkLogs(t, e, []string{"worker-1"}, "sk-0123")
}

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var b strings.Builder
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func plain(t *testing.T, coded string) string {
	t.Helper()
	r, err := gzip.NewReader(strings.NewReader(coded))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const quotaRoutes = `  workers:
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 2s}
  route_policies:
    - route_name: json
      request_flow: {policy_chain: [{policy: tokenQuota, params: {tokens: 1000, per: 1h, estimate: 10, key: "header:x-client"}}]}
      response_flow: {policy_chain: [{policy: tokenUsage}]}
    - route_name: events
      request_flow: {policy_chain: [{policy: tokenQuota, params: {tokens: 1000, per: 1h, estimate: 10, key: "header:x-client"}}]}
      response_flow: {policy_chain: [{policy: tokenUsage}]}
    - route_name: uncharged
      response_flow: {policy_chain: [{policy: tokenUsage}]}
`

// model answers as a language model does: with the tokens that the query asks for.
func model(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, "/events") {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"choices": ["%s"], "usage": {"total_tokens": %s}}`, strings.Repeat("x", 100_000), r.URL.Query().Get("use"))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for _, piece := range []string{"data: {\"usage\": null}\n\ndata: {\"usage\": {\"total_", "tokens\": ", r.URL.Query().Get("use"), "}}\n\n", "data: [DONE]\n\n"} {
		fmt.Fprint(w, piece)
		_ = http.NewResponseController(w).Flush()
	}
}

func TestTokenQuotas(t *testing.T) {
	t.Parallel()
	e := harness.StartEngine(t, harness.Spec{
		Kernel:   quotaRoutes,
		Workers:  []harness.WorkerSpec{{Name: "worker-1", Program: "policy-worker-1", Config: "  name: worker-1\n  socket_path: ${RUN_DIR}/worker-1.sock\n"}},
		Upstream: http.HandlerFunc(model),
	})
	for _, route := range []string{"/json", "/events"} {
		// Less than the estimate, many times: it is given back.
		for range 120 {
			get(t, e, 200, route+"?use=1", "X-Client: alice")
		}
		r := get(t, e, 200, route+"?use=2000", "X-Client: alice")
		if !strings.Contains(r.Body, "2000") {
			t.Errorf("%s: the client got %.200q", route, r.Body)
		}
		r = get(t, e, 429, route+"?use=1", "X-Client: alice", mustNotArrive+"the tokens are used up")
		wantCode(t, r, "QUOTA_EXHAUSTED")
		if r.Header.Get("Retry-After") == "" || !strings.HasPrefix(r.Header.Get("Ratelimit"), `"header-x-client-tokens-1h0m0s";r=0;t=`) {
			t.Errorf("%s: %v", route, r.Header)
		}
		get(t, e, 200, route+"?use=1", "X-Client: bob")
	}
	if r, err := harness.TrySend(e.Listen, "GET", "/uncharged?use=1"); err == nil && r.Status == 200 && strings.Contains(r.Body, "total_tokens") {
		t.Errorf("an answer that nobody was charged for: %v", r)
	}
	checkLogs(t, e, []string{"worker-1"})
}

// TestRedactionBeforeTrailers: what may be the beginning of a match when trailers come goes on before them in full duplex, and is refused where that can't be.
func TestRedactionBeforeTrailers(t *testing.T) {
	t.Parallel()
	for _, mode := range streamModes {
		t.Run(mode.name, func(t *testing.T) {
			e := bodyEngine(t, redactRoutes, mode.envoy...)
			client := newClient(t, "HTTP/2")
			for body, want := range map[string]string{"a secret": "a *", "a secret, a sec": "a *, a sec", "sk-01": "sk-01", "sk-0123": "*"} {
				before := e.Upstream.Count()
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+e.Listen+"/requests", struct{ io.Reader }{strings.NewReader(body)})
				if err != nil {
					t.Fatal(err)
				}
				req.Trailer = http.Header{"X-T": {"1"}}
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if holds := !strings.HasSuffix(body, "secret"); mode.envoy == nil && holds {
					if resp.StatusCode != http.StatusInternalServerError {
						t.Errorf("%q passes without what was held back: %s", body, resp.Status)
					}
					continue
				}
				if up := arrived(t, e, before); resp.StatusCode != http.StatusOK || up.Body != want {
					t.Errorf("%q: %s, the upstream got %q; want %q", body, resp.Status, up.Body, want)
				}
			}
		})
	}
}
