// Package policytest is what an author of a policy needs to test it: an environment, exchanges, and a runner of the examples in a policy's README.
//
//	env := policytest.NewEnv(t)
//	policy := policytest.Build(t, greet.Definition(), env, `{"greeting": "hello"}`)
//	got := policytest.Run(t, policy, policytest.Request{Path: "/orders", Headers: []string{"x-name: alice"}})
//	if v, _ := got.Header("x-greeting"); !got.Continued() || v != "hello alice" {
//		t.Errorf("got %v", got)
//	}
//
// # After the call
//
// A request is valid only during the call of a phase method. The runner therefore makes every later use of it panic, overwrites the bytes that header
// values pointed to, and fails the test if the identity, the metadata or the verdict still point there. What a policy kept in
// its own memory shows at the next run: it reads '\xff' bytes.
//
// # Examples in a README
//
// RunExamples runs what stands under the heading "## Examples" of a README. An example is a yaml block, the policy as it stands in the configuration, followed
// by http blocks, which tell what happens to requests:
//
//	```yaml
//	policy: tenantGuard
//	params: {path_prefix: /tenants/}
//	```
//
//	```http
//	GET /tenants/acme/orders
//	x-tenant: umbrella
//	@identity alice tenant:acme
//	→ continue
//	x-tenant: acme
//	no x-debug
//	```
//
// The yaml is one entry of a policy_chain, a list of them, or both flows of a route:
//
//	request_flow:
//	  policy_chain: [{policy: rateLimit, params: {requests: 5, per: 10s}}]
//	response_flow:
//	  policy_chain: [{policy: rateLimitHeaders}]
//
// An entry or a list stands in the response flow where the exchange has a response, and in the request flow where it has none. In place of http blocks, an
// error block holds what the policy says of these parameters:
//
//	```yaml
//	policy: rateLimit
//	params: {requests: 0, per: 1s}
//	```
//
//	```error
//	requests: 0 is not legal
//	```
//
// Each of its lines must be contained in the error of building the policy.
//
// An http block holds one or more exchanges; their instances are those of the yaml block above, so that later exchanges see what earlier ones left behind. An
// exchange consists of
//
//   - the request line, such as "GET /orders"; a version at its end is ignored;
//   - header lines of the request; ":authority: …" and ":scheme: http" are possible too;
//   - lines that begin with '@' (below);
//   - the body of the request, if a policy takes part in it (below);
//   - if the response flow is to run, "← 200", the status of the upstream's response, its header lines, and its body;
//   - "→" and the outcome: "continue", "skip_remaining", "error" (the policy could not decide), or the status of the answer that the policy gives, such as 403. The
//     reason may follow, or for "error" a part of its message. After "→ continue", the word "unchanged" says that nothing was changed;
//   - what the outcome looks like: "name: value" for a header that is there with just this value (several lines of one name: in this order), "no name" for one that is not
//     there, a line that begins with '{' for the JSON body, "@identity" (below). The headers are those of the request as the upstream gets it, of the response as
//     the client gets it, or of the policy's answer. The value "…" stands for any text, also at the end of a value.
//
// The lines with '@' before the outcome:
//
//	@identity alice orders.read tenant:acme   an earlier policy established this identity: the subject, then the scopes
//	@claim org=acme                           a claim of that identity
//	@metadata key=value                       an earlier policy set this
//	@wait 10s                                 this time passes before the request
//	@times 5                                  the exchange happens 5 times, each time with this outcome
//
// A body is given by one of
//
//	@body {"name": "alice"}                   as a whole; alone: an empty one
//	@chunk one piece                          and more such lines: piece by piece, the last of which ends it
//	@no-body                                  the message has none; policies of bodies run on an empty one that they can't replace
//
// The text goes from after the space to the end of the line, without spaces there; one in double quotes is a text of Go: "data: x\n\n". Where a policy of the flow wants the whole body, the chunks come as one.
// Without such a line, an example is about the headers alone. After the outcome, "@body" with a text is all of the body that goes on, and "@chunk" lines are
// what goes on of each chunk. "→ continue unchanged" says of the body too that it goes on as it came.
//
// After the outcome, "@identity" with a subject and scopes is the identity that there must be, "@identity" alone means that there is none. Empty lines, and lines that begin
// with "# ", are ignored.
package policytest
