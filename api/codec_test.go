package api_test

import (
	"bytes"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	extprocv1 "github.com/policy-engine/policy-engine/api/extproc/v1"
	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

// all are the messages that are decoded by themselves, in either protocol.
var all = []message{
	&extprocv1.ProcessingRequest{}, &extprocv1.ProcessingResponse{}, &extprocv1.HeaderMap{},
	&workerv1.GetWorkerConfigRequest{}, &workerv1.GetWorkerConfigResponse{}, &workerv1.HealthCheckRequest{}, &workerv1.HealthCheckResponse{},
	&workerv1.PushConfigRequest{}, &workerv1.PushConfigResponse{}, &workerv1.RetireConfigRequest{}, &workerv1.RetireConfigResponse{},
	&workerv1.CallBatch{}, &workerv1.ResultBatch{}, &workerv1.Call{}, &workerv1.Result{}, &workerv1.Context{},
	&workerv1.GetMetricsRequest{}, &workerv1.GetMetricsResponse{}, &workerv1.GetProfileRequest{}, &workerv1.GetProfileResponse{},
}

// reusable are those of them that vtprotobuf lends from pools.
type reusable interface {
	message
	ResetVT()
}

func fresh(m message) message { return m.ProtoReflect().New().Interface().(message) }

// FuzzRoundTrip compares our codec with the stock one on messages of all kinds, in both directions.
func FuzzRoundTrip(f *testing.F) {
	seeds(f)
	f.Fuzz(checkRoundTrip)
}

func TestRandomRoundTrip(t *testing.T) { random(t, checkRoundTrip) }

func checkRoundTrip(t *testing.T, data []byte) {
	for _, kind := range all {
		want := fresh(kind)
		generate(&source{data}, want.ProtoReflect(), 5, embedded)
		ours, err := want.MarshalVT()
		if err != nil {
			t.Fatalf("%T: encode: %v", want, err)
		}
		for encoder, wire := range map[string][]byte{"ours": ours, "stock": encode(want)} {
			for decoder, decode := range map[string]func(message, []byte) error{
				"copying": message.UnmarshalVT,
				"unsafe":  message.UnmarshalVTUnsafe,
				"stock":   func(m message, b []byte) error { return proto.Unmarshal(b, m) },
			} {
				got := fresh(kind)
				if err := decode(got, wire); err != nil {
					t.Fatalf("%T, encoded by %s, decoded by %s: %v", want, encoder, decoder, err)
				}
				if !proto.Equal(got, want) {
					t.Fatalf("%T, encoded by %s, decoded by %s: got\n%v\nwant\n%v", want, encoder, decoder, got, want)
				}
			}
		}
	}
}

// FuzzDecode gives any bytes to the decoders: none may panic, the copying and the unsafe one agree, and where the stock one takes the bytes as well,
// it reads the same. (The stock one refuses text that is not UTF-8; ours refuses known fields with another wire type.)
func FuzzDecode(f *testing.F) {
	seeds(f)
	f.Add([]byte("\x90\xc1\x00 ")) // an unknown field whose tag is longer than it has to be
	for _, kind := range all {
		m := fresh(kind)
		data := bytes.Repeat([]byte{1, 3, 5, 7, 'a'}, 200)
		generate(&source{data}, m.ProtoReflect(), 5, embedded)
		f.Add(encode(m))
	}
	f.Fuzz(checkDecode)
}

func checkDecode(t *testing.T, wire []byte) {
	original := bytes.Clone(wire)
	for _, kind := range all {
		copying, aliasing, stock := fresh(kind), fresh(kind), fresh(kind)
		errCopying, errAliasing := copying.UnmarshalVT(wire), aliasing.UnmarshalVTUnsafe(wire)
		if (errCopying == nil) != (errAliasing == nil) {
			t.Fatalf("%T: the copying decoder says %v, the unsafe one %v", kind, errCopying, errAliasing)
		}
		if errCopying != nil {
			continue
		}
		if !equalButUnknown(copying, aliasing) {
			t.Fatalf("%T: the copying decoder reads\n%v\nthe unsafe one\n%v", kind, copying, aliasing)
		}
		if err := proto.Unmarshal(wire, stock); err == nil && !equalButUnknown(copying, stock) {
			t.Fatalf("%T: we read\n%v\nthe stock decoder\n%v", kind, copying, stock)
		}
	}
	if !bytes.Equal(wire, original) {
		t.Fatal("a decoder wrote into its input")
	}
}

// equalButUnknown compares without unknown fields: our ext_proc decoders drop them, and the stock one writes their tags anew.
func equalButUnknown(a, b proto.Message) bool {
	a, b = proto.Clone(a), proto.Clone(b)
	dropUnknown(a.ProtoReflect())
	dropUnknown(b.ProtoReflect())
	return proto.Equal(a, b)
}

func dropUnknown(m protoreflect.Message) {
	m.SetUnknown(nil)
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() != protoreflect.MessageKind:
		case f.IsList():
			for i := range v.List().Len() {
				dropUnknown(v.List().Get(i).Message())
			}
		default:
			dropUnknown(v.Message())
		}
		return true
	})
}

// FuzzReuse decodes one message into another that was used before: nothing of the first may show in the second.
func FuzzReuse(f *testing.F) {
	seeds(f)
	f.Fuzz(checkReuse)
}

func TestRandomReuse(t *testing.T) { random(t, checkReuse) }

func checkReuse(t *testing.T, data []byte) {
	half := len(data) / 2
	for _, kind := range all {
		if _, ok := kind.(reusable); !ok {
			continue
		}
		reuse(t, kind, data[:half], data[half:])
		reuse(t, kind, data[half:], data[:half])
		reuse(t, kind, data, nil)
	}
}

func reuse(t *testing.T, kind message, first, second []byte) {
	t.Helper()
	dirt, want := fresh(kind), fresh(kind)
	generate(&source{first}, dirt.ProtoReflect(), 5, embedded)
	generate(&source{second}, want.ProtoReflect(), 5, embedded)
	for decoder, decode := range map[string]func(message, []byte) error{"copying": message.UnmarshalVT, "unsafe": message.UnmarshalVTUnsafe} {
		firstWire := encode(dirt)
		kept := bytes.Clone(firstWire)
		m := fresh(kind).(reusable)
		for _, wire := range [][]byte{firstWire, encode(want)} {
			m.ResetVT()
			if err := decode(m, wire); err != nil {
				t.Fatalf("%T, %s decoder: %v", kind, decoder, err)
			}
		}
		if !proto.Equal(m, want) {
			t.Fatalf("%T, %s decoder: the used message reads\n%v\na fresh one\n%v", kind, decoder, m, want)
		}
		again, err := m.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		if got := fresh(kind); proto.Unmarshal(again, got) != nil || !proto.Equal(got, want) {
			t.Fatalf("%T, %s decoder: the used message is encoded as\n%v\nwant\n%v", kind, decoder, got, want)
		}
		if !bytes.Equal(firstWire, kept) {
			t.Fatalf("%T, %s decoder: the second use wrote into the input of the first", kind, decoder)
		}
	}
}

// TestPools takes messages out of the pools, uses them, and gives them back, many times.
func TestPools(t *testing.T) {
	call := &workerv1.Call{Id: 7, Headers: []byte("headers"), Context: []byte("context"), EndOfStream: true}
	wire := encode(call)
	for range 100 {
		c := workerv1.CallFromVTPool()
		if proto.Size(c) != 0 {
			t.Fatalf("out of the pool came %v", c)
		}
		if err := c.UnmarshalVT(wire); err != nil || !proto.Equal(c, call) {
			t.Fatalf("got %v, error %v", c, err)
		}
		c.ReturnToVTPool()
	}
	request := &extprocv1.ProcessingRequest{RequestHeaders: &extprocv1.HttpHeaders{Headers: []byte("h")}, Attributes: []*extprocv1.Attributes{{Key: "k", Value: []byte("v")}}}
	wire = encode(request)
	for range 100 {
		r := extprocv1.ProcessingRequestFromVTPool()
		if proto.Size(r) != 0 {
			t.Fatalf("out of the pool came %v", r)
		}
		if err := r.UnmarshalVTUnsafe(wire); err != nil || !proto.Equal(r, request) {
			t.Fatalf("got %v, error %v", r, err)
		}
		r.ReturnToVTPool()
	}
}

// TestUnsafeThenCopying pins a trap of the generated code: ResetVT keeps the memory of byte fields for the next use, also when UnmarshalVTUnsafe
// made them show the input of the last one. So a message is decoded either always by the unsafe decoder or never; and what is assigned to a byte
// field by hand must not be reset with ResetVT and then decoded by the copying decoder.
func TestUnsafeThenCopying(t *testing.T) {
	first := encode(&workerv1.Call{Headers: []byte("first request")})
	kept := bytes.Clone(first)
	var c workerv1.Call
	if err := c.UnmarshalVTUnsafe(first); err != nil {
		t.Fatal(err)
	}
	c.ResetVT()
	if err := c.UnmarshalVT(encode(&workerv1.Call{Headers: []byte("SECOND")})); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(first, kept) {
		t.Error("vtprotobuf no longer has the trap: this test and its rule may go")
	}
}

// TestEverySize encodes byte fields around the lengths at which the length prefix grows.
func TestEverySize(t *testing.T) {
	for _, size := range []int{0, 1, 127, 128, 16383, 16384, 1 << 21} {
		want := &workerv1.CallBatch{Calls: []*workerv1.Call{{Id: 1, Body: bytes.Repeat([]byte{0xff}, size)}, {Id: 1<<64 - 1, Generation: 1 << 63, TimeoutUs: 1<<32 - 1}}}
		wire, err := want.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		if len(wire) != want.SizeVT() || !slices.Equal(wire, encode(want)) {
			t.Errorf("size %d: %d bytes, SizeVT says %d; or not what the stock encoder writes", size, len(wire), want.SizeVT())
		}
		var got workerv1.CallBatch
		if err := got.UnmarshalVT(wire); err != nil || !proto.Equal(&got, want) {
			t.Errorf("size %d: came back different, error %v", size, err)
		}
	}
}
