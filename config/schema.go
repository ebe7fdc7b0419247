package config

import _ "embed"

//go:generate go -C .. run ./config/schema/gen config/schema docs/configuration.md

// KernelSchema is the JSON Schema of kernel-config.yaml, for editors that complete and check the file. Read only.
//
//go:embed schema/kernel-config.schema.json
var KernelSchema []byte

// WorkerSchema is the JSON Schema of worker-config-N.yaml. Read only.
//
//go:embed schema/worker-config.schema.json
var WorkerSchema []byte
