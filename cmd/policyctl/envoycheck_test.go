package main

import (
	"strings"
	"testing"
)

func TestValidateTellsMistakesOfEnvoy(t *testing.T) {
	const (
		e     = "envoy.yaml"
		extp  = ": static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config"
		route = ": static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes"
	)
	name := func(route string) string {
		return "grpc_initial_metadata:\n                                  - key: x-policy-route\n                                    value: " + route
	}
	// accounts edits the modes of the route that has policies on both flows, one of which may want bodies of the response; filter those of the filter.
	accounts := func(modes string) edit {
		return edit{e, "response_header_mode: SEND\n                                  request_trailer_mode: SKIP\n                                  response_trailer_mode: SKIP", modes}
	}
	filter := func(modes string) edit {
		return edit{e, "response_header_mode: SKIP\n                        request_trailer_mode: SKIP\n                        response_trailer_mode: SKIP", modes}
	}
	const deeper = "\n                                  "
	tests := []struct {
		name  string
		edits []edit
		want  []string // line, path and message, in part
	}{
		{"no such cluster", []edit{{e, "cluster_name: policy_engine\n", "cluster_name: policy-engine\n"}}, []string{
			extp + `.grpc_service.envoy_grpc.cluster_name: there is no cluster "policy-engine", so Envoy passes every request unprocessed; legal are policy_engine, upstream_127.0.0.1_8080`,
		}},
		{"fails open", []edit{{e, "allow_mode_override: true", "allow_mode_override: true\n                      failure_mode_allow: true"}}, []string{
			extp + ".failure_mode_allow: a failure of the engine lets requests pass; legal is false",
		}},
		{"fails open, in camel case", []edit{{e, "allow_mode_override: true", "allow_mode_override: true\n                      failureModeAllow: true"}}, []string{
			extp + ".failureModeAllow: a failure of the engine lets requests pass; legal is false",
		}},
		{"fails open on a route", []edit{{e, "failure_mode_allow: false", "failure_mode_allow: true"}}, []string{
			route + "[0].typed_per_filter_config.envoy.filters.http.ext_proc.overrides.failure_mode_allow: a failure of the engine lets requests pass",
		}},
		{"observes only", []edit{{e, "allow_mode_override: true", "allow_mode_override: true\n                      observability_mode: true"}}, []string{
			extp + ".observability_mode: the engine's answers are ignored",
		}},
		{"refusals ignored", []edit{{e, "allow_mode_override: true", "allow_mode_override: true\n                      disable_immediate_response: true"}}, []string{
			extp + ".disable_immediate_response: the engine's refusals are ignored",
		}},
		{"forbidden changes dropped", []edit{{e, "disallow_is_error: true", "disallow_is_error: false"}}, []string{
			extp + ": mutation_rules.disallow_is_error is not true",
		}},
		{"request headers skipped by the filter", []edit{{e, "request_header_mode: SEND\n                        response_header_mode: SKIP", "request_header_mode: SKIP\n                        response_header_mode: SKIP"}}, []string{
			extp + ".processing_mode.request_header_mode: the engine never sees a request",
		}},
		{"no bodies by default", []edit{{e, "                      allow_mode_override: true\n", ""}}, []string{extp + ": allow_mode_override is not true"}},
		{"bodies ahead of the answer", []edit{{e, "allow_mode_override: true", "allow_mode_override: true\n                      send_body_without_waiting_for_header_response: true"}}, []string{
			extp + ".send_body_without_waiting_for_header_response: Envoy ignores what the engine asks for",
		}},
		{"some modes only", []edit{{e, "allow_mode_override: true", "allow_mode_override: true\n                      allowed_override_modes: [{request_body_mode: STREAMED}]"}}, []string{
			extp + ".allowed_override_modes: Envoy ignores what the engine asks for beyond the modes of this list",
		}},
		{"metadata not received", []edit{{e, "- policy_engine", "- policies"}}, []string{extp + ": metadata_options.receiving_namespaces.untyped does not have policy_engine"}},
		{"impatient", []edit{{e, "message_timeout: 6.250s", "message_timeout: 6.2s"}}, []string{extp + ".message_timeout: message_timeout is 6.2s: Envoy gives up before"}},
		{"impatient by default", []edit{{e, "                      message_timeout: 6.250s\n", ""}}, []string{extp + ": message_timeout is 200ms"}},
		{"no duration", []edit{{e, "message_timeout: 6.250s", "message_timeout: soon"}}, []string{extp + `.message_timeout: "soon" is not a duration`}},
		{"filter off", []edit{{e, "- name: envoy.filters.http.ext_proc", "- disabled: true\n                    name: envoy.filters.http.ext_proc"}}, []string{
			".typed_config.http_filters[0].disabled: the filter is off",
		}},
		{"no filter", []edit{{e, "ext_proc.v3.ExternalProcessor", "lua.v3.Lua"}}, []string{"envoy.yaml:2: no HTTP connection manager has an ext_proc filter"}},
		{"route without a name", []edit{{e, name("orders"), "request_attributes: []"}}, []string{
			route + "[1]: the route has no name for the engine; legal is x-policy-route in overrides.grpc_initial_metadata",
		}},
		{"unknown name", []edit{{e, name("orders"), name("order")}}, []string{route + "[1].typed_per_filter_config.envoy.filters.http.ext_proc.overrides.grpc_initial_metadata[0].value: \"order\" is not a route of"}},
		{"name that Envoy expands", []edit{{e, name("orders"), name("'%REQ(X-ROUTE)%'")}}, []string{`grpc_initial_metadata[0].value: "%REQ(X-ROUTE)%" is a format string to Envoy`}},
		{"engine off on a route", []edit{{e, "overrides:\n                                grpc_initial_metadata:\n                                  - key: x-policy-route\n                                    value: orders\n                                failure_mode_allow: false", "disabled: true"}}, []string{
			route + `[1].typed_per_filter_config.envoy.filters.http.ext_proc.disabled: requests of route "orders" pass by the engine here, and clients can send x-user-id; leave it out`,
		}},
		{"engine off on all routes, removal on one", []edit{
			{e, "virtual_hosts:", "typed_per_filter_config: {envoy.filters.http.ext_proc: {disabled: true}}\n                  virtual_hosts:"},
			{e, "- name: orders\n                          match:", "- name: orders\n                          request_headers_to_remove: [X-User-Id]\n                          match:"},
			{e, "- name: public\n                          match:", "- name: public\n                          request_headers_to_remove: [x-user]\n                          match:"},
		}, []string{
			`requests of route "accounts" pass by the engine here, and clients can send x-user-id`,
			`requests of route "public" pass by the engine here, and clients can send x-user-id`,
		}},
		{"response skipped", []edit{{e, "response_header_mode: SEND", "response_header_mode: SKIP"}, {e, "allow_mode_override: true", "allow_mode_override: false"}}, []string{
			extp + ".allow_mode_override: allow_mode_override is not true: requests pass without the policies that want bodies",
			route + `[0]: route "accounts" has policies on the response, which the engine never sees`,
		}},
		{"full duplex without trailers", []edit{accounts("response_body_mode: FULL_DUPLEX_STREAMED")}, []string{
			route + "[0].typed_per_filter_config.envoy.filters.http.ext_proc.overrides.processing_mode: response_trailer_mode is not SEND, which Envoy demands with FULL_DUPLEX_STREAMED",
		}},
		{"full duplex that skips trailers", []edit{accounts("response_body_mode: FULL_DUPLEX_STREAMED" + deeper + "response_trailer_mode: SKIP")}, []string{
			"overrides.processing_mode.response_trailer_mode: response_trailer_mode is not SEND",
		}},
		{"full duplex of the other direction", []edit{accounts("request_body_mode: FULL_DUPLEX_STREAMED" + deeper + "request_trailer_mode: SEND")}, []string{
			route + `[0]: route "accounts" has policies that may want bodies of the response, which nobody can ask Envoy for beside FULL_DUPLEX_STREAMED; legal is response_body_mode FULL_DUPLEX_STREAMED too`,
		}},
		{"full duplex without response headers", []edit{accounts("response_header_mode: SKIP" + deeper + "response_body_mode: FULL_DUPLEX_STREAMED" + deeper + "response_trailer_mode: SEND")}, []string{
			route + `[0]: route "accounts" has policies on the response, which the engine never sees; legal is response_header_mode SEND beside FULL_DUPLEX_STREAMED`,
		}},
		{"full duplex of the filter", []edit{filter("response_header_mode: SEND\n                        request_body_mode: FULL_DUPLEX_STREAMED\n                        request_trailer_mode: SEND")}, []string{
			route + `[0]: route "accounts" has policies that may want bodies of the response`,
		}},
		{"not YAML", []edit{{e, "static_resources:", "static_resources: ["}}, []string{"envoy.yaml: the text is not YAML"}},
		{"two documents", []edit{{e, "static_resources:", "a: b\n---\nstatic_resources:"}}, []string{"envoy.yaml: there is more than one YAML document"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := validateEdited(t, tt.edits)
			lines := strings.Split(strings.TrimSuffix(r.stderr, "\n"), "\n")
			if r.status != exitUsage || len(lines) != len(tt.want) {
				t.Fatalf("got %d and\n%s", r.status, r.stderr)
			}
			for i, want := range tt.want {
				if !strings.HasPrefix(lines[i], "envoy.yaml:") || !strings.Contains(lines[i], want) {
					t.Errorf("got %s\nwant …%s…", lines[i], want)
				}
			}
		})
	}
}

// What is in full duplex as it should be is without fault, on a route and for all.
func TestValidateTakesFullDuplex(t *testing.T) {
	const (
		e    = "envoy.yaml"
		skip = "request_trailer_mode: SKIP\n                                  response_trailer_mode: SKIP"
	)
	duplex := func(direction, indent string) string {
		return direction + "_body_mode: FULL_DUPLEX_STREAMED" + indent + direction + "_trailer_mode: SEND"
	}
	for name, edits := range map[string][]edit{
		"a route": {{e, skip, duplex("response", "\n                                  ")}},
		"the filter, whose mode the routes take over": {
			{e, "allow_mode_override: true", "allow_mode_override: false"},
			{e, skip, duplex("response", "\n                                  ")},
			{e, "request_trailer_mode: SKIP\n                        response_trailer_mode: SKIP", duplex("request", "\n                        ")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if r := validateEdited(t, edits); r.status != exitOK || strings.Contains(r.stdout, "note") {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestValidateNotesOfEnvoy(t *testing.T) {
	const e = "envoy.yaml"
	tests := []struct {
		name  string
		edits []edit
		want  string
	}{
		{"route of the kernel that no route of Envoy names", []edit{{e, "value: orders", "value: public"}}, "no Envoy route names these routes of the kernel: orders"},
		{"routes from elsewhere", []edit{{e, "route_config:", "rds:"}}, "routes that Envoy gets from elsewhere are not checked"},
		{
			"cluster from elsewhere",
			[]edit{{e, "cluster_name: policy_engine\n", "cluster_name: pe\n"}, {e, "layered_runtime:", "dynamic_resources: {}\nlayered_runtime:"}},
			`the cluster "pe" is not a static one; while Envoy does not have it, requests pass unprocessed`,
		},
		{"paths as they come", []edit{{e, "normalize_path: true", "normalize_path: false"}}, "normalize_path is not true: policies decide on /a/../b by the route of /a"},
		{"slashes as they come", []edit{{e, "                merge_slashes: true\n", ""}}, "merge_slashes is not true: an upstream may take //b for /b"},
		{"slashes that are unescaped", []edit{{e, "path_with_escaped_slashes_action: REJECT_REQUEST", "path_with_escaped_slashes_action: KEEP_UNCHANGED"}}, "path_with_escaped_slashes_action is not REJECT_REQUEST"},
		{"engine off, with a removal", []edit{
			{e, "virtual_hosts:", "request_headers_to_remove: [x-user-id]\n                  virtual_hosts:"},
			{e, "overrides:\n                                grpc_initial_metadata:\n                                  - key: x-policy-route\n                                    value: orders\n                                failure_mode_allow: false", "disabled: true"},
		}, `requests of route "orders" pass by the engine here, without policies`},
		{"owned headers in trailers", []edit{{e, "regex: x[^a-z0-9]user[^a-z0-9]id", "regex: x[-_]user[-_]id"}}, "clients can send x-user-id in trailers, which an HTTP/2 upstream may read as headers"},
		{"no filter for trailers", []edit{{e, "header_mutation.v3.HeaderMutation", "lua.v3.Lua"}}, "clients can send authorization, x-api-key, x-user-id in trailers"},
		{"underscores in names", []edit{{e, "headers_with_underscores_action: REJECT_REQUEST", "headers_with_underscores_action: ALLOW"}}, "headers_with_underscores_action is not REJECT_REQUEST: an upstream may take x_user_id for x-user-id"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := validateEdited(t, tt.edits)
			if r.status != exitOK || !strings.Contains(r.stdout, "note: envoy.yaml:") || !strings.Contains(r.stdout, tt.want) {
				t.Errorf("got %+v", r)
			}
		})
	}
}

// A route may be named on the levels above it, and by the attribute that is the kernel's second source.
func TestValidateFindsNamesOnOtherLevels(t *testing.T) {
	const e = "envoy.yaml"
	named := "overrides:\n                                grpc_initial_metadata:\n                                  - key: x-policy-route\n                                    value: orders\n"
	bare := "overrides:\n"
	tests := []struct {
		name string
		edit edit
	}{
		{"virtual host", edit{e, "domains:", "typed_per_filter_config: {envoy.filters.http.ext_proc: {overrides: {grpc_initial_metadata: [{key: x-policy-route, value: orders}]}}}\n                      domains:"}},
		{"route configuration", edit{e, "virtual_hosts:", "typedPerFilterConfig: {envoy.filters.http.ext_proc: {overrides: {grpcInitialMetadata: [{key: X-Policy-Route, value: orders}]}}}\n                  virtual_hosts:"}},
		{"filter", edit{e, "cluster_name: policy_engine\n", "cluster_name: policy_engine\n                        initial_metadata: [{key: x-policy-route, value: orders}]\n"}},
		{"attribute", edit{e, "allow_mode_override: true", "allow_mode_override: true\n                      request_attributes: [xds.route_name]"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := validateEdited(t, []edit{{e, named, bare}, tt.edit})
			if r.status != exitOK || strings.Contains(r.stdout, "note") {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestValidateWithAnEnvoyFileThatIsNotThere(t *testing.T) {
	kernel := writeFile(t, t.TempDir()+"/k.yaml", "policy_kernel: {}\n")
	r := run(t, "", "validate", "--kernel", kernel, "--envoy", "testdata/none.yaml")
	if r.status != exitFailed || !strings.Contains(r.stderr, "read Envoy configuration: open testdata/none.yaml") {
		t.Errorf("got %+v", r)
	}
}
