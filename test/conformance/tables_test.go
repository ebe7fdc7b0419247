package conformance

import (
	"strconv"
	"strings"
)

// tables are all scenarios, file by file.
var tables = [][]scenario{
	requestHeaderTable, responseHeaderTable, answerTable, failureTable, bodyTable, bodyFailureTable, chunkTable, trailerTable,
	protocolTable, grpcTable, conversationTable, faultTable, skipTable,
}

// one is a chain of one policy of worker A, edit for headers, with its steps, separated by ", ".
func one(steps string) []string { return []string{policy("editA", steps)} }

// policy is a policy of the test workers that takes steps.
func policy(name, steps string) string {
	return "{policy: " + name + ", params: {do: " + list(steps) + "}}"
}

// failing is a policy that fails as the step says, and what its failure means.
func failing(name, step, onFailure string) string {
	return "{policy: " + name + ", on_failure: " + onFailure + ", timeout: 100ms, params: {do: " + list("set x-lost yes, "+step) + "}}"
}

// list is a YAML list of the steps.
func list(steps string) string {
	if steps == "" {
		return "[]"
	}
	quoted := strings.Split(steps, ", ")
	for i := range quoted {
		quoted[i] = strconv.Quote(quoted[i])
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
