#!/usr/bin/env bash
# Builds h2spec 2.2.1 as go.mod and go.sum pin it, into test/peers/bin: the suite's own two commands, and "named" (main.go).
set -eu
cd "$(dirname "$0")"
bin=../bin
stamp=$(cat go.mod go.sum main.go install.sh | cksum)
if [ -x "$bin/h2spec" ] && [ -x "$bin/h2spec-named" ] && [ -x "$bin/h2specd" ] && [ "$(cat "$bin/h2spec.stamp" 2>/dev/null)" = "$stamp" ]; then
  echo "h2spec is built"
  exit 0
fi
export PATH="$PATH:/usr/local/go/bin"
command -v go >/dev/null 2>&1 || {
  echo "Cannot build h2spec: there is no Go here; run test/peers/install.sh, or install Go 1.18 or later by hand" >&2
  exit 1
}
version=$(go env GOVERSION)
minor=$(printf '%s' "$version" | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
if [ -n "$minor" ] && [ "$minor" -lt 18 ]; then
  echo "Cannot build h2spec: Go 1.18 or later was wanted, $(command -v go) is $version; install a later one from https://go.dev/dl" >&2
  exit 1
fi
mkdir -p "$bin"
# As pinned, whatever the machine's Go is told elsewhere.
export GOFLAGS="-mod=readonly -buildvcs=false" GOTOOLCHAIN=local CGO_ENABLED=0
go build -o "$bin/h2spec" github.com/summerwind/h2spec/cmd/h2spec
go build -o "$bin/h2specd" github.com/summerwind/h2spec/cmd/h2specd
go build -o "$bin/h2spec-named" .
printf '%s' "$stamp" >"$bin/h2spec.stamp"
echo "h2spec is built by $version"
