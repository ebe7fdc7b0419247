package e2e

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/policy-engine/policy-engine/test/harness"
)

// addresses has two routes that limit by the client's address, with one request for each, and one that limits by
// identity or address.
const addresses = `  workers: [{name: worker-1, socket_path: "${RUN_DIR}/worker-1.sock"}]
  client_address: {trusted_hops: %d}
  route_policies:
    - route_name: limit
      request_flow: {policy_chain: [{policy: rateLimit, params: {requests: 1, per: 24h, key: client_ip}}]}
    - route_name: quota
      request_flow: {policy_chain: [{policy: tokenQuota, params: {tokens: 1, per: 24h, estimate: 1, key: client_ip}}]}
    - route_name: first
      request_flow: {policy_chain: [{policy: rateLimit, params: {requests: 1, per: 24h, key: [identity, client_ip]}}]}
    - route_name: rewritten
      request_flow:
        policy_chain:
          - {policy: modifyHeaders, params: {remove: [x-forwarded-for]}}
          - {policy: rateLimit, params: {requests: 1, per: 24h, key: client_ip}}
`

func startAddresses(t *testing.T, hops int, edit ...string) *harness.Engine {
	t.Helper()
	return harness.StartEngine(t, harness.Spec{
		Kernel:  fmt.Sprintf(addresses, hops),
		Workers: []harness.WorkerSpec{{Name: "worker-1", Program: "policy-worker-1", Config: "  name: worker-1\n  socket_path: ${RUN_DIR}/worker-1.sock\n"}},
		EditEnvoy: func(envoy string) string {
			for i := 0; i < len(edit); i += 2 {
				if !strings.Contains(envoy, edit[i]) {
					t.Errorf("the printed configuration does not have %q", edit[i])
				}
				envoy = strings.Replace(envoy, edit[i], edit[i+1], 1)
			}
			return envoy
		},
	})
}

// Changes of the printed configuration.
const (
	remoteAddress = "use_remote_address: true"
	oneHop        = "use_remote_address: true\n                xff_num_trusted_hops: 1"
	override      = "allow_mode_override: true"
	sendAddress   = "allow_mode_override: true\n                      request_attributes: [source.address]"
)

// TestClientAddress: two clients have two buckets, and none can choose its bucket. The test is the proxy in front of
// Envoy, or the client.
func TestClientAddress(t *testing.T) {
	t.Parallel()
	type request struct {
		status int
		lines  []string
	}
	forwarded := func(status int, lines ...string) request {
		for i := range lines {
			if !strings.Contains(lines[i], ": ") {
				lines[i] = "X-Forwarded-For: " + lines[i]
			}
		}
		return request{status, lines}
	}
	// The client tries to have the bucket of another address.
	forgeries := func(status int, own ...string) []request {
		var out []request
		for _, lines := range [][]string{
			{"X-Envoy-External-Address: 198.51.100.7"},
			{"X-Envoy-Internal: true", "X-Envoy-External-Address: 198.51.100.7"},
			{"Forwarded: for=198.51.100.7", "X-Real-IP: 198.51.100.7", "True-Client-IP: 198.51.100.7"},
			{"X-Forwarded-For: 198.51.100.7"},
			{"X-Forwarded-For: 10.0.0.1"},
			{"X-Forwarded-For: 198.51.100.7, 198.51.100.8, 198.51.100.9"},
			{"X-Forwarded-For: 198.51.100.7", "X-Forwarded-For: ,,"},
			{"X-Forwarded-For: " + strings.Repeat("10.0.0.1,", 200) + " unknown"},
		} {
			out = append(out, forwarded(status, append(lines, own...)...))
		}
		return out
	}
	behindCDN := append([]request{
		forwarded(200, "192.0.2.1"),
		forwarded(429, "192.0.2.1"),
		forwarded(200, "192.0.2.2"),
		forwarded(429, "192.0.2.2"),
		forwarded(429, "198.51.100.7, 192.0.2.1"),
		forwarded(429, "::ffff:192.0.2.1"),
		forwarded(200, "2001:db8::1"),
		forwarded(429, "2001:db8:0:0:ffff::2"), // of the same /64
	}, forgeries(429, "192.0.2.1")...)
	engines := map[string]struct {
		hops     int
		edit     []string
		requests []request
	}{
		// The peer of Envoy is on this machine: Envoy appends its own address.
		"the edge": {0, nil, append([]request{forwarded(200)}, forgeries(429)...)},
		"behind a CDN": {1, nil, append(slices.Clone(behindCDN),
			forwarded(500), // It came by another way: there is no entry of the CDN's.
			forwarded(500, "unknown"), forwarded(500, "_hidden"), forwarded(500, "192.0.2.9, "), forwarded(500, "192.0.2.9, unknown"),
		)},
		"behind a CDN that sends ports": {1, nil, []request{forwarded(200, "192.0.2.1:4711"), forwarded(429, "192.0.2.1:4712"), forwarded(429, "192.0.2.1")}},
		"Envoy's decision, behind a CDN": {0, []string{remoteAddress, oneHop, override, sendAddress}, append(slices.Clone(behindCDN),
			forwarded(200), forwarded(429), // The peer's address.
		)},
		"Envoy's decision, at the edge": {1, []string{"                xff_num_trusted_hops: 1\n", "", override, sendAddress}, append([]request{forwarded(200)}, forgeries(429)...)},
		"Envoy's decision, not in the header": {0, []string{remoteAddress, remoteAddress + "\n                skip_xff_append: true", override, sendAddress}, append(
			[]request{forwarded(200)}, forgeries(429)...,
		)},
		"Envoy's decision by a header of its own": {0, []string{
			remoteAddress, "original_ip_detection_extensions: [{name: envoy.http.original_ip_detection.custom_header, typed_config: {'@type': " +
				"type.googleapis.com/envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig, header_name: x-client}}]", override, sendAddress,
		}, append([]request{forwarded(200, "X-Client: 192.0.2.1"), forwarded(200, "X-Client: 192.0.2.2")}, forgeries(429, "X-Client: 192.0.2.1")...)},
	}
	for name, c := range engines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := startAddresses(t, c.hops, c.edit...)
			for _, path := range []string{"/limit", "/quota", "/first", "/rewritten"} {
				for i, r := range c.requests {
					if got := harness.Send(t, e.Listen, "GET", path, r.lines...); got.Status != r.status {
						t.Errorf("%s, request %d with %q: %d, want %d", path, i, r.lines, got.Status, r.status)
					}
				}
			}
		})
	}
}

// TestTrustedHopsAreReloaded: the number of trusted proxies changes while the kernel runs, for policies that run already.
func TestTrustedHopsAreReloaded(t *testing.T) {
	t.Parallel()
	e := startAddresses(t, 0, override, override)
	from := func(client int) int {
		line := fmt.Sprintf("X-Forwarded-For: 192.0.%d.%d", client/256, client%256)
		return harness.Send(t, e.Listen, "GET", "/limit", line).Status
	}
	if first, second := from(1), from(2); first != 200 || second != 429 {
		t.Fatalf("%d and %d: the address is not that of Envoy's peer", first, second)
	}
	e.WriteKernel(fmt.Sprintf(addresses, 1))
	e.Kernel.Signal(syscall.SIGHUP)
	client := 2
	harness.Eventually(t, "each client has its own bucket", func() error {
		client++
		if got := from(client); got != 200 {
			return fmt.Errorf("client %d: %d", client, got)
		}
		return nil
	})
	if got := from(client); got != 429 {
		t.Errorf("its second request: %d", got)
	}
}
