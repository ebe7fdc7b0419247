package conformance

import "strings"

// onChunks is a chain of one policy of chunks, which acts on those that contain a word.
func onChunks(word, steps string) []string {
	return []string{"{policy: editChunksA, params: {if: '" + word + "', do: " + list(steps) + "}}"}
}

var chunkTable = func() []scenario {
	hello := send{method: "POST", body: "hello"}
	large := strings.Repeat("0123456789abcdef", 20<<10) // 320 KiB, five times what a whole body may be
	table := []scenario{
		{
			name: "chunks pass as they are", phase: requestBody, request: onChunks("nothing", "body x"), send: hello,
			client: []check{status(200), body(upstreamText)}, upstream: reached(body("hello")),
		},
		{
			name: "a chunk is replaced by a longer one", phase: requestBody, request: onChunks("hello", "body something longer"), send: hello,
			client: []check{status(200)}, upstream: reached(body("something longer"), header("Content-Length", "")),
		},
		{
			name: "a chunk is replaced by nothing", phase: requestBody, request: onChunks("hello", "body"), send: hello,
			client: []check{status(200)}, upstream: reached(body("")),
		},
		{
			name: "a body that is longer than a whole one may be", phase: requestBody, request: onChunks("nothing", "body x"), send: send{method: "POST", body: large},
			client: []check{status(200)}, upstream: reached(body(large)),
		},
		{
			name: "a body of chunks that is longer than a whole one may be, over HTTP-2", phase: requestBody, protocol: http2, request: onChunks("nothing", "body x"),
			send: send{method: "POST", body: large, chunked: true}, client: []check{status(200)}, upstream: reached(body(large)),
		},
		{
			name: "all chunks are held back to the end", phase: requestBody, request: onChunks("0", "hold 4096"), send: send{method: "POST", body: large[:16<<10], chunked: true},
			client: []check{status(200)}, upstream: reached(body(large[:16<<10])),
		},
		{
			name: "a GET has one empty chunk", phase: requestBody, request: onChunks("", "deny 403 told_to"),
			client: []check{refused(403, "TOLD_TO")}, upstream: never,
		},
		{
			name: "a chunk is denied", phase: requestBody, request: onChunks("hello", "deny 403 told_to"), send: hello,
			client: []check{refused(403, "TOLD_TO")}, upstream: mayReach(broken, without("hello")),
		},
		{
			name: "header policies decide before a chunk is read", phase: requestBody, request: append(onChunks("hello", "body x"), policy("editB", "deny 401 told_to")), send: hello,
			client: []check{refused(401, "TOLD_TO")}, upstream: never,
		},
		{
			name: "chunks where another policy wants the whole", phase: requestBody, request: append(onChunks("hello", "body chunk"), policy("editBodyB", "set x-a 1")), send: hello,
			client: []check{status(200)}, upstream: reached(body("chunk"), header("X-A", "1"), header("Content-Length", "5")),
		},
		{
			name: "an error on a chunk, on_failure deny", phase: requestBody, fault: "error", request: onChunks("hello", "error"), send: hello,
			client: []check{refused(500, "POLICY_FAILED")}, upstream: mayReach(broken, without("hello")),
		},
		{
			name: "an error on a chunk, on_failure continue", phase: requestBody, fault: "error",
			request: []string{"{policy: editChunksA, on_failure: continue, params: {if: hello, do: [body lost, error]}}"}, send: hello,
			client: []check{status(200)}, upstream: reached(body("hello")),
		},
		{
			name: "an error on a chunk, on_failure skip_remaining", phase: requestBody, fault: "error", send: hello,
			request: []string{"{policy: editChunksA, on_failure: skip_remaining, params: {if: hello, do: [body lost, error]}}", "{policy: editChunksB, params: {if: hello, do: [deny 403 told_to]}}"},
			client:  []check{status(200)}, upstream: reached(body("hello")),
		},
		{
			name: "a timeout on a chunk, on_failure deny", phase: requestBody, fault: "timeout",
			request: []string{"{policy: editChunksA, timeout: 100ms, params: {if: hello, do: [hang]}}"}, send: hello,
			client: []check{refused(500, "POLICY_TIMEOUT")}, upstream: mayReach(broken, without("hello")),
		},
		{
			name: "etag and digests of a request go when its chunks may be replaced", phase: requestBody, request: onChunks("hello", "body x"),
			send:   send{method: "POST", body: "hello", lines: []string{"Content-MD5: XUFAKrxLKna5cZ2REBfFkg==", "Digest: sha-256=x", "Repr-Digest: sha-256=:x:"}},
			client: []check{status(200)}, upstream: reached(body("x"), header("Content-MD5", ""), header("Digest", ""), header("Repr-Digest", "")),
		},
		{
			name: "etag and digests of a response go when its chunks may be replaced", phase: responseBody, response: onChunks("upstream", "body x"),
			answer: answer{lines: []string{`ETag: "1"`, "Content-Digest: sha-256=:x:"}},
			client: []check{status(200), body("x"), header("ETag", ""), header("Content-Digest", "")}, upstream: reached(),
		},
		{
			name: "etag and digests stay where policies only read chunks", phase: responseBody, response: []string{"{policy: sumA}"}, answer: answer{lines: []string{`ETag: "1"`, "Content-Digest: sha-256=:x:"}},
			client: []check{status(200), body(upstreamText), header("ETag", `"1"`), header("Content-Digest", "sha-256=:x:")}, upstream: reached(),
		},
		{
			name: "processing_mode streaming", phase: requestBody, request: onChunks("hello", "body x"), processing: "streaming", send: hello,
			client: []check{status(200)}, upstream: reached(body("x")),
		},
		{
			name: "a response's chunks pass as they are", phase: responseBody, response: onChunks("nothing", "body x"), answer: answer{body: large},
			client: []check{status(200), body(large)}, upstream: reached(),
		},
		{
			name: "a response's chunk is replaced", phase: responseBody, response: onChunks("upstream", "body x"),
			client: []check{status(200), body("x"), header("Content-Length", "")}, upstream: reached(),
		},
		{
			name: "a response's chunk is replaced, over HTTP-2", phase: responseBody, protocol: http2, response: onChunks("upstream", "body x"),
			client: []check{status(200), body("x")}, upstream: reached(),
		},
		{
			name: "a response's first chunk is denied", phase: responseBody, response: onChunks("upstream", "deny 403 told_to"),
			client: []check{refusedOrBroken(403, "TOLD_TO"), without("from the")}, upstream: reached(),
		},
		{
			name: "a response's first chunk is denied, over HTTP-2", phase: responseBody, protocol: http2, response: onChunks("upstream", "deny 403 told_to"),
			client: []check{refusedOrBroken(403, "TOLD_TO"), without("from the")}, upstream: reached(),
		},
		{
			name: "a HEAD's response has one empty chunk", phase: responseBody, response: onChunks("", "deny 502 told_to"), send: send{method: "HEAD"},
			client: []check{status(502)}, upstream: reached(),
		},
		{
			name: "an error on a response's chunk, on_failure continue", phase: responseBody, fault: "error",
			response: []string{"{policy: editChunksA, on_failure: continue, params: {if: upstream, do: [body lost, error]}}"},
			client:   []check{status(200), body(upstreamText)}, upstream: reached(),
		},
		{
			name: "an error on a response's chunk, on_failure deny", phase: responseBody, fault: "error", response: onChunks("upstream", "error"),
			client: []check{refusedOrBroken(500, "POLICY_FAILED"), without("from the")}, upstream: reached(),
		},
	}
	for i := range table {
		table[i].mode = streamed
	}
	return table
}()

var trailerTable = func() []scenario {
	on := func(steps string) []string { return []string{policy("editTrailersA", steps)} }
	up := send{method: "POST", body: "hello", chunked: true, trailers: []string{"X-T: 1", "X-U: 2", "X-V: 3"}} // The upstream's HTTP/2 reads no trailers that were not announced.
	down := answer{trailers: []string{"X-T: 1", "X-U: 2"}}
	seen := check(func(m *message) string {
		if m.trailer.Get("X-T") == "" {
			return "there is no trailer"
		}
		return ""
	})
	table := []scenario{
		{
			name: "trailers pass as they are", phase: requestTrailers, request: on(""), send: up,
			client: []check{status(200)}, upstream: reached(body("hello"), trailer("X-T", "1"), trailer("X-U", "2")),
		},
		{
			name: "trailers are changed", phase: requestTrailers, request: on("set x-t new, append x-u 3, remove x-v, append x-v 4"), send: up,
			client: []check{status(200)}, upstream: reached(body("hello"), trailer("X-T", "new"), trailer("X-U", "2,3"), trailer("X-V", "4")),
		},
		{
			name: "a trailer is removed", phase: requestTrailers, request: on("remove x-t"), send: up,
			client: []check{status(200)}, upstream: reached(body("hello"), trailer("X-T", ""), trailer("X-U", "2")),
		},
		{
			name: "trailers that do not come", phase: requestTrailers, request: on("deny 403 told_to"), send: send{method: "POST", body: "hello"},
			client: []check{status(200)}, upstream: reached(body("hello")),
		},
		{
			name: "trailers are denied", phase: requestTrailers, request: on("deny 403 told_to"), send: up,
			client: []check{refused(403, "TOLD_TO")}, upstream: mayReach(broken),
		},
		{
			name: "a policy fails on trailers", phase: requestTrailers, fault: "error", request: on("error"), send: up,
			client: []check{refused(500, "POLICY_FAILED")}, upstream: mayReach(broken),
		},
		{
			name: "a policy fails on trailers, on_failure continue", phase: requestTrailers, fault: "error", request: []string{failing("editTrailersA", "error", "continue")}, send: up,
			client: []check{status(200)}, upstream: reached(trailer("X-Lost", ""), trailer("X-T", "1")),
		},
		{
			name: "a whole body, then trailers", phase: requestTrailers, mode: buffered, request: append(onBody("body x, set x-a 1"), on("set x-t new")...), send: up,
			client: []check{status(200)}, upstream: reached(body("x"), header("X-A", "1"), trailer("X-T", "new")),
		},
		{
			name: "a whole body is denied before its trailers", phase: requestTrailers, mode: buffered, request: append(onBody("deny 403 told_to"), on("set x-t new")...), send: up,
			client: []check{refused(403, "TOLD_TO")}, upstream: never,
		},
		{
			name: "trailers are denied where the body is taken as a whole", phase: requestTrailers, mode: buffered, request: append(onBody("set x-a 1"), on("deny 403 told_to")...), send: up,
			client: []check{refused(403, "TOLD_TO")}, upstream: mayReach(broken),
		},
		{
			name: "chunks, then trailers", phase: requestTrailers, mode: streamed, request: append(onChunks("hello", "body x"), on("set x-t new")...), send: up,
			client: []check{status(200)}, upstream: reached(body("x"), trailer("X-T", "new")),
		},
		{
			name: "a response's trailers pass as they are", phase: responseTrailers, response: on(""), answer: down,
			client: []check{status(200), body(upstreamText), trailer("X-T", "1"), trailer("X-U", "2")}, upstream: reached(),
		},
		{
			name: "a response's trailers are changed", phase: responseTrailers, response: on("set x-t new, remove x-u, set x-v 4"), answer: down,
			client: []check{status(200), trailer("X-T", "new"), trailer("X-U", ""), trailer("X-V", "4")}, upstream: reached(),
		},
		{
			name: "a response's trailers are denied", phase: responseTrailers, response: on("deny 403 told_to"), answer: down,
			client: []check{refusedOrBroken(403, "TOLD_TO"), trailer("X-T", "")}, upstream: reached(),
		},
		{
			name: "a policy fails on a response's trailers", phase: responseTrailers, fault: "error", response: on("error"), answer: down,
			client: []check{refusedOrBroken(500, "POLICY_FAILED"), trailer("X-T", "")}, upstream: reached(),
		},
		{
			name: "a whole body of a response, then trailers", phase: responseTrailers, mode: buffered, response: append(onBody("body x"), on("set x-t new")...), answer: down,
			client: []check{status(200), body("x"), trailer("X-T", "new")}, upstream: reached(),
		},
		{
			name: "a whole body's policy, and trailers that nobody wants", phase: responseTrailers, mode: buffered, response: onBody("body x"), answer: down,
			client: []check{status(200), body("x"), seen}, upstream: reached(),
		},
		{
			name: "chunks of a response, then trailers", phase: responseTrailers, mode: streamed, response: append(onChunks("upstream", "body x"), on("set x-t new")...), answer: down,
			client: []check{status(200), body("x"), trailer("X-T", "new")}, upstream: reached(),
		},
	}
	for i := range table {
		table[i].protocol = http2
		if table[i].mode == "" {
			table[i].mode = "trailers"
		}
	}
	return table
}()
