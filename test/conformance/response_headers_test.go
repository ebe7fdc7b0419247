package conformance

import "strings"

var responseHeaderTable = []scenario{
	{
		name: "allow a response without changes", phase: responseHeaders, mode: headersOnly, response: one(""),
		client: []check{status(200), body(upstreamText), header("X-Upstream", "reached")}, upstream: reached(),
	},
	{
		name: "set a header of the response", phase: responseHeaders, mode: headersOnly, response: one("set x-a 1"),
		answer: answer{lines: []string{"X-A: upstream", "X-A: again"}},
		client: []check{status(200), lines("X-A", "1"), body(upstreamText)}, upstream: reached(header("X-A", "")),
	},
	{
		name: "append to a header of the response", phase: responseHeaders, mode: headersOnly, response: one("append x-a 1, append x-a 2"),
		answer: answer{lines: []string{"X-A: upstream"}}, client: []check{status(200), lines("X-A", "upstream", "1", "2")}, upstream: reached(),
	},
	{
		name: "remove a header of the response", phase: responseHeaders, mode: headersOnly, response: one("remove x-a, remove x-upstream"),
		answer: answer{lines: []string{"X-A: 1", "X-A: 2"}}, client: []check{status(200), header("X-A", ""), header("X-Upstream", "")}, upstream: reached(),
	},
	{
		name: "several set-cookie of the upstream, and one more", phase: responseHeaders, mode: headersOnly, response: one("append set-cookie c=3"),
		answer: answer{lines: []string{"Set-Cookie: a=1", "Set-Cookie: b=2"}}, client: []check{status(200), lines("Set-Cookie", "a=1", "b=2", "c=3")}, upstream: reached(),
	},
	{
		name: "a set-cookie in place of the upstream's", phase: responseHeaders, mode: headersOnly, response: one("set set-cookie c=3"),
		answer: answer{lines: []string{"Set-Cookie: a=1", "Set-Cookie: b=2"}}, client: []check{status(200), lines("Set-Cookie", "c=3")}, upstream: reached(),
	},
	{
		name: "a response's value that is not UTF-8", phase: responseHeaders, mode: headersOnly, response: one(`set x-a caf\xe9`),
		answer: answer{lines: []string{"X-B: caf\xe9"}}, client: []check{status(200), lines("X-A", "caf\xe9"), lines("X-B", "caf\xe9")}, upstream: reached(),
	},
	{
		name: "a change of the status", phase: responseHeaders, mode: headersOnly, response: one("status 203"),
		client: []check{status(203), body(upstreamText)}, upstream: reached(),
	},
	{
		name: "deny a response", phase: responseHeaders, mode: headersOnly, response: one("deny 502 told_to"), answer: answer{body: "a secret", lines: []string{"X-Secret: 1"}},
		client: []check{refused(502, "TOLD_TO"), without("secret"), header("X-Secret", ""), header("X-Upstream", "")}, upstream: reached(),
		log: map[string]string{"reason": "told_to", "status": "502"},
	},
	{
		name: "deny a response by the second worker", phase: responseHeaders, mode: headersOnly, answer: answer{body: "a secret"},
		response: []string{policy("editA", "set x-a 1"), policy("editB", "deny 403 told_to, with x-b 2")},
		client:   []check{refused(403, "TOLD_TO"), without("secret"), header("X-A", ""), header("X-B", "2")}, upstream: reached(),
	},
	{
		name: "deny a response to HEAD", phase: responseHeaders, mode: headersOnly, response: one("deny 502 told_to"),
		send: send{method: "HEAD"}, client: []check{status(502), body(""), header("X-Upstream", "")}, upstream: reached(method("HEAD")),
	},
	{
		name: "respond in place of a response", phase: responseHeaders, mode: headersOnly, response: one("respond 200 instead"), answer: answer{body: "a secret"},
		client: []check{status(200), body("instead"), header("X-Upstream", "")}, upstream: reached(),
	},
	{
		name: "a 204 of the upstream", phase: responseHeaders, mode: headersOnly, response: one("set x-a 1"), answer: answer{status: 204},
		client: []check{status(204), header("X-A", "1"), body("")}, upstream: reached(),
	},
	{
		name: "a 304 of the upstream", phase: responseHeaders, mode: headersOnly, response: one("set x-a 1"), answer: answer{status: 304},
		client: []check{status(304), header("X-A", "1"), body("")}, upstream: reached(),
	},
	{
		name: "a 304 of the upstream is denied", phase: responseHeaders, mode: headersOnly, response: one("deny 403 told_to"), answer: answer{status: 304},
		client: []check{refused(403, "TOLD_TO")}, upstream: reached(),
	},
	{
		name: "a 500 of the upstream", phase: responseHeaders, mode: headersOnly, response: one("set x-a 1"), answer: answer{status: 500, body: "broken"},
		client: []check{status(500), header("X-A", "1"), body("broken")}, upstream: reached(),
	},
	{
		name: "a HEAD's response", phase: responseHeaders, mode: headersOnly, response: one("set x-a 1"),
		send: send{method: "HEAD"}, client: []check{status(200), header("X-A", "1"), body("")}, upstream: reached(method("HEAD")),
	},
	{
		name: "identity and metadata reach the response flow", phase: responseHeaders, mode: headersOnly,
		request: []string{policy("editA", "identity alice, set x-trail a, path /new")}, response: []string{"{policy: witnessB, params: {name: b}}"},
		client: []check{status(200), header("X-Seen-B", "200  | GET /new header=a+ metadata= identity=alice/edit/[]/")}, upstream: reached(path("/new")),
	},
	{
		name: "skip the rest of the response flow", phase: responseHeaders, mode: headersOnly,
		response: []string{policy("editA", "set x-a 1, skip"), policy("editB", "deny 403 told_to")},
		client:   []check{status(200), header("X-A", "1"), body(upstreamText)}, upstream: reached(),
	},
	{
		name: "skip in the request flow skips nothing of the response flow", phase: responseHeaders, mode: headersOnly,
		request: []string{policy("editA", "skip"), policy("editA", "deny 403 told_to")}, response: one("deny 502 told_to"),
		client: []check{refused(502, "TOLD_TO")}, upstream: reached(),
	},
	{
		name: "a denial of the request has no response flow", phase: responseHeaders, mode: headersOnly,
		request: one("deny 403 told_to"), response: one("set x-a 1, status 299"),
		client: []check{refused(403, "TOLD_TO"), header("X-A", "")}, upstream: never,
	},
	{
		name: "a line break in a response's value is refused", phase: responseHeaders, mode: headersOnly, fault: "illegal result", response: one(`set x-a 1\r\nx-b: 2`),
		client: []check{refused(500, "POLICY_FAILED"), header("X-B", ""), header("X-Upstream", "")}, upstream: reached(),
	},
	{
		name: "a response's status below 200 is refused", phase: responseHeaders, mode: headersOnly, fault: "illegal result", response: one("status 100"),
		client: []check{refused(500, "POLICY_FAILED"), header("X-Upstream", "")}, upstream: reached(),
	},
	{
		name: "a response's status above 599 is refused", phase: responseHeaders, mode: headersOnly, fault: "illegal result", response: one("status 600"),
		client: []check{refused(500, "POLICY_FAILED"), header("X-Upstream", "")}, upstream: reached(),
	},
	{
		name: "a header of Envoy's can't be set in a response", phase: responseHeaders, mode: headersOnly, fault: "mutation rules", response: one("set x-envoy-upstream-service-time 1"),
		client: []check{refused(500, "POLICY_FAILED"), header("X-Upstream", "")}, upstream: reached(),
	},
	{
		name: "more than 100 changes of a response are refused", phase: responseHeaders, mode: headersOnly, fault: "illegal result",
		response: one(strings.TrimSuffix(strings.Repeat("append x-a 1, ", 101), ", ")),
		client:   []check{refused(500, "POLICY_FAILED"), header("X-Upstream", "")}, upstream: reached(),
	},
	{
		name: "request and response flow", phase: responseHeaders, mode: headersOnly, request: one("set x-a 1"), response: []string{policy("editB", "set x-b 2")},
		send: send{method: "POST", body: "hello"}, client: []check{status(200), header("X-B", "2"), header("X-A", ""), body(upstreamText)},
		upstream: reached(header("X-A", "1"), header("X-B", ""), body("hello")),
	},
}
