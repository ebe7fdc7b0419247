#!/usr/bin/env bash
# Checks what doesn't need the programs to run: one line per check, and at the end whether all of them passed.
# The tools must be in build/tools; `make check` builds them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=()

# check NAME COMMAND…: it passes when the command succeeds; what it prints is shown when it fails.
check() {
  local name=$1 output
  shift
  if output=$("$@" 2>&1); then
    echo "ok    $name"
  else
    failed+=("$name")
    printf 'FAIL  %s\n%s\n' "$name" "$output"
  fi
}

# format lists files that gofumpt would change; generated code is as its generator writes it.
format() {
  local files
  files=$(git ls-files --cached --others --exclude-standard '*.go' ':!*.pb.go' | while read -r f; do [[ ! -f $f ]] || echo "$f"; done)
  files=$(xargs build/tools/gofumpt -l <<<"$files")
  [[ -z $files ]] || { echo "$files" && echo "mend it with: build/tools/gofumpt -w FILE…" && return 1; }
}

in_tools() {
  (cd tools && "$@")
}

tidy() {
  local changes
  changes=$(go mod tidy -diff) || { grep '^[-+]' <<<"$changes" | head -n 20 && echo "mend it with: go mod tidy" && return 1; }
}

# generated compares the tree with what the generators write into an empty folder.
generated() {
  local fresh status=0
  fresh=$(mktemp -d build/generated.XXXXXX)
  tools/generate.sh "$fresh" || status=1
  while read -r f; do
    cmp "$fresh/$f" "$f" || status=1
  done < <({ find "$fresh" -type f -printf '%P\n' && git ls-files 'api/*.pb.go' 'config/schema/*.json' docs/configuration.md; } | sort -u)
  rm -rf "$fresh"
  [[ $status == 0 ]] || { echo "mend it with: make generate" && return 1; }
}

# vulnerabilities: govulncheck's status is 3 when it found some, and another one when it could not look.
vulnerabilities() {
  local output status=0
  output=$(timeout 300 build/tools/govulncheck ./... 2>&1) || status=$?
  case $status in
  0) echo "ok    vulnerabilities (govulncheck)" ;;
  3)
    failed+=(vulnerabilities)
    printf 'FAIL  vulnerabilities (govulncheck)\n%s\n' "$output"
    ;;
  *)
    if grep -q 'fetching vulnerabilities' <<<"$output"; then
      echo "skip  vulnerabilities: govulncheck can't reach its database: $output"
    else
      failed+=(vulnerabilities)
      printf 'FAIL  vulnerabilities (govulncheck ended with %s)\n%s\n' "$status" "$output"
    fi
    ;;
  esac
}

check "format (gofumpt)" format
check "vet" go vet ./...
check "vet of tools" in_tools go vet ./...
check "static analysis (staticcheck)" build/tools/staticcheck ./...
check "static analysis of tools" in_tools ../build/tools/staticcheck ./...
check "tests of tools" in_tools go test ./...
check "rules: imports, files, no paths of one machine, READMEs of policies" go test ./test/rules/...
check "pages: proofs that exist, metrics and codes explained" go test ./test/manual
check "generated code is current" generated
check "go.mod is tidy" tidy
check "tools/go.mod is tidy" in_tools tidy
vulnerabilities

if ((${#failed[@]})); then
  printf 'check: %s failed\n' "${#failed[@]}"
  exit 1
fi
echo "check: all passed"
