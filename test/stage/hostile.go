package stage

import (
	"fmt"
	"strings"

	"github.com/policy-engine/policy-engine/test/traffic"
)

// HostileRoutes are routes whose policies a client can make expensive, for Spec.Routes: four with patterns or searches,
// one that takes processor time inline, and one that waits.
const HostileRoutes = `
    - route_name: schema
      request_flow:
        policy_chain:
          - {policy: apiKeyAuth, params: {key_store: clients}}
          - policy: jsonSchemaValidation
            params:
              schema: {type: object, properties: {e: {type: string, pattern: "[a-z0-9._-]{1,64}@[a-z0-9.-]{1,255}"}}}
          - {policy: proofOfBody}
    - route_name: redact
      request_flow:
        policy_chain:
          - {policy: apiKeyAuth, params: {key_store: clients}}
          - {policy: redact, params: {patterns: ["[a-z0-9._-]{1,64}@[a-z0-9.-]{1,255}"]}}
          - {policy: proofOfBody}
    - route_name: rewrite
      request_flow:
        policy_chain:
          - {policy: apiKeyAuth, params: {key_store: clients}}
          - {policy: rewritePath, params: {regex: "/rewrite/.*[a-z]{1,500}@", to: /rewritten}}
          - {policy: proof}
    - route_name: audit
      request_flow:
        policy_chain:
          - {policy: apiKeyAuth, params: {key_store: clients}}
          - {policy: auditLog, params: {query: true, request_headers: [referer]}}
          - {policy: proof}
    - route_name: burn
      request_flow:
        policy_chain:
          - {policy: apiKeyAuth, params: {key_store: clients}}
          - {policy: burn}
          - {policy: proof}
    - route_name: late
      request_flow:
        policy_chain:
          - {policy: apiKeyAuth, params: {key_store: clients}}
          - {policy: wait}
          - {policy: proof}
`

// megabyte is the size of an expensive body: just below the largest that the engine takes.
const megabyte = 1_000_000

func withKey() string { return "x-api-key: " + Key }

// ExpensiveBody are requests whose body makes the pattern of a route's policy do as much work as it can.
func ExpensiveBody(route string) *traffic.Kind {
	body := fmt.Sprintf(`{"e": %q}`, strings.Repeat("a", megabyte))
	return &traffic.Kind{Name: "expensive body, " + route, Expect: traffic.Refuse, Write: post("/"+route+"/1", body, withKey)}
}

// ExpensivePath are requests whose path makes the pattern of rewritePath do as much work as it can.
func ExpensivePath() *traffic.Kind {
	path := "/rewrite/" + strings.Repeat("a", 16_000)
	return &traffic.Kind{Name: "expensive path", Expect: traffic.Refuse, Write: get(path, withKey)}
}

// ExpensiveQuery are requests in which auditLog searches as much as it can. They are valid: it refuses nothing.
func ExpensiveQuery() *traffic.Kind {
	query := strings.Repeat("a%25255bpi%2525255b%3d&", 700)
	line := func() string { return withKey() + "\r\nreferer: https://x.example/?" + query }
	return &traffic.Kind{Name: "expensive query", Expect: traffic.Pass, Write: get("/audit/1?"+query, line)}
}

// Ordered are requests to a route whose policy does what the header x-trouble orders, and refuses then.
func Ordered(route, what string) *traffic.Kind {
	line := func() string { return withKey() + "\r\nx-trouble: " + what }
	return &traffic.Kind{Name: route + " " + what, Expect: traffic.Refuse, Write: get("/"+route+"/1", line)}
}
