package kernel

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/telemetry"
)

const configText = `policy_kernel:
  workers:
    - name: worker-1
      socket_path: %s
      timeout: 300ms
      health_check: {interval: 20ms, timeout: 2s}
  route_policies:
    - route_name: open
    - route_name: guarded
      request_flow:
        policy_chain:
          - policy: guard
            params:
              key_store: partners
              list: [1, 2]
    - route_name: both
      request_flow:
        policy_chain:
          - {policy: guard}
      response_flow:
        policy_chain:
          - {policy: guard}
    - route_name: unoffered
      request_flow:
        policy_chain:
          - {policy: nobodys}
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

// lines returns the lines with this text in them.
func (j *journal) lines(text string) (found []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(j.buf.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// running is a kernel in a test.
type running struct {
	t      *testing.T
	log    *journal
	logger *telemetry.Logger
	client extprocv3.ExternalProcessorClient
	envoy  net.Addr
	admin  net.Addr
	stop   context.CancelFunc
	conn   *grpc.ClientConn
	ended  chan error
}

// launch starts a kernel with the worker's socket at path.
func launch(t *testing.T, path string, change func(*config.Kernel, *Options)) *running {
	t.Helper()
	cfg, err := config.ParseKernel("kernel.yaml", fmt.Appendf(nil, configText, path))
	if err != nil {
		t.Fatal(err)
	}
	if name := os.Getenv("POLICY_ENGINE_TRANSPORT"); name != "" {
		cfg.Server.Transport = config.Transport(name)
	}
	cfg.Drain = config.Drain{Deadline: 100 * time.Millisecond}
	cfg.Server.Address, cfg.Server.Port, cfg.Admin.Address, cfg.Admin.Port = "127.0.0.1", 0, "127.0.0.1", 0
	r := &running{t: t, log: &journal{}, ended: make(chan error, 1)}
	if r.logger, err = telemetry.NewLogger("kernel", "info", r.log); err != nil {
		t.Fatal(err)
	}
	listening := make(chan struct{})
	o := Options{Log: r.logger, Listening: func(envoy, admin net.Addr) { r.envoy, r.admin = envoy, admin; close(listening) }}
	if change != nil {
		change(cfg, &o)
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() { r.ended <- Run(ctx, cfg, o) }()
	select {
	case <-listening:
	case err := <-r.ended:
		select {
		case <-listening:
			r.ended <- err // It listened, and has ended already.
		default:
			t.Fatal(err)
		}
	}
	conn, err := grpc.NewClient("passthrough:///"+r.envoy.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	r.conn = conn
	r.client = extprocv3.NewExternalProcessorClient(conn)
	t.Cleanup(func() {
		r.stop()
		_ = conn.Close()
		http.DefaultClient.CloseIdleConnections()
		_ = r.logger.Close()
	})
	return r
}

// end stops the kernel and returns what Run returned.
func (r *running) end() error {
	r.t.Helper()
	r.stop()
	return r.wait()
}

func (r *running) wait() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		_ = r.logger.Flush()
		return err
	case <-time.After(bound):
		r.t.Fatal("the kernel does not end")
		return nil
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

func headers(pairs ...string) *extprocv3.HttpHeaders {
	h := &extprocv3.HttpHeaders{Headers: &corev3.HeaderMap{}, EndOfStream: true}
	for i := 0; i < len(pairs); i += 2 {
		h.Headers.Headers = append(h.Headers.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return h
}

func requestHeaders(pairs ...string) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{
		RequestHeaders: headers(append([]string{":method", "GET", ":path", "/", "x-request-id", "r1"}, pairs...)...),
	}}
}

// ask sends request headers and returns the HTTP status of the immediate response, 0 if the request may go on.
func (r *running) ask(route string, pairs ...string) int {
	r.t.Helper()
	s := r.stream(route)
	resp := r.exchange(s, requestHeaders(pairs...))
	if im := resp.GetImmediateResponse(); im != nil {
		return int(im.GetStatus().GetCode())
	}
	if resp.GetRequestHeaders() == nil {
		r.t.Fatalf("the answer is %v", resp)
	}
	return 0
}

func (r *running) stream(route string) grpc.BidiStreamingClient[extprocv3.ProcessingRequest, extprocv3.ProcessingResponse] {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(r.t.Context(), "x-policy-route", route), bound)
	r.t.Cleanup(cancel)
	s, err := r.client.Process(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *running) exchange(s grpc.BidiStreamingClient[extprocv3.ProcessingRequest, extprocv3.ProcessingResponse], m *extprocv3.ProcessingRequest) *extprocv3.ProcessingResponse {
	r.t.Helper()
	if err := s.Send(m); err != nil {
		r.t.Fatal(err)
	}
	resp, err := s.Recv()
	if err != nil {
		r.t.Fatal(err)
	}
	return resp
}

func (r *running) ready() {
	r.t.Helper()
	body := ""
	defer func() {
		if r.t.Failed() {
			_ = r.logger.Flush()
			r.t.Log(body, r.log.lines(""))
		}
	}()
	eventually(r.t, "the kernel is ready", func() bool { code := 0; code, body = r.get("/health/ready"); return code == http.StatusOK })
}

// metrics returns the lines that begin with the prefix, sums of durations left out.
func (r *running) metrics(prefix string) string {
	_, body := r.get("/metrics")
	var b strings.Builder
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, prefix) {
			b.WriteString(line)
		}
	}
	return b.String()
}
