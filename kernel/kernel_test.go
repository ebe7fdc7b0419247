package kernel

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/extproc"
)

func TestRun(t *testing.T) {
	path := socketPath(t)
	r := launch(t, path, nil)

	// Without its worker: what needs no policy passes, the rest is refused.
	for _, tt := range []struct {
		route string
		want  int
	}{{"open", 0}, {"guarded", 503}, {"both", 503}, {"unoffered", 503}, {"nowhere", 500}, {"", 404}} {
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
	if n := len(r.log.lines(`"message":"unknown route"`)); n != 1 {
		t.Errorf("%d lines on an unknown route", n)
	}
	if n := len(r.log.lines(`"message":"Envoy named no route for a request"`)); n != 1 {
		t.Errorf("%d lines on a request without a route", n)
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

func TestStatusesFit(t *testing.T) {
	for _, s := range extproc.Statuses() {
		if s >= numStatuses {
			t.Errorf("status %v has no counter", s)
		}
	}
}

// TestDrainDelay: the kernel says first that it is not ready, and goes on answering until its peers can know.
func TestDrainDelay(t *testing.T) {
	path := socketPath(t)
	f := &fakeWorker{name: "worker-1", policies: []string{"guard"}}
	f.start(t, path)
	const delay = 2 * time.Second
	r := launch(t, path, func(cfg *config.Kernel, _ *Options) { cfg.Drain.Delay = delay })
	health := func() healthv1.HealthCheckResponse_ServingStatus {
		resp, err := healthv1.NewHealthClient(r.conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Status
	}
	r.ready()
	eventually(t, "it says that it serves", func() bool { return health() == healthv1.HealthCheckResponse_SERVING })
	start := time.Now()
	r.stop()
	eventually(t, "it says that it does not", func() bool { return health() == healthv1.HealthCheckResponse_NOT_SERVING })
	if status, _ := r.get("/health/ready"); status != http.StatusServiceUnavailable {
		t.Errorf("/health/ready says %d", status)
	}
	if status := r.ask("guarded"); status != 0 && time.Since(start) < delay {
		t.Errorf("a request got %d before its peers can know", status)
	}
	if err := r.end(); err != nil || time.Since(start) < delay {
		t.Errorf("it ended after %v with %v", time.Since(start), err)
	}
}

// TestNotServingWithoutConfiguration: health checkers hear that it serves when requests are answered as the configuration says, and no sooner.
func TestNotServingWithoutConfiguration(t *testing.T) {
	path := socketPath(t)
	r := launch(t, path, nil)
	check := func() healthv1.HealthCheckResponse_ServingStatus {
		resp, err := healthv1.NewHealthClient(r.conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Status
	}
	eventually(t, "a table is in use", func() bool { return len(r.log.lines("configuration in use")) > 0 })
	if got := check(); got != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("without its worker: %v", got)
	}
	f := &fakeWorker{name: "worker-1", policies: []string{"guard"}}
	f.start(t, path)
	eventually(t, "it serves with its worker", func() bool { return check() == healthv1.HealthCheckResponse_SERVING })
	if err := r.end(); err != nil {
		t.Error(err)
	}
}
