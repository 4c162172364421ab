#!/usr/bin/env bash
# Makes the environment $VENV and installs salmask into it. Repeating this is cheap: pip keeps what is there.
# SALMASK_LOCK: file of the versions to install; empty: the newest that pyproject.toml allows.
# SALMASK_TORCH: torch's build, as uv calls it (cpu, cu128, rocm6.4 ...); `default`: the index's own; auto, which is used if
# nothing is set: without a GPU cpu, a tenth of the size, if it can be had.
# SALMASK_DETECTRON2=source builds detectron2 from GitHub instead of installing the pure-Python wheel.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} VENV=${VENV:-.venv} LOCK=${SALMASK_LOCK-requirements/lock.txt} BUILD=${SALMASK_TORCH:-auto}
fail() { echo "setup: $1" >&2; exit 2; }

command -v git >/dev/null || fail "git is missing; mend: apt-get install git"
command -v "$PYTHON" >/dev/null || fail "$PYTHON is missing; mend: apt-get install python3 python3-venv, or PYTHON=/path/to/python3.11"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || fail "$PYTHON is $("$PYTHON" -V 2>&1), salmask needs Python 3.11 or newer; mend: PYTHON=/path/to/python3.11 make setup"
if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
  version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing python$version-venv"
    { apt-get update -q && apt-get install -y -q "python$version-venv"; } >/dev/null
  else
    fail "Python's venv module is missing; mend: apt-get install python$version-venv"
  fi
fi

if ! [ -x "$VENV/bin/python" ]; then
  echo "setup: making $VENV"
  "$PYTHON" -m venv "$VENV"
fi
torch_build() {  # installs torch and torchvision of a build
  local uv
  uv=$(command -v uv) || { "$VENV/bin/python" -m pip install -q --disable-pip-version-check uv && uv=$VENV/bin/uv; } || return
  UV_HTTP_RETRIES=0 "$uv" pip install -q --python "$VENV/bin/python" --torch-backend "$1" ${LOCK:+-c "$LOCK"} torch torchvision
}
has_gpu() { nvidia-smi -L 2>/dev/null | grep -q GPU; }
has_torch() { "$VENV/bin/python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)'; }
case $BUILD in
  default) ;;
  auto)
    # Only on Linux is there a CUDA build to avoid; and an installed torch is not replaced.
    if [ "$(uname -s)" = Linux ] && ! has_gpu && ! has_torch; then
      echo "setup: no GPU here: looking for torch's CPU build"
      torch_build cpu 2>/dev/null || echo "setup: it cannot be had here; the build with CUDA serves as well, and takes 5 GB"
    fi ;;
  *) torch_build "$BUILD" || fail "torch's build '$BUILD' cannot be had (uv's message is above); mend: SALMASK_TORCH=default" ;;
esac
echo "setup: installing salmask and its dependencies (the first time takes 2 to 5 minutes, mostly torch)"
"$VENV/bin/python" -m pip install -q --disable-pip-version-check ${LOCK:+-c "$LOCK"} -e '.[detection,dev]' \
  || fail "pip could not install the dependencies (its message is above); mend: check the network, then run make again"
"$VENV/bin/python" tools/get_detectron2.py
if [ -n "$LOCK" ]; then cp "$LOCK" "$VENV/salmask-lock.txt"; else rm -f "$VENV/salmask-lock.txt"; fi  # which versions the environment has
echo "setup: ready, $("$VENV/bin/python" -c 'import torch; print("torch", torch.__version__, "on", "cuda" if torch.cuda.is_available() else "cpu")')"
