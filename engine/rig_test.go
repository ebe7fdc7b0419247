package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel"
	"github.com/policy-engine/policy-engine/telemetry"
	"github.com/policy-engine/policy-engine/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bound is how long a test waits for something that must happen.
const bound = 10 * time.Second

const kernelText = `policy_kernel:
  server: {address: 127.0.0.1, port: 9001, transport: %s}
  workers:
    - {name: a, socket_path: %[2]s/a.sock, timeout: 10s, health_check: {interval: 50ms, timeout: 5s}}
    - {name: b, socket_path: %[2]s/b.sock, timeout: 200ms, health_check: {interval: 50ms, timeout: 5s}}
  route_policies:
    - route_name: open
    - route_name: deny
      request_flow: {policy_chain: [{policy: deny}]}
    - route_name: there-and-back
      request_flow: {policy_chain: [{policy: trailA}, {policy: trailB}, {policy: trailA}]}
      response_flow: {policy_chain: [{policy: trailB}, {policy: trailA}]}
    - route_name: gate
      request_flow: {policy_chain: [{policy: gate}, {policy: deny}]}
    - route_name: short
      request_flow: {policy_chain: [{policy: gate, timeout: 20ms}]}
    - route_name: burn
      request_flow: {policy_chain: [{policy: burnA}, {policy: trailA}]}
    - route_name: burn-late
      request_flow: {policy_chain: [{policy: burnB}]}
    - route_name: unoffered
      request_flow: {policy_chain: [{policy: nobodys}]}
`

// journal keeps the log.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

// running is an engine in a test.
type running struct {
	*gate
	t     *testing.T
	log   *journal
	envoy net.Addr
	admin net.Addr
	stop  context.CancelFunc
	ended chan error
	conn  *grpc.ClientConn
	dir   string
}

// transport is $POLICY_ENGINE_TRANSPORT, so that all tests run on each.
func transport() string {
	if name := os.Getenv("POLICY_ENGINE_TRANSPORT"); name != "" {
		return name
	}
	return "fast"
}

// configure makes the configurations: of the kernel, and of the workers a and b, which take four calls at a time that wait.
func configure(t testing.TB, dir string) (*config.Kernel, []Worker, *gate) {
	t.Helper()
	cfg, err := config.ParseKernel("kernel.yaml", fmt.Appendf(nil, kernelText, transport(), dir))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Server.Port, cfg.Admin.Address, cfg.Admin.Port = 0, "127.0.0.1", 0
	g := &gate{entered: make(chan struct{}, 100), open: make(chan struct{}), burnt: make(chan struct{})}
	registries, err := register(g.lists())
	if err != nil {
		t.Fatal(err)
	}
	var ws []Worker
	for i, name := range []string{"a", "b"} {
		w, err := config.ParseWorker(name+".yaml", fmt.Appendf(nil, "policy_worker: {name: %s, socket_path: %s/%[1]s.sock, max_concurrent_requests: 4}", name, dir))
		if err != nil {
			t.Fatal(err)
		}
		ws = append(ws, Worker{Config: w, Registry: registries[i]})
	}
	return cfg, ws, g
}

// socketFolder is not the test's own: its name may be too long for a socket.
func socketFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// start runs the engine with so many of the two workers in its process.
func start(t *testing.T, local int) *running {
	t.Helper()
	r := &running{t: t, log: &journal{}, ended: make(chan error, 1), dir: socketFolder(t)}
	var cfg *config.Kernel
	var ws []Worker
	cfg, ws, r.gate = configure(t, r.dir)
	log, err := telemetry.NewLogger("kernel", "info", r.log)
	if err != nil {
		t.Fatal(err)
	}
	for i := range ws {
		ws[i].Log = log
	}
	cfg.Drain = config.Drain{Deadline: 100 * time.Millisecond}
	listening := make(chan struct{})
	o := kernel.Options{Log: log, Version: "v1", Listening: func(envoy, admin net.Addr) { r.envoy, r.admin = envoy, admin; close(listening) }}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() { r.ended <- Run(ctx, cfg, ws[:local], o) }()
	select {
	case <-listening:
	case err := <-r.ended:
		t.Fatal(err)
	}
	r.conn, err = grpc.NewClient("passthrough:///"+r.envoy.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.stop()
		_ = r.conn.Close()
		http.DefaultClient.CloseIdleConnections()
		_ = log.Close()
	})
	return r
}

// end stops the engine.
func (r *running) end() {
	r.t.Helper()
	r.stop()
	select {
	case err := <-r.ended:
		if err != nil {
			r.t.Error(err)
		}
	case <-time.After(bound):
		r.t.Fatal("the engine does not end")
	}
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(bound)
	for !cond() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func (r *running) get(path string) (int, string) {
	r.t.Helper()
	resp, err := http.Get("http://" + r.admin.String() + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func (r *running) ready() {
	r.t.Helper()
	eventually(r.t, "the engine is ready", func() bool { code, _ := r.get("/health/ready"); return code == http.StatusOK })
}

type stream = grpc.BidiStreamingClient[extprocv3.ProcessingRequest, extprocv3.ProcessingResponse]

func headers(pairs ...string) *extprocv3.HttpHeaders {
	h := &extprocv3.HttpHeaders{Headers: &corev3.HeaderMap{}, EndOfStream: true}
	for i := 0; i < len(pairs); i += 2 {
		h.Headers.Headers = append(h.Headers.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return h
}

// ask opens a stream and sends request headers.
func (r *running) ask(route string, pairs ...string) stream {
	r.t.Helper()
	s, err := r.tryAsk(route, pairs...)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// tryAsk is ask for an engine that may have ended.
func (r *running) tryAsk(route string, pairs ...string) (stream, error) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "x-policy-route", route), bound)
	r.t.Cleanup(cancel)
	s, err := extprocv3.NewExternalProcessorClient(r.conn).Process(ctx)
	if err != nil {
		return nil, err
	}
	h := headers(append([]string{":method", "GET", ":path", "/", "x-request-id", "r1"}, pairs...)...)
	err = s.Send(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: h}})
	if errors.Is(err, io.EOF) {
		err = nil // The answer says more.
	}
	return s, err
}

// answer is the next answer in short: what it sets x-trail to, "pass", or the status and body of an immediate response.
func answer(t testing.TB, s stream) string {
	t.Helper()
	resp, err := s.Recv()
	if err != nil {
		return "error: " + err.Error()
	}
	if im := resp.GetImmediateResponse(); im != nil {
		return fmt.Sprintf("%d %s", im.GetStatus().GetCode(), im.GetBody())
	}
	common := resp.GetRequestHeaders().GetResponse()
	if resp.GetResponseHeaders() != nil {
		common = resp.GetResponseHeaders().GetResponse()
	}
	for _, h := range common.GetHeaderMutation().GetSetHeaders() {
		if h.GetHeader().GetKey() == "x-trail" {
			return string(h.GetHeader().GetRawValue())
		}
	}
	return "pass"
}

// serveWorker runs a worker of the configuration on its socket, as a process of its own would.
func (r *running) serveWorker(w Worker) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	serving, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- worker.Run(ctx, w.Config, w.Registry, worker.Options{Version: "v1", Serving: func() { close(serving) }})
	}()
	select {
	case <-serving:
	case err := <-ended:
		r.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Error(err)
		}
	})
	r.t.Cleanup(stop)
	return stop
}

func file(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
