package workers

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bound is how long a test waits for something that must happen.
const bound = 10 * time.Second

// eventually waits until the condition holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
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

// fake is a Policy Worker on a stock gRPC server. Its fields are set before start; mu guards what a test changes later.
type fake struct {
	workerv1.UnimplementedPolicyWorkerServer
	name     string
	policies []string
	mode     os.FileMode
	// answer makes the result of a call; nil means no result. The default continues.
	answer func(*workerv1.Call) *workerv1.Result
	// later makes the result of a call wait until the channel is closed, or has something; nil means that it does not wait.
	later func(*workerv1.Call) <-chan struct{}
	// capacity is what it announces.
	capacity uint32
	// garbage makes the fake answer each batch with bytes that are no ResultBatch.
	garbage bool
	// notice makes it say with its answers that it drains, while it is set; nil is never.
	notice *atomic.Bool

	calls atomic.Int64

	mu          sync.Mutex
	instance    uint64
	generations map[uint64][]*workerv1.Chain
	pushes      []uint64
	retired     []uint64
	reject      []*workerv1.ConfigError
	sick        bool // health checks fail
	mute        bool // health checks don't answer
	checks      int  // health checks so far
	warnings    []string
	draining    bool
	metrics     string
	server      *grpc.Server
}

func newFake(name string, instance uint64, policies ...string) *fake {
	return &fake{name: name, instance: instance, policies: policies, mode: 0o600, generations: map[uint64][]*workerv1.Chain{}}
}

// start listens on path; the returned function kills the process, so to speak.
func (f *fake) start(t testing.TB, path string) (kill func()) {
	t.Helper()
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, f.mode); err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	f.mu.Lock()
	f.server = server
	f.mu.Unlock()
	workerv1.RegisterPolicyWorkerServer(server, f)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	stop := sync.OnceFunc(func() { server.Stop(); <-done })
	t.Cleanup(stop)
	return stop
}

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) pushed() []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.pushes)
}

func (f *fake) held() []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var held []uint64
	for g := range f.generations {
		held = append(held, g)
	}
	slices.Sort(held)
	return held
}

func (f *fake) GetWorkerConfig(context.Context, *workerv1.GetWorkerConfigRequest) (*workerv1.GetWorkerConfigResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &workerv1.GetWorkerConfigResponse{Name: f.name, Version: "test", InstanceId: f.instance, MaxConcurrentRequests: f.capacity}
	for _, p := range f.policies {
		resp.Policies = append(resp.Policies, &workerv1.PolicyDescriptor{Name: p, Phases: []workerv1.Phase{workerv1.Phase_PHASE_REQUEST_HEADERS}})
	}
	return resp, nil
}

func (f *fake) HealthCheck(ctx context.Context, req *workerv1.HealthCheckRequest) (*workerv1.HealthCheckResponse, error) {
	f.mu.Lock()
	f.checks++
	sick, mute := f.sick, f.mute
	resp := &workerv1.HealthCheckResponse{Status: workerv1.HealthCheckResponse_STATUS_SERVING, InstanceId: f.instance, Warnings: f.warnings}
	if f.draining {
		resp.Status = workerv1.HealthCheckResponse_STATUS_NOT_SERVING
	}
	for g := range f.generations {
		resp.Generations = append(resp.Generations, g)
	}
	f.mu.Unlock()
	if req.KernelId != testKernel {
		return nil, status.Error(codes.InvalidArgument, "wrong kernel")
	}
	if mute {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if sick {
		return nil, status.Error(codes.Internal, "sick")
	}
	return resp, nil
}

func (f *fake) PushConfig(_ context.Context, req *workerv1.PushConfigRequest) (*workerv1.PushConfigResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pushes = append(f.pushes, req.Generation)
	if f.reject != nil {
		return &workerv1.PushConfigResponse{Errors: f.reject}, nil
	}
	f.generations[req.Generation] = req.Chains
	return &workerv1.PushConfigResponse{}, nil
}

func (f *fake) RetireConfig(_ context.Context, req *workerv1.RetireConfigRequest) (*workerv1.RetireConfigResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.retired = append(f.retired, req.Generation)
	delete(f.generations, req.Generation)
	return &workerv1.RetireConfigResponse{}, nil
}

func (f *fake) GetMetrics(context.Context, *workerv1.GetMetricsRequest) (*workerv1.GetMetricsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &workerv1.GetMetricsResponse{Text: []byte(f.metrics)}, nil
}

func (f *fake) Execute(stream grpc.BidiStreamingServer[workerv1.CallBatch, workerv1.ResultBatch]) error {
	var sending sync.Mutex
	for {
		batch, err := stream.Recv()
		if err != nil {
			return err
		}
		f.calls.Add(int64(len(batch.Calls)))
		if f.garbage {
			var r workerv1.ResultBatch
			r.ProtoReflect().SetUnknown([]byte{1<<3 | 2, 2, 0xff, 0xff}) // A result that is no message.
			if err := stream.Send(&r); err != nil {
				return err
			}
			continue
		}
		var results workerv1.ResultBatch
		results.Draining = f.notice != nil && f.notice.Load()
		for _, c := range batch.Calls {
			if f.later != nil {
				if ready := f.later(c); ready != nil {
					go func() {
						select {
						case <-ready:
						case <-stream.Context().Done():
							return
						}
						sending.Lock()
						defer sending.Unlock()
						_ = stream.Send(&workerv1.ResultBatch{Results: []*workerv1.Result{{Id: c.Id, Phase: c.Phase, Outcome: workerv1.Result_OUTCOME_CONTINUE}}})
					}()
					continue
				}
			}
			if f.answer == nil {
				results.Results = append(results.Results, &workerv1.Result{Id: c.Id, Phase: c.Phase, Outcome: workerv1.Result_OUTCOME_CONTINUE, Reason: f.name})
			} else if r := f.answer(c); r != nil {
				results.Results = append(results.Results, r)
			}
		}
		sending.Lock()
		err = stream.Send(&results)
		sending.Unlock()
		if err != nil {
			return err
		}
	}
}

const testKernel = 77

// onLean tells on which transport the tests run: $POLICY_ENGINE_TRANSPORT, so that all run on each.
func onLean() bool { return os.Getenv("POLICY_ENGINE_TRANSPORT") != "grpc" }

// setup makes and starts a registry with one worker "w" whose replicas are at the paths.
func setup(t testing.TB, change func(*config.WorkerRef), paths ...string) (*Registry, *Worker) {
	t.Helper()
	ref := config.WorkerRef{
		Name: "w", SocketPaths: paths, Connections: 2, Timeout: 5 * time.Second,
		HealthCheck: config.HealthCheck{Interval: 20 * time.Millisecond, Timeout: 2 * time.Second},
	}
	if change != nil {
		change(&ref)
	}
	reg := New([]config.WorkerRef{ref}, Options{KernelID: testKernel, Logger: zap.NewNop(), Metrics: metrics.NewSet(), Lean: onLean()})
	reg.Start()
	t.Cleanup(reg.Close)
	return reg, reg.inUse()[0]
}

func socketPath(t testing.TB) string { return filepath.Join(t.TempDir(), "w.sock") }

func push(t testing.TB, reg *Registry, generation uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	if err := reg.Push(ctx, generation, map[string][]*workerv1.Chain{"w": {{Id: 1, RouteName: "r"}}}); err != nil {
		t.Fatal(err)
	}
}

// ready waits until the worker is available.
func ready(t testing.TB, w *Worker) {
	t.Helper()
	eventually(t, "the worker is available", w.Available)
}

// probe is a call of a test. It fails the test when it is completed twice.
type probe struct {
	route.Call
	t     testing.TB
	count atomic.Int32
	done  chan struct{}
	r     *workerv1.Result
	err   error
}

func newProbe(t testing.TB, generation uint64) *probe {
	p := &probe{t: t, done: make(chan struct{})}
	p.Done = p
	p.Message = workerv1.Call{Generation: generation, Chain: 1, Phase: workerv1.Phase_PHASE_REQUEST_HEADERS, Headers: []byte("\x0a\x06\x0a\x01a\x1a\x01b")}
	return p
}

func (p *probe) Complete(c *route.Call, r *workerv1.Result, err error) {
	if p.count.Add(1) > 1 {
		p.t.Error("a call was completed twice")
		return
	}
	if c != &p.Call || (r == nil) == (err == nil) {
		p.t.Errorf("Complete(%p, %v, %v)", c, r, err)
	}
	if r != nil {
		b, _ := r.MarshalVT() // A deep copy: r and its strings are valid only now.
		p.r = new(workerv1.Result)
		if err := p.r.UnmarshalVT(b); err != nil {
			p.t.Error(err)
		}
	}
	p.err = err
	close(p.done)
}

func (p *probe) wait() (*workerv1.Result, error) {
	p.t.Helper()
	select {
	case <-p.done:
		return p.r, p.err
	case <-time.After(bound):
		p.t.Fatal("a call was never completed")
		return nil, errors.New("unreachable")
	}
}

// evaluate runs one call.
func evaluate(t testing.TB, w *Worker, generation uint64) (*workerv1.Result, error) {
	t.Helper()
	p := newProbe(t, generation)
	w.Evaluate(&p.Call)
	return p.wait()
}
