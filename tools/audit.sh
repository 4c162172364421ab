#!/usr/bin/env bash
# Looks for known vulnerabilities of the locked packages in the Python Packaging Authority's advisories; needs a network.
# Exits with 1 if a package has one, or if the advisories cannot be had: then nothing is known, which is no pass.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
[ -x build/audit/bin/pip-audit ] || { "$PYTHON" -m venv build/audit && build/audit/bin/python -m pip install -q pip-audit; }
build/audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r requirements/lock.txt || {
  echo "audit: a locked package has a known vulnerability, or the advisories cannot be had here (the line above says which)" >&2
  exit 1
}
