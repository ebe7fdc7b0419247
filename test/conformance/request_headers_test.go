package conformance

import "strings"

var requestHeaderTable = []scenario{
	{
		name: "no policies", phase: requestHeaders, mode: headersOnly,
		client: []check{status(200), body(upstreamText)}, upstream: reached(method("GET")),
	},
	{
		name: "allow without changes", phase: requestHeaders, mode: headersOnly, request: one(""),
		send: send{target: "/a/b?c=d&e", lines: []string{"X-Client: 1"}}, client: []check{status(200), body(upstreamText), header("X-Upstream", "reached")},
		upstream: reached(method("GET"), header("X-Client", "1"), header("Host", "")),
	},
	{
		name: "deny", phase: requestHeaders, mode: headersOnly, request: one("deny 403 told_to"),
		client: []check{refused(403, "TOLD_TO"), without("upstream")}, upstream: never,
		log: map[string]string{"reason": "told_to", "policy": "editA", "status": "403", "details": "policy_engine_told_to"},
	},
	{
		name: "deny by the second worker, after changes by the first", phase: requestHeaders, mode: headersOnly,
		request: []string{policy("editA", "set x-a 1"), policy("editB", "deny 401 told_to, with www-authenticate Basic")},
		client:  []check{refused(401, "TOLD_TO"), header("Www-Authenticate", "Basic"), header("X-A", "")}, upstream: never,
	},
	{
		name: "deny with several lines of a header", phase: requestHeaders, mode: headersOnly,
		request: one("deny 401 told_to, with www-authenticate Basic, with www-authenticate Bearer, with x-why because"),
		client:  []check{refused(401, "TOLD_TO"), lines("Www-Authenticate", "Basic", "Bearer"), header("X-Why", "because")}, upstream: never,
	},
	{
		name: "deny a POST before its body is read", phase: requestHeaders, mode: headersOnly, request: one("deny 403 told_to"),
		send: send{method: "POST", body: strings.Repeat("x", 100<<10)}, client: []check{refused(403, "TOLD_TO")}, upstream: never,
	},
	{
		name: "deny a HEAD", phase: requestHeaders, mode: headersOnly, request: one("deny 403 told_to"),
		send: send{method: "HEAD"}, client: []check{status(403), body("")}, upstream: never,
	},
	{
		name: "allow a HEAD", phase: requestHeaders, mode: headersOnly, request: one("set x-a 1"),
		send: send{method: "HEAD"}, client: []check{status(200), body("")}, upstream: reached(method("HEAD"), header("X-A", "1")),
	},
	{
		name: "respond 200 in place of the upstream", phase: requestHeaders, mode: headersOnly, request: one("respond 200 hello, with x-a 1"),
		client: []check{status(200), body("hello"), header("Content-Type", "text/plain"), header("X-A", "1"), header("X-Upstream", "")}, upstream: never,
	},
	{
		name: "respond 204", phase: requestHeaders, mode: headersOnly, request: one("respond 204"),
		client: []check{status(204), body("")}, upstream: never,
	},
	{
		name: "respond 302 with a location", phase: requestHeaders, mode: headersOnly, request: one("respond 302 moved, with location /elsewhere"),
		client: []check{status(302), header("Location", "/elsewhere")}, upstream: never,
	},
	{
		name: "respond 304", phase: requestHeaders, mode: headersOnly, request: one("respond 304"),
		client: []check{status(304), body("")}, upstream: never,
	},
	{
		name: "respond with repeated set-cookie", phase: requestHeaders, mode: headersOnly, request: one("respond 200 ok, with set-cookie a=1, with set-cookie b=2"),
		client: []check{status(200), lines("Set-Cookie", "a=1", "b=2")}, upstream: never,
	},
	{
		name: "respond 599", phase: requestHeaders, mode: headersOnly, request: one("deny 599 told_to"),
		client: []check{refused(599, "TOLD_TO")}, upstream: never,
	},
	{
		name: "set a header that is not there", phase: requestHeaders, mode: headersOnly, request: one("set x-a 1"),
		client: []check{status(200)}, upstream: reached(lines("X-A", "1")),
	},
	{
		name: "set a header that the client sent", phase: requestHeaders, mode: headersOnly, request: one("set x-a 1"),
		send: send{lines: []string{"X-A: client", "x-a: again"}}, client: []check{status(200)}, upstream: reached(lines("X-A", "1")),
	},
	{
		name: "append to a header that the client sent", phase: requestHeaders, mode: headersOnly, request: one("append x-a 1, append x-a 2"),
		send: send{lines: []string{"X-A: client"}}, client: []check{status(200)}, upstream: reached(lines("X-A", "client", "1", "2")),
	},
	{
		name: "append to a header that is not there", phase: requestHeaders, mode: headersOnly, request: one("append x-a 1"),
		client: []check{status(200)}, upstream: reached(lines("X-A", "1")),
	},
	{
		name: "remove a header that the client sent twice", phase: requestHeaders, mode: headersOnly, request: one("remove x-a"),
		send: send{lines: []string{"X-A: 1", "X-A: 2", "X-B: 3"}}, client: []check{status(200)}, upstream: reached(header("X-A", ""), header("X-B", "3")),
	},
	{
		name: "set, then remove", phase: requestHeaders, mode: headersOnly, request: one("set x-a 1, remove x-a"),
		send: send{lines: []string{"X-A: client"}}, client: []check{status(200)}, upstream: reached(header("X-A", "")),
	},
	{
		name: "remove, then set", phase: requestHeaders, mode: headersOnly, request: one("remove x-a, set x-a 1"),
		send: send{lines: []string{"X-A: client"}}, client: []check{status(200)}, upstream: reached(lines("X-A", "1")),
	},
	{
		name: "remove, then append", phase: requestHeaders, mode: headersOnly, request: one("remove x-a, append x-a 1, append x-a 2"),
		send: send{lines: []string{"X-A: client"}}, client: []check{status(200)}, upstream: reached(lines("X-A", "1", "2")),
	},
	{
		name: "set, then append, on two workers", phase: requestHeaders, mode: headersOnly,
		request: []string{policy("editA", "set x-a 1"), policy("editB", "append x-a 2"), policy("editA", "append x-a 3")},
		send:    send{lines: []string{"X-A: client"}}, client: []check{status(200)}, upstream: reached(lines("X-A", "1", "2", "3")),
	},
	{
		name: "append, then set", phase: requestHeaders, mode: headersOnly, request: one("append x-a 1, set x-a 2"),
		send: send{lines: []string{"X-A: client"}}, client: []check{status(200)}, upstream: reached(lines("X-A", "2")),
	},
	{
		name: "set a value that is not UTF-8", phase: requestHeaders, mode: headersOnly, request: one(`set x-a caf\xe9`),
		client: []check{status(200)}, upstream: reached(lines("X-A", "caf\xe9")),
	},
	{
		name: "a value of the client's that is not UTF-8 passes", phase: requestHeaders, mode: headersOnly, request: one("set x-b 1"),
		send: send{lines: []string{"X-A: caf\xe9\xff"}}, client: []check{status(200)}, upstream: reached(lines("X-A", "caf\xe9\xff"), header("X-B", "1")),
	},
	{
		name: "set an empty value", phase: requestHeaders, mode: headersOnly, request: one("set x-a"),
		send: send{lines: []string{"X-A: client"}}, client: []check{status(200)}, upstream: reached(lines("X-A", "")),
	},
	{
		name: "set a long value", phase: requestHeaders, mode: headersOnly, request: one("set x-a " + strings.Repeat("v", 20000)),
		client: []check{status(200)}, upstream: reached(lines("X-A", strings.Repeat("v", 20000))),
	},
	{
		name: "a line break in a value is refused", phase: requestHeaders, mode: headersOnly, fault: "illegal result", request: one(`set x-a 1\r\nx-b: 2`),
		client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
	},
	{
		name: "a zero byte in a value is refused", phase: requestHeaders, mode: headersOnly, fault: "illegal result", request: one(`set x-a 1\x002`),
		client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
	},
	{
		name: "a header's name that is none is refused", phase: requestHeaders, mode: headersOnly, fault: "illegal result", request: one(`set x(a 1`),
		client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
	},
	{
		name: "host can't be set", phase: requestHeaders, mode: headersOnly, fault: "mutation rules", request: one("set host evil.example"),
		client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
	},
	{
		name: "host can't be removed", phase: requestHeaders, mode: headersOnly, fault: "mutation rules", request: one("remove host"),
		client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
	},
	{
		name: "authority can't be set", phase: requestHeaders, mode: headersOnly, fault: "mutation rules", request: one(`set :authority evil.example`),
		client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
	},
	{
		name: "scheme can't be set", phase: requestHeaders, mode: headersOnly, fault: "mutation rules", request: one(`set :scheme https`),
		client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
	},
	{
		name: "a pseudo-header can't be removed", phase: requestHeaders, mode: headersOnly, fault: "mutation rules", request: one(`remove :path`),
		client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
	},
	{
		name: "a header of Envoy's can't be set", phase: requestHeaders, mode: headersOnly, fault: "mutation rules", request: one("set x-envoy-original-path /x"),
		client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
	},
	{
		name: "more than 100 changes are refused", phase: requestHeaders, mode: headersOnly, fault: "illegal result", request: one(strings.TrimSuffix(strings.Repeat("append x-a 1, ", 101), ", ")),
		client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
	},
	{
		name: "a change of the path, with its query", phase: requestHeaders, mode: headersOnly, request: one("path /elsewhere?x=1"),
		send: send{target: "?q=0"}, client: []check{status(200)}, upstream: reached(path("/elsewhere?x=1"), method("GET")),
	},
	{
		// The policies of another route have not run: Envoy is not told to choose anew (clear_route_cache), unless a policy asks for that.
		name: "a change of the path to that of another route", phase: requestHeaders, mode: headersOnly, request: one("path /stranger/x"),
		client: []check{status(200)}, upstream: reached(path("/stranger/x")), log: map[string]string{"status": "200"},
	},
	{
		name: "a change of the path, and of the route", phase: requestHeaders, mode: headersOnly, request: one("reroute /stranger/headers"),
		client: []check{status(200)}, upstream: reached(path("/stranger/headers")), routed: "/stranger/headers", log: map[string]string{"status": "200", "route": "stranger"},
	},
	{
		name: "a change of the path, and of the route, which a later policy takes elsewhere", phase: requestHeaders, mode: headersOnly, request: []string{policy("editA", "reroute /nowhere"), policy("editB", "path /stranger/later")},
		client: []check{status(200)}, upstream: reached(path("/stranger/later")), routed: "/stranger/later", log: map[string]string{"status": "200", "route": "stranger"},
	},
	{
		name: "a change of the path to where no route is", phase: requestHeaders, mode: headersOnly, fault: "local reply", request: one("reroute /nowhere/headers"),
		client: []check{status(404)}, upstream: never,
	},
	{
		name: "a change of the route in the response is refused", phase: responseHeaders, mode: headersOnly, fault: "illegal result", response: one("reroute /stranger/response"),
		client: []check{refused(500, "POLICY_FAILED")}, upstream: reached(),
	},
	{
		name: "a change of the method", phase: requestHeaders, mode: headersOnly, request: one("method DELETE"),
		client: []check{status(200)}, upstream: reached(method("DELETE")),
	},
	{
		name: "a change of the method of a request with a body", phase: requestHeaders, mode: headersOnly, request: one("method PUT, set x-a 1"),
		send: send{method: "POST", body: "hello"}, client: []check{status(200)}, upstream: reached(method("PUT"), header("X-A", "1"), body("hello")),
	},
	{
		name: "a path without a slash is refused", phase: requestHeaders, mode: headersOnly, fault: "illegal result", request: one("path elsewhere"),
		client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
	},
	{
		name: "what one policy changes, the next sees", phase: requestHeaders, mode: headersOnly,
		request: []string{policy("editA", "set x-a 1, path /new, identity alice, metadata m"), "{policy: witnessB, params: {name: b}}"},
		client:  []check{status(200)}, upstream: reached(header("X-Seen-B", "GET /new header= metadata= identity=alice/edit/[]/"), path("/new")),
	},
	{
		name: "skip the rest of the flow", phase: requestHeaders, mode: headersOnly,
		request: []string{policy("editA", "set x-a 1, skip"), policy("editA", "deny 403 told_to"), policy("editB", "deny 403 told_to")},
		client:  []check{status(200)}, upstream: reached(header("X-A", "1")),
	},
	{
		name: "the identity is in Envoy's access log", phase: requestHeaders, mode: headersOnly, request: []string{policy("editA", "identity alice, deny 403 told_to")},
		client: []check{refused(403, "TOLD_TO")}, upstream: never, log: map[string]string{"identity": "alice", "reason": "told_to"},
	},
	{
		name: "a policy that waits", phase: requestHeaders, mode: headersOnly, request: []string{"{policy: waitA}", policy("editA", "set x-a 1")},
		send: send{lines: []string{"X-Misbehave: 20ms"}}, client: []check{status(200)}, upstream: reached(header("X-A", "1")),
	},
	{
		name: "a route that the kernel does not know", phase: requestHeaders, mode: headersOnly, fault: "unknown route", at: "stranger",
		client: []check{refused(500, "UNKNOWN_ROUTE")}, upstream: never,
	},
	{
		name: "a path that no route of Envoy's has", phase: requestHeaders, mode: headersOnly, fault: "unknown route", send: send{raw: "/nowhere"},
		client: []check{refused(404, "ROUTE_NOT_FOUND")}, upstream: never,
	},
	{
		name: "a policy that nobody offers", phase: requestHeaders, mode: headersOnly, fault: "unknown policy", request: []string{"{policy: nonesuch}"},
		client: []check{refused(500, "POLICY_NOT_SUPPORTED")}, upstream: never,
	},
	{
		name: "a policy that nobody offers, in the response flow", phase: requestHeaders, mode: headersOnly, fault: "unknown policy",
		response: []string{"{policy: nonesuch, on_failure: continue}"},
		client:   []check{refused(500, "POLICY_NOT_SUPPORTED")}, upstream: never,
	},
	{
		name: "a client that claims a route itself", phase: requestHeaders, mode: headersOnly, request: one("deny 403 told_to"),
		send: send{lines: []string{"X-Policy-Route: s001"}}, client: []check{refused(403, "TOLD_TO")}, upstream: never,
	},
	{
		name: "many headers", phase: requestHeaders, mode: headersOnly, request: one("set x-a 1"),
		send: send{lines: strings.Split(strings.TrimSuffix(strings.Repeat("X-M: 1\n", 80), "\n"), "\n")}, client: []check{status(200)}, upstream: reached(header("X-A", "1")),
	},
	{
		name: "OPTIONS with an asterisk matches no route", phase: requestHeaders, mode: headersOnly, fault: "local reply", send: send{method: "OPTIONS", raw: "*"},
		client: []check{status(404)}, upstream: never,
	},
}
