package extproc

import (
	"encoding/binary"
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/kernel/route"
)

// fieldOfPhase gives the field of ProcessingResponse that answers a phase.
var fieldOfPhase = [...]protowire.Number{
	requestHeaders: 1, responseHeaders: 2, requestBody: 3, responseBody: 4, requestTrailers: 5, responseTrailers: 6,
}

// open begins a nested message; it returns where its content begins, for shut. Messages that are longer than 127 bytes are moved when they are shut.
func open(dst []byte, num protowire.Number) ([]byte, int) {
	dst = append(protowire.AppendTag(dst, num, protowire.BytesType), 0)
	return dst, len(dst)
}

// shut ends the nested message that began at start.
func shut(dst []byte, start int) []byte { return shutBefore(dst, start, 0) }

// shutBefore ends a nested message whose last tail bytes are not in dst: they are sent after it.
func shutBefore(dst []byte, start, tail int) []byte {
	here := len(dst) - start
	size := here + tail
	// Fast path: the length fits into the byte that is there.
	if size < 0x80 {
		dst[start-1] = byte(size)
		return dst
	}
	// Slow path: make room for a longer one.
	more := protowire.SizeVarint(uint64(size)) - 1
	for range more {
		dst = append(dst, 0)
	}
	copy(dst[start+more:], dst[start:start+here])
	binary.PutUvarint(dst[start-1:], uint64(size))
	return dst
}

func appendBytes[T []byte | string](dst []byte, num protowire.Number, value T) []byte {
	return append(openBytes(dst, num, len(value)), value...)
}

// openBytes begins a field of n bytes that follow.
func openBytes(dst []byte, num protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.BytesType), uint64(n))
}

func appendUint(dst []byte, num protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.VarintType), value)
}

// appendEmptyAnswer appends the ProcessingResponse that lets a phase pass unchanged.
func appendEmptyAnswer(dst []byte, phase workerv1.Phase) []byte {
	dst, start := open(dst, fieldOfPhase[phase])
	return shut(dst, start)
}

// appendHeadersAnswer appends the fields of a ProcessingResponse that answer the header phase p with changes, and what is asked of Envoy next.
func (m *Machine) appendHeadersAnswer(dst []byte, p workerv1.Phase, c *changes) []byte {
	dst, answer := open(dst, fieldOfPhase[p])
	d := m.direction(p)
	mayReplace := m.mayReplace(p)
	if len(c.list) > 0 || mayReplace {
		var common, mutation int
		dst, common = open(dst, 1) // HeadersResponse.response
		dst = appendReplace(dst, c)
		dst, mutation = open(dst, 2) // CommonResponse.header_mutation
		dst = c.append(dst)
		if mayReplace {
			dst = d.appendStale(dst)
		}
		dst = appendClearRoute(shut(dst, mutation), c)
		dst = shut(dst, common)
	}
	return m.appendModeOverride(shut(dst, answer))
}

// appendStale appends the removals of what tells a body that policies may change on its way.
func (d *direction) appendStale(dst []byte) []byte {
	d.eachStale(func(name string) { dst = appendBytes(dst, 2, name) }) // HeaderMutation.remove_headers
	return dst
}

func (d *direction) eachStale(do func(name string)) {
	if d.hasLength {
		do("content-length")
	}
	for i, name := range digestNames {
		if d.digests&(1<<i) != 0 {
			do(name)
		}
	}
}

// appendReplace appends the CommonResponse.status that :method needs. Envoy lets it be set only by an answer of status CONTINUE_AND_REPLACE (mutation_utils.cc); without a
// body mutation that replaces nothing else (processor_state.cc, handleHeaderContinueAndReplace), and in a body answer it has no other effect.
func appendReplace(dst []byte, c *changes) []byte {
	if c.method {
		dst = appendUint(dst, 1, 1)
	}
	return dst
}

// appendClearRoute appends CommonResponse.clear_route_cache, if a policy wants the route to be chosen anew. Envoy ignores it without header changes (processor_state.cc, clearRouteCache).
func appendClearRoute(dst []byte, c *changes) []byte {
	if c.routes {
		dst = appendUint(dst, 5, 1)
	}
	return dst
}

// appendBodyAnswer appends the ProcessingResponse that answers a body message, up to where tail follows: what replaces the body.
func (m *Machine) appendBodyAnswer(dst, tail []byte) []byte {
	dst, answer := open(dst, fieldOfPhase[m.phase])
	if len(m.changes.list) > 0 || m.body.replaced {
		var common int
		dst, common = open(dst, 1) // BodyResponse.response
		dst = appendReplace(dst, &m.changes)
		setLength := m.setsLength()
		if len(m.changes.list) > 0 || setLength {
			var mutation int
			dst, mutation = open(dst, 2)
			dst = m.changes.append(dst)
			if setLength {
				dst = appendSetHeader(dst, "content-length", strconv.Itoa(len(tail)), false)
			}
			dst = appendClearRoute(shut(dst, mutation), &m.changes)
		}
		if m.body.replaced {
			var mutation int
			dst, mutation = open(dst, 3) // CommonResponse.body_mutation
			dst = openBytes(dst, 1, len(tail))
			dst = shutBefore(dst, mutation, len(tail))
		}
		dst = shutBefore(dst, common, len(tail))
	}
	return shutBefore(dst, answer, len(tail))
}

// appendStreamedAnswer appends the ProcessingResponse that gives bytes of a body back in full duplex, up to where tail follows: these bytes. The end is told before them.
func appendStreamedAnswer(dst []byte, phase workerv1.Phase, tail []byte, end bool) []byte {
	dst, answer := open(dst, fieldOfPhase[phase])
	dst, common := open(dst, 1)   // BodyResponse.response
	dst, mutation := open(dst, 3) // CommonResponse.body_mutation
	dst, streamed := open(dst, 3) // BodyMutation.streamed_response
	if end {
		dst = appendUint(dst, 2, 1)
	}
	if len(tail) > 0 {
		dst = openBytes(dst, 1, len(tail))
	}
	for _, start := range [...]int{streamed, mutation, common, answer} {
		dst = shutBefore(dst, start, len(tail))
	}
	return dst
}

// appendTrailersAnswer appends the ProcessingResponse that answers the trailers phase p.
func (m *Machine) appendTrailersAnswer(dst []byte, p workerv1.Phase) []byte {
	dst, answer := open(dst, fieldOfPhase[p])
	if len(m.changes.list) > 0 || len(m.removedTrailers) > 0 {
		var mutation int
		dst, mutation = open(dst, 1) // TrailersResponse.header_mutation
		dst = m.changes.append(dst)
		for _, name := range m.removedTrailers {
			dst = appendBytes(dst, 2, name) // HeaderMutation.remove_headers
		}
		dst = shut(dst, mutation)
	}
	return shut(dst, answer)
}

// The values of ProcessingMode's fields.
const (
	modeSend     = 1
	modeSkip     = 2
	modeStreamed = 1
	modeBuffered = 2
)

// appendModeOverride appends ProcessingResponse.mode_override, if Envoy has to be told something: which messages are wanted, whatever the filter's own configuration
// says. Header and trailer modes of DEFAULT change nothing, body modes always count, of both directions (ext_proc.cc, effectiveModeOverride). Trailers
// are wanted with every body, as they are its end where there are some.
func (m *Machine) appendModeOverride(dst []byte) []byte {
	if m.route == nil || m.duplex {
		return dst
	}
	want := asked{request: m.request.mode, requestTrailers: m.request.mode != route.BodyNone || m.wanted.has(requestTrailers)}
	switch {
	case !m.wanted.has(responseHeaders):
	case m.phase == responseHeaders:
		want.response = m.response.mode
		want.responseTrailers = want.response != route.BodyNone || m.wanted.has(responseTrailers)
	default:
		want.responseHeaders = true
		// STREAMED waits for the response's headers: where Envoy knows of it before, it drops content-length
		// (processor_state.h, shouldRemoveContentLength). BUFFERED does not wait: Envoy refuses what exceeds its
		// buffer only if it knows of it.
		if m.route.Response.BodyMode == route.BodyBuffered {
			want.response = route.BodyBuffered
		}
		want.responseTrailers = m.route.Response.BodyMode != route.BodyNone || len(m.route.Response.Trailers) > 0
	}
	if m.phase == responseHeaders {
		// Of the request, what was asked stays.
		want.responseHeaders, want.request, want.requestTrailers = m.asked.responseHeaders, m.asked.request, m.asked.requestTrailers
		// Fast path: all is as it was asked for with the request.
		if want == m.asked || m.endOfStream {
			return dst
		}
	} else if m.asked = want; want == (asked{}) {
		return dst
	}
	dst, start := open(dst, 9)
	if want.responseHeaders {
		dst = appendUint(dst, 2, modeSend)
	}
	dst = appendBodyMode(dst, 3, want.request)
	dst = appendBodyMode(dst, 4, want.response)
	if want.requestTrailers {
		dst = appendUint(dst, 5, modeSend)
	}
	switch {
	case want.responseTrailers:
		dst = appendUint(dst, 6, modeSend)
	case m.asked.responseTrailers:
		dst = appendUint(dst, 6, modeSkip) // DEFAULT would leave what was asked for with the request.
	}
	return shut(dst, start)
}

func appendBodyMode(dst []byte, num protowire.Number, mode route.BodyMode) []byte {
	switch mode {
	case route.BodyStreamed:
		return appendUint(dst, num, modeStreamed)
	case route.BodyBuffered:
		return appendUint(dst, num, modeBuffered)
	}
	return dst // NONE, the default.
}

// appendSetHeader appends a HeaderMutation.set_headers. The value goes into raw_value: Envoy reads no other. `append` is always given, as its
// default changed over Envoy's versions; append_action is ignored by Envoy 1.36.
func appendSetHeader[T []byte | string](dst []byte, name, value T, add bool) []byte {
	dst, option := open(dst, 1)
	dst, header := open(dst, 1)
	dst = appendBytes(dst, 1, name)
	dst = appendBytes(dst, 3, value)
	dst = shut(dst, header)
	dst, flag := open(dst, 2)
	if add {
		dst = appendUint(dst, 1, 1)
	}
	dst = shut(dst, flag)
	return shut(dst, option)
}

// appendStructString and its like append an entry of google.protobuf.Struct.fields.
func appendStructString(dst []byte, key, value string) []byte {
	dst, entry := open(dst, 1)
	dst = appendBytes(dst, 1, key)
	dst, v := open(dst, 2)
	dst = appendBytes(dst, 3, value) // Value.string_value
	dst = shut(dst, v)
	return shut(dst, entry)
}

func appendStructNumber(dst []byte, key string, value int) []byte {
	dst, entry := open(dst, 1)
	dst = appendBytes(dst, 1, key)
	dst, v := open(dst, 2)
	dst = protowire.AppendTag(dst, 2, protowire.Fixed64Type) // Value.number_value
	dst = protowire.AppendFixed64(dst, math.Float64bits(float64(value)))
	dst = shut(dst, v)
	return shut(dst, entry)
}
