// Package api_test compares our protocols' generated code with the messages and the codec that the rest of the world uses.
package api_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
)

// source gives the choices that make a message, out of the bytes of a fuzz input. When the bytes run out, all choices are 0.
type source struct{ data []byte }

func (s *source) byte() byte {
	if len(s.data) == 0 {
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return b
}

func (s *source) uint64() uint64 {
	var b [8]byte
	for i := range 1 << (s.byte() % 4) { // 1, 2, 4 or 8 bytes, so that small numbers are common
		b[i] = s.byte()
	}
	return binary.LittleEndian.Uint64(b[:])
}

func (s *source) bytes() []byte {
	n := int(s.byte())
	if n > 250 {
		n *= 20 // lengths of two bytes
	}
	b := make([]byte, n)
	s.data = s.data[copy(b, s.data):]
	return b
}

// text is valid UTF-8: half of it ASCII, half of it any characters.
func (s *source) text() string {
	runes := []rune{}
	for _, b := range s.bytes() {
		r := rune(b)
		if b > 0xf0 {
			r = 0x10300 + rune(b)
		}
		runes = append(runes, r)
	}
	return string(runes)
}

// generate fills m with what s chooses. embed says which message a bytes field carries, if it does.
func generate(s *source, m protoreflect.Message, depth int, embed func(protoreflect.FieldDescriptor) proto.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if s.byte()%2 == 0 {
			continue
		}
		if o := f.ContainingOneof(); o != nil && m.WhichOneof(o) != nil {
			continue
		}
		isMessage := f.Kind() == protoreflect.MessageKind
		switch {
		case isMessage && depth == 0:
		case f.IsMap():
			for range s.byte() % 4 {
				key := protoreflect.ValueOfString(s.text()).MapKey()
				value := m.NewField(f).Map().NewValue()
				if f.MapValue().Kind() == protoreflect.MessageKind {
					generate(s, value.Message(), depth-1, embed)
				} else {
					value = scalar(s, f.MapValue(), embed)
				}
				m.Mutable(f).Map().Set(key, value)
			}
		case f.IsList():
			for range s.byte() % 4 {
				if isMessage {
					generate(s, m.Mutable(f).List().AppendMutable().Message(), depth-1, embed)
				} else {
					m.Mutable(f).List().Append(scalar(s, f, embed))
				}
			}
		case isMessage:
			generate(s, m.Mutable(f).Message(), depth-1, embed)
		default:
			m.Set(f, scalar(s, f, embed))
		}
	}
}

func scalar(s *source, f protoreflect.FieldDescriptor, embed func(protoreflect.FieldDescriptor) proto.Message) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(s.byte()%2 == 1)
	case protoreflect.EnumKind:
		if f.Enum().FullName() == "google.protobuf.NullValue" {
			return protoreflect.ValueOfEnum(0)
		}
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(int32(s.uint64()))) // unknown and negative ones too
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(s.uint64()))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(s.uint64()))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(s.uint64()))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(s.uint64())
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(int64(s.uint64())))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(s.text())
	case protoreflect.BytesKind:
		if m := embed(f); m != nil {
			generate(s, m.ProtoReflect(), 4, embed)
			return protoreflect.ValueOfBytes(encode(m))
		}
		return protoreflect.ValueOfBytes(s.bytes())
	}
	panic("no generator for " + f.Kind().String())
}

// embedded tells the messages that our ext_proc messages carry as bytes.
func embedded(f protoreflect.FieldDescriptor) proto.Message {
	switch f.FullName() {
	case "policyengine.extproc.v1.HttpHeaders.headers", "policyengine.extproc.v1.HttpTrailers.trailers":
		return &corev3.HeaderMap{}
	case "policyengine.extproc.v1.Attributes.value", "policyengine.extproc.v1.ProcessingResponse.dynamic_metadata":
		return &structpb.Struct{}
	}
	return nil
}

func encode(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err) // generated text is valid
	}
	return b
}

// seeds are inputs that fill most fields of any message.
func seeds(f *testing.F) {
	f.Add([]byte{})
	long := make([]byte, 0, 4096)
	for i := range 4096 {
		long = append(long, byte(i*7+1)|1)
	}
	f.Add(long)
	for _, step := range []int{3, 5, 11, 31} {
		b := make([]byte, 2048)
		for i := range b {
			b[i] = byte(i * step)
		}
		f.Add(b)
	}
	ones := make([]byte, 512)
	for i := range ones {
		ones[i] = 1
	}
	f.Add(ones)
}

// random checks a property on a few hundred messages, the same ones in every run: fuzzing finds what needs a search, this finds what is plain.
func random(t *testing.T, check func(*testing.T, []byte)) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		data := make([]byte, r.IntN(3000))
		for i := range data {
			data[i] = byte(r.Uint32())
			if r.IntN(2) == 0 {
				data[i] &= 7 // short texts, more messages
			}
		}
		check(t, data)
	}
}
