package worker

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// TestOwnCallHasAll: each field of the protocol is copied, those to come as well, and no bytes are shared.
func TestOwnCallHasAll(t *testing.T) {
	from := &workerv1.Call{}
	fields := from.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		var v protoreflect.Value
		switch f.Kind() {
		case protoreflect.BoolKind:
			v = protoreflect.ValueOfBool(true)
		case protoreflect.Uint32Kind:
			v = protoreflect.ValueOfUint32(uint32(i) + 1)
		case protoreflect.Uint64Kind:
			v = protoreflect.ValueOfUint64(uint64(i) + 1)
		case protoreflect.EnumKind:
			v = protoreflect.ValueOfEnum(2)
		case protoreflect.BytesKind:
			v = protoreflect.ValueOfBytes([]byte(f.Name()))
		default:
			t.Fatalf("field %s is of kind %v, which this test does not know", f.Name(), f.Kind())
		}
		from.ProtoReflect().Set(f, v)
	}
	want := proto.Clone(from)
	var o ownCall
	got := o.copy(from)
	for _, b := range [][]byte{from.Headers, from.RequestHeaders, from.Context, from.Body, from.Trailers, from.Trace, from.SourceAddress} {
		clear(b)
	}
	if !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
