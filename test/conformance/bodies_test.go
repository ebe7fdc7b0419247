package conformance

import (
	"fmt"
	"strings"
)

// limit is max_body_size of the engine under test.
const limit = 64 << 10

// onBody is a chain of one policy of whole bodies.
func onBody(steps string) []string { return []string{policy("editBodyA", steps)} }

var bodyTable = func() []scenario {
	hello := send{method: "POST", body: "hello"}
	big, full := strings.Repeat("x", limit+1), strings.Repeat("x", limit)
	table := []scenario{
		{
			name: "a whole body passes as it is", request: onBody("set x-a 1"), send: hello,
			client: []check{status(200)}, upstream: reached(body("hello"), header("X-A", "1"), header("Content-Length", "5")),
		},
		{
			name: "a longer body in place of it", request: onBody("body something longer"), send: hello,
			client: []check{status(200)}, upstream: reached(body("something longer"), header("Content-Length", "16")),
		},
		{
			name: "a shorter body in place of it", request: onBody("body x"), send: hello,
			client: []check{status(200)}, upstream: reached(body("x"), header("Content-Length", "1")),
		},
		{
			name: "an empty body in place of it", request: onBody("body"), send: hello,
			client: []check{status(200)}, upstream: reached(body(""), header("Content-Length", "0")),
		},
		{
			name: "a chunked body, replaced", request: onBody("body something longer"), send: send{method: "POST", body: "hello", chunked: true},
			client: []check{status(200)}, upstream: reached(body("something longer")),
		},
		{
			name: "a body of binary bytes, replaced by others", request: onBody(`body \x00\xff\x80`), send: send{method: "POST", body: "\xff\x00\xfe"},
			client: []check{status(200)}, upstream: reached(body("\x00\xff\x80")),
		},
		{
			name: "a POST with an empty body", request: onBody("set x-a 1"), send: send{method: "POST"},
			client: []check{status(200)}, upstream: reached(body(""), header("X-A", "1")),
		},
		{
			name: "a GET, whose body policies run on nothing", request: onBody("set x-a 1"),
			client: []check{status(200)}, upstream: reached(header("X-A", "1")),
		},
		{
			name: "a GET is denied for the body that it has not", request: onBody("deny 400 told_to"),
			client: []check{refused(400, "TOLD_TO")}, upstream: never,
		},
		{
			name: "a body in place of none is refused", fault: "illegal result", request: onBody("body x"),
			client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
		},
		{
			name: "deny for the body", request: onBody("set x-a 1, body x, deny 403 told_to"), send: hello,
			client: []check{refused(403, "TOLD_TO"), header("X-A", "")}, upstream: never, log: map[string]string{"reason": "told_to", "policy": "editBodyA"},
		},
		{
			name: "respond for the body", request: onBody("respond 200 instead, with x-a 1"), send: hello,
			client: []check{status(200), body("instead"), header("X-A", "1"), header("X-Upstream", "")}, upstream: never,
		},
		{
			name: "header policies decide first", request: []string{policy("editBodyA", "deny 403 body"), policy("editB", "deny 401 headers")}, send: hello,
			client: []check{refused(401, "HEADERS")}, upstream: never,
		},
		{
			name: "bodies go from policy to policy and worker to worker", send: hello,
			request: []string{"{policy: bodyA, params: {name: a, append: +a}}", "{policy: bodyB, params: {name: b, append: +b}}", "{policy: bodyA, params: {name: c}}"},
			client:  []check{status(200)},
			upstream: reached(body("hello+a+b"), header("X-Body-A", `5 "hello"`), header("X-Body-B", `7 "hello+a"`), header("X-Body-C", `9 "hello+a+b"`),
				header("Content-Length", "9")),
		},
		{
			name: "a change of the method with the body", request: onBody("method PUT, body x"), send: hello,
			client: []check{status(200)}, upstream: reached(method("PUT"), body("x")),
		},
		{
			name: "a change of the path with the body", request: onBody("path /new?x=1, append x-a 1"), send: hello,
			client: []check{status(200)}, upstream: reached(path("/new?x=1"), body("hello"), header("X-A", "1")),
		},
		{
			name: "a change of the path with the body, and of the route", request: onBody("reroute /stranger/body"), send: hello,
			client: []check{status(200)}, upstream: reached(path("/stranger/body"), body("hello")), log: map[string]string{"status": "200", "route": "stranger"}, routed: "/stranger/body",
		},
		{
			name: "a change of the method before the body is seen is refused", fault: "illegal result", send: hello,
			request: []string{policy("editA", "method PUT"), policy("editBodyA", "set x-a 1")},
			client:  []check{refused(500, "POLICY_FAILED")}, upstream: never,
		},
		{
			name: "skip in the body phase", request: []string{policy("editBodyA", "skip"), policy("editBodyB", "deny 403 told_to")}, send: hello,
			client: []check{status(200)}, upstream: reached(body("hello")),
		},
		{
			name: "skip in the header phase skips the body policies behind it", request: []string{policy("editA", "skip"), policy("editBodyB", "deny 403 told_to")}, send: hello,
			client: []check{status(200)}, upstream: reached(body("hello")),
		},
		{
			name: "host can't be set with a body", fault: "mutation rules", request: onBody("set host evil.example"), send: hello,
			client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
		},
		{
			name: "a body of the greatest length", request: onBody("set x-a 1"), send: send{method: "POST", body: full},
			client: []check{status(200)}, upstream: reached(body(full), header("X-A", "1")),
		},
		{
			name: "a body that is announced too long", fault: "too large", request: onBody(""), send: send{method: "POST", body: big},
			client: []check{refused(413, "REQUEST_TOO_LARGE")}, upstream: never,
		},
		{
			name: "a body that is too long, and not announced", fault: "too large", request: onBody(""), send: send{method: "POST", body: big, chunked: true},
			client: []check{status(413)}, upstream: never,
		},
		{
			name: "a body over Envoy's own limit", fault: "too large", request: onBody(""), play: overEnvoysLimit, upstream: never,
		},
		{
			name: "no on_failure lets a body pass that is too long", fault: "too large", request: []string{"{policy: editBodyA, on_failure: continue, params: {do: []}}"},
			send: send{method: "POST", body: big}, client: []check{refused(413, "REQUEST_TOO_LARGE")}, upstream: never,
		},
		{
			name: "processing_mode buffered_body", request: onBody("set x-a 1"), processing: "buffered_body", send: hello,
			client: []check{status(200)}, upstream: reached(body("hello"), header("X-A", "1")),
		},
	}
	for i := range table {
		table[i].phase, table[i].mode = requestBody, buffered
	}
	// The same over HTTP/2, whose bodies need no length.
	for _, s := range table[:5] {
		s.name, s.protocol = s.name+", over HTTP-2", http2
		table = append(table, s)
	}
	return append(table, responseBodies()...)
}()

func responseBodies() []scenario {
	secret := answer{body: "a secret", lines: []string{"X-Secret: 1"}}
	table := []scenario{
		{
			name: "a response's body passes as it is", response: onBody("set x-a 1"),
			client: []check{status(200), body(upstreamText), header("X-A", "1"), header("X-Upstream", "reached")}, upstream: reached(),
		},
		{
			name: "a longer body in place of the response's", response: onBody("body something that is longer than it was"),
			client: []check{status(200), body("something that is longer than it was"), header("Content-Length", "36")}, upstream: reached(),
		},
		{
			name: "an empty body in place of the response's", response: onBody("body"),
			client: []check{status(200), body(""), header("Content-Length", "0")}, upstream: reached(),
		},
		{
			name: "a chunked response, replaced", response: onBody("body x"), answer: answer{lines: []string{"Transfer-Encoding: chunked"}},
			client: []check{status(200), body("x")}, upstream: reached(),
		},
		{
			name: "status and headers with the response's body", response: onBody("status 203, set x-a 1, remove x-upstream, body x"),
			client: []check{status(203), body("x"), header("X-A", "1"), header("X-Upstream", "")}, upstream: reached(),
		},
		{
			name: "deny for the response's body", response: onBody("deny 502 told_to"), answer: secret,
			client: []check{refused(502, "TOLD_TO"), without("secret"), header("X-Secret", "")}, upstream: reached(), log: map[string]string{"reason": "told_to"},
		},
		{
			name: "respond for the response's body", response: onBody("respond 200 instead"), answer: secret,
			client: []check{status(200), body("instead"), header("X-Secret", "")}, upstream: reached(),
		},
		{
			name: "a HEAD's response, whose body policies run on nothing", response: onBody("set x-a 1"), send: send{method: "HEAD"},
			client: []check{status(200), header("X-A", "1"), body("")}, upstream: reached(method("HEAD")),
		},
		{
			name: "a 204, whose body policies run on nothing", response: onBody("set x-a 1"), answer: answer{status: 204},
			client: []check{status(204), header("X-A", "1")}, upstream: reached(),
		},
		{
			name: "a 304, whose body policies run on nothing", response: onBody("set x-a 1"), answer: answer{status: 304},
			client: []check{status(304), header("X-A", "1")}, upstream: reached(),
		},
		{
			name: "a response's body that is too long", fault: "too large", response: onBody(""), answer: answer{body: strings.Repeat("x", limit+1)},
			client: []check{refused(502, "RESPONSE_TOO_LARGE"), without("xxx")}, upstream: reached(),
		},
		{
			name: "a response's body that is too long, and not announced", fault: "too large", response: onBody(""),
			answer: answer{body: strings.Repeat("x", limit+1), lines: []string{"Transfer-Encoding: chunked"}},
			client: []check{refused(502, "RESPONSE_TOO_LARGE"), without("xxx")}, upstream: reached(),
		},
		{
			name: "a response's body over Envoy's own limit", fault: "too large", response: onBody(""),
			answer: answer{body: strings.Repeat("x", 3<<20), lines: []string{"Transfer-Encoding: chunked"}},
			client: []check{func(m *message) string {
				if m.status < 500 {
					return fmt.Sprintf("status %d, want 5xx", m.status)
				}
				return without("xxx")(m)
			}}, upstream: mayReach(),
		},
		{
			name: "both bodies", request: onBody("body up"), response: []string{policy("editBodyB", "body down")}, send: send{method: "POST", body: "hello"},
			client: []check{status(200), body("down")}, upstream: reached(body("up")),
		},
		{
			name: "header policies of a response decide before its body", response: []string{policy("editBodyA", "deny 403 body"), policy("editB", "deny 502 headers")}, answer: secret,
			client: []check{refused(502, "HEADERS"), without("secret")}, upstream: reached(),
		},
		{
			name: "a response's body, over HTTP-2", protocol: http2, response: onBody("body x, set x-a 1"),
			client: []check{status(200), body("x"), header("X-A", "1")}, upstream: reached(overProtocol("HTTP/2.0")),
		},
	}
	for i := range table {
		table[i].phase, table[i].mode = responseBody, buffered
	}
	return table
}

// bodyFailureTable: what a policy's failure means in the phases of whole bodies.
var bodyFailureTable = func() (table []scenario) {
	for _, kind := range failureKinds {
		for _, onFailure := range []string{"deny", "continue", "skip_remaining"} {
			chain := []string{failing("editBodyA", "body lost, "+kind.step, onFailure), policy("editBodyA", "set x-after same"), policy("editBodyB", "set x-last other")}
			request := scenario{
				name: fmt.Sprintf("%s in the body phase, on_failure %s", kind.name, onFailure), phase: requestBody, mode: buffered, fault: kind.name, request: chain,
				send: send{method: "POST", body: "hello"},
			}
			response := request
			response.name, response.phase, response.request, response.response = request.name+", in the response", responseBody, nil, chain
			passed := []check{header("X-Lost", ""), header("X-After", "same"), header("X-Last", "other")}
			switch onFailure {
			case "deny":
				request.client, request.upstream = []check{refused(500, kind.code)}, never
				response.client, response.upstream = []check{refused(500, kind.code), header("X-Upstream", "")}, reached()
				table = append(table, request, response)
				continue
			case "skip_remaining":
				passed = []check{header("X-Lost", ""), header("X-After", ""), header("X-Last", "")}
			}
			request.client, request.upstream = []check{status(200)}, reached(append(passed, body("hello"))...)
			response.client, response.upstream = append([]check{status(200), body(upstreamText)}, passed...), reached()
			table = append(table, request, response)
		}
	}
	return table
}()
