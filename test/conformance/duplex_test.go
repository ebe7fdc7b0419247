package conformance

import (
	"slices"
	"strings"
	"time"
)

// duplexTable is most of the table once more, with Envoy in full duplex on each route whose policies may want bodies, and what is only in that mode.
var duplexTable = func() []scenario {
	// What must be seen is the same, with these exceptions.
	other := []string{
		"a change of the method of a request with a body", "a change of the method with the body", // It throws away what is on its way.
	}
	all := slices.Clone(onlyDuplex)
	for _, s := range slices.Concat(tables...) {
		if s.at != "" || len(s.request)+len(s.response) == 0 || slices.Contains(other, s.name) {
			continue
		}
		all = append(all, s)
	}
	for i := range all {
		all[i].name += ", in full duplex"
		all[i].duplex = true
	}
	return all
}()

const fullDuplex = "full duplex"

var onlyDuplex = func() []scenario {
	hello := send{method: "POST", body: "hello"}
	long := strings.Repeat("0123456789abcdef", 200<<10) // 3.2 MiB, more than Envoy's buffers, and than queues take without a pause.
	mebibyte := long[:1<<20]
	up := send{method: "POST", body: long[:16<<10], chunked: true, trailers: []string{"X-T: 1"}}
	holding := "hold 4096"
	passes := one("set x-a 1")
	none := check(func(m *message) string {
		if len(m.body) > 0 {
			return "a part of the body has reached it"
		}
		return ""
	})
	table := []scenario{
		{
			name: "a header policy, and a long body both ways", phase: requestBody, request: passes, response: passes, send: send{method: "POST", body: long}, answer: answer{body: long},
			client: []check{status(200), body(long), header("X-A", "1")}, upstream: reached(body(long), header("X-A", "1")),
		},
		{
			name: "a header policy, and a long body both ways, over HTTP-2", phase: requestBody, protocol: http2, request: passes, response: passes,
			send: send{method: "POST", body: long, chunked: true}, answer: answer{body: long, trailers: []string{"X-T: 1"}},
			client: []check{status(200), body(long), trailer("X-T", "1")}, upstream: reached(body(long)),
		},
		{
			name: "a header policy, and trailers both ways", phase: requestTrailers, protocol: http2, request: passes, response: passes, send: up, answer: answer{trailers: []string{"X-T: 2"}},
			client: []check{status(200), body(upstreamText), trailer("X-T", "2")}, upstream: reached(body(up.body), trailer("X-T", "1")),
		},
		{
			name: "a header policy denies, and the body is on its way", phase: requestBody, request: one("deny 403 told_to"), send: send{method: "POST", body: mebibyte},
			client: []check{refused(403, "TOLD_TO")}, upstream: never,
		},
		{
			name: "a slow header policy, and the body is on its way", phase: requestBody, request: []string{"{policy: waitA}"}, send: send{method: "POST", body: long, lines: []string{"x-misbehave: 200ms"}},
			client: []check{status(200)}, upstream: reached(body(long)),
		},
		{
			name: "chunks of a long body", phase: requestBody, request: onChunks("nothing", "body x"), send: send{method: "POST", body: long},
			client: []check{status(200)}, upstream: reached(body(long)),
		},
		{
			name: "chunks of a body of a mebibyte", phase: requestBody, request: onChunks("nothing", "body x"), send: send{method: "POST", body: mebibyte},
			client: []check{status(200)}, upstream: reached(body(mebibyte)),
		},
		{
			name: "chunks of a body of a mebibyte, and no length", phase: requestBody, protocol: http2, request: onChunks("nothing", "body x"), send: send{method: "POST", body: mebibyte, chunked: true},
			client: []check{status(200)}, upstream: reached(body(mebibyte)),
		},
		{
			name: "chunks of a long response", phase: responseBody, response: onChunks("nothing", "body x"), answer: answer{body: long},
			client: []check{status(200), body(long)}, upstream: reached(),
		},
		{
			name: "what is held back when trailers come", phase: requestTrailers, protocol: http2, request: onChunks("0", holding), send: up,
			client: []check{status(200)}, upstream: reached(body(up.body), trailer("X-T", "1")),
		},
		{
			name: "what is held back when a response's trailers come", phase: responseTrailers, protocol: http2, response: onChunks("0", holding), answer: answer{body: up.body, trailers: []string{"X-T: 1"}},
			client: []check{status(200), body(up.body), trailer("X-T", "1")}, upstream: reached(),
		},
		{
			name: "what is held back, and trailers are changed", phase: requestTrailers, protocol: http2, request: append(onChunks("0", holding), policy("editTrailersB", "set x-t new")), send: up,
			client: []check{status(200)}, upstream: reached(body(up.body), trailer("X-T", "new")),
		},
		{
			name: "what is held back, and trailers are denied", phase: requestTrailers, protocol: http2, request: append(onChunks("0", holding), policy("editTrailersB", "deny 403 told_to")), send: up,
			client: []check{refused(403, "TOLD_TO")}, upstream: mayReach(broken),
		},
		{
			name: "a whole body is denied, and its trailers are there", phase: requestTrailers, protocol: http2, request: onBody("deny 403 told_to"), send: up,
			client: []check{refused(403, "TOLD_TO")}, upstream: never,
		},
		{
			name: "a whole body of several pieces, and more than one of them back", phase: requestBody, request: onBody("set x-a 1"), send: send{method: "POST", body: long[:limit], chunked: true},
			client: []check{status(200)}, upstream: reached(body(long[:limit]), header("X-A", "1")),
		},
		{
			name: "a whole response that is too long is refused before it begins", phase: responseBody, fault: "too large", response: onBody(""), answer: answer{body: long},
			client: []check{refused(502, "RESPONSE_TOO_LARGE")}, upstream: reached(),
		},
		{
			name: "a whole response that is denied has not begun", phase: responseBody, response: onBody("deny 403 told_to"), answer: answer{lines: []string{"X-Secret: 1"}},
			client: []check{refused(403, "TOLD_TO"), header("X-Secret", ""), without("from the")}, upstream: reached(),
		},
		{
			name: "a change of the method of what is on its way is refused", phase: requestBody, fault: "illegal result", request: one("method PUT"), send: hello,
			client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
		},
		{
			name: "a change of the method with a whole body is refused", phase: requestBody, fault: "illegal result", request: onBody("method PUT"), send: hello,
			client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
		},
		{
			name: "a change of the method of a request without a body", phase: requestHeaders, request: one("method DELETE"),
			client: []check{status(200)}, upstream: reached(method("DELETE")),
		},
		{
			name: "a worker that hangs on a chunk", phase: requestBody, fault: "timeout", request: []string{"{policy: editChunksA, params: {if: '0', do: [hang]}}"}, send: send{method: "POST", body: long},
			client: []check{soonerThan(5 * time.Second), statusFrom(500)}, upstream: mayReach(broken, none),
		},
		{
			name: "chunks of the request after the response has begun", phase: requestBody, protocol: grpcOver, request: onChunks("nothing", "body x"), response: onChunks("nothing", "body x"),
			answer: answer{handler: echo}, play: turns, upstream: reached(),
		},
	}
	for i := range table {
		table[i].mode = fullDuplex
	}
	return table
}()
