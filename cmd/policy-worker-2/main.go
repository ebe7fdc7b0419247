// Command policy-worker-2 is a worker with policies of one's own: the worked example.
package main

import (
	"github.com/policy-engine/policy-engine/policies/tenantguard"
	"github.com/policy-engine/policy-engine/worker"
)

// version is set by the build.
var version = "dev"

func main() {
	worker.Main(version, tenantguard.Definition())
}
