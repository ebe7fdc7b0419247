package conformance

import "fmt"

// failureKinds are the ways in which a policy can fail: the step that does it, and the code of the refusal.
var failureKinds = []struct{ name, step, code string }{
	{"error", "error", "POLICY_FAILED"}, {"panic", "panic", "POLICY_FAILED"}, {"timeout", "hang", "POLICY_TIMEOUT"}, {"illegal result", `set x-b a\nb`, "POLICY_FAILED"},
}

// failureTable: what a policy's failure means, in each header phase, of each kind, under each on_failure.
var failureTable = func() (table []scenario) {
	for _, kind := range failureKinds {
		for _, onFailure := range []string{"deny", "continue", "skip_remaining"} {
			chain := []string{failing("editA", kind.step, onFailure), policy("editA", "set x-after same"), policy("editB", "set x-last other")}
			request := scenario{
				name: fmt.Sprintf("%s of a policy, on_failure %s", kind.name, onFailure), phase: requestHeaders, mode: headersOnly, fault: kind.name, request: chain,
			}
			response := request
			response.name, response.phase, response.request, response.response = request.name+", in the response", responseHeaders, nil, chain
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
			request.client, request.upstream = []check{status(200), body(upstreamText)}, reached(passed...)
			response.client, response.upstream = append([]check{status(200), body(upstreamText)}, passed...), reached()
			table = append(table, request, response)
		}
	}
	return table
}()
