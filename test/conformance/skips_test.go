package conformance

import (
	"fmt"
	"strings"
)

// skipTable is about bodies that policies skip by their headers, and about what the headers decide of bodies.
var skipTable = func() []scenario {
	const skips, skipsToo, reads = "{policy: skipA}", "{policy: skipB}", "{policy: sumA}"
	const decodes = "{policy: plainChunksA}"
	hello := send{method: "POST", body: "hello"}
	whole := []check{status(200), body(upstreamText), header("Content-Length", fmt.Sprint(len(upstreamText))), header("Etag", `"1"`)}
	tagged := answer{lines: []string{`ETag: "1"`}}
	unknown := []string{"Content-Encoding: compress"}
	table := []scenario{
		{
			name: "a request's body is skipped", phase: requestBody, request: []string{skips}, send: hello,
			client: []check{status(200), body(upstreamText)}, upstream: reached(body("hello"), header("Content-Length", "5")),
		},
		{
			name: "a request's body is skipped, and a response's is not", phase: requestBody, request: []string{skips}, response: onChunks("upstream", "body x"), send: hello,
			client: []check{status(200), body("x"), header("Content-Length", "")}, upstream: reached(body("hello"), header("Content-Length", "5")),
		},
		{
			name: "a request's body is skipped by one policy, and replaced by another", phase: requestBody, request: append(onChunks("hello", "body longer"), skipsToo), send: hello,
			client: []check{status(200)}, upstream: reached(body("longer"), header("Content-Length", "")),
		},
		{
			name: "a request's body is skipped, whatever its coding", phase: requestBody, request: []string{skips}, send: send{method: "POST", body: "hello", lines: unknown},
			client: []check{status(200)}, upstream: reached(body("hello"), header("Content-Length", "5")),
		},
		{
			name: "a chunked body with trailers is skipped, over HTTP-2", phase: requestBody, protocol: http2, request: []string{skips},
			send:   send{method: "POST", body: strings.Repeat("x", 1<<20), chunked: true, trailers: []string{"X-T: 1"}},
			client: []check{status(200)}, upstream: reached(body(strings.Repeat("x", 1<<20)), trailer("X-T", "1")),
		},
		{
			name: "a GET without a body is skipped", phase: requestBody, request: []string{skips, reads},
			client: []check{status(200), body(upstreamText)}, upstream: reached(),
		},
		{
			name: "a response's body is skipped", phase: responseBody, response: []string{skips}, answer: tagged, client: whole, upstream: reached(),
		},
		{
			name: "a response's body is skipped by two workers", phase: responseBody, response: []string{skips, skipsToo}, answer: tagged, client: whole, upstream: reached(),
		},
		{
			name: "a response's body is skipped, over HTTP-2", phase: responseBody, protocol: http2, response: []string{skips}, answer: tagged, client: whole, upstream: reached(),
		},
		{
			name: "a response's body is skipped by one policy, and read by another", phase: responseBody, response: []string{skips, reads}, answer: tagged, client: whole, upstream: reached(),
		},
		{
			name: "a response's chunks are read", phase: responseBody, response: []string{reads}, answer: tagged, client: whole, upstream: reached(),
		},
		{
			name: "a response's body is skipped by one policy, and replaced by another", phase: responseBody, response: append(onChunks("upstream", "body x"), skipsToo), answer: tagged,
			client: []check{status(200), body("x"), header("Content-Length", ""), header("Etag", "")}, upstream: reached(),
		},
		{
			name: "a response's body is skipped by one policy, and wanted as a whole by another", phase: responseBody, response: append(onBody("body something longer"), skipsToo),
			client: []check{status(200), body("something longer"), header("Content-Length", "16")}, upstream: reached(),
		},
		{
			name: "a response's body is skipped, whatever its coding", phase: responseBody, response: []string{skips}, answer: answer{lines: append(unknown, tagged.lines...)}, client: whole, upstream: reached(),
		},
		{
			name: "an unknown coding of a request", phase: requestBody, request: []string{decodes}, send: send{method: "POST", body: "hello", lines: unknown},
			client: []check{refused(415, "BODY_CODING")}, upstream: never,
		},
		{
			name: "an unknown coding behind a known one", phase: requestBody, request: []string{decodes}, send: send{method: "POST", body: "hello", lines: []string{"Content-Encoding: GZIP", "Content-Encoding: x-zip"}},
			client: []check{refused(415, "BODY_CODING")}, upstream: never,
		},
		{
			name: "an unknown coding of a response", phase: responseBody, response: []string{decodes}, answer: answer{lines: unknown},
			client: []check{refused(502, "BODY_CODING"), header("X-Upstream", "")}, upstream: reached(),
		},
		{
			name: "an unknown coding of a response, over HTTP-2", phase: responseBody, protocol: http2, response: []string{decodes}, answer: answer{lines: unknown},
			client: []check{refused(502, "BODY_CODING"), header("X-Upstream", "")}, upstream: reached(),
		},
	}
	for i := range table {
		table[i].mode = streamed
	}
	return table
}()
