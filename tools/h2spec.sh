#!/usr/bin/env bash
# Runs h2spec, all of its 145 tests of HTTP/2 and HPACK, against the server at HOST:PORT (plain text): `h2spec.sh 127.0.0.1:9101`.
# It prints h2spec's closing line, and before it the whole report when a test failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tests=145
address=${1:-}
if [[ $# -ne 1 || ! $address =~ ^(.+):([0-9]+)$ ]]; then
  echo "usage: h2spec.sh HOST:PORT" >&2
  exit 2
fi
host=${BASH_REMATCH[1]} port=${BASH_REMATCH[2]}

mkdir -p build/tools
program=$PWD/build/tools/h2spec
(cd tools/h2spec && go build -o "$program" github.com/summerwind/h2spec/cmd/h2spec)

# h2spec waits this many seconds for an answer that does not come; -o takes whole ones.
status=0
report=$("$program" -h "$host" -p "$port" -o 1 2>&1) || status=$?
closing=$(grep -E '^[0-9]+ tests, ' <<<"$report" | tail -n 1) || closing="h2spec printed no closing line"
if [[ $status -ne 0 || $closing != "$tests tests, $tests passed, 0 skipped, 0 failed" ]]; then
  printf '%s\n' "$report"
  printf 'h2spec.sh: %s: %s; wanted are %s that pass\n' "$address" "$closing" "$tests" >&2
  exit 1
fi
echo "$closing"
