// Package manual holds the pages under docs/ against the code: the tests and commands that they name as proofs exist and are run, links lead somewhere, and what the engine takes, exports and
// answers stands in them.
package manual
