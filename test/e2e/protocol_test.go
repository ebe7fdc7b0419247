package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
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

const protocolRoutes = `  workers:
    - {name: worker-a, socket_path: "${RUN_DIR}/a.sock"}
    - {name: worker-b, socket_path: "${RUN_DIR}/b.sock"}
  route_policies:
    - route_name: gate
      request_flow: {policy_chain: [{policy: answerA, params: {if: x-e2e-must-not-arrive, status: 403}}]}
    - route_name: both
      request_flow: {policy_chain: [{policy: answerA, params: {if: x-e2e-must-not-arrive, status: 403}}]}
      response_flow: {policy_chain: [{policy: witnessB, params: {name: back}}]}
`

// protocolUpstream answers in the ways that are more than one block: upgrades, events, bodies.
type protocolUpstream struct {
	next chan struct{} // allows the next event
}

func (u *protocolUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("Upgrade") != "":
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.Copy(conn, rw) // echo, until the client ends
	case strings.HasSuffix(r.URL.Path, "/events"):
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-u.next:
			case <-r.Context().Done():
				return
			}
		}
	default:
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		if err != nil {
			return
		}
		fmt.Fprintf(w, "%s %d %x", r.Proto, n, sum.Sum(nil))
	}
}

// TestProtocols: what HTTP carries besides a block of headers passes policies on the headers untouched, and does not pass a refusal.
func TestProtocols(t *testing.T) {
	t.Parallel()
	upstream := &protocolUpstream{next: make(chan struct{})}
	e := harness.StartEngine(t, harness.Spec{
		Kernel: protocolRoutes, Upstream: upstream,
		Workers: []harness.WorkerSpec{testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")},
	})
	for _, path := range []string{"/gate", "/both"} {
		for _, version := range []string{"HTTP/1.1", "HTTP/2"} {
			t.Run("bodies over "+version+" on "+path, func(t *testing.T) { bodies(t, e, path, version) })
		}
		t.Run("events on "+path, func(t *testing.T) { events(t, e, path, upstream) })
		t.Run("WebSocket on "+path, func(t *testing.T) { webSocket(t, e, path) })
	}
	checkLogs(t, e, []string{"a", "b"})
}

func newClient(t *testing.T, version string) *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	if version == "HTTP/2" {
		transport.Protocols.SetUnencryptedHTTP2(true)
	} else {
		transport.Protocols.SetHTTP1(true)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: harness.Timeout}
}

func bodies(t *testing.T, e *harness.Engine, path, version string) {
	client := newClient(t, version)
	for _, size := range []int{0, 1, 3 << 20} {
		body := bytes.Repeat([]byte{'b'}, size)
		resp, err := client.Post("http://"+e.Listen+path, "application/octet-stream", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := fmt.Sprintf("HTTP/1.1 %d %x", size, sha256.Sum256(body)); err != nil || resp.StatusCode != 200 || string(got) != want {
			t.Errorf("%d bytes: status %d, %.100q, error %v; want %q", size, resp.StatusCode, got, err, want)
		}
	}
	// A refusal does not wait for a body that is still on its way.
	reader, writer := io.Pipe()
	defer writer.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+e.Listen+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(harness.MustNotArrive, "denied, with a body")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 403 {
		t.Errorf("status %d, want 403", resp.StatusCode)
	}
}

func events(t *testing.T, e *harness.Engine, path string, upstream *protocolUpstream) {
	ctx, cancel := context.WithTimeout(t.Context(), harness.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.Listen+path+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := newClient(t, "HTTP/1.1").Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for i := range 3 {
		// The upstream sends the next one only when this one has arrived.
		line, err := lines.ReadString('\n')
		if want := fmt.Sprintf("data: %d\n", i); err != nil || line != want {
			t.Fatalf("event %d: %q, error %v", i, line, err)
		}
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		upstream.next <- struct{}{}
	}
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("after the events: %q, error %v", rest, err)
	}
}

func webSocket(t *testing.T, e *harness.Engine, path string) {
	upgrade := func(lines ...string) (net.Conn, *bufio.Reader, *http.Response) {
		t.Helper()
		conn, err := net.Dial("tcp", e.Listen)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(harness.Timeout)); err != nil {
			t.Fatal(err)
		}
		lines = append([]string{"GET " + path + " HTTP/1.1", "Host: e2e.example", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}, lines...)
		if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		reader := bufio.NewReader(conn)
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		return conn, reader, resp
	}
	if _, _, resp := upgrade(mustNotArrive + "an upgrade that is denied"); resp.StatusCode != 403 {
		t.Errorf("a denied upgrade: %s", resp.Status)
	}
	conn, reader, resp := upgrade()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %s", resp.Status)
	}
	for _, message := range []string{"ping", strings.Repeat("x", 100000)} {
		go func() { _, _ = io.WriteString(conn, message) }()
		got := make([]byte, len(message))
		if _, err := io.ReadFull(reader, got); err != nil && !errors.Is(err, io.EOF) || string(got) != message {
			t.Fatalf("the echo is %.20q, error %v", got, err)
		}
	}
}
