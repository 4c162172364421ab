"""Where a number comes from: the code, its commit, the packages and the time."""

import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

RECORDED_PACKAGES = ("torch", "torchvision", "timm", "mmengine-lite", "numpy", "pillow", "pandas", "submitit")


@dataclass(frozen=True)
class CodeState:
    """The state of the code."""

    commit: str
    dirty: bool


SNAPSHOT = ".source.json"
"""At the root of a copy of the code: the commit that it was copied from, and whether it had been edited."""


def source() -> CodeState:
    """Commit of the code that runs, and whether it was edited since; `unknown` outside a git checkout."""
    here = Path(__file__).resolve().parent
    copied = here.parents[1] / SNAPSHOT
    if copied.exists():  # asked first: a copy may lie within a checkout that has moved on
        content = json.loads(copied.read_text())
        return CodeState(content["commit"], content["dirty"])

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return CodeState(git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.CalledProcessError):
        return CodeState("unknown", False)


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
