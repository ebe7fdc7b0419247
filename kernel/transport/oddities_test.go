package transport

import (
	"strings"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// difference is what each transport does where they may differ.
type difference struct{ fast, grpc string }

const (
	notGRPC        = `HTTP 415, grpc-status "", trailers-only false, reset ""`
	served         = `HTTP 200, grpc-status "0", trailers-only false, reset ""`
	badRequest     = `HTTP 400, grpc-status "13", trailers-only true, reset ""`
	internal       = `HTTP 200, grpc-status "13", trailers-only true, reset ""`
	unimplemented  = `HTTP 200, grpc-status "12", trailers-only true, reset ""`
	brokenOff      = `HTTP 200, grpc-status "13", trailers-only false, reset ""`
	notImplemented = `HTTP 200, grpc-status "12", trailers-only false, reset ""`
)

// differences are all of them, by oddity, with the reason of each. What grpc-go serves is not served less by the other, and nothing ends with OK in more than what is harmless.
var differences = map[string]difference{
	// Both are HTTP 415: ours has a body that people can read, as the purpose of the transport wants it, theirs a gRPC status for who isn't listening for one.
	"no content-type":          {notGRPC, `HTTP 415, grpc-status "3", trailers-only true, reset ""`},
	"content-type of JSON":     {notGRPC, `HTTP 415, grpc-status "3", trailers-only true, reset ""`},
	"content-type of gRPC-Web": {notGRPC, `HTTP 415, grpc-status "3", trailers-only true, reset ""`},
	// A call is a POST (gRPC over HTTP/2, Requests): what is not is not gRPC, whatever its content-type.
	"GET": {notGRPC, `HTTP 405, grpc-status "13", trailers-only true, reset ""`},
	// RFC 9113 section 8.3.1 does not require :authority, and nothing here depends on it.
	"no :authority": {served, badRequest},
	// The timeout is Envoy's own: when it passes, Envoy resets the stream, and acts by its own failure mode whatever we would say. We don't read the header.
	"timeout of nothing":           {served, `HTTP 200, grpc-status "4", trailers-only true, reset ""`},
	"timeout without a unit":       {served, badRequest},
	"timeout with an unknown unit": {served, badRequest},
	"timeout too long to be one":   {served, badRequest},
	"empty timeout":                {served, badRequest},
	// Metadata that nobody reads is not decoded.
	"binary metadata that is none": {served, badRequest},
	// A peer learns more from a status than from a reset.
	"huge metadata": {`HTTP 200, grpc-status "8", trailers-only true, reset ""`, `HTTP , grpc-status "", trailers-only false, reset "FRAME_SIZE_ERROR"`},
	// An encoding counts for messages that have the flag, and those are refused. A stream does not remember whether an encoding was named: then the status would be
	// UNIMPLEMENTED, else INTERNAL (gRPC Compression). Envoy compresses no ext_proc message.
	"encoding that nobody knows": {served, unimplemented},
	"compressed message":         {notImplemented, brokenOff},
	"compressed empty message":   {notImplemented, brokenOff},
	"compressed health check":    {unimplemented, internal},
	// The first request is answered at once; nothing behind it can change the answer.
	"health check with two requests": {served, internal},
}

// oddities are calls with one thing that is not ordinary.
var oddities = []func() *call{
	// What is not gRPC, or not quite.
	header("no content-type", func(f [][2]string) [][2]string { return with(f, "content-type", "") }),
	header("content-type of JSON", func(f [][2]string) [][2]string { return with(f, "content-type", "application/json") }),
	header("content-type of gRPC-Web", func(f [][2]string) [][2]string { return with(f, "content-type", "application/grpc-web") }),
	header("GET", func(f [][2]string) [][2]string { return with(f, ":method", "GET") }),
	header("no te", func(f [][2]string) [][2]string { return with(f, "te", "") }),
	header("no :authority", func(f [][2]string) [][2]string { return with(f, ":authority", "") }),
	header("a path without a method", func(f [][2]string) [][2]string { return with(f, ":path", "/x") }),
	header("a path without a slash", func(f [][2]string) [][2]string { return with(f, ":path", "x") }),
	// Timeouts: those that have passed before an answer can come, and malformed ones.
	header("timeout of nothing", add("grpc-timeout", "0n")),
	header("timeout without a unit", add("grpc-timeout", "10")),
	header("timeout with an unknown unit", add("grpc-timeout", "10x")),
	header("timeout too long to be one", add("grpc-timeout", "123456789S")),
	header("empty timeout", add("grpc-timeout", "")),
	// Metadata.
	header("binary metadata that is none", add("x-trace-bin", "%%%")),
	header("padded binary metadata", add("x-trace-bin", "AA==")),
	header("route twice", add(routeKey, "both", routeKey, "both")),
	header("empty route", add(routeKey, "")),
	header("huge metadata", add("x-huge", strings.Repeat("h", 40_000), "x-huge", strings.Repeat("i", 40_000))),
	header("encoding that nobody knows", add("grpc-encoding", "lzma")),
	// Framing of messages.
	data("compressed message", framed(1, []byte("x"))),
	data("compressed empty message", framed(1, nil)),
	data("malformed flag", framed(2, []byte("x"))),
	data("promise of a message too long", []byte{0, 0xff, 0xff, 0xff, 0xff}),
	data("message too long by a byte", framed(0, make([]byte, maxMessage+1))),
	data("message as long as allowed", framed(0, make([]byte, maxMessage))),
	data("end within a message", framed(0, []byte("whole"))[:7]),
	data("end within a prefix", []byte{0, 0}),
	data("end without a message", nil),
	data("empty message", framed(0, nil)),
	health("health check without a request", healthv1.Health_Check_FullMethodName, nil),
	health("health check with two requests", healthv1.Health_Check_FullMethodName, append(framed(0, nil), framed(0, nil)...)),
	health("malformed health check", healthv1.Health_Check_FullMethodName, framed(0, []byte{0xff})),
	health("compressed health check", healthv1.Health_Check_FullMethodName, framed(1, nil)),
	health("health watch without a request", healthv1.Health_Watch_FullMethodName, nil),
	health("malformed health watch", healthv1.Health_Watch_FullMethodName, framed(0, []byte{0xff})),
}

// header is a call that would be answered, with other headers.
func header(name string, change func([][2]string) [][2]string) func() *call {
	return func() *call {
		m := framed(0, processing("request_headers", true, nil, nil))
		return &call{oddity: name, fields: change(requestFields(processMethod)), steps: []step{{data: m, end: true}}}
	}
}

func add(pairs ...string) func([][2]string) [][2]string {
	return func(f [][2]string) [][2]string {
		for i := 0; i < len(pairs); i += 2 {
			f = append(f, [2]string{pairs[i], pairs[i+1]})
		}
		return f
	}
}

// data is a call with these bytes behind a first message that is answered.
func data(name string, b []byte) func() *call {
	return func() *call {
		m := framed(0, processing("request_headers", true, nil, nil))
		return &call{oddity: name, fields: requestFields(processMethod, [2]string{routeKey, "both"}), steps: []step{{data: m}, {await: 1, data: b, end: true}}}
	}
}

func health(name, path string, b []byte) func() *call {
	return func() *call {
		return &call{oddity: name, fields: requestFields(path), steps: []step{{data: b, end: true}}}
	}
}
