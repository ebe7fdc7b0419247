package api_test

import (
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	extprocv1 "github.com/policy-engine/policy-engine/api/extproc/v1"
)

// message is what vtprotobuf generates.
type message interface {
	proto.Message
	MarshalVT() ([]byte, error)
	UnmarshalVT([]byte) error
	UnmarshalVTUnsafe([]byte) error
}

// kinds are the messages of the stream: ours and Envoy's.
var kinds = map[string]func() (ours message, theirs proto.Message){
	"request": func() (message, proto.Message) { return &extprocv1.ProcessingRequest{}, &extprocv3.ProcessingRequest{} },
	"response": func() (message, proto.Message) {
		return &extprocv1.ProcessingResponse{}, &extprocv3.ProcessingResponse{}
	},
}

// FuzzTheirs sends Envoy's messages through ours and back: nothing of what we carry may change.
func FuzzTheirs(f *testing.F) {
	seeds(f)
	f.Fuzz(checkTheirs)
}

func TestRandomTheirs(t *testing.T) { random(t, checkTheirs) }

func checkTheirs(t *testing.T, data []byte) {
	for name, kind := range kinds {
		ours, theirs := kind()
		generate(&source{data}, theirs.ProtoReflect(), 6, func(protoreflect.FieldDescriptor) proto.Message { return nil })
		trim(theirs.ProtoReflect())
		throughOurs(t, name, ours, theirs)
	}
}

// throughOurs encodes theirs, decodes it with our three decoders, encodes that, and compares.
func throughOurs(t *testing.T, name string, ours message, theirs proto.Message) {
	t.Helper()
	wire := encode(theirs)
	for decoder, decode := range map[string]func(message, []byte) error{
		"copying": message.UnmarshalVT,
		"unsafe":  message.UnmarshalVTUnsafe,
		"plain":   func(m message, b []byte) error { return proto.Unmarshal(b, m) },
	} {
		proto.Reset(ours)
		if err := decode(ours, wire); err != nil {
			t.Fatalf("%s, %s decoder: our message does not take Envoy's: %v\n%v", name, decoder, err, theirs)
		}
		back, err := ours.MarshalVT()
		if err != nil {
			t.Fatalf("%s, %s decoder: encode: %v", name, decoder, err)
		}
		got := theirs.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(back, got); err != nil {
			t.Fatalf("%s, %s decoder: Envoy's message does not take ours: %v", name, decoder, err)
		}
		trim(got.ProtoReflect())
		if !proto.Equal(got, theirs) {
			t.Fatalf("%s, %s decoder: came back as\n%v\nwent as\n%v", name, decoder, got, theirs)
		}
	}
}

// FuzzOurs sends our messages through Envoy's and back.
func FuzzOurs(f *testing.F) {
	seeds(f)
	f.Fuzz(checkOurs)
}

func TestRandomOurs(t *testing.T) { random(t, checkOurs) }

func checkOurs(t *testing.T, data []byte) {
	for name, kind := range kinds {
		ours, theirs := kind()
		generate(&source{data}, ours.ProtoReflect(), 6, embedded)
		onlyOne(ours.ProtoReflect(), theirs.ProtoReflect().Descriptor())
		wire, err := ours.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(wire, theirs); err != nil {
			t.Fatalf("%s: Envoy's message does not take ours: %v\n%v", name, err, ours)
		}
		back := ours.ProtoReflect().New().Interface().(message)
		if err := back.UnmarshalVT(encode(theirs)); err != nil {
			t.Fatalf("%s: our message does not take Envoy's: %v", name, err)
		}
		// Compared as Envoy's, since an empty HeaderMap of ours is the same as none, and the order of attributes means nothing.
		again, err := back.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		want, got := theirs, theirs.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(again, got); err != nil {
			t.Fatal(err)
		}
		trim(want.ProtoReflect())
		trim(got.ProtoReflect())
		if len(got.ProtoReflect().GetUnknown()) > 0 || !proto.Equal(got, want) {
			t.Fatalf("%s: came back as\n%v\nwent as\n%v", name, got, want)
		}
	}
}

// trim takes away what our messages leave out on purpose, and messages whose presence without content our messages don't carry.
func trim(m protoreflect.Message) {
	m.SetUnknown(nil)
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if leftOut[f.FullName()] {
			m.Clear(f)
			return true
		}
		isMessage := f.Kind() == protoreflect.MessageKind
		switch {
		case f.IsMap():
			if f.MapValue().Kind() == protoreflect.MessageKind {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { trim(v.Message()); return true })
			}
		case isMessage && f.IsList():
			for i := range v.List().Len() {
				trim(v.List().Get(i).Message())
			}
		case isMessage:
			trim(v.Message())
			switch f.FullName() {
			case "envoy.service.ext_proc.v3.HttpHeaders.headers", "envoy.service.ext_proc.v3.HttpTrailers.trailers",
				"envoy.service.ext_proc.v3.ProcessingResponse.dynamic_metadata":
				if proto.Size(v.Message().Interface()) == 0 {
					m.Clear(f)
				}
			}
		}
		return true
	})
}

// onlyOne keeps the first of the fields that are a oneof in Envoy's message.
func onlyOne(ours protoreflect.Message, theirs protoreflect.MessageDescriptor) {
	seen := map[protoreflect.FullName]bool{}
	ours.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		r := theirs.Fields().ByNumber(f.Number())
		if o := r.ContainingOneof(); o != nil {
			if seen[o.FullName()] {
				ours.Clear(f)
				return true
			}
			seen[o.FullName()] = true
		}
		if f.Kind() == protoreflect.MessageKind && r.Kind() == protoreflect.MessageKind {
			if f.IsList() {
				for i := range v.List().Len() {
					onlyOne(v.List().Get(i).Message(), r.Message())
				}
			} else {
				onlyOne(v.Message(), r.Message())
			}
		}
		return true
	})
}

// TestTheirs is FuzzTheirs with messages as they are in life, one for each field.
func TestTheirs(t *testing.T) {
	headers := &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: ":path", RawValue: []byte("/orders")}, {Key: "a", RawValue: []byte("\xff")}, {Key: "old", Value: "way"}}}
	metadata, err := structpb.NewStruct(map[string]any{"policy_engine": map[string]any{"policy": "apiKeyAuth", "latency": 1.5}})
	if err != nil {
		t.Fatal(err)
	}
	change := &extprocv3.HeaderMutation{
		SetHeaders: []*corev3.HeaderValueOption{
			{Header: &corev3.HeaderValue{Key: "x-user-id", RawValue: []byte("alice")}, Append: wrapperspb.Bool(false)},
			{Header: &corev3.HeaderValue{Key: "x-more", RawValue: []byte("")}, Append: wrapperspb.Bool(true)},
			{Header: &corev3.HeaderValue{Key: ":status", RawValue: []byte("201")}},
		},
		RemoveHeaders: []string{"x-api-key", "x_user_id"},
	}
	common := &extprocv3.CommonResponse{Status: extprocv3.CommonResponse_CONTINUE_AND_REPLACE, HeaderMutation: change, ClearRouteCache: true}
	body := func(m *extprocv3.BodyMutation) *extprocv3.ProcessingResponse {
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{Response: &extprocv3.CommonResponse{BodyMutation: m}}}}
	}
	tests := map[string]proto.Message{
		"request headers": &extprocv3.ProcessingRequest{
			Request:        &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{Headers: headers, EndOfStream: true}},
			Attributes:     map[string]*structpb.Struct{"envoy.filters.http.ext_proc": metadata, "other": {}},
			ProtocolConfig: &extprocv3.ProtocolConfiguration{RequestBodyMode: filterv3.ProcessingMode_FULL_DUPLEX_STREAMED, ResponseBodyMode: filterv3.ProcessingMode_BUFFERED, SendBodyWithoutWaitingForHeaderResponse: true},
		},
		"response headers":        &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{Headers: headers}}},
		"request body":            &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: []byte("body"), EndOfStream: true}}},
		"response body":           &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{}}},
		"request trailers":        &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: &extprocv3.HttpTrailers{Trailers: headers}}},
		"response trailers":       &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseTrailers{ResponseTrailers: &extprocv3.HttpTrailers{}}},
		"observability mode":      &extprocv3.ProcessingRequest{ObservabilityMode: true},
		"answer, request headers": &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: common}}, DynamicMetadata: metadata},
		"answer, response headers, mode override": &extprocv3.ProcessingResponse{
			Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{}},
			ModeOverride: &filterv3.ProcessingMode{
				RequestHeaderMode: filterv3.ProcessingMode_SEND, ResponseHeaderMode: filterv3.ProcessingMode_SKIP, RequestBodyMode: filterv3.ProcessingMode_STREAMED,
				ResponseBodyMode: filterv3.ProcessingMode_BUFFERED_PARTIAL, RequestTrailerMode: filterv3.ProcessingMode_SKIP, ResponseTrailerMode: filterv3.ProcessingMode_SEND,
			},
		},
		"answer, replace body":  body(&extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_Body{Body: []byte("new")}}),
		"answer, empty body":    body(&extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_Body{Body: []byte{}}}),
		"answer, clear body":    body(&extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_ClearBody{ClearBody: true}}),
		"answer, keep body":     body(&extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_ClearBody{ClearBody: false}}),
		"answer, streamed body": body(&extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_StreamedResponse{StreamedResponse: &extprocv3.StreamedBodyResponse{Body: []byte("x"), EndOfStream: true}}}),
		"answer, response body": &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{ResponseBody: &extprocv3.BodyResponse{Response: common}}},
		"answer, request trailers": &extprocv3.ProcessingResponse{
			Response: &extprocv3.ProcessingResponse_RequestTrailers{RequestTrailers: &extprocv3.TrailersResponse{HeaderMutation: change}},
		},
		"answer, response trailers": &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseTrailers{ResponseTrailers: &extprocv3.TrailersResponse{}}},
		"immediate response": &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode_TooManyRequests}, Headers: change, Body: []byte(`{"code":"X"}`), GrpcStatus: &extprocv3.GrpcStatus{Status: 8}, Details: "rate_limited",
		}}},
		"immediate response, status outside the enum": &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
			Status: &typev3.HttpStatus{Code: 599}, GrpcStatus: &extprocv3.GrpcStatus{},
		}}},
		"override of the timeout":   &extprocv3.ProcessingResponse{OverrideMessageTimeout: &durationpb.Duration{Seconds: 3, Nanos: 5}},
		"negative duration":         &extprocv3.ProcessingResponse{OverrideMessageTimeout: &durationpb.Duration{Seconds: -3, Nanos: -5}},
		"nothing, from Envoy":       &extprocv3.ProcessingRequest{},
		"nothing, from the server":  &extprocv3.ProcessingResponse{},
		"an empty common response":  &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: &extprocv3.CommonResponse{}}}},
		"an empty header mutation":  &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: &extprocv3.CommonResponse{HeaderMutation: &extprocv3.HeaderMutation{}}}}},
		"an empty immediate answer": &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{}}},
	}
	for name, theirs := range tests {
		t.Run(name, func(t *testing.T) {
			ours := message(&extprocv1.ProcessingRequest{})
			if _, ok := theirs.(*extprocv3.ProcessingResponse); ok {
				ours = &extprocv1.ProcessingResponse{}
			}
			throughOurs(t, name, ours, theirs)
		})
	}
}

// TestMoreThanOneOfAOneof: the last member wins in a oneof; our decoders keep all of them, so that the reader can refuse the message.
func TestMoreThanOneOfAOneof(t *testing.T) {
	headers := encode(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{EndOfStream: true}}})
	body := encode(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: []byte("x")}}})
	wire := append(headers, body...)
	for decoder, decode := range map[string]func(*extprocv1.ProcessingRequest, []byte) error{
		"copying": (*extprocv1.ProcessingRequest).UnmarshalVT,
		"unsafe":  (*extprocv1.ProcessingRequest).UnmarshalVTUnsafe,
	} {
		var m extprocv1.ProcessingRequest
		if err := decode(&m, wire); err != nil {
			t.Fatal(err)
		}
		if !m.GetRequestHeaders().GetEndOfStream() || string(m.GetRequestBody().GetBody()) != "x" {
			t.Errorf("%s decoder: one of the two is lost: %v", decoder, &m)
		}
	}

	// Present without content is present: a second member can't hide by being empty.
	var m extprocv1.ProcessingRequest
	if err := m.UnmarshalVTUnsafe(append(headers[:len(headers):len(headers)], 7<<3|2, 0)); err != nil {
		t.Fatal(err)
	}
	if m.GetRequestHeaders() == nil || m.ResponseTrailers == nil {
		t.Errorf("the empty second member is lost: %v", &m)
	}

	var b extprocv1.BodyMutation
	two := encode(&extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_Body{Body: []byte{}}})
	two = append(two, encode(&extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_ClearBody{}})...)
	if err := b.UnmarshalVT(two); err != nil {
		t.Fatal(err)
	}
	if b.Body == nil || b.ClearBody == nil {
		t.Errorf("one of the two is lost: %v", &b)
	}
}

// TestInvalidUTF8 pins a difference: proto3 strings are UTF-8 and the stock decoder refuses others; vtprotobuf takes them. Those who read text out of a
// message check it: for header names fastpath/headermap, for attributes and all else kernel/extproc.
func TestInvalidUTF8(t *testing.T) {
	const bad = "name\xff"
	for name, m := range map[string]message{
		"key of an attribute": &extprocv1.ProcessingRequest{Attributes: []*extprocv1.Attributes{{Key: bad}}},
		"name of a header":    &extprocv1.HeaderMap{Headers: []*extprocv1.HeaderValue{{Key: bad}}},
		"value of a header":   &extprocv1.HeaderMap{Headers: []*extprocv1.HeaderValue{{Key: "a", Value: bad}}},
		"details":             &extprocv1.ProcessingResponse{ImmediateResponse: &extprocv1.ImmediateResponse{Details: bad}},
		"header to remove":    &extprocv1.HeaderMutation{RemoveHeaders: []string{bad}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := proto.Marshal(m); err == nil {
				t.Error("the stock encoder takes it")
			}
			wire, err := m.MarshalVT()
			if err != nil {
				t.Fatalf("vtprotobuf has learned to check on encoding (%v): the checks of the callers may go", err)
			}
			again := m.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(wire, again); err == nil {
				t.Error("the stock decoder takes it")
			}
			if err := again.(message).UnmarshalVT(wire); err != nil {
				t.Errorf("vtprotobuf has learned to check on decoding (%v): the checks of the callers may go", err)
			}
		})
	}
}
