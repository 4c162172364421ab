"""Where a number comes from: the code, its commit, the packages and the time."""

import json
import logging
import os
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

log = logging.getLogger("salmask")
RECORDED_PACKAGES = ("torch", "torchvision", "timm", "mmengine-lite", "numpy", "pillow", "pandas", "submitit")
"""The distributions whose versions are on record: those that compute, decode, or collect."""
SNAPSHOT = ".source.json"
"""At the root of a copy of the code: the commit that it was copied from, and whether it had been edited."""

_OF_ANOTHER_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
"""Variables that lead git away from the repository around the folder that it is called in."""


@dataclass(frozen=True)
class CodeState:
    """The state of the code."""

    commit: str
    """The full hash; `unknown` outside a git checkout, and in that of another project."""
    dirty: bool
    """Whether tracked files differed from the commit."""


def source() -> CodeState:
    """Returns the commit of the code that runs and whether it was edited since; `unknown` outside a git checkout."""
    package = Path(__file__).resolve().parent
    snapshot = package.parents[1] / SNAPSHOT
    if snapshot.exists():  # before git is asked: a copy may lie within a checkout that has moved on
        content = json.loads(snapshot.read_text(encoding="utf-8"))
        return CodeState(content["commit"], content["dirty"])

    try:
        # Installed into a virtual environment that lies in another project's checkout, git would tell that one's.
        git(package, "ls-files", "--error-unmatch", "--", Path(__file__).name)
        edits = git(package, "status", "--porcelain", "--untracked-files=no")
        return CodeState(git(package, "rev-parse", "HEAD"), bool(edits))
    except (OSError, subprocess.CalledProcessError) as error:  # no git on this machine, or no checkout
        if "dubious ownership" in (getattr(error, "stderr", None) or ""):
            log.warning(
                "git does not tell the commit of %s, which belongs to somebody else, and 'unknown' is recorded; "
                "mend: git config --global --add safe.directory %s",
                package.parents[1],
                package.parents[1],
            )
        return CodeState("unknown", False)


def git(folder: Path, *words: str, patience: float | None = None) -> str:
    """Returns what git says of a checkout, without the blanks around it.

    Args:
        folder: In the checkout; git is called there.
        words: The command.
        patience: The longest that it is waited for, in seconds; None: as long as it takes.

    Raises:
        OSError: There is no git on this machine.
        subprocess.SubprocessError: It fails, or takes too long.
    """
    return subprocess.run(
        ["git", *words],
        cwd=folder,
        env=git_environment(),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=True,
        timeout=patience,
    ).stdout.strip()


def git_environment() -> dict[str, str]:
    """Returns the environment in which git tells the repository around the folder that it is called in.

    A hook of git's, or a rebase that calls us, says by variables which repository is meant: another one, perhaps.
    """
    return {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_REPOSITORY}


def now() -> str:
    """Returns the time in UTC to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_version(distribution: str) -> str:
    """Returns the version of an installed distribution; `absent` where there is none of that name."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"
