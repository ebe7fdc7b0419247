package engine

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"

	"github.com/policy-engine/policy-engine/test/harness"
)

var rewrite = flag.Bool("rewrite", false, "record anew what Envoy sends, with new keys and tokens")

const (
	callers = 32
	// requests of each recording: the first ones fill Envoy's HPACK table, the last one is not used.
	requests = 4*callers + 8
)

// tap is a TCP proxy before the engine that keeps what its clients send, for each connection.
type tap struct {
	address string
	mu      sync.Mutex
	sent    []*bytes.Buffer
}

// newTap listens; serve takes what comes.
func newTap(t *testing.T) (*tap, net.Listener) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &tap{address: l.Addr().String()}, l
}

// serve passes connections on until the listener is closed.
func (p *tap) serve(l net.Listener, to string) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		kernel, err := net.Dial("tcp", to)
		if err != nil {
			_ = from.Close()
			continue
		}
		go p.carry(from, kernel)
		go func() { _, _ = io.Copy(from, kernel) }()
	}
}

func (p *tap) carry(from, kernel net.Conn) {
	defer from.Close()
	defer kernel.Close()
	kept := &bytes.Buffer{}
	p.mu.Lock()
	p.sent = append(p.sent, kept)
	p.mu.Unlock()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		p.mu.Lock()
		kept.Write(b[:n])
		p.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := kernel.Write(b[:n]); err != nil {
			return
		}
	}
}

// connection returns what came on the only connection.
func (p *tap) connection(t *testing.T) []byte {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.sent) != 1 {
		t.Fatalf("Envoy has opened %d connections, want 1", len(p.sent))
	}
	return bytes.Clone(p.sent[0].Bytes())
}

// record sends n requests through the real Envoy to the engine and returns what Envoy sent to it.
func record(t *testing.T, scene string, s harness.Spec, n int, lines func(i int) []string) []byte {
	t.Helper()
	p, l := newTap(t)
	s.EnvoyArgs = []string{"--engine", p.address}
	e := harness.Prepare(t, s)
	go p.serve(l, e.ExtProc)
	e.StartWorker("worker-1")
	e.StartKernel()
	e.WaitReady()
	e.StartEnvoy()
	for i := range n {
		target := fmt.Sprintf("/%s/%d/items?page=%d&sort=created", scene, 1000+i, i%7)
		if r := harness.Send(t, e.Listen, "GET", target, lines(i)...); r.Status != 200 {
			t.Fatalf("request %d of %s: %v", i, scene, r)
		}
	}
	sent := p.connection(t)
	e.Envoy.Kill()
	return sent
}

// browser is what a browser sends with a request, beside its credentials.
var browser = []string{
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
	"Accept: application/json, text/plain, */*",
	"Accept-Language: en-GB,en;q=0.9,de;q=0.8",
	"Accept-Encoding: gzip, deflate, br, zstd",
	"Referer: https://app.example.com/orders",
	"Origin: https://app.example.com",
	"Sec-Fetch-Dest: empty",
	"Sec-Fetch-Mode: cors",
	"Sec-Fetch-Site: same-site",
	"Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}

// TestRecord makes bench/recorded anew with -rewrite. Without, it checks that Envoy still sends what was recorded, but for what is of one request.
func TestRecord(t *testing.T) {
	s := spec(t)
	if *rewrite {
		lines := newCallers(t)
		for _, scene := range scenes {
			sent := record(t, scene, s, requests, lines)
			if _, err := ParseRecording(sent); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(recorded, scene+".h2.gz"), compress(t, sent))
		}
		return
	}
	// The other scenes need tokens of an issuer whose key nobody has any more.
	now, err := ParseRecording(record(t, "none", s, 8, func(int) []string { return browser }))
	if err != nil {
		t.Fatal(err)
	}
	was := recordingOf(t, "none")
	if !bytes.Equal(now.Opening, was.Opening) {
		t.Errorf("Envoy opens a connection with %q, it was %q", now.Opening, was.Opening)
	}
	if got, want := shape(t, now), shape(t, was); got != want {
		t.Errorf("Envoy sends for a request\n%s\nand it was\n%s", got, want)
	}
}

// shape is what does not differ from request to request: the frames around the message, its fields, and the names of the headers.
func shape(t *testing.T, r *Recording) string {
	t.Helper()
	s := r.Streams[r.Steady]
	var m extprocv3.ProcessingRequest
	if err := proto.Unmarshal(s.Messages[0][frameHeaderLen+messagePrefixLen:], &m); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, h := range m.GetRequestHeaders().GetHeaders().GetHeaders() {
		if !slices.Contains([]string{"x-api-key", "authorization"}, h.GetKey()) {
			names[h.GetKey()] = true
		}
	}
	m.GetRequestHeaders().Headers = nil
	return fmt.Sprintf("%d messages\nHEADERS %x\nnames %v\nthe rest of the message %v\nclosing %x",
		len(s.Messages), s.Head[frameHeaderLen:], slices.Sorted(maps.Keys(names)), strings.Join(strings.Fields(m.String()), " "), withoutID(s.Closing))
}

func withoutID(frames []byte) []byte {
	f, _, ok := nextFrame(frames)
	if !ok {
		return nil
	}
	return append([]byte{f.kind, f.flags}, f.payload()...)
}

// newCallers writes a key file and a key set, and returns the headers of request i. The issuer's private key is thrown away.
func newCallers(t *testing.T) func(i int) []string {
	t.Helper()
	dir := t.TempDir()
	policyctl(t, "token", "init", "--dir", dir)
	set, err := os.ReadFile(filepath.Join(dir, "jwks.json"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(recorded, "jwks.json"), set)
	keys := "# The digests of the keys in the recordings; they open nothing else.\nkeys:\n"
	var credentials [callers][]string
	for i := range credentials {
		key := fmt.Sprintf("pe_recorded_%032x", sha256.Sum256([]byte{byte(i)}))[:48]
		keys += fmt.Sprintf("  - {id: caller-%d, sha256: \"%x\", scopes: [orders.read]}\n", i, sha256.Sum256([]byte(key)))
		token := policyctl(t, "token", "--key", filepath.Join(dir, "issuer.key"), "--issuer", "https://issuer.bench.example", "--sub", fmt.Sprintf("caller-%d", i),
			"--audience", "api", "--scope", "orders.read", "--claim", "tenant=acme", "--ttl", "876000h") // A hundred years.
		credentials[i] = append([]string{"X-API-Key: " + key, "Authorization: Bearer " + strings.TrimSpace(token)}, browser...)
	}
	write(t, filepath.Join(recorded, "api-keys.yaml"), []byte(keys))
	return func(i int) []string { return credentials[i%callers] }
}

func policyctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(harness.Program(t, "policyctl"), args...).Output()
	if err != nil {
		t.Fatalf("policyctl %v: %v", args, err)
	}
	return string(out)
}

func compress(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
