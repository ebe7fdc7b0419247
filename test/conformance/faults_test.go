package conformance

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

// envoysPatience is less than Envoy's message_timeout for any route of the table, and more than the engine's own timeouts.
const envoysPatience = 2 * time.Second

// gone breaks the connection off before a response.
func gone(w http.ResponseWriter, _ *http.Request) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_ = conn.Close()
	}
}

// goneLater breaks it off in the middle of one.
func goneLater(w http.ResponseWriter, _ *http.Request) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nX-Upstream: reached\r\n\r\npart of it")
		_ = conn.Close()
	}
}

// early answers without waiting for the request's body.
func early(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, upstreamText)
	_ = http.NewResponseController(w).Flush()
	_, _ = io.Copy(io.Discard, r.Body)
}

func statusFrom(low int) check {
	return func(m *message) string {
		if m.status < low && m.broken == nil {
			return fmt.Sprintf("status %d, want %d or more", m.status, low)
		}
		return ""
	}
}

// overEnvoysLimit sends a body that is longer than Envoy's buffer, and not announced. Envoy answers 413, unless so much of it came before the headers were decided that it
// reads no more (filter_manager.cc: above the high watermark, which nothing that waits for the whole body ever lowers); then there is no answer
// before stream_idle_timeout. In no case it passes.
func overEnvoysLimit(r *run) {
	conn, in, err := r.dial()
	if err != nil {
		r.errorf("%v", err)
		return
	}
	s := send{method: "POST", body: strings.Repeat("x", 2<<20), chunked: true}
	line, text := framed(s)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(conn, r.head(s, line)+text)
	}()
	_ = conn.SetReadDeadline(time.Now().Add(time.Second))
	if m, err := readResponse(in, s.method); err == nil {
		r.check("the client", m, []check{status(413)})
	}
	_ = conn.Close()
	<-sent
}

// leave sends a request, or a part of it, and goes away once the engine has work to do with it.
func leave(text func(r *run) string) func(*run) {
	return func(r *run) {
		conn, _, err := r.dial()
		if err != nil {
			r.errorf("%v", err)
			return
		}
		_, _ = io.WriteString(conn, text(r))
		_ = conn.Close()
		// The engine is as before for the next one.
		m, err := (&run{s: r.s, e: r.e, route: "stranger"}).overHTTP1(send{})
		if err != nil || m.status != 500 {
			r.errorf("the next request: %v, error %v", m, err)
		}
	}
}

var faultTable = func() []scenario {
	hang := []string{"{policy: editA, params: {do: [hang]}}"}
	late := func(m *message) string {
		for _, c := range []check{refused(500, "POLICY_TIMEOUT"), refused(504, "WORKER_TIMEOUT")} {
			if c(m) == "" {
				return ""
			}
		}
		return "want 500 POLICY_TIMEOUT or 504 WORKER_TIMEOUT"
	}
	return []scenario{
		{
			name: "a worker that takes too long is answered for before Envoy gives up", phase: requestHeaders, mode: headersOnly, fault: "timeout", request: hang,
			client: []check{late, soonerThan(envoysPatience)}, upstream: never,
		},
		{
			name: "a worker that takes too long, for a response", phase: responseHeaders, mode: headersOnly, fault: "timeout", response: hang,
			client: []check{late, soonerThan(envoysPatience), header("X-Upstream", "")}, upstream: reached(),
		},
		{
			name: "a worker that takes too long, for a body", phase: requestBody, mode: buffered, fault: "timeout", request: []string{"{policy: editBodyA, params: {do: [hang]}}"},
			send: send{method: "POST", body: "hello"}, client: []check{late, soonerThan(envoysPatience)}, upstream: never,
		},
		{
			name: "a worker that takes too long, for a response's body", phase: responseBody, mode: buffered, fault: "timeout", response: []string{"{policy: editBodyA, params: {do: [hang]}}"},
			client: []check{late, soonerThan(envoysPatience), header("X-Upstream", "")}, upstream: reached(),
		},
		{
			name: "the upstream breaks off before its response", phase: responseHeaders, mode: headersOnly, fault: "upstream gone", request: one("set x-a 1"), response: one("deny 403 told_to"),
			answer: answer{handler: gone}, client: []check{status(503)}, upstream: reached(header("X-A", "1")),
		},
		{
			name: "the upstream breaks off before a response whose body is wanted", phase: responseBody, mode: buffered, fault: "upstream gone", response: onBody("deny 403 told_to"),
			answer: answer{handler: gone}, client: []check{status(503)}, upstream: reached(),
		},
		{
			name: "the upstream breaks off in a body that nobody wants", phase: responseHeaders, mode: headersOnly, fault: "upstream gone", response: one("set x-b 1"),
			answer: answer{handler: goneLater}, client: []check{statusFrom(500)}, upstream: reached(),
		},
		{
			name: "the upstream breaks off in a body that is wanted as a whole", phase: responseBody, mode: buffered, fault: "upstream gone", response: onBody("set x-b 1"),
			answer: answer{handler: goneLater}, client: []check{statusFrom(500), without("part of it")}, upstream: reached(),
		},
		{
			name: "the upstream breaks off in chunks", phase: responseBody, mode: streamed, fault: "upstream gone", response: onChunks("nothing", "body x"),
			answer: answer{handler: goneLater}, client: []check{statusFrom(500)}, upstream: reached(),
		},
		{
			name: "the response comes before the request's end", phase: responseHeaders, mode: headersOnly, request: one("set x-a 1"), response: one("set x-b 1"),
			send: send{method: "POST", body: "hello", chunked: true}, answer: answer{handler: early}, client: []check{status(200), header("X-B", "1"), body(upstreamText)}, upstream: reached(),
		},
		{
			name: "the response comes before the end of a request in chunks", phase: requestBody, mode: streamed, protocol: http2, request: onChunks("nothing", "body x"), response: onChunks("nothing", "body x"),
			send: send{method: "POST", body: "hello", chunked: true}, answer: answer{handler: early}, client: []check{status(200), body(upstreamText)}, upstream: reached(),
		},
		{
			name: "the client goes while a policy decides", phase: requestHeaders, mode: headersOnly, fault: "client gone", request: hang, upstream: never,
			play: leave(func(r *run) string { return r.head(send{}) }),
		},
		{
			name: "the client goes in the middle of a body that is wanted as a whole", phase: requestBody, mode: buffered, fault: "client gone", request: onBody(""), upstream: never,
			play: leave(func(r *run) string { return r.head(send{method: "POST"}, "Content-Length: 100") + "part of it" }),
		},
		{
			name: "the client goes in the middle of chunks", phase: requestBody, mode: streamed, fault: "client gone", request: onChunks("nothing", "body x"), upstream: mayReach(),
			play: leave(func(r *run) string { return r.head(send{method: "POST"}, "Content-Length: 100") + "part of it" }),
		},
		{
			name: "the client goes in the middle of its head", phase: requestHeaders, mode: headersOnly, fault: "client gone", request: one(""), upstream: never,
			play: leave(func(r *run) string { return r.head(send{})[:30] }),
		},
	}
}()

// stage is an engine of a kind, and what is played on it.
type stage struct {
	name string
	// absent are workers that are not started; break_ is what happens to the engine before the scenarios.
	absent []string
	spoil  func(t *testing.T, e *engine)
	table  []scenario
	// envoy are arguments for `policyctl envoy`.
	envoy []string
}

// stages are those that need an engine of their own, because something is wrong with all of it.
var stages = []stage{
	{name: "full duplex", table: duplexTable, envoy: []string{"--full-duplex", "*"}},
	{name: "a worker is gone", table: workerGoneTable, spoil: func(t *testing.T, e *engine) {
		e.Worker("b").Kill()
		harness.Eventually(t, "the kernel knows that the worker is gone", func() error {
			if v := e.Scrape()[`policy_kernel_worker_health{worker="worker-b"}`]; v != 0 {
				return fmt.Errorf("its health is %v", v)
			}
			return nil
		})
	}},
	{name: "no worker is there yet", absent: []string{"a", "b"}, table: refusedTable("not ready", refused(503, "WORKER_UNAVAILABLE"))},
	{name: "the kernel is gone", table: refusedTable("kernel gone", status(500)), spoil: func(t *testing.T, e *engine) {
		e.Kernel.Signal(syscall.SIGTERM)
		if code := e.Kernel.Wait(); code != 0 {
			t.Errorf("the kernel's exit status is %d", code)
		}
	}},
}

// refusedTable: an engine that can't decide refuses all, whatever the route wants.
func refusedTable(fault string, want check) []scenario {
	table := []scenario{
		{name: "a request", phase: requestHeaders, mode: headersOnly, request: one("set x-a 1")},
		{name: "a request that a policy may fail on", phase: requestHeaders, mode: headersOnly, request: []string{failing("editA", "set x-a 1", "continue")}},
		{name: "a response flow", phase: responseHeaders, mode: headersOnly, response: one("set x-a 1")},
		{name: "a body", phase: requestBody, mode: buffered, request: onBody(""), send: send{method: "POST", body: "hello"}},
		{name: "chunks", phase: requestBody, mode: streamed, request: onChunks("nothing", "body x"), send: send{method: "POST", body: "hello"}},
		{name: "a response's body", phase: responseBody, mode: buffered, response: onBody("")},
		{name: "a request over HTTP-2", phase: requestHeaders, mode: headersOnly, protocol: http2, request: one("set x-a 1")},
	}
	for i := range table {
		s := &table[i]
		s.name, s.fault, s.client, s.upstream = fault+": "+s.name, fault, []check{want}, never
	}
	return table
}

// workerGoneTable: policies of a worker that is gone, in each phase, under each on_failure.
var workerGoneTable = func() (table []scenario) {
	for _, at := range []struct {
		phase, mode, policy string
		response            bool
	}{
		{requestHeaders, headersOnly, "edit", false},
		{responseHeaders, headersOnly, "edit", true},
		{requestBody, buffered, "editBody", false},
		{responseBody, buffered, "editBody", true},
		{requestTrailers, "trailers", "editTrailers", false},
	} {
		for _, onFailure := range []string{"deny", "continue", "skip_remaining"} {
			chain := []string{policy("editA", "set x-first 1"), failing(at.policy+"B", "set x-b 2", onFailure), policy("edit"+map[bool]string{true: "Body"}[at.mode == buffered]+"A", "set x-after 3")}
			s := scenario{
				name: fmt.Sprintf("a worker is gone: %s, on_failure %s", at.phase, onFailure), phase: at.phase, mode: at.mode, fault: "worker gone", request: chain,
				send: send{method: "POST", body: "hello"}, client: []check{status(200)},
			}
			after := "3"
			if onFailure == "skip_remaining" && at.mode != "trailers" {
				after = ""
			}
			passed := []check{header("X-First", "1"), header("X-Lost", ""), header("X-B", ""), header("X-After", after)}
			if at.response {
				s.request, s.response = nil, chain
				s.client, passed = append(s.client, passed...), nil
			}
			s.upstream = reached(passed...)
			if onFailure == "deny" {
				s.client, s.upstream = []check{refused(503, "WORKER_UNAVAILABLE"), header("Retry-After", "30")}, never
			}
			table = append(table, s)
		}
	}
	return append(table, scenario{
		name: "a worker is gone: routes of others are as they were", phase: requestHeaders, mode: headersOnly, fault: "worker gone", request: one("set x-a 1"),
		client: []check{status(200)}, upstream: reached(header("X-A", "1")),
	})
}()
