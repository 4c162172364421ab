"""A copy of the code for jobs to run, so that edits after a submission change nothing that waits or is requeued.

The copy is a `git archive` below the sweep's folder, `code/COMMIT/`, made once for each state of the code. An edited
work tree is refused, or, where asked for, archived as it is (untracked files of the packages that git does not ignore
included), with its difference from the commit beside it as `code/NAME.diff`.
"""

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from repro.errors import UserError, one_line
from repro.filesystem.files import write_bytes
from repro.filesystem.new_folders import new_folder
from repro.filesystem.paths import CODE_ROOT, OWN_PACKAGES
from repro.quantities import counted
from repro.runs.provenance import SNAPSHOT, CodeState, git_environment, installed

CODE = "code"


def take(sweep_folder: Path, *, allow_dirty: bool, tree: Path | None = None) -> Path:
    """Copies the code that runs, unless the same state was copied before, and returns where PYTHONPATH is to point.

    Args:
        sweep_folder: The copy goes below it.
        allow_dirty: Also take a work tree that was edited since its commit.
        tree: A checkout; default: the one that this code runs from.

    Raises:
        UserError: The work tree was edited and that was not allowed; it is not a checkout; or there is a copy of this
            name with other files.
    """
    tree = tree or CODE_ROOT
    try:
        commit = _git(tree, "rev-parse", "HEAD").decode().strip()
        # Fails where salmask is installed within another project's checkout, whose commit would be taken for ours.
        _git(tree, "ls-files", "--error-unmatch", "--", OWN_PACKAGES[0])
        # Only the packages are looked at, since only they are copied: jobs run no pages or notes, and the sweep's
        # tables would find recorded runs in the copy.
        words = ("status", "--porcelain", "--untracked-files=normal")  # whatever the user's settings are
        edits = _git(tree, *words, "--", *OWN_PACKAGES).decode().splitlines()
    except (OSError, UserError) as error:  # no git on this machine, no checkout, or one that git does not trust
        if tree == CODE_ROOT and (state := installed()) is not None and (allow_dirty or not state.dirty):
            return _copy_packages(tree, sweep_folder, state)
        if not allow_dirty:
            why = error.what if isinstance(error, UserError) else f"git: {one_line(error)}"
            mend = "install from a clone, or do what git says; --allow-dirty copies the packages as they are"
            raise UserError(f"the commit that jobs would run is unknown: {why}", mend=mend) from error
        return _copy_packages(tree, sweep_folder, CodeState("unknown", dirty=True))
    if not edits:
        return _unpacked(sweep_folder, commit[:12], commit, _archive(tree, commit), dirty=False)
    if not allow_dirty:
        files = ", ".join(line[3:] for line in edits[:3]) + (" …" if len(edits) > 3 else "")
        raise UserError(
            f"{counted(len(edits), 'file')} in {tree} not as committed ({files}), so nothing would tell what jobs ran",
            mend="commit them, or --allow-dirty to record the difference",
        )
    return _take_edited(tree, sweep_folder, commit)


def _take_edited(tree: Path, sweep_folder: Path, commit: str) -> Path:
    """Archives a work tree as it is, and writes its difference from the commit beside the copy."""
    # `git archive` takes a tree object, not files. To make one of the work tree, files must be staged; staged into the
    # user's own index they would be in the next commit, and another git command at work there would collide. So they
    # are staged into an index of our own, filled from the commit first, so that deleted files show as deleted. The new
    # objects are written beside that index: the repository may be somebody else's.
    with tempfile.TemporaryDirectory() as temporary:
        index = _beside(tree, Path(temporary))
        _git(tree, "read-tree", commit, environment=index)
        # Only the packages are staged: notes and keys beside the code are private, and data may fill the disk. Git
        # refuses a package of which it knows nothing; one that was deleted since the commit it does know.
        known = _git(
            tree, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *OWN_PACKAGES, environment=index
        )
        packages = sorted({path.partition("/")[0] for path in known.decode(errors="replace").split("\0") if path})
        _git(tree, "add", "--all", "--", *packages, environment=index)
        content = _git(tree, "write-tree", environment=index).decode().strip()
        # Not `git diff`, whose form follows the user's settings: coloured or external ones cannot be applied.
        words = ("diff-index", "--cached", "--binary", "--patch", "--no-ext-diff", "--no-textconv")
        difference = _git(tree, *words, commit, "--", *packages, environment=index)
        archive = _archive(tree, content, index)
    # The tree's hash in the name: another edit of the same commit is another copy, the same edit the same one.
    name = f"{commit[:12]}-{content[:12]}"
    write_bytes(sweep_folder / CODE / f"{name}.diff", difference)
    return _unpacked(sweep_folder, name, commit, archive, dirty=True)


def _beside(tree: Path, folder: Path) -> dict[str, str]:
    """Returns the environment variables by which git reads a checkout's repository, but writes into another folder."""
    own = tree / _git(tree, "rev-parse", "--git-path", "objects").decode().rstrip("\n")
    objects = folder / "objects"
    objects.mkdir()
    return {
        "GIT_INDEX_FILE": str(folder / "index"),
        "GIT_OBJECT_DIRECTORY": str(objects),
        # In quotes, since it may hold a colon, which separates several paths.
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": json.dumps(str(own.resolve()), ensure_ascii=False),
    }


def _unpacked(sweep_folder: Path, name: str, commit: str, archive: bytes, *, dirty: bool) -> Path:
    target = sweep_folder / CODE / name
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        if target.exists():  # a folder of this name is whole (`new_folder`), and jobs may be running from it
            files = {member.name: tar.extractfile(member) for member in tar.getmembers() if member.isfile()}
            _refuse_other_code(target, {name: file.read() for name, file in files.items() if file}, "committed")
        else:
            with new_folder(target) as folder:
                tar.extractall(folder, filter="data")
                _mark(folder, commit, dirty=dirty)
    return target.resolve()


def _refuse_other_code(target: Path, expected: Mapping[str, bytes], was: str) -> None:
    """Refuses a copy whose files are not what its name says: it may have come with a sweep from elsewhere.

    Its `__pycache__` folders are removed: Python may run what they hold without comparing it to the source.

    Args:
        target: The copy.
        expected: The content of each of its files, by the file's path in it.
        was: How the files came about, for a message: `committed` or `copied`.

    Raises:
        UserError: A file of the copy differs, is missing, or is not expected.
    """
    for cache in target.rglob("__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)  # a job may be writing to it
    paths = (path.relative_to(target) for path in target.rglob("*") if path.is_symlink() or not path.is_dir())
    here = {str(path) for path in paths if "__pycache__" not in path.parts} - {SNAPSHOT}
    for name in sorted(expected.keys() | here):
        path = target / name
        if path.is_symlink() or not path.is_file() or path.read_bytes() != expected.get(name):
            mend = f"remove {target}, or choose another --out"
            raise UserError(f"{path} is not as it was {was}, so what jobs run could be anybody's", mend=mend)


def _copy_packages(tree: Path, sweep_folder: Path, state: CodeState) -> Path:
    """Copies an installation without git, data files too, under a name made from the content of its files."""
    files = {
        str(path.relative_to(tree)): path.read_bytes()
        for package in OWN_PACKAGES
        for path in sorted((tree / package).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    target = sweep_folder / CODE / f"{state.commit[:12]}-{digest.hexdigest()[:12]}"
    if target.exists():
        _refuse_other_code(target, files, "copied")
    else:
        with new_folder(target) as folder:
            for name, content in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            _mark(folder, state.commit, dirty=state.dirty)
    return target.resolve()


def _mark(folder: Path, commit: str, *, dirty: bool) -> None:
    """Writes into a copy which commit it is of; `repro.runs.provenance.source` reads it."""
    (folder / SNAPSHOT).write_text(json.dumps({"commit": commit, "dirty": dirty}), encoding="utf-8")


def _archive(tree: Path, content: str, environment: Mapping[str, str] | None = None) -> bytes:
    """Returns the packages of a commit or a tree object as a tar file."""
    # `git archive` refuses a path that is not in the tree: of a removed package, only `__pycache__` may be left.
    listed = _git(tree, "ls-tree", "-z", "--name-only", content, "--", *OWN_PACKAGES, environment=environment)
    packages = filter(None, listed.decode().split("\0"))
    return _git(tree, "archive", content, "--", *packages, environment=environment)


def _git(tree: Path, *words: str, environment: Mapping[str, str] | None = None) -> bytes:
    """Returns what git prints.

    Raises:
        UserError: It fails.
        OSError: There is no git on this machine.
    """
    ended = subprocess.run(
        ["git", *words], cwd=tree, capture_output=True, check=False, env={**git_environment(), **(environment or {})}
    )
    if ended.returncode:
        said = "; ".join(ended.stderr.decode(errors="replace").split("\n")).strip("; ")
        raise UserError(f"git {words[0]} in {tree} failed: {said}", mend="what git says, or commit the edits")
    return ended.stdout
