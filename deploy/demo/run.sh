#!/usr/bin/env bash
# Runs the demo in the foreground: Envoy, an upstream, the kernel and two workers, all on loopback, until Ctrl-C or SIGTERM.
# FORM=one runs kernel and workers as one process, policy-engine. `make run` builds what it needs first. Each PORT_… can be set; DEMO_DIR, an absolute path, is where logs and Envoy's configuration go.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

export PORT_ENVOY=${PORT_ENVOY:-10000}
export PORT_UPSTREAM=${PORT_UPSTREAM:-10001}
export PORT_KERNEL=${PORT_KERNEL:-9001}
export PORT_ADMIN=${PORT_ADMIN:-9090}
ready_seconds=${DEMO_READY_SECONDS:-60}
case ${FORM:-} in
  '') programs=(policy-kernel policy-worker-1 policy-worker-2) configuration=supervisord.conf ;;
  one) programs=(policy-engine) configuration=deploy/demo/one-process.conf ;;
  *)
    echo "demo: FORM=$FORM is unknown; legal is one, or nothing" >&2
    exit 2
    ;;
esac

export DEMO_DIR=${DEMO_DIR:-$PWD/build/demo}
# The issuer's key is made once and kept: bin/policyctl token takes it from here.
export DEMO_ISSUER_DIR=$PWD/build/demo
export POLICY_ENGINE_LOG_DIR=$DEMO_DIR/log
export POLICY_ENGINE_BIN_DIR=$PWD/bin
export POLICY_ENGINE_ETC_DIR=$PWD/deploy/demo
export POLICY_ENGINE_WORKER_2=true
export POLICY_ENGINE_INCLUDE=$PWD/deploy/demo/programs.conf
# POLICY_ENGINE_RUN_DIR is a short temporary folder: a Unix socket's path has at most 107 bytes (unix(7)), and this tree may stand deep.

supervisor_pid=

die() {
  echo "demo: $*" >&2
  exit 1
}

# listening PORT: somebody accepts connections there.
listening() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# answers URL: it says 200.
answers() {
  [[ $(curl --silent --max-time 2 --output /dev/null --write-out '%{http_code}' "$1") == 200 ]]
}

# running PID: the process is there and no zombie that only waits for us.
running() {
  kill -0 "$1" 2>/dev/null
}

check_ports() {
  local name busy=0
  for name in PORT_ENVOY PORT_UPSTREAM PORT_KERNEL PORT_ADMIN; do
    if listening "${!name}"; then
      echo "demo: port ${!name} is in use; stop what listens there (ss -ltnp 'sport = :${!name}' shows it), or choose another port: make run $name=…" >&2
      busy=1
    fi
  done
  [[ $busy == 0 ]] || exit 1
}

check_tools() {
  command -v curl >/dev/null || die "curl is missing; install it with: sudo apt-get install -y curl"
  local program
  for program in "${programs[@]}" policyctl upstream; do
    [[ -x bin/$program ]] || die "bin/$program is missing; build it with: make build"
  done
  ENVOY=$(tools/fetch.sh envoy)
  supervisord=$(tools/fetch.sh supervisord)
  export ENVOY
}

# stop ends supervisord, which ends its programs in their order, and waits for it.
stop() {
  trap '' INT TERM HUP
  if [[ -n $supervisor_pid ]] && running "$supervisor_pid"; then
    echo "demo: stopping" >&2
    kill -TERM "$supervisor_pid" 2>/dev/null || true
    wait "$supervisor_pid" 2>/dev/null || true
  fi
  rm -rf "$POLICY_ENGINE_RUN_DIR"
}

start() {
  mkdir -p "$POLICY_ENGINE_LOG_DIR"
  mkdir -m 700 "$POLICY_ENGINE_RUN_DIR/workers"
  rm -f "$POLICY_ENGINE_LOG_DIR"/*.log*
  bin/policyctl token init --dir "$DEMO_ISSUER_DIR" >"$POLICY_ENGINE_LOG_DIR/token-init.log"
  bin/policyctl envoy --config deploy/demo/kernel-config.yaml --listen "127.0.0.1:$PORT_ENVOY" \
    --admin "" --upstream "127.0.0.1:$PORT_UPSTREAM" >"$DEMO_DIR/envoy.yaml"
  # Job control gives supervisord a process group of its own: Ctrl-C reaches only this script, which then ends everything in order.
  set -m
  "$supervisord" --configuration "$configuration" >"$POLICY_ENGINE_LOG_DIR/supervisord.out" 2>&1 </dev/null &
  supervisor_pid=$!
  set +m
}

wait_ready() {
  local deadline=$((SECONDS + ready_seconds))
  until answers "http://127.0.0.1:$PORT_ADMIN/health/ready" && answers "http://127.0.0.1:$PORT_ENVOY/public"; do
    if ! running "$supervisor_pid" || ((SECONDS >= deadline)); then
      tail -n 8 "$POLICY_ENGINE_LOG_DIR"/*.log >&2 || true
      die "not ready after $SECONDS s; the logs are in $POLICY_ENGINE_LOG_DIR"
    fi
    sleep 0.1
  done
}

print_lines() {
  cat <<LINES

The demo is ready: Envoy on http://localhost:$PORT_ENVOY, logs in $POLICY_ENGINE_LOG_DIR. Lines to paste into another terminal, from this folder:

  # no policies: 200
  curl -i http://localhost:$PORT_ENVOY/public

  # an API key, a rate limit and security headers: 401 without a key, 200 with one (and the real identity at the upstream), then 429 with Retry-After
  curl -i http://localhost:$PORT_ENVOY/orders
  curl -i -H 'X-API-Key: demo-key-alice' -H 'X-User-ID: admin' http://localhost:$PORT_ENVOY/orders
  curl -s -H 'X-API-Key: demo-key-bob' -w '%{http_code}\n' -o /dev/null 'http://localhost:$PORT_ENVOY/orders?[1-6]' --next -si -H 'X-API-Key: demo-key-bob' http://localhost:$PORT_ENVOY/orders

  # a token with a scope: 401 without a token, 200 with the scope, 403 without it
  curl -i http://localhost:$PORT_ENVOY/accounts
  curl -i -H "Authorization: Bearer \$(bin/policyctl token --sub alice --scope accounts.read)" http://localhost:$PORT_ENVOY/accounts
  curl -i -H "Authorization: Bearer \$(bin/policyctl token --sub alice)" http://localhost:$PORT_ENVOY/accounts

  # a policy of one's own in a second worker, after the standard API key policy in the first: 200, with the real tenant at the upstream
  curl -i -H 'X-API-Key: demo-key-alice' -H 'X-Tenant: initech' http://localhost:$PORT_ENVOY/custom

  # what the kernel and its workers count
  curl -s http://localhost:$PORT_ADMIN/metrics | grep '^policy_kernel_worker_health'

Ctrl-C stops everything.
LINES
}

check_tools
check_ports
POLICY_ENGINE_RUN_DIR=$(mktemp -d "${TMPDIR:-/tmp}/policy-engine.XXXXXX")
export POLICY_ENGINE_RUN_DIR
trap stop EXIT
# An end that was asked for is a success.
trap 'exit 0' INT TERM HUP
start
wait_ready
print_lines
wait "$supervisor_pid" || true
die "supervisord ended by itself; its log is $POLICY_ENGINE_LOG_DIR/supervisord.log"
