package e2e

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/policy-engine/policy-engine/test/harness"
)

const codingRoutes = `  limits: {max_body_size: 64KiB}
  route_policies:
    - route_name: up
      request_flow:
        policy_chain:
          - {policy: plainA, on_failure: continue, params: {name: a, deny_if: bad}}
          - {policy: bodyB, params: {name: coded}}
          - {policy: plainB, params: {name: b, append: "+b"}}
    - route_name: look
      request_flow: {policy_chain: [{policy: plainA, on_failure: continue, params: {name: a, deny_if: bad}}]}
    - route_name: down
      response_flow:
        policy_chain:
          - {policy: plainA, on_failure: continue, params: {name: a, append: "+a", deny_if: bad}}
          - {policy: plainB, on_failure: continue, params: {name: b}}
    - route_name: chunks
      request_flow: {policy_chain: [{policy: plainChunksA, on_failure: continue}]}
      response_flow: {policy_chain: [{policy: plainChunksB, on_failure: continue}]}
`

func inGzip(t *testing.T, text string) string {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := io.WriteString(w, text); err != nil || w.Close() != nil {
		t.Fatal("gzip")
	}
	return out.String()
}

// fromGzip is what a body says, or why it says nothing.
func fromGzip(body string) string {
	r, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		return err.Error()
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func inZstd(t *testing.T, text string) string {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	return string(w.EncodeAll([]byte(text), nil))
}

// fromZstd is what a body says, or why it says nothing.
func fromZstd(body string) string {
	r, err := zstd.NewReader(strings.NewReader(body), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// codedEcho answers with the body that it got, in its coding.
var codedEcho = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	for _, name := range []string{"Content-Encoding", "X-Body-A", "X-Body-B", "Content-Digest"} {
		for _, value := range r.Header.Values(name) {
			w.Header().Add(name, value)
		}
	}
	w.Header().Set("Etag", `"1"`)
	w.Header().Set("X-Offered", strings.Join(r.Header.Values("Accept-Encoding"), " | "))
	w.Header().Set("X-Upstream", "reached")
	if coding := r.Header.Get("X-Answer-Coding"); coding != "" {
		w.Header().Set("Content-Encoding", coding)
	}
	_, _ = w.Write(body)
})

// TestCodedBodies is about policies that want bodies decoded: what they see, what goes on, and that nothing gets past them.
func TestCodedBodies(t *testing.T) {
	t.Parallel()
	e := harness.StartEngine(t, harness.Spec{
		Kernel:   twoWorkers + codingRoutes,
		Workers:  []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
		Upstream: codedEcho,
	})
	const coding, chunked = "Content-Encoding: gzip", "Transfer-Encoding: chunked"
	bomb := inGzip(t, strings.Repeat("\x00", 10<<20))
	for _, framing := range []string{"X-Framing: length", chunked} {
		r := post(t, e, 200, "/up", inGzip(t, "hello"), coding, framing, "Content-Digest: sha-256=:x:")
		wantHeader(t, r.Header, "X-Body-A", `5 "hello"`)
		if got := fromGzip(r.Body); got != "hello+b" || r.Header.Get("Content-Digest") != "" {
			t.Errorf("%s: the upstream got %q, %v", framing, got, r.Header)
		}
		if r := post(t, e, 200, "/look", inGzip(t, "hello"), coding, framing, "Content-Digest: sha-256=:x:"); r.Body != inGzip(t, "hello") || r.Header.Get("Content-Digest") == "" {
			t.Errorf("%s: what no policy replaced goes on as %q, %v", framing, r.Body, r.Header)
		}
		for _, target := range []string{"/up", "/look"} {
			wantCode(t, post(t, e, 403, target, inGzip(t, "a bad one"), coding, framing, mustNotArrive+"bad"), "BAD_BODY")
			wantCode(t, post(t, e, 403, target, inGzip(t, inGzip(t, "a bad one")), "Content-Encoding: gzip, gzip", framing, mustNotArrive+"bad twice"), "BAD_BODY")
			wantCode(t, post(t, e, 413, target, bomb, coding, framing, mustNotArrive+"a bomb"), "REQUEST_TOO_LARGE")
			wantCode(t, post(t, e, 415, target, "a bad one", coding, framing, mustNotArrive+"not gzip"), "BODY_CODING")
			wantCode(t, post(t, e, 415, target, "a bad one", "Content-Encoding: compress", framing, mustNotArrive+"unknown"), "BODY_CODING")
		}
		r = post(t, e, 200, "/down", inGzip(t, "hello"), coding, framing)
		wantHeader(t, r.Header, "X-Body-B", `7 "hello+a"`)
		if got := fromGzip(r.Body); got != "hello+a" || r.Header.Get("Etag") != "" || r.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("%s: the client got %q, %v", framing, got, r.Header)
		}
		for want, r := range map[int]*harness.Response{
			403: post(t, e, 403, "/down", inGzip(t, "a bad one"), coding, framing),
			502: post(t, e, 502, "/down", bomb, coding, framing),
		} {
			if strings.Contains(r.Body, "bad one") || r.Header.Get("X-Upstream") != "" {
				t.Errorf("%d: the upstream's response passes: %v", want, r)
			}
		}
		wantCode(t, post(t, e, 502, "/down", "a bad one", "X-Answer-Coding: compress", framing), "BODY_CODING")
		// Chunks: as a whole where they are coded, and as they come where not.
		if got := fromGzip(post(t, e, 200, "/chunks", inGzip(t, "hello"), coding, framing).Body); got != "HELLO" {
			t.Errorf("%s: coded chunks: %q", framing, got)
		}
		if r := post(t, e, 200, "/chunks", "hello", framing); r.Body != "HELLO" {
			t.Errorf("%s: chunks: %q", framing, r.Body)
		}
		wantCode(t, post(t, e, 415, "/chunks", "hello", "Content-Encoding: compress", framing, mustNotArrive+"unknown"), "BODY_CODING")
		post(t, e, 502, "/chunks", "hello", "X-Answer-Coding: compress", framing)
	}
	r := post(t, e, 415, "/up", "a bad one", "Content-Encoding: compress", mustNotArrive+"unknown")
	wantHeader(t, r.Header, "Accept-Encoding", "gzip, deflate, br, zstd")
	// Both ways, in zstd.
	r = post(t, e, 200, "/up", inZstd(t, "hello"), "Content-Encoding: zstd")
	wantHeader(t, r.Header, "X-Body-A", `5 "hello"`)
	if got := fromZstd(r.Body); got != "hello+b" {
		t.Errorf("zstd: the upstream got %q", got)
	}
	wantCode(t, post(t, e, 403, "/look", inZstd(t, "a bad one"), "Content-Encoding: zstd", mustNotArrive+"bad"), "BAD_BODY")
	wantCode(t, post(t, e, 413, "/look", inZstd(t, strings.Repeat("\x00", 10<<20)), "Content-Encoding: zstd", mustNotArrive+"a bomb"), "REQUEST_TOO_LARGE")
	if got := fromZstd(post(t, e, 200, "/down", inZstd(t, "hello"), "X-Answer-Coding: zstd").Body); got != "hello+a" {
		t.Errorf("zstd: the client got %q", got)
	}
	// What the upstream is asked for is what can be undone, where a policy wants the response decoded.
	for offered, want := range map[string]string{"gzip, br;q=0.5, dcb": "gzip, br;q=0.5", "zstd": "zstd", "*": "identity", "compress": "identity"} {
		wantHeader(t, post(t, e, 200, "/down", "hello", "Accept-Encoding: "+offered).Header, "X-Offered", want)
	}
	wantHeader(t, post(t, e, 200, "/look", "hello", "Accept-Encoding: dcb").Header, "X-Offered", "dcb")
	if r := harness.Send(t, e.Listen, "HEAD", "/down", "X-Answer-Coding: gzip"); r.Status != 200 || r.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("HEAD of a coded body: %v", r)
	}
	checkLogs(t, e, []string{"a", "b"})
}
