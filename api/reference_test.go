package api_test

import (
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	extprocv1 "github.com/policy-engine/policy-engine/api/extproc/v1"
)

// leftOut are Envoy's fields that the engine has no use for. A field that is neither here nor ours fails the test: somebody has to decide.
var leftOut = map[protoreflect.FullName]bool{
	"envoy.service.ext_proc.v3.ProcessingRequest.metadata_context": true,
	"envoy.service.ext_proc.v3.HttpHeaders.attributes":             true, // deprecated, never sent
	"envoy.service.ext_proc.v3.CommonResponse.trailers":            true, // not implemented in Envoy
	"envoy.config.core.v3.HeaderValueOption.append_action":         true, // ignored by Envoy 1.36.2
	"envoy.config.core.v3.HeaderValueOption.keep_empty_value":      true, // ignored in mutations
	// The reference is newer than Envoy 1.36.2, whose messages end at field 11 and 10: these it neither sends nor reads.
	"envoy.service.ext_proc.v3.ProcessingRequest.flow_control_init":                true,
	"envoy.service.ext_proc.v3.ProcessingRequest.client_window_update":             true,
	"envoy.service.ext_proc.v3.HttpBody.end_of_stream_without_message":             true,
	"envoy.service.ext_proc.v3.HttpBody.grpc_message_compressed":                   true,
	"envoy.service.ext_proc.v3.HttpBody.drain_complete":                            true,
	"envoy.service.ext_proc.v3.ProcessingResponse.streamed_immediate_response":     true,
	"envoy.service.ext_proc.v3.ProcessingResponse.typed_dynamic_metadata":          true,
	"envoy.service.ext_proc.v3.ProcessingResponse.server_window_update":            true,
	"envoy.service.ext_proc.v3.ProcessingResponse.request_drain":                   true,
	"envoy.service.ext_proc.v3.ProcessingResponse.request_drain_requests":          true,
	"envoy.service.ext_proc.v3.ProcessingResponse.request_drain_responses":         true,
	"envoy.service.ext_proc.v3.StreamedBodyResponse.end_of_stream_without_message": true,
	"envoy.service.ext_proc.v3.StreamedBodyResponse.grpc_message_compressed":       true,
	"envoy.service.ext_proc.v3.StreamedBodyResponse.drain_complete":                true,
}

// TestDescriptors compares every field of our messages with Envoy's: name, number, and what is on the wire.
func TestDescriptors(t *testing.T) {
	used := map[protoreflect.FullName]bool{}
	seen := map[protoreflect.FullName]bool{}
	compareMessage(t, seen, used, (&extprocv1.ProcessingRequest{}).ProtoReflect().Descriptor(), (&extprocv3.ProcessingRequest{}).ProtoReflect().Descriptor())
	compareMessage(t, seen, used, (&extprocv1.ProcessingResponse{}).ProtoReflect().Descriptor(), (&extprocv3.ProcessingResponse{}).ProtoReflect().Descriptor())
	compareMessage(t, seen, used, (&extprocv1.HeaderMap{}).ProtoReflect().Descriptor(), (&corev3.HeaderMap{}).ProtoReflect().Descriptor())
	for name := range leftOut {
		if !used[name] {
			t.Errorf("%s is said to be left out, but there is no such field, or we have it", name)
		}
	}
	// A message that no comparison reached would be wrong unseen.
	messages := extprocv1.File_extproc_v1_ext_proc_proto.Messages()
	for i := range messages.Len() {
		if name := messages.Get(i).FullName(); !seen[name] {
			t.Errorf("%s was not compared", name)
		}
	}
}

func compareMessage(t *testing.T, seen, used map[protoreflect.FullName]bool, ours, theirs protoreflect.MessageDescriptor) {
	if seen[ours.FullName()] {
		return
	}
	seen[ours.FullName()] = true
	for i := range ours.Fields().Len() {
		o := ours.Fields().Get(i)
		r := theirs.Fields().ByName(o.Name())
		if r == nil {
			t.Errorf("%s: Envoy has no such field in %s", o.FullName(), theirs.FullName())
			continue
		}
		if o.Number() != r.Number() || o.Cardinality() != r.Cardinality() {
			t.Errorf("%s is field %d (%s), Envoy's is %d (%s)", o.FullName(), o.Number(), o.Cardinality(), r.Number(), r.Cardinality())
		}
		switch {
		case o.Kind() == r.Kind() && o.Kind() == protoreflect.EnumKind:
			compareEnum(t, o.Enum(), r.Enum())
		case o.Kind() == r.Kind() && o.Kind() == protoreflect.MessageKind:
			compareMessage(t, seen, used, o.Message(), r.Message())
		case o.Kind() == r.Kind():
		case o.Kind() == protoreflect.BytesKind && r.Kind() == protoreflect.MessageKind: // passed on as it is
		case o.Kind() == protoreflect.Int32Kind && r.Kind() == protoreflect.EnumKind: // the HTTP status
		default:
			t.Errorf("%s is %s, Envoy's is %s", o.FullName(), o.Kind(), r.Kind())
		}
	}
	for i := range theirs.Fields().Len() {
		r := theirs.Fields().Get(i)
		if ours.Fields().ByNumber(r.Number()) != nil {
			continue
		}
		used[r.FullName()] = true
		if !leftOut[r.FullName()] {
			t.Errorf("%s (%d) is missing in %s", r.FullName(), r.Number(), ours.FullName())
		}
	}
}

func compareEnum(t *testing.T, ours, theirs protoreflect.EnumDescriptor) {
	for i := range ours.Values().Len() {
		o := ours.Values().Get(i)
		if r := theirs.Values().ByName(o.Name()); r == nil || r.Number() != o.Number() {
			t.Errorf("%s = %d is not Envoy's", o.FullName(), o.Number())
		}
	}
}
