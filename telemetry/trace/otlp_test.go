package trace

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// recorder has a tracer whose spans stay here.
type recorder struct {
	*Tracer

	o Options
}

func newRecorder() recorder {
	o := options("")
	return recorder{&Tracer{queue: &queue{max: o.QueueSize, batch: maxBatch, wake: make(chan struct{}, 1)}}, o}
}

// spans reads what has ended as a receiver does. Nothing is left of it.
func (r recorder) spans(t interface{ Fatal(...any) }) []*tracev1.Span {
	r.queue.mu.Lock()
	defer r.queue.mu.Unlock()
	var all []*tracev1.Span
	for _, b := range r.queue.batches {
		var m collectorv1.ExportTraceServiceRequest
		if err := proto.Unmarshal(append(newFrame(r.o).head(len(b.bytes)), b.bytes...), &m); err != nil {
			t.Fatal(err)
		}
		for _, rs := range m.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				all = append(all, ss.Spans...)
			}
		}
	}
	r.queue.batches, r.queue.waiting = nil, 0
	return all
}

// texts are those that attributes, names and messages may have.
func texts() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringN(0, 20, -1),
		rapid.Custom(func(t *rapid.T) string { return string(rapid.SliceOfN(rapid.Byte(), 0, 600).Draw(t, "bytes")) }),
		rapid.Custom(func(t *rapid.T) string { return strings.Repeat("ä", rapid.IntRange(100, 200).Draw(t, "n")) }),
	)
}

// wantText is what arrives of a text.
func wantText(t *rapid.T, sent, got string) {
	if !utf8.ValidString(got) || len(got) > 3*maxText {
		t.Fatalf("%q arrived of %q", got, sent)
	}
	if utf8.ValidString(sent) && (!strings.HasPrefix(sent, got) || len(sent) <= maxText && got != sent || len(sent) > maxText && len(got) <= maxText-utf8.UTFMax) {
		t.Fatalf("%q arrived of %q", got, sent)
	}
}

// values makes an attribute's value, and what has to arrive of it.
func values(depth int) *rapid.Generator[attribute.Value] {
	kinds := []*rapid.Generator[attribute.Value]{
		rapid.Map(texts(), attribute.StringValue),
		rapid.Map(rapid.Int64(), attribute.Int64Value),
		rapid.Map(rapid.Bool(), attribute.BoolValue),
		rapid.Map(rapid.Float64(), attribute.Float64Value),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 300), attribute.ByteSliceValue),
		rapid.Map(rapid.SliceOfN(texts(), 0, 5), attribute.StringSliceValue),
		rapid.Map(rapid.SliceOf(rapid.Int64()), attribute.Int64SliceValue),
		rapid.Map(rapid.SliceOfN(rapid.Bool(), 0, 200), attribute.BoolSliceValue),
		rapid.Map(rapid.SliceOf(rapid.Float64()), attribute.Float64SliceValue),
		rapid.Just(attribute.Value{}),
	}
	if depth > 0 {
		kinds = append(kinds,
			rapid.Map(rapid.SliceOfN(values(depth-1), 0, 4), func(v []attribute.Value) attribute.Value { return attribute.SliceValue(v...) }),
			rapid.Map(rapid.SliceOfNDistinct(keyValues(depth-1), 0, 4, func(kv attribute.KeyValue) attribute.Key { return kv.Key }), func(kv []attribute.KeyValue) attribute.Value {
				return attribute.MapValue(kv...)
			}))
	}
	return rapid.OneOf(kinds...)
}

func keyValues(depth int) *rapid.Generator[attribute.KeyValue] {
	return rapid.Custom(func(t *rapid.T) attribute.KeyValue {
		return attribute.KeyValue{Key: attribute.Key(rapid.StringMatching(`[a-e]{1,2}`).Draw(t, "key")), Value: values(depth).Draw(t, "value")}
	})
}

// wantValue compares an attribute with what has arrived.
func wantValue(t *rapid.T, sent attribute.Value, got *commonv1.AnyValue) {
	array := func(n int, element func(int) attribute.Value) {
		list := got.GetArrayValue().GetValues()
		if len(list) != min(n, maxElements) {
			t.Fatalf("%d of %d elements", len(list), n)
		}
		for i := range list {
			wantValue(t, element(i), list[i])
		}
	}
	same := true
	switch sent.Type() {
	case attribute.STRING:
		_, same = got.Value.(*commonv1.AnyValue_StringValue)
		wantText(t, sent.AsString(), got.GetStringValue())
	case attribute.INT64:
		_, same = got.Value.(*commonv1.AnyValue_IntValue)
		same = same && got.GetIntValue() == sent.AsInt64()
	case attribute.BOOL:
		_, same = got.Value.(*commonv1.AnyValue_BoolValue)
		same = same && got.GetBoolValue() == sent.AsBool()
	case attribute.FLOAT64:
		_, same = got.Value.(*commonv1.AnyValue_DoubleValue)
		same = same && math.Float64bits(got.GetDoubleValue()) == math.Float64bits(sent.AsFloat64())
	case attribute.BYTESLICE:
		b := sent.AsByteSlice()
		same = string(got.GetBytesValue()) == string(b[:min(len(b), maxText)])
	case attribute.STRINGSLICE:
		s := sent.AsStringSlice()
		array(len(s), func(i int) attribute.Value { return attribute.StringValue(s[i]) })
	case attribute.INT64SLICE:
		s := sent.AsInt64Slice()
		array(len(s), func(i int) attribute.Value { return attribute.Int64Value(s[i]) })
	case attribute.BOOLSLICE:
		s := sent.AsBoolSlice()
		array(len(s), func(i int) attribute.Value { return attribute.BoolValue(s[i]) })
	case attribute.FLOAT64SLICE:
		s := sent.AsFloat64Slice()
		array(len(s), func(i int) attribute.Value { return attribute.Float64Value(s[i]) })
	case attribute.SLICE:
		s := sent.AsSlice()
		array(len(s), func(i int) attribute.Value { return s[i] })
	case attribute.MAP:
		wantAttributes(t, sent.AsMap(), got.GetKvlistValue().GetValues())
	default:
		same = got.GetValue() == nil
	}
	if !same {
		t.Fatalf("%v arrived of %v", got, sent.String())
	}
}

func wantAttributes(t *rapid.T, sent []attribute.KeyValue, got []*commonv1.KeyValue) {
	if len(got) != len(sent) {
		t.Fatalf("%d attributes arrived of %d: %v", len(got), len(sent), got)
	}
	for i := range sent {
		if got[i].Key != string(sent[i].Key) {
			t.Fatalf("attribute %d is %q, want %q", i, got[i].Key, sent[i].Key)
		}
		wantValue(t, sent[i].Value, got[i].Value)
	}
}

// TestEncoding: what a receiver reads of a span is what the span was told.
func TestEncoding(t *testing.T) {
	r := newRecorder()
	rapid.Check(t, func(t *rapid.T) {
		parent := trace.SpanContext{}
		if rapid.Bool().Draw(t, "joined") {
			p, _ := parseParent([]byte(sampled))
			parent = p.context([]byte(rapid.SampledFrom([]string{"", "vendor=1"}).Draw(t, "state")))
		}
		kind := trace.SpanKind(rapid.IntRange(1, 5).Draw(t, "kind"))
		name, message := texts().Draw(t, "name"), texts().Draw(t, "message")
		attributes := rapid.SliceOfN(keyValues(2), 0, 12).Draw(t, "attributes")
		status := rapid.SampledFrom([]codes.Code{codes.Unset, codes.Error, codes.Ok}).Draw(t, "status")
		before := time.Now()
		s := r.Begin(parent, "", "to be named", kind)
		for _, a := range attributes {
			s.SetAttributes(a)
		}
		s.SetName(name)
		s.SetStatus(status, message)
		s.AddEvent(name, trace.WithAttributes(attributes...))
		s.AddLink(trace.Link{SpanContext: s.SpanContext(), Attributes: attributes})
		s.End()
		after := time.Now()
		spans := r.spans(t)
		if len(spans) != 1 {
			t.Fatalf("%d spans", len(spans))
		}
		got := spans[0]
		// Of several with one key, the last one counts, in its place.
		var set []attribute.KeyValue
		for _, a := range attributes {
			set = slices.DeleteFunc(set, func(o attribute.KeyValue) bool { return o.Key == a.Key })
			set = append(set, a)
		}
		wantAttributes(t, set, got.Attributes)
		wantText(t, name, got.Name)
		c := s.SpanContext()
		traceID, id := c.TraceID(), c.SpanID()
		if string(got.TraceId) != string(traceID[:]) || string(got.SpanId) != string(id[:]) || !c.IsValid() || !c.IsSampled() || c.IsRemote() {
			t.Fatalf("%x %x are not those of %v", got.TraceId, got.SpanId, c)
		}
		flags := uint32(trace.FlagsSampled) | uint32(tracev1.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
		if parent.IsValid() {
			above := parent.SpanID()
			if c.TraceID() != parent.TraceID() || string(got.ParentSpanId) != string(above[:]) || got.TraceState != parent.TraceState().String() {
				t.Fatalf("%v is not below %v", got, parent)
			}
			flags |= uint32(tracev1.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
		} else if len(got.ParentSpanId) != 0 || got.TraceState != "" {
			t.Fatalf("%v has a parent", got)
		}
		if int(got.Kind) != int(kind) || got.Flags != flags || len(got.Events) != 1 || len(got.Links) != 1 {
			t.Fatalf("%v", got)
		}
		for what, at := range map[string]uint64{"start": got.StartTimeUnixNano, "end": got.EndTimeUnixNano, "event": got.Events[0].TimeUnixNano} {
			if at < uint64(before.UnixNano()) || at > uint64(after.UnixNano()) {
				t.Fatalf("%s at %d", what, at)
			}
		}
		wantAttributes(t, attributes, got.Events[0].Attributes)
		wantAttributes(t, attributes, got.Links[0].Attributes)
		wantCode := map[codes.Code]tracev1.Status_StatusCode{codes.Ok: tracev1.Status_STATUS_CODE_OK, codes.Error: tracev1.Status_STATUS_CODE_ERROR}[status]
		if got.GetStatus().GetCode() != wantCode {
			t.Fatalf("status %v, want %v", got.Status, status)
		}
		if status == codes.Error {
			wantText(t, message, got.Status.Message)
		} else if got.GetStatus().GetMessage() != "" {
			t.Fatalf("status %v", got.Status)
		}
	})
}

// TestFrame: whose spans they are.
func TestFrame(t *testing.T) {
	o := options("")
	o.Service, o.Version, o.Instance = "policy-worker", "1.2", strings.Repeat("w", 200)
	for _, n := range []int{0, 1, 127, 128, 1 << 20} {
		// An unknown field of that many bytes stands for spans.
		rest := appendBytes(nil, 100, make([]byte, n))
		var m collectorv1.ExportTraceServiceRequest
		if err := proto.Unmarshal(append(newFrame(o).head(len(rest)), rest...), &m); err != nil {
			t.Fatal(err)
		}
		rs := m.ResourceSpans[0]
		scope := rs.ScopeSpans[0].Scope
		got := fmt.Sprintf("%d %d %s %s", len(m.ResourceSpans), len(rs.ScopeSpans), scope.Name, scope.Version)
		for _, kv := range rs.Resource.Attributes {
			got += fmt.Sprintf(" %s=%s", kv.Key, kv.Value.GetStringValue())
		}
		if want := "1 1 github.com/policy-engine/policy-engine 1.2 service.name=policy-worker service.version=1.2 policy_engine.worker=" + o.Instance; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// FuzzWithout: attributes are removed as they were written, whatever their keys and values are.
func FuzzWithout(f *testing.F) {
	f.Add("a", "b", "c", "value")
	f.Add("", strings.Repeat("k", 300), "\xff", strings.Repeat("v", 1000))
	f.Fuzz(func(t *testing.T, a, b, c, value string) {
		write := func(keys ...string) (all []byte) {
			for _, key := range keys {
				all = appendAttribute(all, spanAttribute, attribute.String(key, value))
			}
			return all
		}
		if clean(a) == clean(b) || clean(b) == clean(c) {
			return
		}
		if rest, found := without(write(a, b, c), clean(b)); !found || string(rest) != string(write(a, c)) {
			t.Errorf("%q is not what is left of %q", rest, write(a, b, c))
		}
		if rest, found := without(write(a, c), clean(b)); found || string(rest) != string(write(a, c)) {
			t.Errorf("%q is left of %q", rest, write(a, c))
		}
	})
}
