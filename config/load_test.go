package config

import (
	"strings"
	"testing"
)

// The smallest useful file has ten lines.
const smallest = `policy_kernel:
  workers:
    - name: worker-1
      socket_path: /var/run/policy-engine/workers/worker-1.sock
  route_policies:
    - route_name: orders
      request_flow:
        policy_chain:
          - policy: apiKeyAuth
            params: {key_store: partners}
`

func TestTheSmallestUsefulFileHasTenLines(t *testing.T) {
	if n := strings.Count(smallest, "\n"); n != 10 {
		t.Fatalf("%d lines", n)
	}
	k, err := ParseKernel("k.yaml", []byte(smallest))
	if err != nil {
		t.Fatal(err)
	}
	if len(k.Routes) != 1 || k.Server.Port != 9001 || string(k.Routes[0].Request.Chain[0].Params) != `{"key_store":"partners"}` {
		t.Errorf("got %+v", k)
	}
}
