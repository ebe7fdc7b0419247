package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/policy-engine/policy-engine/test/collector"
	"github.com/policy-engine/policy-engine/test/harness"
)

const (
	tracedRoutes = `  workers:
    - {name: worker-a, socket_path: "${RUN_DIR}/a.sock"}
    - {name: worker-b, socket_path: "${RUN_DIR}/b.sock"}
  route_policies:
    - route_name: traced
      request_flow:
        policy_chain:
          - {policy: witnessA, params: {name: one}}
          - {policy: misbehaveB}
          - {policy: witnessA, params: {name: two}}
      response_flow: {policy_chain: [{policy: misbehaveB}]}
`
	clientTrace = "0af7651916cd43dd8448eb211c80319"
	clientSpan  = "b7ad6b7169203331"
)

// startTraced starts an engine whose kernel and workers tell endpoint of requests.
func startTraced(t *testing.T, endpoint, kernel string) *harness.Engine {
	t.Helper()
	a, b := testWorker("a", "worker-a", "A"), testWorker("b", "worker-b", "B")
	for _, w := range []*harness.WorkerSpec{&a, &b} {
		w.Config += fmt.Sprintf("  observability: {tracing: {enabled: true, endpoint: %q, timeout: 200ms}}\n", endpoint)
	}
	return harness.StartEngine(t, harness.Spec{
		Kernel:  tracedRoutes + fmt.Sprintf("  observability: {tracing: {enabled: true, endpoint: %q, timeout: 200ms, %s}}\n", endpoint, kernel),
		Workers: []harness.WorkerSpec{a, b},
	})
}

// parented is the header of a request whose client samples it, or not. The last digit tells the requests of a test apart.
func parented(digit, flags string) string {
	return "traceparent: 00-" + clientTrace + digit + "-" + clientSpan + "-" + flags
}

// TestTracing: the spans of requests that their client samples arrive, are part of the client's trace, and tell what became of the request; those of others do not exist.
func TestTracing(t *testing.T) {
	t.Parallel()
	receiver, err := collector.Start("127.0.0.1:0", true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(receiver.Close)
	e := startTraced(t, receiver.Address(), "sampling_rate: 0")
	get(t, e, 200, "/traced/path?secret="+canary, parented("1", "01"), "tracestate: vendor="+"x")
	if got := e.Upstream.Received()[0].Header.Get("traceparent"); got != strings.TrimPrefix(parented("1", "01"), "traceparent: ") {
		t.Errorf("the upstream's traceparent is %q", got)
	}
	get(t, e, 403, "/traced", "X-Misbehave: deny", parented("2", "01"), mustNotArrive+"denied")
	get(t, e, 500, "/traced", "X-Misbehave: panic", parented("3", "01"), mustNotArrive+"panic")
	get(t, e, 200, "/traced", parented("4", "00"))
	get(t, e, 200, "/traced")
	get(t, e, 200, "/traced", "traceparent: "+canary)
	get(t, e, 200, "/traced", parented("5", "01"), parented("6", "01")) // Two are none.

	const want = 1 + 4 + 4 + 1 + 2 + 2 + 1 + 2 + 2 // requests, calls, policies
	harness.Eventually(t, "all spans have arrived", func() error {
		if n := receiver.Received(); n < want {
			return fmt.Errorf("%d of %d", n, want)
		}
		return nil
	})
	all := receiver.Spans()
	if len(all) != want {
		t.Errorf("%d spans, want %d", len(all), want)
	}
	for _, s := range all {
		if !strings.HasPrefix(s.Trace, clientTrace) || strings.Contains(fmt.Sprint(s), canary) || s.End < s.Start {
			t.Errorf("%+v", s)
		}
	}
	checkTrace(t, all, "1", "allowed", "200", "", []string{"worker worker-a", "worker worker-b", "worker worker-a", "worker worker-b"})
	checkTrace(t, all, "2", "denied", "403", "", []string{"worker worker-a", "worker worker-b"})
	checkTrace(t, all, "3", "policy_panic", "500", "misbehaveB", []string{"worker worker-a", "worker worker-b"})
	for _, p := range []*harness.Process{e.Kernel, e.Worker("b")} {
		lines, _ := harness.ParseLog(p.Output(), "kernel", "worker")
		if !slices.ContainsFunc(lines, func(l harness.Line) bool { return l.Metadata["trace_id"] == clientTrace+"3" && l.RequestID != "" }) {
			t.Errorf("%s has no line with the trace of the panic", p.Name)
		}
	}
	m := e.Scrape()
	m.Want(t, map[string]float64{
		"policy_kernel_trace_spans_total": 3 + 4 + 2 + 2, "policy_worker_trace_spans_total": 4 + 2 + 2,
		"policy_kernel_trace_spans_dropped_total": 0, "policy_worker_trace_spans_dropped_total": 0,
	})
}

// checkTrace checks the spans of one request: one of the kernel for all of it, below it one for each call, below these one for each policy. failed is the policy that
// failed, if one did.
func checkTrace(t *testing.T, all []collector.Span, digit, verdict, status, failed string, calls []string) {
	t.Helper()
	var spans []collector.Span
	for _, s := range all {
		if s.Trace == clientTrace+digit {
			spans = append(spans, s)
		}
	}
	below := func(id string) (children []collector.Span) {
		for _, s := range spans {
			if s.Parent == id {
				children = append(children, s)
			}
		}
		slices.SortFunc(children, func(a, b collector.Span) int { return int(a.Start) - int(b.Start) })
		return children
	}
	roots := below(clientSpan)
	if len(roots) != 1 {
		t.Fatalf("%s: %d spans below the client's", digit, len(roots))
	}
	root := roots[0]
	if root.Service != "policy-kernel" || root.Name != "ext_proc traced" || root.Kind != tracev1.Span_SPAN_KIND_SERVER || root.Failed != (failed != "") ||
		root.Attributes["policy_engine.status"] != verdict || root.Attributes["http.response.status_code"] != status || root.Attributes["http.request.method"] != "GET" ||
		!strings.HasPrefix(root.Attributes["url.path"], "/traced") || root.Attributes["policy_engine.route"] != "traced" || root.Attributes["policy_engine.request_id"] == "" {
		t.Errorf("%s: %+v", digit, root)
	}
	if digit == "1" && root.State != "vendor=x" {
		t.Errorf("tracestate %q", root.State)
	}
	var names []string
	policies := 0
	for _, call := range below(root.ID) {
		names = append(names, call.Name)
		if call.Kind != tracev1.Span_SPAN_KIND_CLIENT || call.Start < root.Start || call.End > root.End || call.Failed != (failed != "" && call.Attributes["policy_engine.policy"] == failed) {
			t.Errorf("%s: %+v below %+v", digit, call, root)
		}
		for _, p := range below(call.ID) {
			policies++
			name := p.Attributes["policy_engine.policy"]
			if p.Service != "policy-worker" || p.Name != "policy "+name || name != call.Attributes["policy_engine.policies"] ||
				p.Attributes["policy_engine.phase"] != call.Attributes["policy_engine.phase"] || p.Attributes["policy_engine.verdict"] == "" || p.Failed != (name == failed) {
				t.Errorf("%s: %+v below %+v", digit, p, call)
			}
		}
	}
	if !slices.Equal(names, calls) || policies != len(calls) {
		t.Errorf("%s: calls %q with %d policies, want %q with one each", digit, names, policies, calls)
	}
}

// TestTracingAll: with a rate of 1 each request without a parent is a trace of its own.
func TestTracingAll(t *testing.T) {
	t.Parallel()
	receiver, err := collector.Start("127.0.0.1:0", true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(receiver.Close)
	e := startTraced(t, receiver.Address(), "sampling_rate: 1, parent_limit: 2")
	for range 3 {
		get(t, e, 200, "/traced")
	}
	get(t, e, 200, "/traced", parented("1", "00"))
	harness.Eventually(t, "all spans have arrived", func() error {
		if n := receiver.Received(); n < 3*9 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	traces := map[string]int{}
	for _, s := range receiver.Spans() {
		traces[s.Trace]++
		if s.Service == "policy-kernel" && strings.HasPrefix(s.Name, "ext_proc") != (s.Parent == "") {
			t.Errorf("%+v", s)
		}
	}
	if len(traces) != 3 || traces[clientTrace+"1"] != 0 {
		t.Errorf("the traces are %v", traces)
	}
}

// TestTracingWithoutReceiver: a receiver that is down, or hangs, harms no request, and the end of the engine does not wait for it.
func TestTracingWithoutReceiver(t *testing.T) {
	t.Parallel()
	hanging, err := collector.Start("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	hang := make(chan struct{})
	hanging.Hang = hang
	t.Cleanup(func() { close(hang); hanging.Close() })
	for name, endpoint := range map[string]string{"down": "127.0.0.1:1", "hangs": hanging.Address()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := startTraced(t, endpoint, "sampling_rate: 1, queue_size: 20")
			for range 30 {
				get(t, e, 200, "/traced")
				get(t, e, 403, "/traced", "X-Misbehave: deny", mustNotArrive+"denied")
			}
			harness.Eventually(t, "the loss is counted", func() error {
				m := e.Scrape()
				if m["policy_kernel_trace_spans_dropped_total"] == 0 || m["policy_worker_trace_spans_dropped_total"] == 0 {
					return fmt.Errorf("kernel %v, workers %v", m["policy_kernel_trace_spans_dropped_total"], m["policy_worker_trace_spans_dropped_total"])
				}
				return nil
			})
			harness.Eventually(t, "a word of it in the log", func() error {
				if out := e.Kernel.Output(); !strings.Contains(out, `"spans were lost"`) {
					return errors.New(out)
				}
				return nil
			})
			began := time.Now()
			e.Kernel.Signal(sigterm)
			if status := e.Kernel.Wait(); status != 0 || time.Since(began) > 8*time.Second {
				t.Errorf("the kernel ended with %d after %v", status, time.Since(began))
			}
		})
	}
}
