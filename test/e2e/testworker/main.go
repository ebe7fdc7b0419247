// Command testworker is a worker with policies made for whole-system tests: they misbehave on request, and they tell what they see.
//
// $TESTWORKER_SUFFIX is appended to the name of each policy, so that two workers of this program offer different ones. With $TESTWORKER_SUFFIXES, such as A,B, it is
// kernel and workers in one process, a worker for each suffix.
package main

import (
	"os"
	"strings"

	"github.com/policy-engine/policy-engine/engine"
	"github.com/policy-engine/policy-engine/policies"
	"github.com/policy-engine/policy-engine/worker"
)

func main() {
	suffixes, oneProcess := os.LookupEnv("TESTWORKER_SUFFIXES")
	if !oneProcess {
		worker.Main("e2e", offered(os.Getenv("TESTWORKER_SUFFIX"))...)
	}
	var lists []engine.Policies
	for suffix := range strings.SplitSeq(suffixes, ",") {
		lists = append(lists, offered(suffix))
	}
	engine.Main("e2e", lists...)
}

func offered(suffix string) []policies.Definition {
	return []policies.Definition{
		policies.Define("witness"+suffix, "1", newWitness),
		policies.Define("misbehave"+suffix, "1", newMisbehave),
		policies.Define("wait"+suffix, "1", newWait),
		policies.Define("burn"+suffix, "1", newBurn),
		policies.Define("answer"+suffix, "1", newAnswer),
		policies.Define("body"+suffix, "1", newBody),
		policies.Define("stall"+suffix, "1", newStall),
		policies.Define("stallBody"+suffix, "1", newStallBody),
		policies.Define("skip"+suffix, "1", newSkip),
		policies.Define("sum"+suffix, "1", newSum),
		policies.Define("edit"+suffix, "1", newEdit),
		policies.Define("editBody"+suffix, "1", newEditBody),
		policies.Define("editChunks"+suffix, "1", newEditChunks),
		policies.Define("editTrailers"+suffix, "1", newEditTrailers),
		policies.Define("chunk"+suffix, "1", newChunk),
		policies.Define("watch"+suffix, "1", newWatch),
		policies.Define("plain"+suffix, "1", newPlain),
		policies.Define("plainChunks"+suffix, "1", newPlainChunks),
	}
}
