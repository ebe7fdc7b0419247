#!/usr/bin/env bash
# Generates in the tree $1 what is generated: api/**/*.pb.go from the .proto files, config/schema/*.json and docs/configuration.md from the Go types.
# The tools must be in build/tools; `make generate` builds them.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tree=$(cd "$1" && pwd)

# buf.gen.yaml names its plugins from the top of the tree.
cd "$top"
build/tools/buf generate --output "$tree"
mkdir -p "$tree/config/schema" "$tree/docs"
go run ./config/schema/gen "$tree/config/schema" "$tree/docs/configuration.md"
