package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

// goneRoutes has calls that may last: longer than a test waits for anything but the end of a request.
const goneRoutes = `  workers:
    - {name: worker-a, socket_path: "${RUN_DIR}/a.sock", timeout: 1s}
    - {name: worker-b, socket_path: "${RUN_DIR}/b.sock", timeout: 1s}
  route_policies:
    - route_name: headers
      request_flow: {policy_chain: [{policy: stallA}]}
      response_flow: {policy_chain: [{policy: stallB}]}
    - route_name: whole
      request_flow: {policy_chain: [{policy: stallBodyA}]}
      response_flow: {policy_chain: [{policy: stallBodyB}]}
    - route_name: streamed
      request_flow: {policy_chain: [{policy: sumA}]}
      response_flow: {policy_chain: [{policy: sumB}]}
`

// goneUpstream says where a request is, and goes on only when it is told.
type goneUpstream struct {
	reached chan struct{}
	ended   chan struct{}
}

func (u *goneUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex()
	switch r.Header.Get("X-Do") {
	case "wait":
		u.wait(r)
	case "begin-and-wait":
		_, _ = io.WriteString(w, "begun")
		_ = control.Flush()
		u.wait(r)
	case "break":
		panic(http.ErrAbortHandler)
	case "begin-and-break":
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "begun")
		_ = control.Flush()
		panic(http.ErrAbortHandler)
	default:
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "answered")
	}
}

// wait tells that a request is here, and waits until it is gone.
func (u *goneUpstream) wait(r *http.Request) {
	u.reached <- struct{}{}
	// As long as a body is to come, its end is how the server learns that the client has gone.
	if _, err := io.Copy(io.Discard, r.Body); err == nil {
		<-r.Context().Done()
	}
	u.ended <- struct{}{}
}

// happens waits for what the upstream tells.
func happens(t *testing.T, what string, told <-chan struct{}) {
	t.Helper()
	select {
	case <-told:
	case <-time.After(harness.Timeout):
		t.Fatalf("%s: not within %v", what, harness.Timeout)
	}
}

func startGone(t *testing.T) (*harness.Engine, *goneUpstream) {
	t.Helper()
	u := &goneUpstream{reached: make(chan struct{}, 1), ended: make(chan struct{}, 1)}
	return harness.StartEngine(t, harness.Spec{
		Kernel: goneRoutes, Upstream: u,
		Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	}), u
}

// TestClientGone: a client that leaves, in whatever phase its request is, leaves nothing behind.
func TestClientGone(t *testing.T) {
	t.Parallel()
	e, upstream := startGone(t)
	waitFor := func(what string, condition func(harness.Metrics) bool) {
		t.Helper()
		harness.Eventually(t, what, func() error {
			if m := e.Scrape(); !condition(m) {
				return fmt.Errorf("%v streams, %v bytes", m["policy_kernel_streams"], m["policy_kernel_body_bytes"])
			}
			return nil
		})
	}
	streaming := func(m harness.Metrics) bool { return m["policy_kernel_streams"] == 1 }
	inWorker := func(m harness.Metrics) bool {
		for series, value := range m {
			if strings.HasPrefix(series, "policy_worker_in_flight") && value == 1 {
				return true
			}
		}
		return false
	}
	for _, tt := range []struct {
		name, path string
		lines      []string
		body       string // what is sent of the body
		where      func(harness.Metrics) bool
		upstream   bool // it is asked, and sees the end; where is for others
	}{
		{"request headers", "/headers", []string{"Content-Length: 0", "X-Stall-In: request-headers"}, "", inWorker, false},
		{"request headers, with a body to come", "/whole", []string{"Content-Length: 9", "X-Stall-In: request-headers"}, "some", inWorker, false},
		{"in the middle of a whole request body", "/whole", []string{"Content-Length: 9"}, "some", streaming, false},
		{"whole request body", "/whole", []string{"Content-Length: 4", "X-Stall-In: request-body"}, "some", inWorker, false},
		{"in the middle of a streamed request body", "/streamed", []string{"Content-Length: 9", "X-Do: wait"}, "some", nil, true},
		{"before the response", "/headers", []string{"Content-Length: 0", "X-Do: wait"}, "", nil, true},
		{"before the response to a whole body", "/whole", []string{"Content-Length: 4", "X-Do: wait"}, "some", nil, true},
		{"response headers", "/headers", []string{"Content-Length: 0", "X-Stall-In: response-headers"}, "", inWorker, false},
		{"response headers, with a body to come", "/whole", []string{"Content-Length: 0", "X-Stall-In: response-headers"}, "", inWorker, false},
		{"in the middle of a whole response body", "/whole", []string{"Content-Length: 0", "X-Do: begin-and-wait"}, "", nil, true},
		{"whole response body", "/whole", []string{"Content-Length: 0", "X-Stall-In: response-body"}, "", inWorker, false},
		{"in the middle of a streamed response body", "/streamed", []string{"Content-Length: 0", "X-Do: begin-and-wait"}, "", nil, true},
		{"in the middle of both", "/streamed", []string{"Content-Length: 9", "X-Do: begin-and-wait"}, "some", nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dialHTTP1(t, e.Listen)
			c.write(append([]string{"POST " + tt.path + " HTTP/1.1", "Host: e2e.example"}, tt.lines...)...)
			c.body(tt.body)
			if tt.upstream {
				happens(t, "the upstream is asked", upstream.reached)
			} else {
				waitFor("the request is in its phase", tt.where)
			}
			c.Close()
			if tt.upstream {
				happens(t, "the upstream sees the end", upstream.ended)
			}
			wantIdle(t, e)
		})
	}
	checkLogs(t, e, []string{"a", "b"})
}

// TestUpstreamGone: an upstream that breaks off never makes of a part of a response a whole one, and leaves nothing behind.
func TestUpstreamGone(t *testing.T) {
	t.Parallel()
	e, _ := startGone(t)
	for _, path := range []string{"/headers", "/whole", "/streamed"} {
		for _, body := range []string{"", "some"} {
			r := harness.SendBody(t, e.Listen, "POST", path, body, "X-Do: break")
			if r.Status != 503 && r.Status != 502 {
				t.Errorf("%s, broken off before the response: %v", path, r)
			}
			r, err := harness.TrySend(e.Listen, "POST", path, "Content-Length: 0", "X-Do: begin-and-break")
			if err == nil && r.Status < 500 {
				t.Errorf("%s, broken off in the response: %v", path, r)
			}
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s, broken off in the response: %v", path, err)
			}
		}
	}
	wantIdle(t, e)
	checkLogs(t, e, []string{"a", "b"})
}

// TestLocalReplies: what Envoy answers itself does not come by the policies of the response, and leaves nothing behind.
func TestLocalReplies(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	_ = l.Close()
	e := harness.StartEngine(t, harness.Spec{
		Kernel: goneRoutes + `    - route_name: told
      response_flow: {policy_chain: [{policy: witnessB, params: {name: back}}]}
    - route_name: whole-from-the-start
      request_flow: {processing_mode: buffered_body, policy_chain: [{policy: stallBodyA}]}
`,
		EnvoyArgs: []string{"--upstream", nobody},
		Workers:   []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	})
	for _, path := range []string{"/told", "/headers", "/whole", "/streamed"} {
		for _, body := range []string{"", "some"} {
			if r := harness.SendBody(t, e.Listen, "POST", path, body); r.Status != 503 || r.Header.Get("X-Seen-Back") != "" {
				t.Errorf("%s, no upstream: %v", path, r)
			}
		}
	}
	// More than Envoy holds for a policy, and not announced: Envoy's own 413, while the client still sends. Envoy knows from the start that the body is wanted as a whole,
	// so it does not matter that the answer to the headers comes late.
	c := dialHTTP1(t, e.Listen)
	c.write("POST /whole-from-the-start HTTP/1.1", "Host: e2e.example", "Transfer-Encoding: chunked", "X-Stall-In: request-headers")
	go c.body("200000\r\n" + strings.Repeat("x", 2<<20) + "\r\n0\r\n\r\n")
	if r := c.response("POST"); r.StatusCode != 413 {
		t.Errorf("a body of 2 MiB: %s", r.Status)
	}
	wantIdle(t, e)
	checkLogs(t, e, []string{"a", "b"})
}
