package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/policy-engine/policy-engine/test/harness"
)

const phaseRoutes = `  route_policies:
    - route_name: trailers
      request_flow: {policy_chain: [{policy: watchA, params: {name: a}}, {policy: watchB, params: {name: b}}]}
      response_flow: {policy_chain: [{policy: watchB, params: {name: b}}, {policy: watchA, params: {name: a}}]}
    - route_name: held
      request_flow: {policy_chain: [{policy: chunkA, params: {name: a, find: secret}}]}
    - route_name: whole
      request_flow: {processing_mode: buffered_body, policy_chain: [{policy: bodyB, params: {name: b, append: "+b"}}, {policy: answerA, params: {if: x-deny, status: 401}}]}
      response_flow: {policy_chain: [{policy: bodyA, params: {name: a, append: "+a"}}]}
    - route_name: ignored
      request_flow: {policy_chain: [{policy: bodyB, params: {name: b}}]}
      response_flow: {policy_chain: [{policy: witnessA, params: {name: a}}]}
    - route_name: slow-request
      request_flow: {policy_chain: [{policy: chunkA, params: {name: a}}]}
    - route_name: slow-response
      response_flow: {policy_chain: [{policy: chunkA, params: {name: a}}]}
`

// phaseUpstream speaks HTTP/1.1 and HTTP/2. It answers with the body of the request, or waits in the middle of it until it is let go on.
type phaseUpstream struct {
	trailers chan http.Header // of the requests, where there are some
	goOn     chan struct{}
}

func (u *phaseUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/slow-response") {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex() // Else the server would wait for the request's body first.
		_, _ = io.WriteString(w, "begun")
		_ = control.Flush()
		select {
		case <-u.goOn:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "ended")
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if len(r.Trailer) > 0 {
		u.trailers <- r.Trailer
		w.Header().Set(http.TrailerPrefix+"X-Sum", "response")
	}
	if r.ContentLength >= 0 {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	}
	_, _ = w.Write(body)
}

func startPhases(t *testing.T, args ...string) (*harness.Engine, *phaseUpstream) {
	upstream := &phaseUpstream{trailers: make(chan http.Header, 1), goOn: make(chan struct{})}
	return harness.StartEngine(t, harness.Spec{
		Kernel: twoWorkers + phaseRoutes, Upstream: upstream, EnvoyArgs: args,
		Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	}), upstream
}

// TestTrailers: policies see trailers of both ways, with what they kept of the body, and may change them.
func TestTrailers(t *testing.T) {
	t.Parallel()
	e, upstream := startPhases(t, "--upstream-http2")
	send := func(path, body string) (*http.Response, string, error) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+e.Listen+path, io.NopCloser(strings.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		req.Trailer = http.Header{"X-Sum": {"request"}, "X-Watch-A": nil, "X-Watch-B": nil} // Names that are not announced, net/http drops.
		resp, err := newClient(t, "HTTP/2").Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		return resp, string(got), err
	}
	for _, body := range []string{"", "hello", strings.Repeat("x", 1<<20)} {
		resp, got, err := send("/trailers", body)
		if err != nil || resp.StatusCode != 200 || got != body {
			t.Fatalf("status %d, %d bytes of %d, error %v", resp.StatusCode, len(got), len(body), err)
		}
		length := fmt.Sprint(len(body))
		for _, at := range []http.Header{<-upstream.trailers, resp.Trailer} {
			wantHeader(t, at, "X-Watch-A", length)
			wantHeader(t, at, "X-Watch-B", length)
			if sum := at.Get("X-Sum"); sum != "request" && sum != "response" {
				t.Errorf("trailers %v", at)
			}
		}
	}
	// What a policy still holds back when trailers come has nothing to go on in; it must not get lost.
	if resp, got, err := send("/held", "a sec"); resp.StatusCode == 200 && err == nil {
		t.Errorf("held back, and passed without it: %q", got)
	}
	if resp, got, err := send("/held", "a word"); resp.StatusCode != 200 || err != nil || got != "a word" {
		t.Errorf("%v %q, error %v", resp.Status, got, err)
	}
	checkLogs(t, e, []string{"a", "b"})
}

// TestUnreadUpload: who is not let in is told so before a byte of the body was read, although a policy before in the chain wants all of it.
func TestUnreadUpload(t *testing.T) {
	t.Parallel()
	e, _ := startPhases(t)
	for _, framing := range []string{"Content-Length: 1000000000", "Transfer-Encoding: chunked"} {
		conn, err := net.Dial("tcp", e.Listen)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(harness.Timeout)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /whole HTTP/1.1\r\nHost: e2e.example\r\nX-Deny: 1\r\n%sunread upload\r\n%s\r\n\r\n", mustNotArrive, framing)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != 401 {
			t.Fatalf("%s: %v, error %v, want 401", framing, resp, err)
		}
	}
	// What is longer than Envoy's own buffer is Envoy's to refuse.
	r := harness.SendBody(t, e.Listen, "POST", "/whole", strings.Repeat("x", 3<<20), "Transfer-Encoding: chunked", mustNotArrive+"longer than Envoy's buffer")
	if r.Status != 413 {
		t.Errorf("longer than Envoy's buffer: %v", r)
	}
	if r := post(t, e, 200, "/whole", "hello"); r.Body != "hello+b+a" {
		t.Errorf("the client got %q", r.Body)
	}
}

// TestBodiesInTime: when a worker hangs in the middle of a body, the kernel refuses what follows before Envoy's patience ends.
func TestBodiesInTime(t *testing.T) {
	t.Parallel()
	harness.NeedWorkerProcesses(t)
	e, upstream := startPhases(t)
	hang := func() { e.Worker("a").Suspend() }
	wake := func(path string) {
		e.Worker("a").Signal(syscall.SIGCONT)
		harness.Eventually(t, "worker a is back", func() error {
			r, err := harness.TrySend(e.Listen, "POST", path, "\x00hello")
			if err == nil && r.Status != 200 {
				err = fmt.Errorf("%v", r)
			}
			return err
		})
	}
	reader, writer := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+e.Listen+"/slow-request", reader)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		resp, err := newClient(t, "HTTP/1.1").Do(req)
		if err == nil {
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			// The health check may find the worker out before the call does.
			if code := string(body); !strings.Contains(code, "WORKER_TIMEOUT") && !strings.Contains(code, "WORKER_UNAVAILABLE") {
				err = fmt.Errorf("%s %s", resp.Status, body)
			}
		}
		answered <- err
	}()
	if _, err := io.WriteString(writer, "first"); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the upstream has the request", func() error {
		if e.Upstream.Count() == 0 {
			return io.EOF
		}
		return nil
	})
	hang()
	if _, err := io.WriteString(writer, "second"); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("a request: %v, want the kernel's refusal, not Envoy's", err)
	}
	_ = writer.Close()
	wake("/slow-request")

	s := openUpload(t, e, "HTTP/1.1", "/slow-response")
	s.send("", "begun")
	hang()
	upstream.goOn <- struct{}{}
	if rest, err := io.ReadAll(s.resp.Body); err == nil || len(rest) > 0 {
		t.Errorf("a response: behind what came before the worker hung came %q, error %v", rest, err)
	}
	wake("/slow-request")
	checkLogs(t, e, []string{"a", "b"})
}

// TestModeIgnored: with allow_mode_override off, Envoy does not do what it is asked for, and says nothing. Where the response passes the kernel, it is refused.
func TestModeIgnored(t *testing.T) {
	t.Parallel()
	e := harness.StartEngine(t, harness.Spec{
		Kernel: twoWorkers + phaseRoutes, Upstream: &phaseUpstream{},
		Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
		EditEnvoy: func(yaml string) string {
			return strings.Replace(yaml, "allow_mode_override: true", "allow_mode_override: false", 1)
		},
	})
	if r := harness.SendBody(t, e.Listen, "POST", "/ignored", "hello"); r.Status != 500 || strings.Contains(r.Body, "hello") {
		t.Errorf("%v", r)
	}
}
