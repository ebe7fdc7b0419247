package trace

import (
	"context"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// queue bounds the spans that wait for the receiver, and counts those that are lost. The library's processor behind it gathers and sends them; it never has more than it
// has room for, so it never drops one uncounted.
type queue struct {
	sdktrace.SpanProcessor
	max        int64
	waiting    atomic.Int64
	made, lost atomic.Uint64
	closed     atomic.Bool
	failed     func(int, error)
}

func newQueue(sending context.Context, client sdktrace.SpanExporter, o Options) *queue {
	q := &queue{max: int64(o.QueueSize), failed: o.Failed}
	if q.failed == nil {
		q.failed = func(int, error) {}
	}
	q.SpanProcessor = sdktrace.NewBatchSpanProcessor(&sender{client, q, sending},
		sdktrace.WithMaxQueueSize(o.QueueSize), sdktrace.WithMaxExportBatchSize(min(maxBatch, o.QueueSize)),
		sdktrace.WithBatchTimeout(batchDelay), sdktrace.WithExportTimeout(o.Timeout))
	return q
}

// OnEnd implements sdktrace.SpanProcessor. It does not block.
func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	q.made.Add(1)
	if q.waiting.Add(1) > q.max || q.closed.Load() {
		q.waiting.Add(-1)
		q.lost.Add(1)
		return
	}
	q.SpanProcessor.OnEnd(s)
}

// sent takes spans out that the receiver has taken, or failed to take.
func (q *queue) sent(n int, err error) {
	if q.closed.Load() {
		return // They are counted.
	}
	q.waiting.Add(-int64(n))
	if err != nil {
		q.lost.Add(uint64(n))
		q.failed(n, err)
	}
}

// abandon counts what still waits at the end as lost.
func (q *queue) abandon() {
	q.closed.Store(true)
	q.lost.Add(uint64(max(0, q.waiting.Swap(0))))
}

// sender sends batches until sending ends. Its errors go to the queue: the library would print them to the standard error.
type sender struct {
	sdktrace.SpanExporter
	queue   *queue
	sending context.Context
}

// ExportSpans implements sdktrace.SpanExporter.
func (s *sender) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.sending, cancel)()
	s.queue.sent(len(spans), s.SpanExporter.ExportSpans(ctx, spans))
	return nil
}

func newResource(o Options) *resource.Resource {
	about := []attribute.KeyValue{Text("service.name", o.Service), Text("service.version", o.Version)}
	if o.Instance != "" {
		about = append(about, Text("policy_engine.worker", o.Instance))
	}
	return resource.NewSchemaless(about...)
}

// clean makes a copy that every receiver takes.
func clean(s string) string {
	return strings.Clone(strings.ToValidUTF8(s[:min(len(s), maxValue)], "\uFFFD"))
}
