// Package collector receives the spans of OpenTelemetry (OTLP over gRPC), as the collectors of operators do, and keeps them for tests and measurements.
package collector

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Span is what a test looks at of a span. The ids are hex digits.
type Span struct {
	Service, Name            string
	Trace, ID, Parent, State string
	Kind                     tracev1.Span_SpanKind
	// Failed: the status is ERROR, of which Message says why.
	Failed  bool
	Message string
	// Start and End are in nanoseconds since 1970.
	Start, End uint64
	Attributes map[string]string
}

// Collector is a receiver.
type Collector struct {
	collectorv1.UnimplementedTraceServiceServer
	// Keep says that spans are kept, not only counted. It is set before the first one comes.
	Keep bool
	// Hang, if not nil, is waited for before a batch is taken. It is set before the first one comes.
	Hang <-chan struct{}

	server   *grpc.Server
	address  string
	received atomic.Uint64
	mu       sync.Mutex
	spans    []Span
	headers  metadata.MD
}

// Start starts a receiver of the address; with port 0 it chooses one.
func Start(address string, keep bool, options ...grpc.ServerOption) (*Collector, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for spans: %w", err)
	}
	c := &Collector{Keep: keep, server: grpc.NewServer(options...), address: l.Addr().String()}
	collectorv1.RegisterTraceServiceServer(c.server, c)
	go func() { _ = c.server.Serve(l) }() // Until Close.
	return c, nil
}

// Address is host:port.
func (c *Collector) Address() string { return c.address }

// Close ends it, and whatever waits.
func (c *Collector) Close() { c.server.Stop() }

// Received counts the spans that have come.
func (c *Collector) Received() uint64 { return c.received.Load() }

// Spans are those that have come and were kept.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Span(nil), c.spans...)
}

// Header is the value of a header that came with the last batch.
func (c *Collector) Header(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.headers.Get(name), ", ")
}

// Export implements the protocol.
func (c *Collector) Export(ctx context.Context, r *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	if c.Hang != nil {
		select {
		case <-c.Hang:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headers, _ = metadata.FromIncomingContext(ctx)
	for _, rs := range r.ResourceSpans {
		service := attributes(rs.GetResource().GetAttributes())["service.name"]
		for _, ss := range rs.ScopeSpans {
			c.received.Add(uint64(len(ss.Spans)))
			for _, s := range ss.Spans {
				if c.Keep {
					c.spans = append(c.spans, span(service, s))
				}
			}
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func span(service string, s *tracev1.Span) Span {
	return Span{
		Service: service, Name: s.Name, Trace: hex.EncodeToString(s.TraceId), ID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId),
		State: s.TraceState, Kind: s.Kind, Failed: s.GetStatus().GetCode() == tracev1.Status_STATUS_CODE_ERROR, Message: s.GetStatus().GetMessage(),
		Start: s.StartTimeUnixNano, End: s.EndTimeUnixNano, Attributes: attributes(s.Attributes),
	}
}

func attributes(list []*commonv1.KeyValue) map[string]string {
	m := make(map[string]string, len(list))
	for _, kv := range list {
		m[kv.Key] = text(kv.Value)
	}
	return m
}

func text(v *commonv1.AnyValue) string {
	switch x := v.GetValue().(type) {
	case *commonv1.AnyValue_StringValue:
		return x.StringValue
	case *commonv1.AnyValue_IntValue:
		return fmt.Sprint(x.IntValue)
	case *commonv1.AnyValue_ArrayValue:
		var all []string
		for _, e := range x.ArrayValue.Values {
			all = append(all, text(e))
		}
		return strings.Join(all, ",")
	}
	return fmt.Sprint(v.GetValue())
}
