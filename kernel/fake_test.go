package kernel

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bound is how long a test waits for something that must happen.
const bound = 10 * time.Second

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

// fakeWorker is a Policy Worker on a stock gRPC server. A call whose headers have "deny" in them gets a 403, one with "hang" no answer.
type fakeWorker struct {
	workerv1.UnimplementedPolicyWorkerServer
	name     string
	policies []string

	mu     sync.Mutex
	reject []*workerv1.ConfigError
	// rejectRoute is the route whose chains are rejected; empty stands for all.
	rejectRoute string
	generations map[uint64]bool
}

func (f *fakeWorker) start(t *testing.T, path string) (kill func()) {
	t.Helper()
	return startServer(t, path, f, f)
}

// startServer serves w on path; f is where w keeps its generations.
func startServer(t *testing.T, path string, w workerv1.PolicyWorkerServer, f *fakeWorker) (kill func()) {
	t.Helper()
	f.generations = map[uint64]bool{}
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	workerv1.RegisterPolicyWorkerServer(server, w)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	stop := sync.OnceFunc(func() { server.Stop(); <-done })
	t.Cleanup(stop)
	return stop
}

func (f *fakeWorker) setReject(errs ...*workerv1.ConfigError) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reject = errs
}

func (f *fakeWorker) held() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.generations)
}

func (f *fakeWorker) GetWorkerConfig(context.Context, *workerv1.GetWorkerConfigRequest) (*workerv1.GetWorkerConfigResponse, error) {
	resp := &workerv1.GetWorkerConfigResponse{Name: f.name, InstanceId: 1}
	for _, p := range f.policies {
		resp.Policies = append(resp.Policies, &workerv1.PolicyDescriptor{
			Name: p, Phases: []workerv1.Phase{workerv1.Phase_PHASE_REQUEST_HEADERS, workerv1.Phase_PHASE_RESPONSE_HEADERS},
		})
	}
	return resp, nil
}

func (f *fakeWorker) HealthCheck(context.Context, *workerv1.HealthCheckRequest) (*workerv1.HealthCheckResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &workerv1.HealthCheckResponse{Status: workerv1.HealthCheckResponse_STATUS_SERVING, InstanceId: 1}
	for g := range f.generations {
		resp.Generations = append(resp.Generations, g)
	}
	return resp, nil
}

func (f *fakeWorker) PushConfig(_ context.Context, req *workerv1.PushConfigRequest) (*workerv1.PushConfigResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reject != nil && slices.ContainsFunc(req.Chains, func(c *workerv1.Chain) bool { return f.rejectRoute == "" || c.RouteName == f.rejectRoute }) {
		return &workerv1.PushConfigResponse{Errors: f.reject}, nil
	}
	f.generations[req.Generation] = true
	return &workerv1.PushConfigResponse{}, nil
}

func (f *fakeWorker) RetireConfig(_ context.Context, req *workerv1.RetireConfigRequest) (*workerv1.RetireConfigResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.generations, req.Generation)
	return &workerv1.RetireConfigResponse{}, nil
}

func (f *fakeWorker) GetMetrics(context.Context, *workerv1.GetMetricsRequest) (*workerv1.GetMetricsResponse, error) {
	return &workerv1.GetMetricsResponse{Text: []byte("policy_worker_executions_total{policy=\"guard\",status=\"ok\"} 7\n")}, nil
}

func (f *fakeWorker) Execute(stream grpc.BidiStreamingServer[workerv1.CallBatch, workerv1.ResultBatch]) error {
	for {
		batch, err := stream.Recv()
		if err != nil {
			return err
		}
		var results workerv1.ResultBatch
		for _, c := range batch.Calls {
			r := &workerv1.Result{Id: c.Id, Phase: c.Phase, Outcome: workerv1.Result_OUTCOME_CONTINUE}
			if c.WantContext {
				r.Context = []byte{0x0a, 0x00} // an identity
			}
			switch {
			case bytes.Contains(c.Headers, []byte("hang")):
				continue
			case bytes.Contains(c.Headers, []byte("deny")):
				r.Outcome, r.Policy, r.Reason, r.Context = workerv1.Result_OUTCOME_IMMEDIATE, "guard", "denied_by_test", nil
				r.Immediate = &workerv1.ImmediateResponse{Status: 403, Body: []byte("no")}
			}
			results.Results = append(results.Results, r)
		}
		if err := stream.Send(&results); err != nil {
			return err
		}
	}
}

func socketPath(t *testing.T) string { return filepath.Join(t.TempDir(), "w.sock") }
