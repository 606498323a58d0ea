#!/usr/bin/env bash
# What the container image does, step by step, so that it can be done and checked without a container as well.
#   scripts/image.sh install PREFIX    the project's wheel and its locked packages, in a virtual environment at PREFIX
#   scripts/image.sh check PREFIX      it works there: away from the sources, with nothing but the environment
set -euo pipefail

step="${1:?install or check}"
prefix="${2:?the folder of the environment}"
extras="chat,medical,s3"

install() {
  cd "$(dirname "$0")/.."
  "${PYTHON:-python3.11}" -m venv "$prefix"
  local python="$prefix/bin/python"
  "$python" -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
  # uv reads none of pip's settings; where pip has any, they hold for uv too
  local name key value
  for name in SSL_CERT_FILE:cert UV_DEFAULT_INDEX:index-url UV_FIND_LINKS:find-links; do
    key="${name#*:}" name="${name%%:*}"
    value="${!name:-$("$python" -m pip config get "global.$key" 2>/dev/null || true)}"
    if [ -n "$value" ]; then export "$name=$value"; fi
  done
  if [ -s /etc/ssl/certs/ca-certificates.crt ]; then export UV_SYSTEM_CERTS=1; fi
  uv() { "$prefix/bin/uv" pip install --quiet --python "$python" -c constraints.txt "$@"; }
  uv --build-constraints constraints.txt "medalign[$extras] @ file://$PWD"
}

check() {
  cd "$(mktemp -d)"
  export PATH="$prefix/bin:/usr/bin:/bin" HOME="$PWD" RAY_USAGE_STATS_ENABLED=0 PYTHONNOUSERSITE=1
  unset PYTHONPATH
  medalign --version
  medalign recipes | grep -q lvm_med/resnet50
  ray --version
  python - "$prefix" <<'PYTHON'
import pathlib, sys
import boto3, deepspeed, medalign, medalign_core, pydicom, ray, torch, transformers
for module in (medalign, medalign_core):
    assert pathlib.Path(module.__file__).is_relative_to(sys.argv[1]), module.__file__
print("torch", torch.__version__, "ray", ray.__version__, "deepspeed", deepspeed.__version__)
PYTHON
  ! medalign train lvm_med/tiny_cpu data.corpus=/nowhere 2> refused # imports all that training does, and refuses
  grep -q "^error: /nowhere" refused
  echo "the environment at $prefix works"
}

case "$step" in
  install) install ;;
  check) check ;;
  *) echo "scripts/image.sh install|check PREFIX" >&2 && exit 2 ;;
esac
