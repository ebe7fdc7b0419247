package conformance

import "fmt"

// answerTable: each status that a policy may answer with, in each header phase, and those that it may not.
var answerTable = func() (table []scenario) {
	for _, code := range []int{400, 401, 404, 408, 409, 413, 418, 422, 429, 451, 500, 501, 503, 504} {
		table = append(table, scenario{
			name: fmt.Sprintf("deny with %d", code), phase: requestHeaders, mode: headersOnly, request: one(fmt.Sprintf("deny %d told_to", code)),
			client: []check{refused(code, "TOLD_TO")}, upstream: never,
		})
	}
	for _, code := range []int{-1, 0, 100, 101, 199, 200, 302, 399, 600, 1000} {
		table = append(table, scenario{
			name: fmt.Sprintf("a denial with the status %d is refused", code), phase: requestHeaders, mode: headersOnly, fault: "bad status",
			request: one(fmt.Sprintf("deny %d told_to", code)), client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
		})
	}
	for _, code := range []int{0, 100, 199, 600} {
		table = append(table, scenario{
			name: fmt.Sprintf("an answer with the status %d is refused", code), phase: requestHeaders, mode: headersOnly, fault: "bad status",
			request: one(fmt.Sprintf("respond %d text", code)), client: []check{refused(500, "POLICY_FAILED")}, upstream: never,
		}, scenario{
			name: fmt.Sprintf("an answer with the status %d in place of a response is refused", code), phase: responseHeaders, mode: headersOnly, fault: "bad status",
			response: one(fmt.Sprintf("respond %d text", code)), client: []check{refused(500, "POLICY_FAILED"), header("X-Upstream", "")}, upstream: reached(),
		})
	}
	problem := send{lines: []string{"Accept: application/problem+json"}}
	return append(table, scenario{
		name: "a refusal as problem+json", phase: requestHeaders, mode: headersOnly, request: one("deny 403 told_to"), send: problem,
		client: []check{
			status(403), header("Content-Type", "application/problem+json"),
			body(`{"type":"about:blank","title":"Forbidden","status":403,"detail":"Forbidden","code":"TOLD_TO"}`),
		}, upstream: never, log: map[string]string{"reason": "told_to"},
	}, scenario{
		name: "a refusal in place of a response as problem+json", phase: responseHeaders, mode: headersOnly, response: one("deny 502 told_to"), send: problem,
		client: []check{status(502), header("Content-Type", "application/problem+json"), header("X-Upstream", "")}, upstream: reached(),
	})
}()
