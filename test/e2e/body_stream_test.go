package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

const streamRoutes = `  limits: {max_body_size: 64KiB}
  route_policies:
    - route_name: mask
      request_flow:
        policy_chain:
          - {policy: chunkA, params: {name: a, find: secret, with: "***"}}
          - {policy: chunkB, params: {name: b, find: "***!", with: "(masked)", deny_if: forbidden, deny_over: 9000000}}
          - {policy: answerB, params: {if: x-deny, status: 401}}
          - {policy: chunkA, params: {name: c, find: ")(", with: ") ("}}
    - route_name: answers
      response_flow:
        policy_chain:
          - {policy: chunkA, params: {name: a, find: secret, with: "***"}}
          - {policy: chunkB, params: {name: b, deny_if: forbidden}}
    - route_name: both
      request_flow: {policy_chain: [{policy: chunkA, params: {name: a, find: secret, with: terces}}]}
      response_flow: {policy_chain: [{policy: chunkB, params: {name: b, find: terces, with: "***"}}]}
    - route_name: tell
      request_flow: {policy_chain: [{policy: chunkA, params: {name: a, tell: true}}, {policy: chunkB, params: {name: b, tell: true}}]}
    - route_name: watch
      request_flow: {policy_chain: [{policy: watchA, params: {name: a, deny_if: forbidden}}]}
      response_flow: {policy_chain: [{policy: watchB, params: {name: b}}]}
    - route_name: whole
      request_flow:
        policy_chain:
          - {policy: chunkA, params: {name: a, tell: true}}
          - {policy: bodyB, params: {name: b, append: "+b"}}
    - route_name: fragile
      request_flow: {policy_chain: [{policy: chunkA, params: {name: a, find: secret, fail_if: bad}}]}
    - route_name: tolerant
      request_flow:
        policy_chain:
          - {policy: chunkA, on_failure: continue, params: {name: a, find: secret, with: "***", fail_if: bad}}
          - {policy: chunkB, params: {name: b, find: word, with: "[word]"}}
    - route_name: skipping
      request_flow:
        policy_chain:
          - {policy: chunkA, on_failure: skip_remaining, params: {name: a, find: secret, with: "***", fail_if: bad}}
          - {policy: chunkB, params: {name: b, find: word, with: "[word]"}}
`

// echo answers with the body of the request, piece by piece, as it comes. What a request was like is told in headers.
func echo(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex()
	w.Header().Set("X-Length", fmt.Sprint(r.ContentLength))
	for _, name := range []string{"X-Body-B", "Transfer-Encoding"} {
		w.Header().Set("X-Got-"+name, r.Header.Get(name))
	}
	w.WriteHeader(http.StatusOK)
	_ = control.Flush()
	piece := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(piece)
		if _, failed := w.Write(piece[:n]); failed != nil || errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			panic(http.ErrAbortHandler) // The answer must not look whole.
		}
		_ = control.Flush()
	}
}

func TestStreams(t *testing.T) {
	t.Parallel()
	e := harness.StartEngine(t, harness.Spec{
		Kernel: twoWorkers + streamRoutes, Upstream: http.HandlerFunc(echo),
		Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	})
	for _, version := range []string{"HTTP/1.1", "HTTP/2"} {
		t.Run("pieces over "+version, func(t *testing.T) { streamPieces(t, e, version) })
		t.Run("large bodies over "+version, func(t *testing.T) { streamLarge(t, e, version) })
		t.Run("refusals over "+version, func(t *testing.T) { streamRefusals(t, e, version) })
	}
	t.Run("failures", func(t *testing.T) { streamFailures(t, e) })
	t.Run("lengths", func(t *testing.T) { streamLengths(t, e) })
	checkLogs(t, e, []string{"a", "b"})
}

// upload is a request whose body is written while its answer is read.
type upload struct {
	t    *testing.T
	body *io.PipeWriter
	resp *http.Response
}

func openUpload(t *testing.T, e *harness.Engine, version, path string, lines ...string) *upload {
	t.Helper()
	reader, writer := io.Pipe()
	t.Cleanup(func() { _ = writer.Close() })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+e.Listen+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	resp, err := newClient(t, version).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return &upload{t, writer, resp}
}

// send writes a piece, which must come back as want before the next is written.
func (s *upload) send(piece, want string) {
	s.t.Helper()
	if _, err := io.WriteString(s.body, piece); err != nil {
		s.t.Fatalf("send %q: %v", piece, err)
	}
	got := make([]byte, len(want))
	if n, err := io.ReadFull(s.resp.Body, got); err != nil || string(got) != want {
		s.t.Fatalf("after %q came %q, want %q, error %v", piece, got[:n], want, err)
	}
}

// end ends the body; want must come back.
func (s *upload) end(want string) {
	s.t.Helper()
	if err := s.body.Close(); err != nil {
		s.t.Fatal(err)
	}
	if got, err := io.ReadAll(s.resp.Body); err != nil || string(got) != want {
		s.t.Errorf("at the end came %q, want %q, error %v", got, want, err)
	}
}

// streamPieces: a piece of the body reaches the upstream, and one of the response the client, without waiting for the next; and what a policy
// looks for is found where it begins in one piece and ends in another.
func streamPieces(t *testing.T, e *harness.Engine, version string) {
	for _, path := range []string{"/mask", "/answers"} {
		s := openUpload(t, e, version, path)
		s.send("hello ", "hello ")
		s.send("my sec", "my ")
		s.send("ret", "***"[:map[string]int{"/mask": 0, "/answers": 3}[path]]) // There, "***!" may follow.
		s.send(" and ", map[string]string{"/mask": "*** and ", "/answers": " and "}[path])
		s.send("se", "")
		s.send("lf", "self")
		s.send("sec", "")
		s.end("sec")
	}
	s := openUpload(t, e, version, "/mask")
	s.send("a secret!", "a (masked")
	s.send("(b", ") (b")
	s.end("")
	s = openUpload(t, e, version, "/both")
	s.send("the sec", "the ")
	s.send("ret, the terc", "***, the ")
	s.send("es.", "***.")
	s.end("")
	// At the end, what each policy holds back goes on, whoever else holds something back.
	s = openUpload(t, e, version, "/mask")
	s.send("a secret", "a ")
	s.end("***")
	s = openUpload(t, e, version, "/both")
	s.send("secretsec", "***")
	s.end("sec")
	s = openUpload(t, e, version, "/tell")
	s.send("1234", "1234")
	s.send("56", "56")
	s.end("[a 6][b 11]")
}

// streamLarge: nothing gets lost, doubled or out of order in bodies that are larger than any buffer on the way, and than the limit for whole bodies.
func streamLarge(t *testing.T, e *harness.Engine, version string) {
	text := bytes.Repeat([]byte("0123456789abcdef secret. "), 8<<20/25)
	want := sha256.Sum256(bytes.ReplaceAll(text, []byte("secret"), []byte("***")))
	for _, path := range []string{"/mask", "/answers", "/both"} {
		resp, err := newClient(t, version).Post("http://"+e.Listen+path, "text/plain", bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		n, err := io.Copy(sum, resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || [sha256.Size]byte(sum.Sum(nil)) != want {
			t.Errorf("%s: status %d, %d bytes of %d, error %v; or their sum is wrong", path, resp.StatusCode, n, len(text), err)
		}
	}
}

// streamRefusals: nothing behind a refusal passes, and who is not let in need not send a body.
func streamRefusals(t *testing.T, e *harness.Engine, version string) {
	s := openUpload(t, e, version, "/mask", "X-Deny: 1", mustNotArrive+"denied for its headers")
	if s.resp.StatusCode != 401 {
		t.Errorf("denied for its headers, before the body: status %d, want 401", s.resp.StatusCode)
	}
	for _, path := range []string{"/mask", "/answers"} {
		s := openUpload(t, e, version, path)
		s.send("let me pass: ", "let me pass: ")
		if _, err := io.WriteString(s.body, "a forbidden word"); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(s.resp.Body); err == nil || len(rest) > 0 {
			t.Errorf("%s: behind the refusal came %q, error %v", path, rest, err)
		}
	}
	s = openUpload(t, e, version, "/mask")
	go func() { _, _ = io.Copy(s.body, io.LimitReader(zeros{}, 12<<20)) }()
	if n, err := io.Copy(io.Discard, s.resp.Body); err == nil || n > 9000000 {
		t.Errorf("%d bytes passed of 9000000 at most, error %v", n, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func streamFailures(t *testing.T, e *harness.Engine) {
	s := openUpload(t, e, "HTTP/2", "/fragile")
	s.send("fine so", "fine so")
	if _, err := io.WriteString(s.body, "bad"); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(s.resp.Body); err == nil || len(rest) > 0 {
		t.Errorf("behind the failure came %q, error %v", rest, err)
	}
	s = openUpload(t, e, "HTTP/2", "/tolerant")
	s.send("a secret word sec", "a *** [word] ")
	s.send("bad", "secbad") // What the policy that failed held back goes on.
	s.send(" secret word", " secret [word]")
	s.end("")
	s = openUpload(t, e, "HTTP/2", "/skipping")
	s.send("a secret wo", "a *** ")
	s.send("bad", "wobad")
	s.send(" secret word", " secret word")
	s.end("")
}

func streamLengths(t *testing.T, e *harness.Engine) {
	for path, want := range map[string]struct{ length, body string }{
		"/mask":  {"-1", "a ***"}, // Nobody knows how long it will be.
		"/watch": {"8", "a secret"},
		"/whole": {"15", "a secret[a 8]+b"},
	} {
		r := post(t, e, 200, path, "a secret")
		if r.Body != want.body || r.Header.Get("X-Length") != want.length {
			t.Errorf("%s: the upstream got %q of length %s, want %v", path, r.Body, r.Header.Get("X-Length"), want)
		}
	}
	get(t, e, 200, "/mask")
	get(t, e, 200, "/watch")
	get(t, e, 401, "/mask", "X-Deny: 1", mustNotArrive+"denied for its headers")
	get(t, e, 403, "/mask", "Connection: Upgrade", "Upgrade: websocket", mustNotArrive+"an upgrade has no body")
	post(t, e, 403, "/watch", "a forbidden word") // The upstream has not answered yet, or the answer has not begun.
	post(t, e, 200, "/mask", strings.Repeat("x", 300<<10))
}

// TestWholeBodyAboveEnvoysBuffer: in full duplex Envoy keeps nothing of a body, so that only the engine's own limit counts, for chunked uploads too.
func TestWholeBodyAboveEnvoysBuffer(t *testing.T) {
	t.Parallel()
	worker := testWorker("a", "worker-a", "A")
	worker.Config += "  resource_limits: {max_body_size: 3MiB}\n"
	e := harness.StartEngine(t, harness.Spec{
		Kernel: `  limits: {max_body_size: 3MiB}
  workers:
    - {name: worker-a, socket_path: "${RUN_DIR}/a.sock", timeout: 2s}
  route_policies:
    - route_name: whole
      request_flow: {policy_chain: [{policy: editBodyA, params: {do: [set x-a 1]}}]}
`,
		Workers: []harness.WorkerSpec{worker}, EnvoyArgs: []string{"--full-duplex", "*"},
	})
	for _, framing := range []string{"X-Framing: length", "Transfer-Encoding: chunked"} {
		before, long := e.Upstream.Count(), strings.Repeat("x", 5<<19)
		post(t, e, 200, "/whole", long, framing)
		if up := arrived(t, e, before); up.Body != long || up.Header.Get("X-A") != "1" {
			t.Errorf("%s: the upstream got %d bytes and %v", framing, len(up.Body), up.Header)
		}
		wantCode(t, post(t, e, 413, "/whole", strings.Repeat("x", 3<<20+1), framing, mustNotArrive+"too large"), "REQUEST_TOO_LARGE")
	}
}
