#!/usr/bin/env bash
# Installs the programs that tests and benchmarks measure against, from the system's packages. Needs root only where something is missing.
set -eu
export PATH="$PATH:/usr/local/go/bin"
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need openssl openssl
need curl curl
need keytool default-jre-headless
need haproxy haproxy
need nginx nginx-light
need wrk wrk
need h2load nghttp2-client
need gcc gcc
need go golang-go
need redis-server redis-server
need nats-server nats-server
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || need initdb postgresql
[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null 2>&1 || {
    echo "Cannot install ${missing[*]}: there is no apt-get here; install them by hand" >&2
    exit 1
  }
  as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  export DEBIAN_FRONTEND=noninteractive
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
"$(dirname "$0")/h2spec/install.sh"
echo "every peer is installed"
