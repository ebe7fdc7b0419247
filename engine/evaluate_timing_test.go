package engine

import (
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
	"github.com/policy-engine/policy-engine/kernel/workers"
	"github.com/policy-engine/policy-engine/worker"
)

// counter counts completions.
type counter struct {
	t    testing.TB
	done int
}

func (c *counter) Complete(_ *route.Call, r *workerv1.Result, err error) {
	if err != nil || r.Outcome != workerv1.Result_OUTCOME_CONTINUE {
		c.t.Fatalf("result %v, error %v", r, err)
	}
	c.done++
}

// caller is the kernel's side of a worker in the process, with a chain that does not wait, and a call of it.
func caller(t testing.TB) (route.Evaluator, *route.Call, *counter) {
	t.Helper()
	cfg, ws, _ := configure(t, "/nowhere")
	ws[0].Config.ResourceLimits.MaxBodySize, ws[0].Config.ResourceLimits.MaxStateSize = 1<<20, 64<<10
	core, err := worker.Embed(ws[0].Config, ws[0].Registry, worker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(core.Close)
	reg := workers.New(cfg.Workers[:1], workers.Options{
		KernelID: 1, Logger: zap.NewNop(), Metrics: metrics.NewSet(), Lean: true, Local: map[string]workers.Local{"a": local{core.Protocol(), core}},
		AfterBatch: func() { t.Error("a call was completed later") },
	})
	reg.Start()
	t.Cleanup(reg.Close)
	w := reg.Offers()[0].Worker
	chain := &workerv1.Chain{Id: 1, RouteName: "r", Policies: []*workerv1.PolicyInstance{{Name: "deny"}, {Name: "deny"}, {Name: "deny"}}}
	if err := reg.Push(t.Context(), 1, map[string][]*workerv1.Chain{"a": {chain}}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(bound); !w.Available(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the worker is not available")
		}
	}
	done := &counter{t: t}
	c := &route.Call{Done: done}
	c.Message.Generation, c.Message.Chain, c.Message.Phase, c.Message.TimeoutUs = 1, 1, workerv1.Phase_PHASE_REQUEST_HEADERS, 500_000
	c.Message.Headers, err = proto.Marshal(headers(":method", "GET", ":path", "/orders/17?page=2", ":authority", "api.example", "user-agent", "curl/8.5.0",
		"accept", "*/*", "x-request-id", "5a3c6c1e-0b7a-4a57-9a53-0c1f7d0a8f11").Headers)
	if err != nil {
		t.Fatal(err)
	}
	return w, c, done
}

// BenchmarkEvaluate is the whole way from the kernel's call to its result, with three policies that do next to nothing.
func BenchmarkEvaluate(b *testing.B) {
	w, c, _ := caller(b)
	b.ReportAllocs()
	for b.Loop() {
		w.Evaluate(c)
	}
}
