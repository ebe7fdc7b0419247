package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

// endRoutes have policies of the response's body that skip it, only read it, or may replace it.
const endRoutes = `  workers:
    - {name: worker-a, socket_path: "${RUN_DIR}/a.sock", timeout: 2s}
    - {name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock", timeout: 2s}
  route_policies:
    - route_name: typed
      request_flow: {policy_chain: [{policy: redact, params: {literals: [secret], content_types: [text/*], replacement: "*"}}]}
      response_flow: {policy_chain: [{policy: redact, params: {literals: [secret], content_types: [text/*], replacement: "*"}}]}
    - route_name: typed-and-read
      response_flow:
        policy_chain:
          - {policy: redact, params: {literals: [secret], content_types: [text/*], replacement: "*"}}
          - {policy: watchA, params: {name: a, deny_if: forbidden}}
    - route_name: read
      response_flow: {policy_chain: [{policy: watchA, params: {name: a, deny_if: forbidden}}]}
    - route_name: replaced
      response_flow: {policy_chain: [{policy: chunkA, params: {name: a, deny_if: forbidden}}]}
    - route_name: whole
      response_flow: {policy_chain: [{policy: bodyA, params: {name: a, deny_if: forbidden}}]}
`

// endsUpstream answers with "a secret" in the type, coding and length that the query says. With "parts", it sends
// each of them when the client has asked for it.
type endsUpstream struct {
	next     chan struct{}
	announce chan int64 // the content-length of each request; -1 if there was none
}

func (u *endsUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	u.announce <- r.ContentLength
	q := r.URL.Query()
	parts := q["part"]
	if parts == nil {
		parts = []string{"a secret"}
	}
	w.Header().Set("Content-Type", q.Get("type"))
	w.Header().Set("Content-Length", strconv.Itoa(len(strings.Join(parts, ""))))
	w.Header().Set("Etag", `"1"`)
	for _, coding := range q["coding"] {
		w.Header().Add("Content-Encoding", coding)
	}
	w.WriteHeader(http.StatusOK)
	for i, part := range parts {
		if i > 0 {
			<-u.next
		}
		if _, err := io.WriteString(w, part); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
	}
}

func startEnds(t *testing.T, envoy ...string) (*harness.Engine, *endsUpstream) {
	t.Helper()
	u := &endsUpstream{next: make(chan struct{}, 8), announce: make(chan int64, 8)}
	return harness.StartEngine(t, harness.Spec{
		Kernel: endRoutes, Upstream: u, EnvoyArgs: envoy,
		Workers: []harness.WorkerSpec{
			testWorker("a", "worker-a", "A"),
			{Name: "worker-1", Program: "policy-worker-1", Config: "  name: worker-1\n  socket_path: ${RUN_DIR}/worker-1.sock\n"},
		},
	}), u
}

// TestContentLengthStays: where nothing will be replaced, by the headers of a message, content-length and etag go on,
// so that whoever gets the message sees whether it is complete.
func TestContentLengthStays(t *testing.T) {
	t.Parallel()
	e, u := startEnds(t)
	for _, version := range []string{"HTTP/1.1", "HTTP/2"} {
		client := newClient(t, version)
		for _, tc := range []struct {
			target, mediaType string
			stays             bool
			body              string
		}{
			{"/typed", "image/png", true, "a secret"},
			{"/typed", "text/plain", false, "a *"},
			{"/typed-and-read", "image/png", true, "a secret"},
			{"/typed-and-read", "text/plain", false, "a *"},
			{"/read", "text/plain", true, "a secret"},
			{"/replaced", "image/png", false, "a secret"},
			{"/whole", "image/png", true, "a secret"},
		} {
			t.Run(fmt.Sprintf("%s of %s over %s", tc.mediaType, tc.target, version), func(t *testing.T) {
				resp, err := client.Post("http://"+e.Listen+tc.target+"?type="+tc.mediaType, tc.mediaType, strings.NewReader("a secret"))
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				length, etag := resp.Header.Get("Content-Length"), resp.Header.Get("Etag")
				if err != nil || string(body) != tc.body || (length == "8") != tc.stays || (etag != "") != tc.stays {
					t.Errorf("%q, %v, content-length %q, etag %q; want %q, stays %v", body, err, length, etag, tc.body, tc.stays)
				}
				if sent, want := <-u.announce, int64(8); (sent == want) != (tc.stays || tc.target != "/typed") {
					t.Errorf("the upstream got the content-length %d", sent)
				}
			})
		}
	}
	checkLogs(t, e, []string{"a", "worker-1"})
}

// TestUnknownCodings: a coding that nobody can undo is refused by the headers, where a policy wants the body decoded:
// the upstream gets nothing of the request, and the body of the response is not waited for.
func TestUnknownCodings(t *testing.T) {
	t.Parallel()
	e, u := startEnds(t)
	for _, coding := range []string{"x-odd", "GZIP, compress", "gzip, gzip, gzip, gzip"} {
		// The second part never comes.
		r := get(t, e, 502, "/typed?type=text/plain&part=a&part=secret&coding="+strings.ReplaceAll(coding, " ", "%20"))
		wantCode(t, r, "BODY_CODING")
		<-u.announce
		u.next <- struct{}{}
		wantCode(t, post(t, e, 415, "/typed?type=text/plain", "a secret", "Content-Type: text/plain", "Content-Encoding: "+coding, mustNotArrive+"an unknown coding"), "BODY_CODING")
		// Of a body that is not looked at, the coding does not matter.
		if r := get(t, e, 200, "/typed?type=image/png&coding="+strings.ReplaceAll(coding, " ", "%20")); r.Body != "a secret" || r.Header.Get("Content-Length") != "8" {
			t.Errorf("%s: %v", coding, r)
		}
		<-u.announce
	}
	for _, coding := range []string{"identity", "Identity,%20identity"} {
		if r := get(t, e, 200, "/typed?type=text/plain&coding="+coding); r.Body != "a *" {
			t.Errorf("%s: %v", coding, r)
		}
		<-u.announce
	}
	checkLogs(t, e, []string{"a", "worker-1"})
}

// TestResponsesThatBreakOff: a policy refuses in the middle of a response, or the engine is gone. On HTTP/1.1 and
// HTTP/2, the client sees an error, and of the refused chunk nothing. On HTTP/2, Envoy 1.36 resets the stream with
// NO_ERROR, however the engine ends it (http2/codec_impl.cc, reasonToReset): clients that take that for the end of
// the response have only content-length, which therefore stays where no policy may replace the body.
func TestResponsesThatBreakOff(t *testing.T) {
	t.Parallel()
	e, u := startEnds(t)
	for _, version := range []string{"HTTP/1.1", "HTTP/2"} {
		client := newClient(t, version)
		for _, way := range []string{"/read", "/typed-and-read", "/replaced", "engine gone"} {
			t.Run(way+" over "+version, func(t *testing.T) {
				target, second := way, "forbidden"
				if way == "engine gone" {
					target, second = "/read", "allowed"
				}
				resp, err := client.Get("http://" + e.Listen + target + "?type=image/png&part=good&part=" + second)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				<-u.announce
				first := make([]byte, len("good"))
				if _, err := io.ReadFull(resp.Body, first); err != nil {
					t.Fatal(err)
				}
				if way == "engine gone" {
					e.Kernel.Signal(os.Kill)
					e.Kernel.Wait()
					defer func() {
						e.StartKernel()
						e.WaitReady()
					}()
				} else {
					u.next <- struct{}{}
				}
				rest, err := io.ReadAll(resp.Body)
				if way == "engine gone" {
					u.next <- struct{}{}
				}
				if len(rest) > 0 {
					t.Errorf("%q goes on", rest)
				}
				if want := map[string]string{"HTTP/1.1": io.ErrUnexpectedEOF.Error(), "HTTP/2": "NO_ERROR"}[version]; err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, io.EOF) {
					t.Errorf("error %v, want %s", err, want)
				}
				if stays := target != "/replaced"; (resp.ContentLength == int64(len("good")+len(second))) != stays {
					t.Errorf("content-length %d, stays %v", resp.ContentLength, stays)
				}
			})
		}
	}
}
