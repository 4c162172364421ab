#!/usr/bin/env bash
# Make the environment $VENV and install salmask into it. Repeating it is cheap: pip leaves alone what is there.
# SALMASK_DETECTRON2=source builds detectron2 from GitHub instead of installing the pure-Python wheel.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} VENV=${VENV:-.venv}
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
echo "setup: installing salmask and its dependencies (the first time takes 2 to 5 minutes, mostly torch)"
"$VENV/bin/python" -m pip install -q --disable-pip-version-check -e '.[detection,dev]' \
  || fail "pip could not install the dependencies (its message is above); mend: check the network, then run make again"
"$VENV/bin/python" tools/get_detectron2.py
echo "setup: ready, $("$VENV/bin/python" -c 'import torch; print("torch", torch.__version__, "on", "cuda" if torch.cuda.is_available() else "cpu")')"
