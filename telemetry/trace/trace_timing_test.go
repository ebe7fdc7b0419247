package trace

import (
	"context"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/policy-engine/policy-engine/test/collector"
)

// BenchmarkSpan is what a span costs, in processor time of all that it takes: made, queued, encoded, sent, and received by a server in this process.
func BenchmarkSpan(b *testing.B) {
	c, err := collector.Start("127.0.0.1:0", false)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	o := options(c.Address())
	o.QueueSize, o.Timeout = 1<<20, 10*time.Second
	tracer, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	before := used()
	for b.Loop() {
		policySpan(tracer)
	}
	if err := tracer.Close(30 * time.Second); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op")
}

// policySpan makes a span as a worker does for a policy.
func policySpan(tracer *Tracer) {
	span := tracer.Begin(oteltrace.SpanContext{}, "policy ", "apiKeyAuth", oteltrace.SpanKindInternal,
		attribute.String("policy_engine.policy", "apiKeyAuth"), attribute.String("policy_engine.route", "orders"), attribute.String("policy_engine.phase", "request_headers"),
	)
	span.SetAttributes(attribute.String("policy_engine.verdict", "continue"))
	span.End()
}

// used is the processor time of this process.
func used() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSpanMade is what a span costs the request: made, told, and put into the queue.
func BenchmarkSpanMade(b *testing.B) {
	o := options("")
	o.QueueSize = 1 << 20
	q := newQueue(nowhere{}, o)
	defer q.close(b.Context())
	tracer := &Tracer{queue: q}
	b.ReportAllocs()
	for b.Loop() {
		policySpan(tracer)
	}
}

// nowhere takes batches, and has sent them.
type nowhere struct{}

func (nowhere) export(_ context.Context, b *batch) (int, error) {
	b.buffers.Put(&b.bytes)
	return 0, nil
}
