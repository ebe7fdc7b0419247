package trace

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// answering is a receiver that answers as a test wants. It keeps how many spans came with each request, and their names.
type answering struct {
	collectorv1.UnimplementedTraceServiceServer

	answer func(request int) (*collectorv1.ExportTraceServiceResponse, error)

	mu       sync.Mutex
	requests []int
	names    []string
}

// Export implements the protocol.
func (a *answering) Export(_ context.Context, r *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	spans := r.ResourceSpans[0].ScopeSpans[0].Spans
	a.requests = append(a.requests, len(spans))
	response, err := a.answer(len(a.requests))
	if err != nil {
		return nil, err
	}
	for _, s := range spans {
		a.names = append(a.names, s.Name)
	}
	return response, nil
}

// serve serves a listener until the test ends.
func (a *answering) serve(t *testing.T, l net.Listener) {
	t.Helper()
	server := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(server, a)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// taken is the answer of a receiver that has all, or all but some.
func taken(rejected int64, message string) *collectorv1.ExportTraceServiceResponse {
	r := &collectorv1.ExportTraceServiceResponse{}
	if rejected > 0 || message != "" {
		r.PartialSuccess = &collectorv1.ExportTracePartialSuccess{RejectedSpans: rejected, ErrorMessage: message}
	}
	return r
}

// TestAnswers: what the receiver says decides what counts as lost; what it does not take for now is sent again.
func TestAnswers(t *testing.T) {
	later := func(code codes.Code, times int) func(int) (*collectorv1.ExportTraceServiceResponse, error) {
		return func(request int) (*collectorv1.ExportTraceServiceResponse, error) {
			if request <= times {
				return nil, status.Error(code, "later")
			}
			return taken(0, ""), nil
		}
	}
	always := func(r *collectorv1.ExportTraceServiceResponse) func(int) (*collectorv1.ExportTraceServiceResponse, error) {
		return func(int) (*collectorv1.ExportTraceServiceResponse, error) { return r, nil }
	}
	for name, tt := range map[string]struct {
		answer         func(int) (*collectorv1.ExportTraceServiceResponse, error)
		lost, requests int
		says           string // of the error; empty: there is none
	}{
		"takes all":           {always(taken(0, "")), 0, 1, ""},
		"takes all, and says": {always(taken(0, "an attribute is deprecated")), 0, 1, ""},
		"takes some":          {always(taken(3, "too old")), 3, 1, `rejected 3 spans: "too old"`},
		"rejects more":        {always(taken(1000, "")), 10, 1, "rejected 1000 spans"},
		"is busy":             {later(codes.Unavailable, 2), 0, 3, ""},
		"aborts":              {later(codes.Aborted, 1), 0, 2, ""},
		"is busy for long":    {later(codes.Unavailable, 100), 10, 5, "later"},
		"refuses":             {later(codes.InvalidArgument, 100), 10, 1, "InvalidArgument"},
		"knows us not":        {later(codes.Unauthenticated, 100), 10, 1, "Unauthenticated"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := &answering{answer: tt.answer}
			l := listen(t)
			a.serve(t, l)
			o := options(l.Addr().String())
			o.Timeout = 20 * time.Second
			failed := make(chan error, 10)
			o.Failed = func(spans int, err error) {
				if spans != tt.lost {
					t.Errorf("%d spans failed, want %d", spans, tt.lost)
				}
				failed <- err
			}
			tracer := open(t, o)
			for range 10 {
				tracer.Begin(trace.SpanContext{}, "", "it", trace.SpanKindInternal).End()
			}
			if err := tracer.Close(30 * time.Second); err != nil {
				t.Error(err)
			}
			if tracer.Spans() != 10 || tracer.Lost() != uint64(tt.lost) || len(a.requests) != tt.requests {
				t.Errorf("%d spans, %d lost, %d requests; want 10, %d, %d", tracer.Spans(), tracer.Lost(), len(a.requests), tt.lost, tt.requests)
			}
			var said string
			select {
			case err := <-failed:
				said = err.Error()
			default:
			}
			if (said == "") != (tt.says == "") || !strings.Contains(said, tt.says) {
				t.Errorf("it says %q, want %q", said, tt.says)
			}
		})
	}
}

// TestReceiverComesLater: what was made while it was down arrives, without being asked for at the end.
func TestReceiverComesLater(t *testing.T) {
	t.Parallel()
	door := &door{Listener: listen(t)}
	a := &answering{answer: func(int) (*collectorv1.ExportTraceServiceResponse, error) { return taken(0, ""), nil }}
	a.serve(t, door)
	o := options(door.Addr().String())
	o.Timeout = 30 * time.Second
	tracer := open(t, o)
	defer tracer.Close(0)
	tracer.Begin(trace.SpanContext{}, "", "it", trace.SpanKindInternal).End()
	time.Sleep(batchDelay + 100*time.Millisecond) // It has been tried by then.
	if door.refused.Load() == 0 {
		t.Error("it was not tried")
	}
	door.open.Store(true)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		a.mu.Lock()
		n := len(a.names)
		a.mu.Unlock()
		if n == 1 && tracer.Lost() == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d spans arrived, %d were lost", n, tracer.Lost())
		}
	}
}

// door is a listener that ends every connection until it is open: so the port stays the test's.
type door struct {
	net.Listener

	open    atomic.Bool
	refused atomic.Int64
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil || d.open.Load() {
			return c, err
		}
		_ = c.Close()
		d.refused.Add(1)
	}
}

// TestBatches: many spans go in batches that every receiver takes, in their order, and full ones at once.
func TestBatches(t *testing.T) {
	t.Parallel()
	a := &answering{answer: func(int) (*collectorv1.ExportTraceServiceResponse, error) { return taken(0, ""), nil }}
	l := listen(t)
	a.serve(t, l)
	o := options(l.Addr().String())
	o.QueueSize, o.Timeout = 10_000, 20*time.Second
	tracer := open(t, o)
	long := strings.Repeat("x", maxText)
	for i := range 3000 {
		s := tracer.Begin(trace.SpanContext{}, "", string(rune('a'+i%26)), trace.SpanKindInternal)
		if i >= 2000 {
			for j := range maxAttributes {
				s.SetAttributes(attribute.String(string(rune('a'+j)), long))
			}
		}
		s.End()
	}
	if err := tracer.Close(30 * time.Second); err != nil {
		t.Error(err)
	}
	if tracer.Lost() != 0 || len(a.names) != 3000 {
		t.Fatalf("%d arrived, %d were lost", len(a.names), tracer.Lost())
	}
	for i, name := range a.names {
		if name != string(rune('a'+i%26)) {
			t.Fatalf("span %d is %q", i, name)
		}
	}
	for i, n := range a.requests {
		if n > maxBatch || i > len(a.requests)/2 && n > maxBatchSize/(maxAttributes*maxText)+1 {
			t.Errorf("request %d has %d spans", i, n)
		}
	}
}

// TestQueueIsBounded: what is beyond is lost and counted, and room is there again when batches have gone.
func TestQueueIsBounded(t *testing.T) {
	o := options("")
	e := &held{batches: make(chan int), lose: make(chan int)}
	q := newQueue(e, o)
	tracer := &Tracer{queue: q}
	make100 := func() {
		for range 100 {
			tracer.Begin(trace.SpanContext{}, "", "it", trace.SpanKindInternal).End()
		}
	}
	want := func(lost, made uint64) {
		t.Helper()
		if tracer.Lost() != lost || tracer.Spans() != made {
			t.Errorf("%d lost of %d, want %d of %d", tracer.Lost(), tracer.Spans(), lost, made)
		}
	}
	make100() // A batch is full with half of what may wait, and leaves at once.
	if n := <-e.batches; n != 50 {
		t.Errorf("a batch of %d", n)
	}
	want(0, 100)
	make100() // The batch is on its way, and counts.
	want(100, 200)
	e.lose <- 40
	if n := <-e.batches; n != 50 {
		t.Errorf("a batch of %d", n)
	}
	want(140, 200)
	make100()
	want(190, 300)
	go func() { e.lose <- 0; <-e.batches; e.lose <- 0 }()
	if late := q.close(t.Context()); late {
		t.Error("it was late")
	}
	make100()
	want(290, 400)
}

// held is an exporter that tells of a batch, and then waits for how much of it is to be lost.
type held struct{ batches, lose chan int }

func (h *held) export(_ context.Context, b *batch) (int, error) {
	h.batches <- b.spans
	if n := <-h.lose; n > 0 {
		return n, context.DeadlineExceeded
	}
	return 0, nil
}
