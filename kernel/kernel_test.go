package kernel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/extproc"
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
	ended  chan error
}

// launch starts a kernel with the worker's socket at path.
func launch(t *testing.T, path string, change func(*config.Kernel, *Options)) *running {
	t.Helper()
	cfg, err := config.ParseKernel("kernel.yaml", fmt.Appendf(nil, configText, path))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Server.Address, cfg.Server.Port, cfg.Admin.Address, cfg.Admin.Port = "127.0.0.1", 0, "127.0.0.1", 0
	r := &running{t: t, log: &journal{}, ended: make(chan error, 1)}
	if r.logger, err = telemetry.NewLogger("kernel", "info", r.log); err != nil {
		t.Fatal(err)
	}
	listening := make(chan struct{})
	o := Options{Log: r.logger, DrainTime: 100 * time.Millisecond, Listening: func(envoy, admin net.Addr) { r.envoy, r.admin = envoy, admin; close(listening) }}
	if change != nil {
		change(cfg, &o)
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() { r.ended <- Run(ctx, cfg, o) }()
	select {
	case <-listening:
	case err := <-r.ended:
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+r.envoy.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
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
	eventually(r.t, "the kernel is ready", func() bool { code, _ := r.get("/health/ready"); return code == http.StatusOK })
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

func TestRun(t *testing.T) {
	path := socketPath(t)
	r := launch(t, path, nil)

	// Without its worker: what needs no policy passes, the rest is refused.
	for _, tt := range []struct {
		route string
		want  int
	}{{"open", 0}, {"guarded", 503}, {"both", 503}, {"unoffered", 503}, {"nowhere", 500}, {"", 500}} {
		eventually(t, "the first table is in use", func() bool { return r.ask("open") == 0 })
		if got := r.ask(tt.route); got != tt.want {
			t.Errorf("route %q without a worker: %d, want %d", tt.route, got, tt.want)
		}
	}
	code, body := r.get("/health/ready")
	var missing readiness
	if err := json.Unmarshal([]byte(body), &missing); err != nil || code != http.StatusServiceUnavailable || missing.Ready ||
		len(missing.Missing) != 1 || !strings.Contains(missing.Missing[0], "worker-1") || !strings.Contains(missing.Workers[0].Replicas[0].Problem, "there is no such file") {
		t.Errorf("readiness %d %s", code, body)
	}
	if code, _ := r.get("/health/live"); code != http.StatusOK {
		t.Errorf("liveness %d", code)
	}

	f := &fakeWorker{name: "worker-1", policies: []string{"guard"}}
	kill := f.start(t, path)
	r.ready()
	for _, tt := range []struct {
		route string
		pairs []string
		want  int
	}{{"open", nil, 0}, {"guarded", nil, 0}, {"guarded", []string{"x", "deny"}, 403}, {"both", nil, 0}, {"unoffered", nil, 500}, {"nowhere", nil, 500}} {
		if got := r.ask(tt.route, tt.pairs...); got != tt.want {
			t.Errorf("route %q: %d, want %d", tt.route, got, tt.want)
		}
	}
	eventually(t, "the table before was retired", func() bool { return f.held() == 1 })

	kill()
	eventually(t, "the kernel is not ready", func() bool { code, _ := r.get("/health/ready"); return code == http.StatusServiceUnavailable })
	if got := r.ask("guarded"); got != 503 {
		t.Errorf("with its worker killed: %d, want 503", got)
	}
	if got := r.metrics("policy_kernel_worker_health"); got != `policy_kernel_worker_health{worker="worker-1"} 0`+"\n" {
		t.Error(got)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if n := len(r.log.lines(`"message":"unknown route"`)); n != 2 {
		t.Errorf("%d lines on two unknown routes", n)
	}
	for _, want := range []string{"worker replica is up", "worker replica is down", "no worker offers a policy", "policy kernel is draining"} {
		if len(r.log.lines(want)) == 0 {
			t.Errorf("no line with %q", want)
		}
	}
}

func TestMetrics(t *testing.T) {
	path := socketPath(t)
	f := &fakeWorker{name: "worker-1", policies: []string{"guard"}}
	f.start(t, path)
	r := launch(t, path, nil)
	r.ready()
	for range 3 {
		r.ask("guarded")
	}
	r.ask("guarded", "x", "deny")
	r.ask("guarded", "x", "hang")
	r.ask("open")
	r.ask("nowhere")
	r.ask("elsewhere")
	r.ask("unoffered")
	for _, status := range []string{"200", "deny"} {
		s := r.stream("both")
		r.exchange(s, requestHeaders())
		resp := r.exchange(s, &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: headers(":status", "200", "x", status)}})
		if refused := resp.GetImmediateResponse() != nil; refused != (status == "deny") {
			t.Errorf("response %q: %v", status, resp)
		}
	}
	want := `policy_kernel_requests_total{route="both",worker="worker-1",status="allowed"} 2
policy_kernel_requests_total{route="guarded",worker="worker-1",status="allowed"} 3
policy_kernel_requests_total{route="guarded",worker="worker-1",status="denied"} 1
policy_kernel_requests_total{route="guarded",worker="worker-1",status="worker_timeout"} 1
policy_kernel_requests_total{route="open",worker="none",status="allowed"} 1
policy_kernel_requests_total{route="unknown",worker="none",status="unknown_route"} 2
policy_kernel_requests_total{route="unoffered",worker="none",status="policy_not_supported"} 1
`
	if got := r.metrics("policy_kernel_requests_total"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := r.metrics("policy_kernel_response_failures_total"); got != `policy_kernel_response_failures_total{route="both",worker="worker-1",status="denied"} 1`+"\n" {
		t.Error(got)
	}
	if got := r.metrics(`policy_kernel_request_duration_seconds_count{route="guarded"`); got != `policy_kernel_request_duration_seconds_count{route="guarded",worker="worker-1"} 5`+"\n" {
		t.Error(got)
	}
	// The call that hung is the only one that took 300 ms.
	if got := r.metrics(`policy_kernel_request_duration_seconds_bucket{route="guarded",worker="worker-1",le="+Inf"`); !strings.HasSuffix(got, " 5\n") {
		t.Error(got)
	}
	if got := r.metrics(`policy_kernel_request_duration_seconds_bucket{route="guarded",worker="worker-1",le="0.25"`); !strings.HasSuffix(got, " 4\n") {
		t.Error(got)
	}
	if got := r.metrics("policy_kernel_worker_health"); got != `policy_kernel_worker_health{worker="worker-1"} 1`+"\n" {
		t.Error(got)
	}
	if got := r.metrics("policy_worker_"); got != "policy_worker_executions_total{policy=\"guard\",status=\"ok\"} 7\n" {
		t.Error(got)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

func TestDrainRefuses(t *testing.T) {
	path := socketPath(t)
	f := &fakeWorker{name: "worker-1", policies: []string{"guard"}}
	f.start(t, path)
	r := launch(t, path, func(cfg *config.Kernel, _ *Options) { cfg.Workers[0].Timeout = time.Minute })
	r.ready()
	s := r.stream("guarded")
	if err := s.Send(requestHeaders("x", "hang")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stream is open", func() bool { return r.metrics("policy_kernel_streams ") == "policy_kernel_streams 1\n" })
	if err := r.end(); err != nil {
		t.Error(err)
	}
	resp, err := s.Recv()
	if err == nil || errors.Is(err, io.EOF) || status.Code(err) == codes.OK {
		t.Errorf("an undecided request ended with %v, %v", resp, err)
	}
}

func mistake(path string) *workerv1.ConfigError {
	return &workerv1.ConfigError{Path: path, Message: "is wrong; right is legal"}
}

func TestMistakesAtTheStart(t *testing.T) {
	policy := "policy_kernel.route_policies[1].request_flow.policy_chain[0]"
	tests := []struct{ name, path, want string }{
		{"parameter", policy + ".params.key_store", "kernel.yaml:14: " + policy + ".params.key_store: is wrong; right is legal (says worker worker-1)"},
		{"element of a list", policy + ".params.list[1]", "kernel.yaml:15: " + policy + ".params.list[1]: is wrong; right is legal (says worker worker-1)"},
		{"parameter that is missing", policy + ".params.other", "kernel.yaml:12: " + policy + ".params.other: is wrong; right is legal (says worker worker-1)"},
		{"the policy", policy, "kernel.yaml:12: " + policy + ": is wrong; right is legal (says worker worker-1)"},
		{"a path that is not in the file", "elsewhere", "kernel.yaml: elsewhere: is wrong; right is legal (says worker worker-1)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := socketPath(t)
			f := &fakeWorker{name: "worker-1", policies: []string{"guard"}}
			f.setReject(mistake(tt.path))
			r := launch(t, path, nil)
			f.start(t, path)
			err := r.wait()
			var found config.Errors
			if !errors.As(err, &found) || len(found) != 1 || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestMistakeOfTheCompiler(t *testing.T) {
	path := socketPath(t)
	r := launch(t, path, func(cfg *config.Kernel, _ *Options) { cfg.Routes = append(cfg.Routes, cfg.Routes[0]) })
	var found config.Errors
	if err := r.wait(); !errors.As(err, &found) || len(found) != 1 || found[0].Pos.File != "kernel.yaml" {
		t.Errorf("got %v", err)
	}
}

func TestLastGoodStays(t *testing.T) {
	path := socketPath(t)
	f := &fakeWorker{name: "worker-1", policies: []string{"guard"}}
	kill := f.start(t, path)
	r := launch(t, path, nil)
	r.ready()
	kill()

	// The worker comes back with another policy, so that a new table is made, which it rejects; the one before it accepts.
	next := &pickyWorker{fakeWorker: fakeWorker{name: "worker-1", policies: []string{"guard", "more"}}}
	for g := range f.generations {
		next.accept = g
	}
	next.start(t, path)
	eventually(t, "the mistake is logged", func() bool { return len(r.log.lines("kernel.yaml:14: ")) > 0 })
	eventually(t, "the last good one is in use", func() bool { return r.ask("guarded") == 0 })
	if code, body := r.get("/health/ready"); code != http.StatusServiceUnavailable || !strings.Contains(body, "configuration: ") {
		t.Errorf("readiness %d %s", code, body)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if n := len(r.log.lines("kernel.yaml:14: ")); n != 1 {
		t.Errorf("the mistake was logged %d times", n)
	}
}

// pickyWorker accepts one generation only.
type pickyWorker struct {
	fakeWorker
	accept uint64
}

func (p *pickyWorker) start(t *testing.T, path string) {
	t.Helper()
	p.fakeWorker.reject = nil
	startServer(t, path, p, &p.fakeWorker)
}

func (p *pickyWorker) PushConfig(ctx context.Context, req *workerv1.PushConfigRequest) (*workerv1.PushConfigResponse, error) {
	if req.Generation != p.accept {
		return &workerv1.PushConfigResponse{Errors: []*workerv1.ConfigError{mistake("policy_kernel.route_policies[1].request_flow.policy_chain[0].params.key_store")}}, nil
	}
	return p.fakeWorker.PushConfig(ctx, req)
}

func TestPprofIsForLoopback(t *testing.T) {
	k := &kernel{}
	for addr, want := range map[string]int{"127.0.0.1:1": 200, "[::1]:1": 200, "10.0.0.1:1": 403, "[2001:db8::1]:1": 403, "": 403} {
		req := httptest.NewRequest(http.MethodGet, "/debug/pprof/cmdline", nil)
		req.RemoteAddr = addr
		req.Header.Set("X-Forwarded-For", "127.0.0.1")
		w := httptest.NewRecorder()
		k.admin().Handler.ServeHTTP(w, req)
		if w.Code != want {
			t.Errorf("peer %q: %d, want %d", addr, w.Code, want)
		}
	}
}

func TestStatusesFit(t *testing.T) {
	for _, s := range extproc.Statuses() {
		if s >= numStatuses {
			t.Errorf("status %v has no counter", s)
		}
	}
}

func TestCommand(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	rejecting := &fakeWorker{name: "worker-1", policies: []string{"guard"}}
	rejecting.setReject(mistake("policy_kernel.route_policies[0]"))
	socket := socketPath(t)
	rejecting.start(t, socket)
	good := file("good.yaml", fmt.Sprintf(configText, "/nowhere/w.sock"))
	rejected := file("rejected.yaml", "policy_kernel:\n  server: {socket_path: "+filepath.Join(dir, "k.sock")+"}\n  admin: {address: 127.0.0.1, port: "+freePort(t)+"}"+
		strings.TrimPrefix(fmt.Sprintf(configText, socket), "policy_kernel:"))
	tests := []struct {
		name   string
		args   []string
		want   int
		stderr string
	}{
		{"version", []string{"--version"}, 0, ""},
		{"help", []string{"--help"}, 0, "-config"},
		{"unknown flag", []string{"--nonsense"}, 2, "nonsense"},
		{"argument", []string{"nonsense"}, 2, "nonsense"},
		{"no file", []string{"--config", filepath.Join(dir, "missing.yaml")}, 2, "missing.yaml"},
		{"mistakes", []string{"--config", file("bad.yaml", "policy_kernel:\n  wrong: 1\n  server: {port: x}\n")}, 2, "bad.yaml:2: "},
		{"check", []string{"--check", "--config", good}, 0, ""},
		{"mistakes that a worker finds", []string{"--config", rejected}, 2, "rejected.yaml: policy_kernel.route_policies[0]: is wrong"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("GOGC", "100")
			var stdout, stderr bytes.Buffer
			if got := command(t.Context(), "v1", append([]string{"policy-kernel"}, tt.args...), &stdout, &stderr); got != tt.want {
				t.Errorf("exit status %d, want %d; %s", got, tt.want, stderr.String())
			}
			if !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("stderr %q", stderr.String())
			}
		})
	}
}

// freePort is a port that nobody listens on just now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
