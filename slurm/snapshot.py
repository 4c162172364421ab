"""A copy of the code for jobs to run, so that edits after a submission change nothing that waits or is requeued.

The copy is a `git archive` below the sweep's folder, `code/COMMIT/`, made once for each state of the code. An edited
work tree is refused, or, where asked for, archived as it is (untracked files that git does not ignore included), with
its difference from the commit beside it as `code/NAME.diff`.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from repro.errors import UserError
from repro.files import new_folder, write_atomically
from repro.runs.provenance import SNAPSHOT

PACKAGES = ("repro", "baselines", "downstream", "results", "slurm")
"""What is copied: all that a job imports, and no example runs, which tables of the sweep would find."""
CODE = "code"


@dataclass(frozen=True)
class CodeSnapshot:
    """Code that does not change."""

    path: Path
    """Where PYTHONPATH points."""
    commit: str
    dirty: bool


def take(place: Path, *, allow_dirty: bool, tree: Path | None = None) -> CodeSnapshot:
    """Copy the code that runs, unless the same state was copied before.

    Args:
        place: the sweep's folder.
        allow_dirty: also take a work tree that was edited since its commit.
        tree: a checkout; default: the one that this code runs from.

    Raises:
        UserError: the work tree was edited and that was not allowed, or it is no checkout.
    """
    tree = tree or Path(__file__).resolve().parent.parent
    try:
        commit = _git(tree, "rev-parse", "HEAD").decode().strip()
        edited = _git(tree, "status", "--porcelain").decode().splitlines()
    except (OSError, subprocess.CalledProcessError):
        return _copy_packages(tree, place, allow_dirty=allow_dirty)
    if not edited:
        return _unpacked(place, commit[:12], commit, _archive(tree, commit), dirty=False)
    if not allow_dirty:
        files = ", ".join(line[3:] for line in edited[:3]) + (" …" if len(edited) > 3 else "")
        raise UserError(
            (
                f"{len(edited)} files in {tree} are not as they were committed ({files}), so what jobs run could not "
                "be told"
            ),
            mend="commit them, or --allow-dirty to record the difference",
        )
    return _take_edited(tree, place, commit)


def _take_edited(tree: Path, place: Path, commit: str) -> CodeSnapshot:
    """Archive a work tree as it is, through an index of our own: the user's is not touched."""
    with tempfile.TemporaryDirectory() as temporary:
        index = {"GIT_INDEX_FILE": str(Path(temporary) / "index")}
        _git(tree, "read-tree", commit, environment=index)
        _git(tree, "add", "--all", environment=index)
        content = _git(tree, "write-tree", environment=index).decode().strip()
        difference = _git(tree, "diff", "--cached", "--binary", commit, environment=index)
    name = f"{commit[:12]}-{content[:12]}"
    write_atomically(place / CODE / f"{name}.diff", lambda file: file.write(difference))
    return _unpacked(place, name, commit, _archive(tree, content), dirty=True)


def _unpacked(place: Path, name: str, commit: str, archive: bytes, *, dirty: bool) -> CodeSnapshot:
    target = place / CODE / name
    if not target.exists():
        with new_folder(target) as part, tarfile.open(fileobj=BytesIO(archive)) as tar:
            tar.extractall(part, filter="data")
            _mark(part, commit, dirty=dirty)
    return CodeSnapshot(target.resolve(), commit, dirty)


def _copy_packages(tree: Path, place: Path, *, allow_dirty: bool) -> CodeSnapshot:
    if not allow_dirty:
        raise UserError(
            f"{tree} is no git checkout, so the commit that jobs run could not be told",
            mend="install from a clone, or --allow-dirty to copy the packages as they are",
        )
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((tree / package).rglob("*.py")):
            digest.update(path.read_bytes())
    target = place / CODE / f"unknown-{digest.hexdigest()[:12]}"
    if not target.exists():
        with new_folder(target) as part:
            for package in PACKAGES:
                shutil.copytree(tree / package, part / package, ignore=shutil.ignore_patterns("__pycache__"))
            _mark(part, "unknown", dirty=True)
    return CodeSnapshot(target.resolve(), "unknown", dirty=True)


def _mark(folder: Path, commit: str, *, dirty: bool) -> None:
    """Tell the code what it is a copy of: see `repro.runs.provenance.source`."""
    (folder / SNAPSHOT).write_text(json.dumps({"commit": commit, "dirty": dirty}))


def _archive(tree: Path, content: str) -> bytes:
    return _git(tree, "archive", content, "--", *(name for name in PACKAGES if (tree / name).is_dir()))


def _git(tree: Path, *words: str, environment: Mapping[str, str] | None = None) -> bytes:
    return subprocess.run(
        ["git", *words], cwd=tree, capture_output=True, check=True, env={**os.environ, **(environment or {})}
    ).stdout
