package extproc

import (
	"bytes"
	"strconv"
	"strings"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
)

func mustMarshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustMessage(t testing.TB, kind string, args ...string) []byte {
	t.Helper()
	b, err := envoyMessage(kind, args)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func attributes(name string, fields ...*structpb.Value) map[string]*structpb.Struct {
	s := &structpb.Struct{Fields: map[string]*structpb.Value{"request.path": structpb.NewStringValue("/xds.route_name")}}
	for _, f := range fields {
		s.Fields["xds.route_name"] = f
	}
	return map[string]*structpb.Struct{name: s}
}

func TestRouteNameFromAttributes(t *testing.T) {
	withHeaders := func(a map[string]*structpb.Struct) []byte {
		return mustMarshal(t, &extprocv3.ProcessingRequest{
			Attributes: a, Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{}},
		})
	}
	twice := attributes("a", structpb.NewStringValue("orders"))
	twice["b"] = attributes("b", structpb.NewStringValue("public"))["b"]
	// A Struct entry by hand: 9: {2: {1: {1: "xds.route_name", 2: {3: value}}}}.
	byHand := func(value string) []byte {
		inner, start := open(nil, 9)
		inner, s := open(inner, 2)
		inner = appendStructString(inner, "xds.route_name", value)
		inner = shut(inner, s)
		inner = shut(inner, start)
		return append(withHeaders(nil), inner...)
	}
	for _, tc := range []struct {
		name string
		msg  []byte
		want string
		bad  bool
	}{
		{"none", withHeaders(nil), "", false},
		{"Envoy's key", withHeaders(attributes("envoy.filters.http.ext_proc", structpb.NewStringValue("orders"))), "orders", false},
		{"another key", withHeaders(attributes("x", structpb.NewStringValue("orders"))), "orders", false},
		{"other attributes only", withHeaders(attributes("x")), "", false},
		{"not a string", withHeaders(attributes("x", structpb.NewNumberValue(7))), "", false},
		{"empty", withHeaders(attributes("x", structpb.NewStringValue(""))), "", false},
		{"two names", withHeaders(twice), "", true},
		{"by hand", byHand("orders"), "orders", false},
		{"not UTF-8", byHand("\xff"), "", true},
		{"truncated Struct", append(withHeaders(nil), 9<<3|2, 4, 2<<3|2, 2, 1<<3|2, 9), "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var d decoder
			if _, err := d.decode(tc.msg); err != nil {
				t.Fatal(err)
			}
			name, _, err := d.attributes()
			if string(name) != tc.want || (err != nil) != tc.bad {
				t.Errorf("%q, %v", name, err)
			}
		})
	}
}

// phaseOfOracle is what Envoy's own types make of a message.
func phaseOfOracle(r *extprocv3.ProcessingRequest) workerv1.Phase {
	switch r.Request.(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		return requestHeaders
	case *extprocv3.ProcessingRequest_RequestBody:
		return requestBody
	case *extprocv3.ProcessingRequest_RequestTrailers:
		return requestTrailers
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		return responseHeaders
	case *extprocv3.ProcessingRequest_ResponseBody:
		return responseBody
	case *extprocv3.ProcessingRequest_ResponseTrailers:
		return responseTrailers
	}
	return 0
}

// FuzzDecode: where Envoy's types and ours both decode a message, they agree on what it is. Ours may refuse more.
func FuzzDecode(f *testing.F) {
	for _, kind := range []string{"request_headers", "request_body", "request_trailers", "response_headers", "response_body", "response_trailers"} {
		f.Add(mustMessage(f, kind, "end_of_stream", "a=b", "route=orders"))
	}
	f.Add(mustMessage(f, "request_headers", "full_duplex"))
	f.Add(mustMessage(f, "request_headers", "observability", "also=request_body"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		var d decoder
		phase, err := d.decode(msg)
		if err != nil {
			return
		}
		theirs := new(extprocv3.ProcessingRequest)
		if proto.Unmarshal(msg, theirs) != nil {
			return // Text that is not UTF-8, say: the header check comes later.
		}
		if want := phaseOfOracle(theirs); phase != want {
			t.Fatalf("phase %v, Envoy's types say %v", phase, want)
		}
		if d.message.ObservabilityMode != theirs.GetObservabilityMode() || int32(d.protocol.RequestBodyMode) != int32(theirs.GetProtocolConfig().GetRequestBodyMode()) ||
			int32(d.protocol.ResponseBodyMode) != int32(theirs.GetProtocolConfig().GetResponseBodyMode()) {
			t.Fatalf("protocol configuration %v, Envoy's types say %v", &d.protocol, theirs.GetProtocolConfig())
		}
		h := theirs.GetRequestHeaders()
		if phase == responseHeaders {
			h = theirs.GetResponseHeaders()
		}
		if h != nil && d.headers.EndOfStream != h.GetEndOfStream() {
			t.Fatalf("end_of_stream %v", d.headers.EndOfStream)
		}
		if name, source, err := d.attributes(); err == nil {
			checkRouteName(t, string(name), theirs)
			checkSource(t, source, theirs)
		}
	})
}

// checkRouteName: a name that is found is one that Envoy's types have, and one that they have alone is found.
func checkRouteName(t *testing.T, name string, theirs *extprocv3.ProcessingRequest) {
	found := name == ""
	for _, s := range theirs.GetAttributes() {
		v := s.GetFields()["xds.route_name"].GetStringValue()
		found = found || v == name
		if name == "" && v != "" {
			t.Fatalf("missed the name %q", v)
		}
	}
	if !found {
		t.Fatalf("found the name %q, which Envoy's types don't have", name)
	}
}

// checkSource: source.address is found exactly if Envoy's types have it, and is not found as another address.
func checkSource(t *testing.T, source []byte, theirs *extprocv3.ProcessingRequest) {
	there := false
	for _, s := range theirs.GetAttributes() {
		v, ok := s.GetFields()["source.address"]
		there = there || ok
		if ok && string(source) != v.GetStringValue() && string(source) != string(unknownSource) {
			t.Fatalf("found the address %q, Envoy's types say %q", source, v.GetStringValue())
		}
	}
	if there != (source != nil) {
		t.Fatalf("address %q, but in Envoy's types it is there: %v", source, there)
	}
}

// What Envoy says of the client is text, and counts also where it is no address.
func TestSourceFromAttributes(t *testing.T) {
	text := structpb.NewStringValue
	for name, c := range map[string]struct {
		of   []map[string]*structpb.Value
		want string
		bad  bool
	}{
		"none":           {nil, "", false},
		"other":          {[]map[string]*structpb.Value{{"source.port": structpb.NewNumberValue(7)}}, "", false},
		"address":        {[]map[string]*structpb.Value{{"source.address": text("192.0.2.1:443"), "xds.route_name": text("r")}}, "192.0.2.1:443", false},
		"of a socket":    {[]map[string]*structpb.Value{{"source.address": text("@/run/envoy.sock")}}, "@/run/envoy.sock", false},
		"empty":          {[]map[string]*structpb.Value{{"source.address": text("")}}, "unknown", false},
		"not text":       {[]map[string]*structpb.Value{{"source.address": structpb.NewNumberValue(7)}}, "unknown", false},
		"too long":       {[]map[string]*structpb.Value{{"source.address": text(strings.Repeat("1", 129))}}, "unknown", false},
		"twice":          {[]map[string]*structpb.Value{{"source.address": text("192.0.2.1:0")}, {"source.address": text("192.0.2.2:0")}}, "", true},
		"twice the same": {[]map[string]*structpb.Value{{"source.address": text("192.0.2.1:0")}, {"source.address": text("192.0.2.1:0")}}, "", true},
		"empty and more": {[]map[string]*structpb.Value{{"source.address": text("")}, {"source.address": text("192.0.2.2:0")}}, "", true},
	} {
		message := &extprocv3.ProcessingRequest{
			Attributes: map[string]*structpb.Struct{}, Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{}},
		}
		for i, fields := range c.of {
			message.Attributes[strconv.Itoa(i)] = &structpb.Struct{Fields: fields}
		}
		var d decoder
		if _, err := d.decode(mustMarshal(t, message)); err != nil {
			t.Fatal(err)
		}
		if _, source, err := d.attributes(); string(source) != c.want || (err != nil) != c.bad {
			t.Errorf("%s: %q, %v; want %q", name, source, err, c.want)
		}
	}
}

// TestDecoderKeepsNothing: what one message had, the next does not.
func TestDecoderKeepsNothing(t *testing.T) {
	var d decoder
	if _, err := d.decode(mustMessage(t, "request_headers", "a=b", "end_of_stream", "full_duplex", "route=orders", "observability")); err != nil {
		t.Fatal(err)
	}
	d.reset()
	phase, err := d.decode(mustMarshal(t, &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{}}}))
	if err != nil || phase != requestHeaders {
		t.Fatal(phase, err)
	}
	name, _, err := d.attributes()
	if len(d.headers.Headers) != 0 || d.headers.EndOfStream || d.protocol.ResponseBodyMode != 0 || d.message.ObservabilityMode || name != nil || err != nil {
		t.Errorf("left over: %v %v %v %q", &d.headers, &d.protocol, d.message.ObservabilityMode, name)
	}
}

// TestShut: lengths around the borders of a varint.
func TestShut(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 129, 16383, 16384, 70_000} {
		body := bytes.Repeat([]byte{'x'}, n)
		dst, outer := open([]byte{8, 1}, 2)
		dst, inner := open(dst, 3)
		dst = append(dst, body...)
		dst = shut(dst, inner)
		dst = shut(dst, outer)
		want := append([]byte{8, 1}, appendBytes(nil, 2, appendBytes(nil, 3, body))...)
		if !bytes.Equal(dst, want) {
			t.Errorf("%d bytes: nested wrongly", n)
		}
	}
}
