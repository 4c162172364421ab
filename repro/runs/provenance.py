"""Where a number comes from: the code, its commit, the packages and the time."""

import base64
import csv
import hashlib
import json
import logging
import os
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from repro.filesystem.paths import CODE_ROOT, OWN_PACKAGES

log = logging.getLogger("salmask")
RECORDED_PACKAGES = ("torch", "torchvision", "timm", "mmengine-lite", "numpy", "pillow", "pandas", "submitit")
"""The distributions whose versions are on record: those that compute, decode, or collect."""
SNAPSHOT = ".source.json"
"""File at the root of a copy of the code: the commit that it was copied from, and whether it had been edited."""

_OF_ANOTHER_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
"""Variables that lead git away from the repository around its working folder."""


@dataclass(frozen=True)
class CodeState:
    """The state of the code."""

    commit: str
    """The full hash; `unknown` if neither a git checkout of salmask nor the installer's record tells it."""
    dirty: bool
    """Whether tracked files, or those installed, differed from the commit."""


def source() -> CodeState:
    """Returns the commit of the code that runs, and whether it was edited since; `unknown` if nothing tells it."""
    snapshot = CODE_ROOT / SNAPSHOT
    if snapshot.exists():  # before git is asked: a copy may lie within a checkout that has moved on
        content = json.loads(snapshot.read_text(encoding="utf-8"))
        return CodeState(content["commit"], content["dirty"])

    try:
        # If salmask is installed in a virtual environment inside another project's checkout, git would tell that one's.
        git(CODE_ROOT, "ls-files", "--error-unmatch", "--", OWN_PACKAGES[0])
        edits = git(CODE_ROOT, "status", "--porcelain", "--untracked-files=no")
        return CodeState(git(CODE_ROOT, "rev-parse", "HEAD"), bool(edits))
    except (OSError, subprocess.CalledProcessError) as error:  # no git on this machine, or no checkout
        if (state := installed()) is not None:
            return state
        if "dubious ownership" in (getattr(error, "stderr", None) or ""):
            log.warning(
                "git does not tell the commit of %s, which belongs to another user, so 'unknown' is recorded; "
                "mend: git config --global --add safe.directory %s",
                CODE_ROOT,
                CODE_ROOT,
            )
        return CodeState("unknown", False)


def installed() -> CodeState | None:
    """Returns the commit that this code was installed from, as installers record it (PEP 610), and whether it differs.

    None for a checkout, and for code from an archive or a package index, which tell no commit.
    """
    try:
        distribution = metadata.distribution("salmask")
        read = distribution.read_text  # as UTF-8, on every machine
        commit = json.loads(read("direct_url.json") or "{}")["vcs_info"]["commit_id"]
        # Python may have found another copy than the one that was installed.
        is_this = Path(str(distribution.locate_file(""))).resolve() == CODE_ROOT
        if is_this and re.fullmatch(r"[0-9a-f]{40,64}", str(commit)):
            return CodeState(commit, _differs(read("RECORD") or ""))
    except (metadata.PackageNotFoundError, OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _differs(record: str) -> bool:
    """Returns whether the files of our packages differ from an installer's record: changed, added or missing.

    Args:
        record: The text of `RECORD`, a table of path, hash and size. (`Distribution.files` leaves out what is missing.)
    """
    hashes = {
        name: digest
        for name, digest, *_ in csv.reader(record.splitlines())
        if Path(name).parts[0] in OWN_PACKAGES and "__pycache__" not in Path(name).parts
    }
    here = {
        path.relative_to(CODE_ROOT).as_posix()
        for package in OWN_PACKAGES
        for path in (CODE_ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return here != hashes.keys() or any(
        digest and _digest(CODE_ROOT / name, digest.partition("=")[0]) != digest for name, digest in hashes.items()
    )


def _digest(file: Path, algorithm: str) -> str:
    """Returns the digest of a file in the form that installers record it in, `sha256=…`."""
    digest = hashlib.new(algorithm, file.read_bytes()).digest()
    return f"{algorithm}={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def git(folder: Path, *words: str, patience: float | None = None) -> str:
    """Returns git's output about a checkout, without the blanks around it.

    Args:
        folder: A folder of the checkout, in which git is called.
        words: The command line of git, without `git`.
        patience: Longest wait in seconds; None: as long as it takes.

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
    """Returns an environment in which git uses the repository around its working folder.

    A git hook or a rebase that calls us sets variables that may name another repository.
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
