package conformance

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// editEnvoy adds to the configuration that policyctl prints what the scenarios need of Envoy, and the engine does not.
func (e *engine) editEnvoy(text string) string {
	var config map[string]any
	if err := yaml.Unmarshal([]byte(text), &config); err != nil {
		panic(fmt.Sprintf("read Envoy's configuration: %v", err))
	}
	for _, c := range find(config, "static_resources", "clusters").([]any) {
		cluster := c.(map[string]any)
		if cluster["name"] == "policy_engine" {
			continue
		}
		// The upstream is spoken to as the client speaks: gRPC needs HTTP/2 all the way.
		cluster["typed_extension_protocol_options"] = map[string]any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": map[string]any{
			"@type":                          "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
			"use_downstream_protocol_config": map[string]any{"http_protocol_options": map[string]any{}, "http2_protocol_options": map[string]any{}},
		}}
	}
	out, err := yaml.Marshal(config)
	if err != nil {
		panic(fmt.Sprintf("write Envoy's configuration: %v", err))
	}
	return string(out)
}

// find walks down maps, and the first element of lists.
func find(in any, names ...string) any {
	for _, name := range names {
		if list, ok := in.([]any); ok {
			in = list[0]
		}
		in = in.(map[string]any)[name]
	}
	return in
}
