package main

import (
	"strconv"

	"github.com/policy-engine/policy-engine/config"
)

const (
	// minCapacity is the least of the limits on what is in flight to the engine: Envoy's default of 1024 ends in 500 under load.
	minCapacity = 4096
	// framesPerStream is how many frames a request adds to what Envoy has to send to the engine at most, without bodies: two
	// messages with their headers, the end of the stream and its RST_STREAM.
	framesPerStream = 8
)

// burst is how much may be in flight from one Envoy to the engine. What all responses bring at once must fit: Envoy ends a
// connection, with all requests on it, when more frames wait to be sent than its flood protection allows. It adds one
// RST_STREAM for each stream that the engine ends (protocol_constraints.cc, checkOutboundFrameLimits).
type burst struct {
	// streams is per connection, requests of all connections.
	streams, requests uint32
	// controlFrames and frames wait to be sent on a connection.
	controlFrames, frames uint32
}

// leastBurst is what the check expects.
func leastBurst(k *config.Kernel) burst {
	streams := max(minCapacity, k.Server.MaxConcurrentStreams)
	return burst{streams: streams, requests: minCapacity, controlFrames: streams, frames: framesPerStream * streams}
}

// printedBurst is what the printed configuration has. One connection for each thread of Envoy carries that many streams.
func printedBurst(k *config.Kernel) burst {
	least := leastBurst(k)
	return burst{
		streams: least.streams, requests: max(minCapacity, 16*k.Server.MaxConcurrentStreams),
		controlFrames: 16 * least.streams, frames: 16 * least.frames,
	}
}

// engineCluster checks the limits of a static cluster that the engine is asked through.
func (c *envoyCheck) engineCluster(cluster place) {
	least := leastBurst(c.kernel)
	const overflow = "under load Envoy answers 500 in place of the engine"
	breaker := place{}
	for t := range cluster.get("circuit_breakers", "thresholds").items() {
		if priority := t.get("priority").text(); priority == "" || priority == "DEFAULT" || priority == "0" {
			breaker = t
			break
		}
	}
	c.atLeast(cluster, breaker, "circuit_breakers.thresholds[].", "max_requests", 1024, least.requests, overflow)
	c.atLeast(cluster, breaker, "circuit_breakers.thresholds[].", "max_pending_requests", 1024, least.requests, overflow)
	options := http2Options(cluster)
	if !options.there() {
		c.fail(cluster.pos, "http2_protocol_options are missing; the engine is a gRPC service, which needs HTTP/2")
		return
	}
	const flood = "when many requests end at once, Envoy takes its own frames for a flood and ends the connection with all requests on it"
	c.atLeast(cluster, options, "http2_protocol_options.", "max_concurrent_streams", 1024, least.streams, overflow)
	c.atLeast(cluster, options, "http2_protocol_options.", "max_outbound_control_frames", 1000, least.controlFrames, flood)
	c.atLeast(cluster, options, "http2_protocol_options.", "max_outbound_frames", 10000, least.frames, flood)
}

// atLeast checks a number of Envoy's, which has a default.
func (c *envoyCheck) atLeast(cluster, in place, path, key string, byDefault, least uint32, why string) {
	value, at := uint64(byDefault), in.get(key)
	if at.there() {
		n, err := strconv.ParseUint(at.text(), 10, 32)
		if err != nil {
			c.fail(at.pos, "%q is not a number; expected %d or more", at.text(), least)
			return
		}
		value = n
	}
	switch {
	case value >= uint64(least):
	case at.there():
		c.fail(at.pos, "%s is %d: %s; expected %d or more", key, value, why, least)
	default:
		c.fail(cluster.pos, "%s%s is missing, which means %d: %s; expected %d or more", path, key, value, why, least)
	}
}

// http2Options are those of a cluster that speaks HTTP/2, in any of the places that Envoy takes them from.
func http2Options(cluster place) place {
	typed := cluster.get("typed_extension_protocol_options").exact("envoy.extensions.upstreams.http.v3.HttpProtocolOptions")
	for _, way := range [...]string{"explicit_http_config", "use_downstream_protocol_config", "auto_config"} {
		if options := typed.get(way, "http2_protocol_options"); options.there() {
			return options
		}
	}
	return cluster.get("http2_protocol_options")
}
