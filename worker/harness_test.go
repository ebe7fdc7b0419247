package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/fastpath/headermap"
	"github.com/policy-engine/policy-engine/policies"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testKernel = 1 << 40

// patience bounds every wait of a test.
const patience = 10 * time.Second

// world is what the test's policies share with the test.
type world struct {
	entered chan string   // a gate was reached, by its name
	open    chan struct{} // lets all gates go on
	release chan struct{} // lets all stalls go on
	ended   chan string   // a gate was left, with its context's error

	mu        sync.Mutex
	instances []string
	closed    []string
	opened    atomic.Int64 // shared values
	dropped   atomic.Int64
}

func newWorld() *world {
	return &world{entered: make(chan string, 100), open: make(chan struct{}), release: make(chan struct{}), ended: make(chan string, 100)}
}

func (w *world) closedSoFar() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.closed)
}

// setter sets a header, and is closed.
type setter struct {
	world *world
	p     setterParams
	env   policies.Env
	set   policies.Counter
}

var readScope = []string{"read"}

type setterParams struct {
	Header string            `json:"header" jsonschema:"required"`
	Value  string            `json:"value"`
	Wait   policies.Duration `json:"wait"`
}

func (s *setter) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	s.set.Inc()
	r.SetHeader(s.p.Header, s.p.Value)
	r.SetMetadata(s.p.Header, s.p.Value)
	r.SetIdentity(policies.Identity{Subject: "alice", Method: "set", Scopes: readScope})
	return policies.Continue(), nil
}

func (s *setter) OnResponseHeaders(_ context.Context, r *policies.Response) (policies.Verdict, error) {
	value, _ := r.Metadata(s.p.Header)
	r.SetHeader(s.p.Header, value+" of "+r.Identity().Subject)
	return policies.Continue(), nil
}

func (s *setter) Close() error {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	s.world.closed = append(s.world.closed, s.env.Instance())
	return errors.New("close errors are only logged")
}

// gate blocks until the test opens it or its context ends.
type gate struct{ world *world }

func (*gate) MayBlock() {}

func (g *gate) OnRequestHeaders(ctx context.Context, r *policies.Request) (policies.Verdict, error) {
	g.world.entered <- r.Route()
	select {
	case <-g.world.open:
		g.world.ended <- "opened"
		return policies.Respond(200, "opened", "", nil), nil
	case <-ctx.Done():
		g.world.ended <- ctx.Err().Error()
		return policies.Verdict{}, ctx.Err()
	}
}

// wall is a gate that ignores its context.
type wall struct{ gate }

func (g *wall) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	return g.gate.OnRequestHeaders(context.Background(), r)
}

func (g *wall) Close() error {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.world.closed = append(g.world.closed, "wall")
	return nil
}

// stall is a gate that does not say that it may block.
type stall struct{ gate *gate }

func (s *stall) OnRequestHeaders(_ context.Context, r *policies.Request) (policies.Verdict, error) {
	s.gate.world.entered <- "stall"
	<-s.gate.world.release
	return policies.Deny(403, "stalled"), nil
}

type bad struct{}

func (bad) OnRequestHeaders(context.Context, *policies.Request) (policies.Verdict, error) {
	panic("bad policy")
}
func (bad) Close() error { panic("bad close") }

type denier struct{}

func (denier) OnRequestHeaders(context.Context, *policies.Request) (policies.Verdict, error) {
	return policies.Deny(403, "denied").WithHeader("X-Why", "because"), nil
}

type none struct{}

func (w *world) definitions() []policies.Definition {
	return []policies.Definition{
		policies.Define("set", "1.2.3", func(env policies.Env, p setterParams) (*setter, error) {
			var errs []error
			if p.Header == "" {
				errs = append(errs, policies.BadParam("header", "is missing"))
			}
			if p.Value == "" {
				errs = append(errs, fmt.Errorf("value of the header: %w", policies.BadParam("value", "is missing")))
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.instances = append(w.instances, env.Instance())
			return &setter{w, p, env, env.Counter("set")}, errors.Join(errs...)
		}),
		policies.Define("gate", "1", func(policies.Env, none) (*gate, error) { return &gate{w}, nil }),
		policies.Define("wall", "1", func(policies.Env, none) (*wall, error) { return &wall{gate{w}}, nil }),
		policies.Define("stall", "1", func(policies.Env, none) (*stall, error) { return &stall{&gate{w}}, nil }),
		policies.Define("bad", "1", func(policies.Env, none) (bad, error) { return bad{}, nil }),
		policies.Define("deny", "1", func(policies.Env, none) (denier, error) { return denier{}, nil }),
		policies.Define("explodes", "1", func(policies.Env, none) (denier, error) { panic("no") }),
		policies.Define("stores", "1", func(env policies.Env, p struct {
			Store  string `json:"store"`
			Issuer string `json:"issuer"`
		},
		) (denier, error) {
			_, err1 := env.KeyStore(p.Store)
			_, err2 := env.Issuer(p.Issuer)
			return denier{}, errors.Join(err1, err2)
		}),
		policies.Define("shares", "1", w.sharer),
		policies.Define("sharesToo", "1", w.sharer).SharingWith("shares"),
		policies.Define("sharesNot", "1", w.sharer),
	}
}

func (w *world) sharer(env policies.Env, _ none) (denier, error) {
	_, err := env.Shared("x", func() (io.Closer, error) {
		w.opened.Add(1)
		return closeFunc(func() error { w.dropped.Add(1); return nil }), nil
	})
	return denier{}, err
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

// running is a worker that serves, with a stock client.
type running struct {
	*world
	client workerv1.PolicyWorkerClient
	conn   *grpc.ClientConn
	path   string
	stop   context.CancelFunc
	done   chan error
}

type setup struct {
	cfg  config.Worker
	opts Options
	more []policies.Definition // beside the world's
}

func startWorker(t testing.TB, change ...func(*setup)) *running {
	t.Helper()
	folder, err := os.MkdirTemp("", "w") // Not the test's own: its name may be too long for a socket.
	if err != nil {
		t.Fatal(err)
	}
	s := setup{
		config.Worker{
			Name: "worker-1", SocketPath: filepath.Join(folder, "sub", "worker.sock"), MaxConcurrentRequests: 10,
			ResourceLimits: config.ResourceLimits{MaxBodySize: 64 << 10, MaxStateSize: 1 << 10},
		},
		Options{Version: "v1", Poison: true, Notice: time.Nanosecond, Log: slog.New(slog.DiscardHandler)},
		nil,
	}
	for _, c := range change {
		c(&s)
	}
	r := &running{world: newWorld(), path: s.cfg.SocketPath, done: make(chan error, 1)}
	registry, err := NewRegistry(append(r.definitions(), s.more...)...)
	if err != nil {
		t.Fatal(err)
	}
	serving := make(chan struct{})
	s.opts.Serving = func() { close(serving) }
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() { r.done <- Run(ctx, &s.cfg, registry, s.opts) }()
	select {
	case <-serving:
	case err := <-r.done:
		t.Fatal(err)
	}
	r.conn, err = grpc.NewClient("unix:"+r.path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1<<30), grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	r.client = workerv1.NewPolicyWorkerClient(r.conn)
	t.Cleanup(func() {
		r.stop()
		r.conn.Close()
		r.wait(t)
		os.RemoveAll(folder)
	})
	return r
}

// wait waits for the worker to end.
func (r *running) wait(t testing.TB) {
	t.Helper()
	select {
	case err, ok := <-r.done:
		if ok {
			close(r.done)
		}
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the worker does not end")
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing comes")
		panic("unreachable")
	}
}

// policy is a place in a chain.
func policy(name, params string) *workerv1.PolicyInstance {
	return &workerv1.PolicyInstance{Name: name, Params: []byte(params), Path: "chain[" + name + "]"}
}

// requestChain is a chain of a route's request flow; the route is called after its id.
func requestChain(id uint32, list ...*workerv1.PolicyInstance) *workerv1.Chain {
	return &workerv1.Chain{Id: id, RouteName: fmt.Sprintf("route-%d", id), Policies: list}
}

func (r *running) push(t testing.TB, generation uint64, chains ...*workerv1.Chain) {
	t.Helper()
	resp, err := r.client.PushConfig(context.Background(), &workerv1.PushConfigRequest{KernelId: testKernel, Generation: generation, Chains: chains})
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Errors) > 0 {
		t.Fatal(resp.Errors)
	}
}

func requestCall(id, generation uint64, chain uint32) *workerv1.Call {
	return &workerv1.Call{
		Id: id, Generation: generation, Chain: chain, Phase: workerv1.Phase_PHASE_REQUEST_HEADERS,
		Headers: headermap.AppendField(headermap.AppendField(nil, ":method", "GET"), ":path", "/orders"),
	}
}

func (r *running) execute(t testing.TB, call *workerv1.Call) *workerv1.Result {
	t.Helper()
	result, err := r.client.ExecuteRequest(context.Background(), call)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// stream opens an Execute stream that ends with the test.
func (r *running) stream(t testing.TB) grpc.BidiStreamingClient[workerv1.CallBatch, workerv1.ResultBatch] {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := r.client.Execute(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	return s
}

// newTestCore makes a core with generation 5, chain 1: set.
func newTestCore(t *testing.T, r *Registry) *core {
	t.Helper()
	opts := Options{}
	opts.setDefaults()
	w := newWorker(&config.Worker{MaxConcurrentRequests: 1, ResourceLimits: config.ResourceLimits{MaxBodySize: 1 << 20, MaxStateSize: 1 << 16}}, r, opts, &sources{}, nil)
	resp, err := w.service.PushConfig(t.Context(), &workerv1.PushConfigRequest{
		KernelId: testKernel, Generation: 5,
		Chains: []*workerv1.Chain{requestChain(1, policy("set", `{"header":"a","value":"b"}`))},
	})
	if err != nil || len(resp.Errors) > 0 {
		t.Fatal(resp, err)
	}
	return w.service.core
}
