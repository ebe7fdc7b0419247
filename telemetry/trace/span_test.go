package trace

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// TestSpanLimits: what a policy has too much of is left out, counted, and costs no other span.
func TestSpanLimits(t *testing.T) {
	r := newRecorder()
	s := r.Begin(trace.SpanContext{}, "", "it", trace.SpanKindInternal)
	for i := range 100 {
		s.SetAttributes(attribute.Int(fmt.Sprint("key-", i), i))
		s.AddEvent("event")
		s.AddLink(trace.Link{SpanContext: s.SpanContext()})
	}
	s.SetAttributes(attribute.Int("key-1", -1), attribute.Int("", 1))
	s.SetTexts("key-2", 1000, func(int) string { return "text" })
	s.SetTexts("no room", 1, func(int) string { t.Error("it was read"); return "" })
	s.AddLink(trace.Link{})
	s.End()
	got := r.spans(t)[0]
	if len(got.Attributes) != maxAttributes || got.DroppedAttributesCount != 100-maxAttributes+2 || len(got.Events) != maxEvents || got.DroppedEventsCount != 100-maxEvents ||
		len(got.Links) != maxLinks || got.DroppedLinksCount != 100-maxLinks+1 {
		t.Errorf("%d attributes and %d left out, %d events and %d, %d links and %d", len(got.Attributes), got.DroppedAttributesCount, len(got.Events), got.DroppedEventsCount,
			len(got.Links), got.DroppedLinksCount)
	}
	for _, kv := range got.Attributes {
		if kv.Key == "key-1" && kv.Value.GetIntValue() != -1 || kv.Key == "key-2" && len(kv.Value.GetArrayValue().Values) != maxElements {
			t.Errorf("%v", kv)
		}
	}

	long := r.Begin(trace.SpanContext{}, "", "too long", trace.SpanKindInternal)
	for range maxEvents {
		long.AddEvent("event", trace.WithAttributes(attribute.StringSlice("list", make([]string, maxElements)), attribute.String("text", strings.Repeat("x", maxText)),
			attribute.StringSlice("texts", []string{strings.Repeat("y", maxText), strings.Repeat("z", maxText), strings.Repeat("y", maxText), strings.Repeat("z", maxText)}),
			attribute.StringSlice("more", []string{strings.Repeat("y", maxText), strings.Repeat("z", maxText), strings.Repeat("y", maxText), strings.Repeat("z", maxText)})))
	}
	long.End()
	r.Begin(trace.SpanContext{}, "", "another", trace.SpanKindInternal).End()
	if got := r.spans(t); len(got) != 1 || got[0].Name != "another" || r.Lost() != 1 || r.Spans() != 3 {
		t.Errorf("%d spans, %d made, %d lost", len(got), r.Spans(), r.Lost())
	}
}

// TestEndedSpan: it is as it was.
func TestEndedSpan(t *testing.T) {
	r := newRecorder()
	s := r.Begin(trace.SpanContext{}, "", "it", trace.SpanKindInternal)
	if !s.IsRecording() {
		t.Error("it does not record")
	}
	s.SetStatus(codes.Ok, "not said")
	s.SetStatus(codes.Error, "less than OK")
	at := time.Unix(2_000_000_000, 5)
	s.End(trace.WithTimestamp(at))
	s.SetAttributes(attribute.Int("a", 1))
	s.SetTexts("b", 1, func(int) string { t.Error("it was read"); return "" })
	s.AddEvent("event")
	s.AddLink(trace.Link{SpanContext: s.SpanContext()})
	s.RecordError(errors.New("late"))
	s.SetName("another")
	s.End()
	got := r.spans(t)
	if len(got) != 1 || s.IsRecording() {
		t.Fatalf("%d spans; it records: %v", len(got), s.IsRecording())
	}
	if g := got[0]; g.Name != "it" || len(g.Attributes)+len(g.Events)+len(g.Links) != 0 || g.Status.Message != "" || g.EndTimeUnixNano != uint64(at.UnixNano()) {
		t.Errorf("%v", g)
	}
}

// TestPolicysOwnSpans: what a policy makes below its span, by the interfaces of OpenTelemetry alone.
func TestPolicysOwnSpans(t *testing.T) {
	r := newRecorder()
	above := r.Begin(trace.SpanContext{}, "", "above", trace.SpanKindInternal)
	var span trace.Span = above
	tracer := span.TracerProvider().Tracer("library", trace.WithInstrumentationVersion("2"))
	ctx, below := tracer.Start(trace.ContextWithSpan(context.Background(), span), "below", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attribute.Int("n", 1)),
		trace.WithLinks(trace.Link{SpanContext: above.SpanContext()}), trace.WithTimestamp(time.Unix(1_000_000_000, 0)))
	if trace.SpanFromContext(ctx) != below {
		t.Error("the context has another span")
	}
	below.RecordError(nil)
	below.RecordError(errors.New("broken"))
	below.End()
	_, root := tracer.Start(ctx, "root", trace.WithNewRoot())
	root.End()
	above.End()
	got := r.spans(t)
	if len(got) != 3 {
		t.Fatalf("%d spans", len(got))
	}
	g, id := got[0], above.SpanContext().SpanID()
	if string(g.ParentSpanId) != string(id[:]) || string(g.TraceId) != string(got[2].TraceId) || g.Kind != 3 || g.StartTimeUnixNano != 1e18 || len(g.Links) != 1 ||
		g.Flags&flagRemote != 0 {
		t.Errorf("%v", g)
	}
	attributes := map[string]string{}
	for _, kv := range append(g.Attributes, g.Events[0].Attributes...) {
		attributes[kv.Key] = kv.Value.String()
	}
	for key, want := range map[string]string{"otel.scope.name": "library", "otel.scope.version": "2", "n": "1", "exception.message": "broken", "exception.type": "errorString"} {
		if !strings.Contains(attributes[key], want) {
			t.Errorf("%s is %s, want %s", key, attributes[key], want)
		}
	}
	if len(got[1].ParentSpanId) != 0 || string(got[1].TraceId) == string(g.TraceId) {
		t.Errorf("the root is %v", got[1])
	}
}

// TestSpanIsShared: a policy's goroutines may use it, also after its end.
func TestSpanIsShared(t *testing.T) {
	r := newRecorder()
	s := r.Begin(trace.SpanContext{}, "", "it", trace.SpanKindInternal)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for j := range 100 {
				s.SetAttributes(attribute.Int(fmt.Sprint(i), j))
				s.AddEvent("event")
				s.SetStatus(codes.Error, "message")
				s.SetName("name")
				if i == 0 && j == 50 {
					s.End()
				}
			}
		})
	}
	group.Wait()
	if got := r.spans(t); len(got) != 1 {
		t.Errorf("%d spans", len(got))
	}
}

// TestSpanIsOneObject: a span with the engine's attributes takes one allocation.
func TestSpanIsOneObject(t *testing.T) {
	r := newRecorder()
	parent, _ := r.Sample([]byte(sampled), nil)
	policies := []string{"apiKeyAuth", "jwtValidation"}
	r.queue.buffers.Put(new(make([]byte, 0, 64<<10)))
	n := testing.AllocsPerRun(50, func() {
		s := r.Begin(parent, "worker ", "one", trace.SpanKindClient, attribute.String("policy_engine.worker", "one"), attribute.String("policy_engine.phase", "request_headers"))
		s.SetAttributes(attribute.Int("http.response.status_code", 200))
		s.SetTexts("policy_engine.policies", 2, func(i int) string { return policies[i] })
		s.SetStatus(codes.Error, "timeout")
		s.End()
	})
	if n != 1 {
		t.Errorf("%v allocations", n)
	}
}
