// Package schema holds the JSON Schemas of the configuration files, for editors that complete and check them.
package schema

import _ "embed"

//go:generate go run ./gen

// Kernel is the schema of kernel-config.yaml. Read only.
//
//go:embed kernel-config.schema.json
var Kernel []byte

// Worker is the schema of worker-config-N.yaml. Read only.
//
//go:embed worker-config.schema.json
var Worker []byte
