package main

import (
	"fmt"
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/policy-engine/policy-engine/test/burst"
	"github.com/policy-engine/policy-engine/test/proof"
	"github.com/policy-engine/policy-engine/test/stage"
)

// burstSize is how many requests are in flight when the upstream answers them all.
const burstSize = 9000

// burstSpec is a stage whose upstream stalls and then answers everything at once. Its Envoy lets as many through; these limits are
// those of the upstream's cluster, which are the operator's.
func burstSpec(transport string) stage.Spec {
	return stage.Spec{
		Replicas: 2, Kernels: 1, Transport: transport, Worker: patientWorker, Bursts: new(burst.Upstream),
		EditEnvoy: func(envoy string) string {
			return strings.NewReplacer("max_connections: 4096", "max_connections: 65536", "max_requests: 4096", "max_requests: 65536",
				"max_pending_requests: 4096", "max_pending_requests: 65536").Replace(envoy)
		},
	}
}

// burstFaults are the rows of bursts, beside the usual requests: none of either may be lost.
var burstFaults = []fault{
	{name: "upstream answers 9,000 requests at once", on: []string{bursts}, play: func(x *exercise) error {
		x.inject(false)
		b := &burst.Burst{
			Target: x.Target(), Requests: burstSize, Upstream: x.Bursts(), Path: func(int) string { return "/keys/burst" },
			// All at once they would take Envoy's thread from the usual requests for longer than a client waits.
			Rate: burstSize / 3,
			Fields: func(i int) []hpack.HeaderField {
				return []hpack.HeaderField{{Name: "x-api-key", Value: stage.Key}, {Name: proof.IDHeader, Value: fmt.Sprintf("burst-%d", i)}}
			},
			Check: func(name, _ string) bool { return name == "x-content-type-options" }, // securityHeaders
		}
		r, err := b.Run(x.ctx)
		if err != nil {
			return err
		}
		x.note("answered", float64(r.Answered))
		x.note("P99 of responses, ms", r.Response.P99)
		return r.Err()
	}},
}
