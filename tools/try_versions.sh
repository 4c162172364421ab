#!/usr/bin/env bash
# Runs the default and the end-to-end tests with the lowest or the newest versions that pyproject.toml allows, in an
# environment of its own.
# usage: tools/try_versions.sh lowest|newest [ARGUMENTS OF PYTEST]
# SALMASK_TORCH_FROM: a Python whose torch and torchvision (5 GB) are used instead of installing them; then their versions are
# not tested. The environment is build/versions-lowest or build/versions-newest; remove it when done.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
case ${1:-} in
  lowest) resolution=lowest-direct ;;
  newest) resolution=highest ;;
  *) echo "usage: tools/try_versions.sh lowest|newest" >&2; exit 2 ;;
esac
place=build/versions-$1
shift
[ -x "$place/bin/python" ] || "$PYTHON" -m venv "$place"
"$place/bin/python" -m pip install -q --disable-pip-version-check uv
uv="$place/bin/uv"
"$uv" pip compile -q --python "$place/bin/python" --resolution "$resolution" --extra dev --extra detection \
  --no-annotate --no-header -o "$place/wanted.txt" pyproject.toml
if [ -n "${SALMASK_TORCH_FROM:-}" ]; then
  grep -vE '^(torch|torchvision|triton|nvidia-|cuda-)' "$place/wanted.txt" > "$place/installed.txt"
else
  cp "$place/wanted.txt" "$place/installed.txt"
fi
"$uv" pip install -q --python "$place/bin/python" --no-deps -r "$place/installed.txt"
"$uv" pip install -q --python "$place/bin/python" --no-deps -e .
if [ -n "${SALMASK_TORCH_FROM:-}" ]; then
  # Linked one by one, so that nothing else is lent; a package of the environment's own is kept.
  packages=$("$place/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$SALMASK_TORCH_FROM" - "$packages" <<'LINK'
import re, sys
from importlib import metadata
from pathlib import Path

here = Path(sys.argv[1])
lent = re.compile(r"torch|torchvision|triton|nvidia-.*|cuda-.*")
for distribution in metadata.distributions():
    if lent.fullmatch((distribution.metadata["Name"] or "").lower()):
        for top in {Path(str(file)).parts[0] for file in distribution.files or () if ".." not in Path(str(file)).parts}:
            if not (here / top).exists():
                (here / top).symlink_to(distribution.locate_file(top))
LINK
fi
"$place/bin/python" tools/get_detectron2.py
"$place/bin/python" -m pytest -n "${TEST_PROCESSES:-auto}" --maxprocesses 4 --dist loadfile -m "not slow and not slurm" "$@"
