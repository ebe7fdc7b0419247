#!/usr/bin/env bash
# Runs h2spec, all of its 145 tests of HTTP/2 and HPACK, against the server at HOST:PORT (plain text), or against a kernel that it starts: `h2spec.sh [HOST:PORT]`.
# It prints h2spec's closing line, and before it the whole report when a test failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tests=145

# kernel starts a kernel without routes on free ports of the loopback and prints its address.
start_kernel() {
  local ports
  read -r -a ports < <(python3 -c 'import socket
s = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*[x.getsockname()[1] for x in s])')
  mkdir -p build/h2spec
  CGO_ENABLED=0 go build -o build/h2spec/policy-kernel ./cmd/policy-kernel
  cat >build/h2spec/kernel-config.yaml <<EOF
policy_kernel:
  server: {address: 127.0.0.1, port: ${ports[0]}}
  admin: {address: 127.0.0.1, port: ${ports[1]}}
EOF
  build/h2spec/policy-kernel --config build/h2spec/kernel-config.yaml >build/h2spec/kernel.log 2>&1 &
  kernel=$!
  trap 'kill "$kernel" 2>/dev/null; wait "$kernel" 2>/dev/null' EXIT
  address=127.0.0.1:${ports[0]}
  for _ in {1..200}; do
    if (exec 3<>"/dev/tcp/127.0.0.1/${ports[0]}") 2>/dev/null; then return; fi
    sleep 0.05
  done
  echo "h2spec.sh: the kernel does not listen; see build/h2spec/kernel.log" >&2
  exit 1
}

address=${1:-}
if [[ $# -eq 0 ]]; then start_kernel; fi
if [[ $# -gt 1 || ! $address =~ ^(.+):([0-9]+)$ ]]; then
  echo "usage: h2spec.sh [HOST:PORT]" >&2
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
