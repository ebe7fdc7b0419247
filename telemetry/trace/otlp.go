package trace

import (
	"encoding/binary"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/encoding/protowire"
)

// The fields of OTLP that are written here (opentelemetry-proto v1: collector/trace/v1/trace_service.proto, trace/v1/trace.proto, resource/v1/resource.proto and
// common/v1/common.proto).
const (
	requestResourceSpans = 1

	resourceSpansResource = 1
	resourceSpansScope    = 2
	resourceAttributes    = 1
	scopeSpansScope       = 1
	scopeSpansSpan        = 2
	scopeName             = 1
	scopeVersion          = 2

	spanTraceID        = 1
	spanID             = 2
	spanTraceState     = 3
	spanParent         = 4
	spanName           = 5
	spanKind           = 6
	spanStart          = 7
	spanEnd            = 8
	spanAttribute      = 9
	spanAttributesLeft = 10
	spanEvent          = 11
	spanEventsLeft     = 12
	spanLink           = 13
	spanLinksLeft      = 14
	spanStatus         = 15
	spanFlags          = 16

	eventTime           = 1
	eventName           = 2
	eventAttribute      = 3
	eventAttributesLeft = 4

	linkTraceID        = 1
	linkSpanID         = 2
	linkTraceState     = 3
	linkAttribute      = 4
	linkAttributesLeft = 5
	linkFlags          = 6

	statusMessage = 2
	statusCode    = 3

	keyValueKey   = 1
	keyValueValue = 2
	anyString     = 1
	anyBool       = 2
	anyInt        = 3
	anyDouble     = 4
	anyArray      = 5
	anyMap        = 6
	anyBytes      = 7
	listValue     = 1 // of ArrayValue and of KeyValueList
)

// The values of enumerations, and of flags.
const (
	statusCodeOK    = 1
	statusCodeError = 2

	flagHasRemote = 0x100 // It is known whether the parent is remote.
	flagRemote    = 0x200
)

// enter begins a message within another one, and leave ends it. Its length is written by leave: one byte is kept for it, and longer messages are moved.
func enter(b []byte, field protowire.Number) (within []byte, at int) {
	b = append(protowire.AppendTag(b, field, protowire.BytesType), 0)
	return b, len(b)
}

func leave(b []byte, at int) []byte {
	n := len(b) - at
	if n < 0x80 {
		b[at-1] = byte(n)
		return b
	}
	more := protowire.SizeVarint(uint64(n)) - 1
	var room [binary.MaxVarintLen64]byte
	b = append(b, room[:more]...)
	copy(b[at+more:], b[at:at+n])
	protowire.AppendVarint(b[:at-1], uint64(n))
	return b
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func appendUint(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendTime(b []byte, field protowire.Number, t time.Time) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), uint64(max(0, t.UnixNano())))
}

// clean is a text that every receiver takes, with no more than maxText bytes, or a few more. What is no UTF-8 in it is replaced: one such text would have a whole batch be
// refused.
func clean(s string) string {
	if len(s) > maxText {
		n := maxText
		for n > maxText-utf8.UTFMax && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return s
}

func appendText(b []byte, field protowire.Number, s string) []byte {
	return appendCleaned(b, field, clean(s))
}

func appendCleaned(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendContext(b []byte, trace, span protowire.Number, c trace.SpanContext) []byte {
	t, s := c.TraceID(), c.SpanID()
	return appendBytes(appendBytes(b, trace, t[:]), span, s[:])
}

func appendFlags(b []byte, field protowire.Number, flags trace.TraceFlags, remote bool) []byte {
	f := uint32(flags) | flagHasRemote
	if remote {
		f |= flagRemote
	}
	return protowire.AppendFixed32(protowire.AppendTag(b, field, protowire.Fixed32Type), f)
}

// appendSpan appends a span as a field of ScopeSpans.
func appendSpan(b []byte, s *Span, end time.Time) []byte {
	b, span := enter(b, scopeSpansSpan)
	b = appendContext(b, spanTraceID, spanID, s.context)
	if state := s.context.TraceState(); state.Len() > 0 {
		b = appendBytes(b, spanTraceState, []byte(state.String())) // As long as W3C has it, which is all ASCII.
	}
	if s.parent.IsValid() {
		b = appendBytes(b, spanParent, s.parent[:])
	}
	b, name := enter(b, spanName)
	b = leave(append(append(b, s.prefix...), clean(s.name)...), name)
	b = appendUint(b, spanKind, uint64(s.kind)) // The numbers are the same.
	b = appendTime(b, spanStart, s.start)
	b = appendTime(b, spanEnd, end)
	b = append(b, s.attributes...)
	b = append(b, s.others...)
	b = appendUint(b, spanAttributesLeft, uint64(s.attributesLeft))
	b = appendUint(b, spanEventsLeft, uint64(s.eventsLeft))
	b = appendUint(b, spanLinksLeft, uint64(s.linksLeft))
	b = appendStatus(b, s.code, s.message)
	b = appendFlags(b, spanFlags, s.context.TraceFlags(), s.remote)
	return leave(b, span)
}

func appendStatus(b []byte, code codes.Code, message string) []byte {
	if code == codes.Unset {
		return b
	}
	b, status := enter(b, spanStatus)
	if message != "" {
		b = appendText(b, statusMessage, message)
	}
	number := uint64(statusCodeOK)
	if code == codes.Error {
		number = statusCodeError
	}
	return leave(appendUint(b, statusCode, number), status)
}

// appendEvent appends an event as a field of a span.
func appendEvent(b []byte, name string, at time.Time, attributes []attribute.KeyValue) []byte {
	b, event := enter(b, spanEvent)
	b = appendTime(b, eventTime, at)
	b = appendText(b, eventName, name)
	b, left := appendAttributes(b, eventAttribute, attributes)
	return leave(appendUint(b, eventAttributesLeft, left), event)
}

// appendLink appends a link as a field of a span.
func appendLink(b []byte, l trace.Link) []byte {
	b, link := enter(b, spanLink)
	b = appendContext(b, linkTraceID, linkSpanID, l.SpanContext)
	if state := l.SpanContext.TraceState(); state.Len() > 0 {
		b = appendBytes(b, linkTraceState, []byte(state.String()))
	}
	b, left := appendAttributes(b, linkAttribute, l.Attributes)
	b = appendUint(b, linkAttributesLeft, left)
	return leave(appendFlags(b, linkFlags, l.SpanContext.TraceFlags(), l.SpanContext.IsRemote()), link)
}

// appendAttributes appends as many as there may be, and counts those that it leaves out.
func appendAttributes(b []byte, field protowire.Number, list []attribute.KeyValue) (with []byte, left uint64) {
	n := min(len(list), maxAttributes)
	for _, a := range list[:n] {
		b = appendAttribute(b, field, a)
	}
	return b, uint64(len(list) - n)
}

func appendAttribute(b []byte, field protowire.Number, a attribute.KeyValue) []byte {
	return appendKeyValue(b, field, clean(string(a.Key)), a.Value)
}

// appendKeyValue appends an attribute with a key that is clean.
func appendKeyValue(b []byte, field protowire.Number, key string, v attribute.Value) []byte {
	b, at, value := enterKeyValue(b, field, key)
	return leave(leave(appendValue(b, v), value), at)
}

// enterKeyValue begins an attribute whose value is to follow; two messages are left after it.
func enterKeyValue(b []byte, field protowire.Number, key string) (within []byte, at, value int) {
	b, at = enter(b, field)
	b, value = enter(appendCleaned(b, keyValueKey, key), keyValueValue)
	return b, at, value
}

// without removes an attribute from those of a span, if it is there. attributes is nothing but attributes (KeyValue), as they are written here: a key, then a value.
func without(attributes []byte, key string) (rest []byte, found bool) {
	for at := 0; at < len(attributes); {
		_, _, tag := protowire.ConsumeTag(attributes[at:])
		a, n := protowire.ConsumeBytes(attributes[at+tag:])
		next := at + tag + n
		_, _, tag = protowire.ConsumeTag(a)
		if k, _ := protowire.ConsumeBytes(a[tag:]); string(k) == key {
			return append(attributes[:at], attributes[next:]...), true
		}
		at = next
	}
	return attributes, false
}

// appendValue appends the fields of an AnyValue.
func appendValue(b []byte, v attribute.Value) []byte {
	switch v.Type() {
	case attribute.STRING:
		return appendText(b, anyString, v.AsString())
	case attribute.INT64:
		return protowire.AppendVarint(protowire.AppendTag(b, anyInt, protowire.VarintType), uint64(v.AsInt64()))
	case attribute.BOOL:
		return protowire.AppendVarint(protowire.AppendTag(b, anyBool, protowire.VarintType), protowire.EncodeBool(v.AsBool()))
	case attribute.FLOAT64:
		return protowire.AppendFixed64(protowire.AppendTag(b, anyDouble, protowire.Fixed64Type), math.Float64bits(v.AsFloat64()))
	case attribute.BYTESLICE:
		bytes := v.AsByteSlice()
		return appendBytes(b, anyBytes, bytes[:min(len(bytes), maxText)])
	case attribute.STRINGSLICE:
		return appendSlice(b, v.AsStringSlice(), attribute.StringValue)
	case attribute.INT64SLICE:
		return appendSlice(b, v.AsInt64Slice(), attribute.Int64Value)
	case attribute.BOOLSLICE:
		return appendSlice(b, v.AsBoolSlice(), attribute.BoolValue)
	case attribute.FLOAT64SLICE:
		return appendSlice(b, v.AsFloat64Slice(), attribute.Float64Value)
	case attribute.SLICE:
		return appendSlice(b, v.AsSlice(), func(v attribute.Value) attribute.Value { return v })
	case attribute.MAP:
		b, list := enter(b, anyMap)
		b, _ = appendAttributes(b, listValue, v.AsMap())
		return leave(b, list)
	}
	return b // An empty value has no field.
}

// maxElements bounds an array.
const maxElements = 128

func appendSlice[T any](b []byte, elements []T, value func(T) attribute.Value) []byte {
	return appendArray(b, len(elements), func(i int) attribute.Value { return value(elements[i]) })
}

// appendArray appends the first of so many elements.
func appendArray(b []byte, elements int, element func(int) attribute.Value) []byte {
	b, array := enter(b, anyArray)
	for i := range min(elements, maxElements) {
		var at int
		b, at = enter(b, listValue)
		b = leave(appendValue(b, element(i)), at)
	}
	return leave(b, array)
}

// frame is what a request has around its spans.
type frame struct{ resource, scope []byte }

func newFrame(o Options) frame {
	about := []attribute.KeyValue{attribute.String("service.name", o.Service), attribute.String("service.version", o.Version)}
	if o.Instance != "" {
		about = append(about, attribute.String("policy_engine.worker", o.Instance))
	}
	var f frame
	var at int
	f.resource, at = enter(nil, resourceSpansResource)
	for _, a := range about {
		f.resource = appendAttribute(f.resource, resourceAttributes, a)
	}
	f.resource = leave(f.resource, at)
	f.scope, at = enter(nil, scopeSpansScope)
	f.scope = appendText(f.scope, scopeName, "github.com/policy-engine/policy-engine")
	f.scope = leave(appendText(f.scope, scopeVersion, o.Version), at)
	return f
}

// head is what comes before the spans of a request (ExportTraceServiceRequest), which are so many bytes.
func (f frame) head(spans int) []byte {
	scope := len(f.scope) + spans
	all := len(f.resource) + protowire.SizeTag(resourceSpansScope) + protowire.SizeBytes(scope)
	b := protowire.AppendVarint(protowire.AppendTag(nil, requestResourceSpans, protowire.BytesType), uint64(all))
	b = append(b, f.resource...)
	b = protowire.AppendVarint(protowire.AppendTag(b, resourceSpansScope, protowire.BytesType), uint64(scope))
	return append(b, f.scope...)
}
