package main

import (
	"strings"
	"testing"
)

// TestValidateLimitsOfTheEnginesCluster: what makes Envoy refuse, or end a connection, when much happens at once.
func TestValidateLimitsOfTheEnginesCluster(t *testing.T) {
	const (
		e       = "envoy.yaml"
		cluster = ": static_resources.clusters[0]"
		breaker = cluster + ".circuit_breakers.thresholds[0]"
		http2   = cluster + ".typed_extension_protocol_options.envoy.extensions.upstreams.http.v3.HttpProtocolOptions.explicit_http_config.http2_protocol_options"
	)
	tests := []struct {
		name  string
		edits []edit
		want  []string
	}{
		{"control frames by default", []edit{{e, "              max_outbound_control_frames: 65536\n", ""}}, []string{
			cluster + ": http2_protocol_options.max_outbound_control_frames is missing, which means 1000: when many requests end at once",
		}},
		{"few control frames", []edit{{e, "max_outbound_control_frames: 65536", "max_outbound_control_frames: 4095"}}, []string{
			http2 + ".max_outbound_control_frames: max_outbound_control_frames is 4095: ",
		}},
		{"few frames, in camel case", []edit{{e, "max_outbound_frames: 524288", "maxOutboundFrames: 10000"}}, []string{
			http2 + ".maxOutboundFrames: max_outbound_frames is 10000: ",
		}},
		{"few streams", []edit{{e, "max_concurrent_streams: 4096", "max_concurrent_streams: 100"}}, []string{
			http2 + ".max_concurrent_streams: max_concurrent_streams is 100: under load Envoy answers 500",
		}},
		{"no circuit breaker", []edit{{e, "max_requests: 65536", "max_retries: 65536"}}, []string{
			cluster + ": circuit_breakers.thresholds[].max_requests is missing, which means 1024: ",
		}},
		{"few that wait", []edit{{e, "max_pending_requests: 65536", "max_pending_requests: 1024"}}, []string{
			breaker + ".max_pending_requests: max_pending_requests is 1024: ",
		}},
		{"no number", []edit{{e, "max_requests: 65536", "max_requests: many"}}, []string{
			breaker + `.max_requests: "many" is not a number; expected 4096 or more`,
		}},
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
