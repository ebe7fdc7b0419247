package hop

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protowire"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/bench/engine"
	"github.com/policy-engine/policy-engine/config"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/kernel/workers"
	"github.com/policy-engine/policy-engine/policies/apikeyauth"
	"github.com/policy-engine/policy-engine/policies/jwtvalidation"
	"github.com/policy-engine/policy-engine/policies/ratelimit"
	"github.com/policy-engine/policy-engine/policies/securityheaders"
	"github.com/policy-engine/policy-engine/worker"
)

// recorded is the folder of what Envoy sent once, and of the keys that belong to it.
const recorded = "../recorded"

// patience bounds every wait.
const patience = 20 * time.Second

const generation = 1

// policyRegistry offers the policies of the chain.
func policyRegistry(t testing.TB) *worker.Registry {
	t.Helper()
	r, err := worker.NewRegistry(apikeyauth.Definition(), jwtvalidation.Definition(), ratelimit.Definition(), securityheaders.Definition())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func workerConfig(t testing.TB, socket string) *config.Worker {
	t.Helper()
	dir, err := filepath.Abs(recorded)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.ParseWorker("worker.yaml", fmt.Appendf(nil, `policy_worker:
  name: w
  socket_path: %s
  key_stores: {partners: {file: "%s/api-keys.yaml"}}
  jwt_issuers: {recorded: {issuer: "https://issuer.bench.example", jwks_file: "%s/jwks.json"}}
`, socket, dir, dir))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func kernelConfig(t testing.TB, socket string) *config.Kernel {
	t.Helper()
	// Nothing but calls is to be measured: the worker is not asked for its health.
	cfg, err := config.ParseKernel("kernel.yaml", fmt.Appendf(nil, `policy_kernel:
  workers: [{name: w, socket_path: %s, connections: 1, timeout: 5s, health_check: {interval: 1m}}]
  route_policies:
    - route_name: chain
      request_flow:
        policy_chain:
          - {policy: apiKeyAuth, params: {key_store: partners}}
          - {policy: jwtValidation, params: {issuer: recorded, audience: [api]}}
          - {policy: rateLimit, params: {requests: 1000000000, per: 1s}}
      response_flow: {policy_chain: [{policy: securityHeaders}]}
`, socket))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// requests are the header blocks that Envoy sent, as the kernel forwards them.
func requests(t testing.TB) [][]byte {
	t.Helper()
	r, err := engine.LoadRecording(filepath.Join(recorded, "chain.h2.gz"))
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for _, s := range r.Streams {
		// ProcessingRequest.request_headers is 2, HttpHeaders.headers is 1.
		out = append(out, field(t, field(t, s.Message(0), 2), 1))
	}
	return out
}

// field is the only value of a message's field that is a message.
func field(t testing.TB, message []byte, number protowire.Number) []byte {
	t.Helper()
	for len(message) > 0 {
		num, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		message = message[n:]
		if num == number && kind == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(message)
			return v
		}
		if n = protowire.ConsumeFieldValue(num, kind, message); n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		message = message[n:]
	}
	t.Fatalf("no field %d", number)
	return nil
}

// startHop starts a worker behind its socket and the kernel's client of it, and returns the evaluator and the chain to call.
func startHop(t testing.TB, afterBatch func()) route.Segment {
	t.Helper()
	dir, err := os.MkdirTemp("", "hop-") // A socket's path has at most 107 bytes (unix(7)).
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "w.sock")
	ctx, cancel := context.WithCancel(context.Background())
	serving, ended := make(chan struct{}), make(chan error, 1)
	cfg, registry := workerConfig(t, socket), policyRegistry(t)
	go func() { ended <- worker.Run(ctx, cfg, registry, worker.Options{Serving: func() { close(serving) }}) }()
	select {
	case <-serving:
	case err := <-ended:
		t.Fatal(err)
	}
	kernel := kernelConfig(t, socket)
	changed := make(chan struct{}, 8)
	client := workers.New(kernel.Workers, workers.Options{
		KernelID: 1, Logger: zap.NewNop(), Metrics: metrics.NewSet(), Lean: true, AfterBatch: afterBatch, Changed: func() { changed <- struct{}{} },
	})
	client.Start()
	t.Cleanup(func() {
		client.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-changed:
	case <-time.After(patience):
		t.Fatal("the worker is not found")
	}
	table, chains, err := route.Compile(generation, kernel, client.Offers())
	if err != nil {
		t.Fatal(err)
	}
	pushing, stop := context.WithTimeout(ctx, patience)
	defer stop()
	if err := client.Push(pushing, generation, chains); err != nil {
		t.Fatal(err)
	}
	segment := table.Lookup("chain").Request.Headers[0]
	for deadline := time.Now().Add(patience); !segment.Worker.Available(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the worker is not available")
		}
	}
	return segment
}

// batch is calls that are submitted together and awaited together.
type batch struct {
	calls    []route.Call
	all      []*route.Call
	headers  [][]byte
	segment  route.Segment
	to       route.BatchEvaluator
	next     int
	left     atomic.Int64
	wrong    atomic.Int64
	finished chan struct{}
}

func newBatch(t testing.TB, size int) *batch {
	t.Helper()
	b := &batch{calls: make([]route.Call, size), headers: requests(t), finished: make(chan struct{}, 1)}
	b.segment = startHop(t, func() {})
	var ok bool
	if b.to, ok = b.segment.Worker.(route.BatchEvaluator); !ok {
		t.Fatalf("%T takes no batches", b.segment.Worker)
	}
	for i := range b.calls {
		b.calls[i].Done = b
		b.all = append(b.all, &b.calls[i])
	}
	return b
}

// Complete implements route.Completer.
func (b *batch) Complete(_ *route.Call, r *workerv1.Result, err error) {
	if err != nil || r.Outcome != workerv1.Result_OUTCOME_CONTINUE || len(r.Mutations) == 0 {
		b.wrong.Add(1)
	}
	if b.left.Add(-1) == 0 {
		b.finished <- struct{}{}
	}
}

// run sends one batch and waits for its end. All calls end within their timeout.
func (b *batch) run(t testing.TB) {
	b.left.Store(int64(len(b.calls)))
	for i := range b.calls {
		b.calls[i].Message = workerv1.Call{
			Generation: generation, Chain: b.segment.Chain, Phase: workerv1.Phase_PHASE_REQUEST_HEADERS,
			Headers: b.headers[b.next], EndOfStream: true, WantContext: true,
		}
		b.next = (b.next + 1) % len(b.headers)
	}
	b.to.EvaluateAll(b.all)
	<-b.finished
	if n := b.wrong.Load(); n > 0 {
		t.Fatalf("%d calls were not allowed", n)
	}
}

// BenchmarkHop is the way from the kernel to a worker and back, over a Unix socket, both ends in this process: encode a batch, HTTP/2, decode it, run the chain apiKeyAuth,
// jwtValidation (a token that is known) and rateLimit on each call, and back. An op is a call.
func BenchmarkHop(b *testing.B) {
	for _, size := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			batch := newBatch(b, size)
			batch.run(b)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += size {
				batch.run(b)
			}
		})
	}
}
