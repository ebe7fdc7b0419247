package main

// spellings are the settings of a connection manager that leave each request one spelling, before the engine and the upstream see it. Not to have them may be meant so:
// something in front of this Envoy may do it.
var spellings = []struct{ section, key, want, why string }{
	{"", "normalize_path", "true", "policies decide on /a/../b by the route of /a, and an upstream may take it for /b"},
	{"", "merge_slashes", "true", "an upstream may take //b for /b, which is another route to Envoy"},
	{"", "path_with_escaped_slashes_action", "REJECT_REQUEST", "an upstream may take /a/..%2fb for /b"},
	{"common_http_protocol_options", "headers_with_underscores_action", "REJECT_REQUEST", "an upstream may take x_user_id for x-user-id"},
}

// spelling tells of settings with which a request may mean another thing to the upstream than to Envoy's routes and the policies.
func (c *envoyCheck) spelling(manager place) {
	for _, s := range spellings {
		at := manager
		if s.section != "" {
			at = at.get(s.section)
		}
		if at = at.get(s.key); at.text() != s.want {
			if !at.there() {
				at = manager
			}
			c.note(at, "%s is not %s: %s", s.key, s.want, s.why)
		}
	}
}
