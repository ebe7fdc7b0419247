package transport

import (
	"encoding/base64"
	"encoding/binary"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

const processMethod = "/" + serviceName + "/Process"

// requestFields are the headers of a gRPC call.
func requestFields(path string, more ...[2]string) [][2]string {
	return append([][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "kernel"}, {"te", "trailers"}, {"content-type", "application/grpc"},
	}, more...)
}

// with replaces a field, or removes it.
func with(fields [][2]string, name, value string) [][2]string {
	var out [][2]string
	for _, f := range fields {
		switch {
		case f[0] != name:
			out = append(out, f)
		case value != "":
			out = append(out, [2]string{name, value})
		}
	}
	return out
}

// framed is a gRPC message (gRPC over HTTP/2, Length-Prefixed-Message).
func framed(flag byte, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(message))), message...)
}

func marshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err) // Its strings are UTF-8.
	}
	return b
}

// processing makes a message of a phase, by the names of Envoy's fields.
func processing(phase string, end bool, headers *corev3.HeaderMap, body []byte) []byte {
	h := &extprocv3.HttpHeaders{Headers: headers, EndOfStream: end}
	b := &extprocv3.HttpBody{Body: body, EndOfStream: end}
	r := &extprocv3.ProcessingRequest{}
	switch phase {
	case "request_headers":
		r.Request = &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: h}
	case "request_body":
		r.Request = &extprocv3.ProcessingRequest_RequestBody{RequestBody: b}
	case "request_trailers":
		r.Request = &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: &extprocv3.HttpTrailers{Trailers: headers}}
	case "response_headers":
		r.Request = &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: h}
	case "response_body":
		r.Request = &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: b}
	case "response_trailers":
		r.Request = &extprocv3.ProcessingRequest_ResponseTrailers{ResponseTrailers: &extprocv3.HttpTrailers{Trailers: headers}}
	}
	return marshal(r)
}

// fullDuplex is the field of a request that says that both bodies come in full duplex.
var fullDuplex = marshal(&extprocv3.ProcessingRequest{ProtocolConfig: &extprocv3.ProtocolConfiguration{
	RequestBodyMode: filterv3.ProcessingMode_FULL_DUPLEX_STREAMED, ResponseBodyMode: filterv3.ProcessingMode_FULL_DUPLEX_STREAMED,
}})

var phases = []string{"request_headers", "request_body", "request_trailers", "response_headers", "response_body", "response_trailers"}

// headerMap draws headers of all sorts; x-verdict tells the worker what to do.
func headerMap(t *rapid.T) *corev3.HeaderMap {
	m := &corev3.HeaderMap{}
	add := func(name string, value []byte) {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: name, RawValue: value})
	}
	for _, name := range []string{":method", ":path", ":authority", ":scheme", ":status"} {
		if rapid.Bool().Draw(t, name) {
			add(name, []byte(rapid.StringN(0, 20, 60).Draw(t, "value")))
		}
	}
	if rapid.Bool().Draw(t, "verdict") {
		add("x-verdict", []byte(rapid.SampledFrom(verdicts).Draw(t, "x-verdict")))
	}
	for range rapid.IntRange(0, 5).Draw(t, "fields") {
		name := rapid.SampledFrom([]string{"cookie", "authorization", "x-request-id", "x", "x-long-name-that-nobody-knows", "", "Upper", "a b"}).Draw(t, "name")
		add(name, rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "value"))
	}
	if rapid.IntRange(0, 19).Draw(t, "large") == 0 {
		add("x-large", []byte(strings.Repeat("l", rapid.IntRange(1000, 100_000).Draw(t, "length"))))
	}
	return m
}

// drawCall draws a call.
func drawCall(t *rapid.T) *call {
	switch rapid.SampledFrom([]string{"process", "process", "process", "process", "odd", "health", "unknown"}).Draw(t, "kind") {
	case "odd":
		return oddities[rapid.IntRange(0, len(oddities)-1).Draw(t, "oddity")]()
	case "health":
		return drawHealth(t)
	case "unknown":
		path := rapid.SampledFrom([]string{"/x/y", "/" + serviceName + "/Other", "/grpc.health.v1.Health/Other", "/envoy.service.auth.v3.Authorization/Check", processMethod + "/", "//", "/" + strings.ToLower(serviceName) + "/Process"}).Draw(t, "path")
		return drawSteps(t, &call{fields: requestFields(path)}, [][]byte{{}})
	default:
		return drawProcess(t)
	}
}

func drawProcess(t *rapid.T) *call {
	c := &call{fields: requestFields(processMethod)}
	for range rapid.SampledFrom([]int{1, 1, 1, 1, 0, 2}).Draw(t, "routes") {
		c.fields = append(c.fields, [2]string{routeKey, rapid.SampledFrom([]string{"both", "request", "response", "two", "open", "nobody", ""}).Draw(t, "route")})
	}
	for _, f := range [][2]string{
		{"grpc-timeout", rapid.SampledFrom([]string{"10S", "99999999H", "20000m"}).Draw(t, "timeout")},
		{"grpc-encoding", "identity"},
		{"grpc-accept-encoding", "identity,gzip"},
		{"user-agent", "envoy"},
		{"x-trace-bin", base64.RawStdEncoding.EncodeToString([]byte("\x00trace\xff"))},
		{"x-trace-bin", "AAE="},
		{"x-request-id", "1"},
		{"cookie", "a=b"},
	} {
		if rapid.IntRange(0, 3).Draw(t, f[0]) == 0 {
			c.fields = append(c.fields, f)
		}
	}
	switch rapid.IntRange(0, 9).Draw(t, "headers") {
	case 0:
		c.fields = with(c.fields, "te", "") // Both are lenient: a proxy may have taken it for a hop-by-hop header.
	case 1:
		c.fields = with(c.fields, "content-type", rapid.SampledFrom([]string{"application/grpc+proto", "application/grpc;charset=x", "application/grpc+other"}).Draw(t, "content-type"))
	case 2:
		c.fields = append(c.fields, [2]string{"x-long", strings.Repeat("h", 30_000)})
	}
	var messages [][]byte
	duplex := rapid.IntRange(0, 3).Draw(t, "full duplex") == 0
	for _, phase := range phases {
		n := rapid.SampledFrom([]int{1, 1, 1, 1, 0, 2}).Draw(t, phase)
		if strings.HasSuffix(phase, "body") || strings.HasSuffix(phase, "trailers") {
			n /= 2
		}
		for range n {
			message := processing(phase, rapid.Bool().Draw(t, "end"), headerMap(t), rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "body"))
			if duplex && phase == "request_headers" {
				message = append(message, fullDuplex...)
			}
			messages = append(messages, message)
		}
	}
	if rapid.IntRange(0, 9).Draw(t, "nonsense") == 0 {
		messages = append(messages, rapid.SliceOfN(rapid.Byte(), 0, 30).Draw(t, "bytes"))
	}
	return drawSteps(t, c, messages)
}

// drawHealth draws a call of the health protocol. It ends with its request, as grpc-go wants it of a method that takes one.
func drawHealth(t *rapid.T) *call {
	m := marshal(&healthv1.HealthCheckRequest{Service: rapid.SampledFrom([]string{"", serviceName, "nobody"}).Draw(t, "service")})
	if rapid.Bool().Draw(t, "watch") {
		// It goes on until the peer goes.
		return &call{fields: requestFields(healthv1.Health_Watch_FullMethodName), steps: []step{{data: framed(0, m), end: true}, {await: 1, reset: true}}}
	}
	b := framed(0, m)
	n := rapid.IntRange(0, len(b)).Draw(t, "cut")
	return &call{fields: requestFields(healthv1.Health_Check_FullMethodName), steps: []step{{data: b[:n:n]}, {data: b[n:], end: true}}}
}

// drawSteps spreads the messages over DATA frames. The stream ends by a half-close or a reset.
func drawSteps(t *rapid.T, c *call, messages [][]byte) *call {
	var waiting []byte
	sent, answered := 0, 0
	flush := func() {
		for len(waiting) > 0 {
			n := len(waiting)
			if rapid.Bool().Draw(t, "split") {
				n = rapid.IntRange(1, len(waiting)).Draw(t, "cut")
			}
			c.steps = append(c.steps, step{await: answered, data: waiting[:n:n]})
			waiting = waiting[n:]
		}
		waiting = nil
	}
	for _, m := range messages {
		waiting = append(waiting, framed(0, m)...)
		if sent++; rapid.IntRange(0, 3).Draw(t, "together") != 0 {
			flush()
		}
		if len(waiting) == 0 && rapid.IntRange(0, 3).Draw(t, "wait") != 0 {
			answered = sent // As Envoy does.
		}
	}
	flush()
	if len(c.steps) == 0 && rapid.Bool().Draw(t, "no DATA") {
		c.ended = true
		return c
	}
	end := step{end: true}
	switch rapid.IntRange(0, 3).Draw(t, "end") {
	case 0:
		end = step{await: sent, reset: true}
	case 1:
		end.await = sent
	case 2:
		if n := len(c.steps) - 1; n >= 0 {
			c.steps[n].end = true
			return c
		}
	}
	c.steps = append(c.steps, end)
	return c
}
