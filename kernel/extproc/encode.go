package extproc

import (
	"encoding/binary"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
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
func shut(dst []byte, start int) []byte {
	size := len(dst) - start
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
	copy(dst[start+more:], dst[start:start+size])
	binary.PutUvarint(dst[start-1:], uint64(size))
	return dst
}

func appendBytes[T []byte | string](dst []byte, num protowire.Number, value T) []byte {
	dst = protowire.AppendTag(dst, num, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(len(value)))
	return append(dst, value...)
}

func appendUint(dst []byte, num protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.VarintType), value)
}

// appendEmptyAnswer appends the ProcessingResponse that lets a phase pass unchanged.
func appendEmptyAnswer(dst []byte, phase workerv1.Phase) []byte {
	dst, start := open(dst, fieldOfPhase[phase])
	return shut(dst, start)
}

// appendHeadersAnswer appends the fields of a ProcessingResponse that answer a header phase with changes.
func appendHeadersAnswer(dst []byte, phase workerv1.Phase, c *changes) []byte {
	dst, answer := open(dst, fieldOfPhase[phase])
	if len(c.list) > 0 {
		var common, mutation int
		dst, common = open(dst, 1) // HeadersResponse.response
		if c.method {
			// Envoy lets :method be set only by an answer of status CONTINUE_AND_REPLACE (mutation_utils.cc); without a body mutation that replaces nothing else
			// (processor_state.cc, handleHeaderContinueAndReplace).
			dst = appendUint(dst, 1, 1)
		}
		dst, mutation = open(dst, 2) // CommonResponse.header_mutation
		dst = c.append(dst)
		dst = shut(dst, mutation)
		dst = shut(dst, common)
	}
	return shut(dst, answer)
}

// appendModeOverride appends ProcessingResponse.mode_override: response headers are sent, whatever the filter's own configuration says. Header and trailer modes of
// DEFAULT change nothing, body modes always count (ext_proc.cc, effectiveModeOverride): NONE, as no policy wants a body.
func appendModeOverride(dst []byte) []byte {
	dst, start := open(dst, 9)
	dst = appendUint(dst, 2, 1) // response_header_mode: SEND
	return shut(dst, start)
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
