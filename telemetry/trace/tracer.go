// Package trace makes the spans of OpenTelemetry that kernel and workers tell of requests, and sends them to a receiver.
//
// Whether a request is traced is decided without an allocation. What is traced never waits: spans go into a bounded queue, and those that don't fit, or that the receiver
// does not take in time, are lost and counted.
//
// Of OpenTelemetry's libraries it is the interfaces that are used, and not the SDK with its exporter: these make some forty objects of a span, and wake a goroutine for it,
// which at 1 % of the requests was a twentieth of what the engine needs for all of them (docs/performance.md). Here a span is one object, which encodes what it is told
// at once, and adds its bytes to a batch when it ends.
package trace

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Options say where spans go, and of which requests there are some.
type Options struct {
	// Service, Version and Instance name the process: policy-kernel, or policy-worker and the worker's name.
	Service, Version, Instance string
	// Endpoint is host:port of a receiver of OTLP over gRPC.
	Endpoint string
	// Insecure is without TLS; else CAFile has the authorities, or is empty for the system's.
	Insecure bool
	CAFile   string
	Headers  map[string]string
	// Timeout bounds the sending of a batch.
	Timeout time.Duration
	// QueueSize is how many spans may wait.
	QueueSize int
	// Rate is the share of requests that Sample takes, from 0 to 1; ParentLimit is how many a second it takes because the client wants it.
	Rate        float64
	ParentLimit int
	// Failed is told, from a goroutine that sends, that spans were lost. It may be nil.
	Failed func(spans int, err error)
}

// Tracer makes spans and sends them. It is safe for concurrent use.
type Tracer struct {
	sampler  sampler
	queue    *queue
	receiver *receiver
}

// New makes a tracer. Nothing is connected before the first span; a receiver that is down is no error.
func New(o Options) (*Tracer, error) {
	r, err := newReceiver(o)
	if err != nil {
		return nil, err
	}
	t := &Tracer{queue: newQueue(r, o), receiver: r}
	t.sampler.now = time.Now
	t.SetSampling(o.Rate, o.ParentLimit)
	return t, nil
}

// Begin begins a span below the parent; without one that is valid it begins a trace. Whether there is to be one is the caller's decision (Sample). The name is what the span is of, and
// which one: prefix is a constant of the code. Names and attributes may be borrowed, the names until the span ends.
func (t *Tracer) Begin(parent trace.SpanContext, prefix, name string, kind trace.SpanKind, attributes ...attribute.KeyValue) *Span {
	s := new(Span)
	t.BeginIn(s, parent, prefix, name, kind, attributes...)
	return s
}

// BeginIn is Begin in a span that is the caller's. It may have been another one, which has ended and which nobody else knows.
func (t *Tracer) BeginIn(s *Span, parent trace.SpanContext, prefix, name string, kind trace.SpanKind, attributes ...attribute.KeyValue) {
	c := trace.SpanContextConfig{TraceID: parent.TraceID(), TraceFlags: trace.FlagsSampled, TraceState: parent.TraceState()}
	above := parent.SpanID()
	if !parent.IsValid() {
		binary.NativeEndian.PutUint64(c.TraceID[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(c.TraceID[8:], rand.Uint64()|1) // An id of zeros is none.
		above, c.TraceState = trace.SpanID{}, trace.TraceState{}
	}
	binary.NativeEndian.PutUint64(c.SpanID[:], max(1, rand.Uint64()))
	*s = Span{tracer: t, context: trace.NewSpanContext(c), parent: above, remote: parent.IsRemote(), kind: kind, prefix: prefix, name: name, start: time.Now()}
	s.attributes = s.room[:0]
	s.set(attributes)
}

// Spans counts those that were made.
func (t *Tracer) Spans() uint64 {
	made, _ := t.queue.counts()
	return made
}

// Lost counts the spans that were made and did not arrive.
func (t *Tracer) Lost() uint64 {
	_, lost := t.queue.counts()
	return lost
}

// Close sends what waits, for as long as that may take; what is left then is lost.
func (t *Tracer) Close(patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	late := t.queue.close(ctx)
	t.receiver.close()
	if late {
		return fmt.Errorf("send the last spans: the receiver took longer than %v", patience)
	}
	return nil
}
