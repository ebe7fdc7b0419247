// Command testworker is a worker with policies made for whole-system tests: they misbehave on request, and they tell what they see.
//
// $TESTWORKER_SUFFIX is appended to the name of each policy, so that two workers of this program offer different ones.
package main

import (
	"os"

	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/worker"
)

func main() {
	suffix := os.Getenv("TESTWORKER_SUFFIX")
	worker.Main("e2e",
		policies.Define("witness"+suffix, "1", newWitness),
		policies.Define("misbehave"+suffix, "1", newMisbehave),
		policies.Define("wait"+suffix, "1", newWait),
		policies.Define("answer"+suffix, "1", newAnswer),
		policies.Define("body"+suffix, "1", newBody),
	)
}
