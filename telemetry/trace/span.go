package trace

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Limits of what one span may hold. What is beyond is left out and counted, or cut off.
const (
	maxAttributes = 32
	maxEvents     = 32
	maxLinks      = 1
	maxText       = 256 // bytes of a name, a value, or a message
)

// Span is a span. Policies, which find it in their context, know it as trace.Span, all of which it implements. What it is told becomes bytes of OTLP at once: it keeps nothing that
// is borrowed but its name and the message of its status, and these until it ends. It is safe for concurrent use; once it has ended, nothing changes it.
type Span struct {
	noop.Span // has what later versions of the interface add

	tracer  *Tracer
	context trace.SpanContext
	parent  trace.SpanID
	remote  bool // the parent is another process's
	kind    trace.SpanKind
	start   time.Time

	mu      sync.Mutex
	ended   bool
	prefix  string // before the name; a constant of the code
	name    string
	code    codes.Code
	message string
	// attributes are encoded, as are, in others, events and links.
	attributes, others []byte
	// lengths has a bit for the length of each attribute's key, modulo 64: most keys are seen to be new by that.
	lengths uint64
	// How many there are, and how many were left out.
	attributeCount, eventCount, linkCount uint8
	attributesLeft, eventsLeft, linksLeft uint32

	// room is what attributes has without another allocation: enough for the engine's own spans with names that are not long.
	room [296]byte
}

var _ trace.Span = (*Span)(nil)

// SpanContext implements trace.Span.
func (s *Span) SpanContext() trace.SpanContext { return s.context }

// IsRecording implements trace.Span.
func (s *Span) IsRecording() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.ended
}

// record has f change the span, if it has not ended.
func (s *Span) record(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		f()
	}
}

// SetName implements trace.Span.
func (s *Span) SetName(name string) { s.record(func() { s.prefix, s.name = "", name }) }

// SetObject sets the name behind the prefix that Begin was given.
func (s *Span) SetObject(name string) { s.record(func() { s.name = name }) }

// SetStatus implements trace.Span.
func (s *Span) SetStatus(code codes.Code, message string) {
	s.record(func() {
		if code < s.code {
			return // OK stays before ERROR, and ERROR before none.
		}
		s.code, s.message = code, ""
		if code == codes.Error {
			s.message = message
		}
	})
}

// SetAttributes implements trace.Span. Nothing is kept of the attributes.
func (s *Span) SetAttributes(attributes ...attribute.KeyValue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.set(attributes)
	}
}

// set sets attributes. The caller holds the lock, or has the span alone.
func (s *Span) set(attributes []attribute.KeyValue) {
	for _, a := range attributes {
		if key := clean(string(a.Key)); s.admit(key) {
			s.attributes = appendKeyValue(s.attributes, spanAttribute, key, a.Value)
		}
	}
}

// SetTexts sets an attribute that is an array of n strings, of which nothing is kept.
func (s *Span) SetTexts(key string, n int, text func(int) string) {
	s.record(func() {
		key = clean(key)
		if !s.admit(key) {
			return
		}
		b, at, value := enterKeyValue(s.attributes, spanAttribute, key)
		b = appendArray(b, n, func(i int) attribute.Value { return attribute.StringValue(text(i)) })
		s.attributes = leave(leave(b, value), at)
	})
}

// admit reports whether there is room for an attribute, which replaces one with the same key.
func (s *Span) admit(key string) bool {
	if length := uint64(1) << (len(key) % 64); s.lengths&length == 0 {
		s.lengths |= length
	} else if rest, found := without(s.attributes, key); found {
		s.attributes = rest
		return true
	}
	if s.attributeCount == maxAttributes || key == "" {
		s.attributesLeft++
		return false
	}
	s.attributeCount++
	return true
}

// AddEvent implements trace.Span.
func (s *Span) AddEvent(name string, options ...trace.EventOption) {
	c := trace.NewEventConfig(options...)
	s.record(func() {
		if s.eventCount == maxEvents || len(s.others) > maxSpan { // A span that is too long is lost anyway.
			s.eventsLeft++
			return
		}
		s.eventCount++
		s.others = appendEvent(s.others, name, c.Timestamp(), c.Attributes())
	})
}

// RecordError implements trace.Span.
func (s *Span) RecordError(err error, options ...trace.EventOption) {
	if err == nil {
		return
	}
	s.AddEvent("exception", append(options, trace.WithAttributes(
		attribute.String("exception.type", fmt.Sprintf("%T", err)), attribute.String("exception.message", err.Error()),
	))...)
}

// AddLink implements trace.Span.
func (s *Span) AddLink(link trace.Link) {
	s.record(func() {
		if s.linkCount == maxLinks || !link.SpanContext.IsValid() {
			s.linksLeft++
			return
		}
		s.linkCount++
		s.others = appendLink(s.others, link)
	})
}

// End implements trace.Span. The span becomes bytes, and is kept by nobody. End does not block.
func (s *Span) End(options ...trace.SpanEndOption) {
	end := s.start.Add(time.Since(s.start))
	if len(options) > 0 {
		if c := trace.NewSpanEndConfig(options...); !c.Timestamp().IsZero() {
			end = c.Timestamp()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	s.tracer.queue.add(s, end)
}

// TracerProvider implements trace.Span: a policy can make spans below its own.
func (s *Span) TracerProvider() trace.TracerProvider { return provider{tracer: s.tracer} }

// provider and library are how OpenTelemetry has spans be made by code that knows only its interfaces.
type provider struct {
	noop.TracerProvider

	tracer *Tracer
}

// library makes the spans of a library.
type library struct {
	noop.Tracer

	tracer *Tracer
	about  []attribute.KeyValue
}

// Tracer implements trace.TracerProvider. The library's name becomes an attribute, as OpenTelemetry has it for what knows no scopes (specification, "Mapping to non-OTLP
// formats").
func (p provider) Tracer(name string, options ...trace.TracerOption) trace.Tracer {
	c := trace.NewTracerConfig(options...)
	l := library{tracer: p.tracer, about: []attribute.KeyValue{attribute.String("otel.scope.name", name)}}
	if v := c.InstrumentationVersion(); v != "" {
		l.about = append(l.about, attribute.String("otel.scope.version", v))
	}
	return l
}

// Start implements trace.Tracer.
func (l library) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	if ctx == nil {
		ctx = context.Background()
	}
	c := trace.NewSpanStartConfig(options...)
	var parent trace.SpanContext
	if !c.NewRoot() {
		parent = trace.SpanContextFromContext(ctx)
	}
	s := l.tracer.Begin(parent, "", name, trace.ValidateSpanKind(c.SpanKind()), l.about...)
	if !c.Timestamp().IsZero() {
		s.start = c.Timestamp()
	}
	s.set(c.Attributes())
	for _, link := range c.Links() {
		s.AddLink(link)
	}
	return trace.ContextWithSpan(ctx, s), s
}
