// Command policy-kernel answers Envoy's external processing requests with what the Policy Workers decide.
package main

import "github.com/policy-engine/policy-engine/kernel"

// version is set by the build.
var version = "dev"

func main() { kernel.Main(version) }
