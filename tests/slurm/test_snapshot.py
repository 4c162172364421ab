"""What a launch copies for its jobs, and which files of a checkout are no code."""

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from training_samples import files_below

from repro.errors import UserError
from repro.filesystem.files import is_of_a_full_disk
from repro.filesystem.paths import OWN_PACKAGES
from repro.runs import provenance
from repro.runs.provenance import SNAPSHOT
from slurm.jobs.snapshot import take

CODE = {".py", ".yaml", ".csv", ".j2", ".css", ".js", ".txt", ".md", ".json"}
MOST_BYTES = 3_000_000

in_a_checkout = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not in a git checkout")


def git_here(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)


@in_a_checkout
def test_a_snapshot_has_nothing_but_code(tmp_path: Path) -> None:
    snapshot = take(tmp_path, allow_dirty=True, tree=ROOT)
    files = [path for path in snapshot.rglob("*") if path.is_file() and path.name != ".source.json"]
    assert {path.relative_to(snapshot).parts[0] for path in files} == set(OWN_PACKAGES)
    kinds = Counter(path.suffix for path in files)
    assert set(kinds) <= CODE, kinds
    assert not [path for path in files if path.name in ("run.yaml", "metrics.jsonl", "results.jsonl")]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES


@in_a_checkout
@pytest.mark.parametrize(
    "written",
    [
        "runs/table1/mocov2/s0-45df9c0eca/run.yaml",
        "tables/table1.md",
        "plots/curves.svg",
        "report.html",
        "artifact.zip",
        "results.parquet",
        "examples/demo/tables/table1.html",
        "examples/reproduced/cpu-112px/report.html",
        "examples/reproduced/cpu-112px/plots/curves.png",
    ],
)
def test_what_commands_write_into_a_checkout_is_ignored(written: str) -> None:
    assert git_here("check-ignore", "--quiet", written).returncode == 0


@in_a_checkout
def test_no_file_of_the_repository_is_ignored() -> None:
    assert git_here("ls-files", "--cached", "--ignored", "--exclude-standard").stdout == ""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A git checkout of a package."""
    checkout = tmp_path / "tree"
    (checkout / "repro").mkdir(parents=True)
    (checkout / "repro" / "code.py").write_text("VALUE = 1\n")
    (checkout / ".gitignore").write_text("ignored\n")
    git(checkout, "init", "-q")
    commit(checkout)
    return checkout


def git(checkout: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=checkout, check=True, capture_output=True, text=True).stdout.strip()


def commit(checkout: Path) -> None:
    git(checkout, "add", ".")
    git(checkout, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "words")


def written(snapshot: Path) -> dict[str, Any]:
    """The record in a copy of its commit and state."""
    content: dict[str, Any] = json.loads((snapshot / SNAPSHOT).read_text())
    return content


def test_jobs_run_a_copy_of_the_commit(tree: Path, tmp_path: Path) -> None:
    (tree / "ignored").touch()
    snapshot = take(tmp_path / "sweep", allow_dirty=False, tree=tree)
    assert snapshot == (tmp_path / "sweep" / "code" / written(snapshot)["commit"][:12]).resolve()
    assert files_below(snapshot) == {"repro/code.py", SNAPSHOT}
    (tree / "repro" / "code.py").write_text("VALUE = 2\n")
    assert (snapshot / "repro" / "code.py").read_text() == "VALUE = 1\n"
    process = subprocess.run(
        [sys.executable, "-c", "from repro.code import VALUE; print(VALUE)"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(snapshot), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout.strip() == "1", process.stderr


def test_what_lies_beside_the_packages_is_no_edit_of_the_code(tree: Path, tmp_path: Path) -> None:
    (tree / "report.html").write_text("a page that a command wrote")
    (tree / "plots").mkdir()
    (tree / "plots" / "curves.svg").write_text("<svg/>")
    snapshot = take(tmp_path / "sweep", allow_dirty=False, tree=tree)
    assert not written(snapshot)["dirty"]
    assert sorted(path.name for path in snapshot.iterdir()) == [".source.json", "repro"]


def test_edited_code_is_refused_or_recorded(tree: Path, tmp_path: Path) -> None:
    (tree / "repro" / "code.py").write_text("VALUE = 2\n")
    with pytest.raises(UserError, match=r"^1 file in .* not as committed \(repro/code\.py\), so"):
        take(tmp_path / "sweep", allow_dirty=False, tree=tree)
    (tree / "repro" / "new.py").write_text("NEW = 1\n")
    with pytest.raises(UserError, match=r"2 files in .* \(repro/code\.py, repro/new\.py\)"):
        take(tmp_path / "sweep", allow_dirty=False, tree=tree)
    assert not (tmp_path / "sweep").exists()
    snapshot = take(tmp_path / "sweep", allow_dirty=True, tree=tree)
    assert written(snapshot)["dirty"]
    assert (snapshot / "repro" / "code.py").read_text() == "VALUE = 2\n"
    assert (snapshot / "repro" / "new.py").exists()
    difference = snapshot.with_name(f"{snapshot.name}.diff").read_text()
    assert "+VALUE = 2" in difference
    assert "+NEW = 1" in difference
    status = subprocess.run(["git", "status", "--porcelain"], cwd=tree, capture_output=True, text=True, check=True)
    assert status.stdout.splitlines() == [" M repro/code.py", "?? repro/new.py"]  # the index is unchanged
    assert take(tmp_path / "sweep", allow_dirty=True, tree=tree) == snapshot


def test_of_many_edited_files_three_are_named(tree: Path, tmp_path: Path) -> None:
    for name in "abcd":
        (tree / "repro" / f"{name}.py").touch()
    with pytest.raises(UserError, match=r"4 files in .* \(repro/a.py, repro/b.py, repro/c.py …\), so"):
        take(tmp_path / "sweep", allow_dirty=False, tree=tree)
    (tree / "repro" / "d.py").unlink()
    with pytest.raises(UserError, match=r"\(repro/a.py, repro/b.py, repro/c.py\), so"):
        take(tmp_path / "sweep", allow_dirty=False, tree=tree)


def test_how_a_person_looks_at_differences_changes_no_record(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With colours or an external diff program, the recorded difference could not be applied."""
    (tree / "repro" / "code.py").write_text("VALUE = 2\n")
    for name, value in (("color.ui", "always"), ("diff.external", "true"), ("diff.noprefix", "true")):
        git(tree, "config", name, value)
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "true")
    take(tmp_path / "sweep", allow_dirty=True, tree=tree)
    (difference,) = (tmp_path / "sweep" / "code").glob("*.diff")
    git(tree, "checkout", "-q", "--", "repro")
    git(tree, "apply", str(difference))
    assert (tree / "repro" / "code.py").read_text() == "VALUE = 2\n"


def test_a_file_that_git_knows_nothing_of_is_an_edit_whatever_a_person_is_shown(tree: Path, tmp_path: Path) -> None:
    git(tree, "config", "status.showUntrackedFiles", "no")
    (tree / "repro" / "new.py").touch()
    with pytest.raises(UserError, match=r"^1 file in .* not as committed \(repro/new.py\)"):
        take(tmp_path / "sweep", allow_dirty=False, tree=tree)
    assert (take(tmp_path / "sweep", allow_dirty=True, tree=tree) / "repro" / "new.py").is_file()


def test_edited_code_is_recorded_where_its_repository_may_not_be_written_to(tree: Path, tmp_path: Path) -> None:
    (tree / "repro" / "code.py").write_text("VALUE = 2\n")
    before = files_below(tree / ".git" / "objects")
    snapshot = take(tmp_path / "sweep", allow_dirty=True, tree=tree)
    assert (snapshot / "repro" / "code.py").read_text() == "VALUE = 2\n"
    assert files_below(tree / ".git" / "objects") == before


def test_edited_code_is_recorded_from_a_folder_of_any_name(tree: Path, tmp_path: Path) -> None:
    """Several object folders are separated by colons, and one with a colon in its name is quoted as git does it."""
    (tree / "repro" / "code.py").write_text("VALUE = 2\n")
    moved = tree.rename(tmp_path / 'für "uns": \\ alle')
    snapshot = take(tmp_path / "sweep", allow_dirty=True, tree=moved)
    assert (snapshot / "repro" / "code.py").read_text() == "VALUE = 2\n"


def test_what_git_does_not_take_is_told_in_its_words(tree: Path, tmp_path: Path) -> None:
    (tree / "repro" / "other").mkdir()
    git(tree / "repro" / "other", "init", "-q")
    with pytest.raises(
        UserError, match=r"^git add in .*/tree failed: .*'repro/other/' does not have a commit.*; mend: "
    ):
        take(tmp_path / "sweep", allow_dirty=True, tree=tree)


def test_what_lies_beside_the_packages_is_not_taken_with_an_edit(tree: Path, tmp_path: Path) -> None:
    (tree / "baselines").mkdir()
    (tree / "baselines" / "old.py").touch()
    commit(tree)
    (tree / "baselines" / "old.py").unlink()
    (tree / "baselines").rmdir()
    (tree / "results").mkdir()  # holds no file that git tracks
    (tree / "results" / "ignored").touch()
    (tree / "token.txt").write_text("a key of nobody's business\n")
    (tree / ".gitignore").write_text("ignored\nmore\n")
    (tree / "repro" / "code.py").write_text("VALUE = 2\n")
    snapshot = take(tmp_path / "sweep", allow_dirty=True, tree=tree)
    difference = snapshot.with_name(f"{snapshot.name}.diff").read_text()
    assert [line.split()[-1] for line in difference.splitlines() if line.startswith("diff --git")] == [
        "b/baselines/old.py",
        "b/repro/code.py",
    ]
    hashed = subprocess.run(["git", "hash-object", "token.txt"], cwd=tree, capture_output=True, text=True, check=True)
    kept = subprocess.run(["git", "cat-file", "-e", hashed.stdout.strip()], cwd=tree, capture_output=True, check=False)
    assert kept.returncode != 0


def test_a_copy_that_came_from_elsewhere_is_not_used(tree: Path, tmp_path: Path) -> None:
    copy = take(tmp_path / "sweep", allow_dirty=False, tree=tree)
    (copy / "repro" / "__pycache__").mkdir()
    (copy / "repro" / "__pycache__" / "code.cpython-311.pyc").write_bytes(b"planted")
    assert take(tmp_path / "sweep", allow_dirty=False, tree=tree) == copy
    assert not (copy / "repro" / "__pycache__").exists()
    for name, content in (("sitecustomize.py", "import os"), ("repro/code.py", "VALUE = 3\n")):
        before = (copy / name).read_text() if (copy / name).exists() else None
        (copy / name).write_text(content)
        with pytest.raises(UserError, match=rf"{name} is not as it was committed, .*; mend: remove "):
            take(tmp_path / "sweep", allow_dirty=False, tree=tree)
        (copy / name).unlink()
        if before is not None:
            (copy / name).write_text(before)
    assert take(tmp_path / "sweep", allow_dirty=False, tree=tree) == copy


def test_a_checkout_is_named_by_its_commit_and_whether_it_was_edited(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "CODE_ROOT", tree)
    assert provenance.source() == provenance.CodeState(git(tree, "rev-parse", "HEAD"), dirty=False)
    (tree / "repro" / "code.py").write_text("VALUE = 2\n")
    assert provenance.source() == provenance.CodeState(git(tree, "rev-parse", "HEAD"), dirty=True)


def test_a_copy_says_which_commit_it_is_of(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = take(tree / "ignored", allow_dirty=False, tree=tree)
    was = git(tree, "rev-parse", "HEAD")
    (tree / "repro" / "code.py").write_text("VALUE = 2\n")
    commit(tree)  # the checkout around the copy has a newer commit
    monkeypatch.setattr(provenance, "CODE_ROOT", snapshot)
    assert written(snapshot) == {"commit": was, "dirty": False}
    assert provenance.source() == provenance.CodeState(was, dirty=False)


def test_a_checkout_that_git_does_not_trust_is_refused_in_its_words(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example, a colleague's checkout."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(UserError, match=r"is unknown: git rev-parse in .*: fatal: detected dubious ownership"):
        take(tmp_path / "sweep", allow_dirty=False, tree=tree)


def test_without_git_the_packages_are_copied_if_that_is_allowed(tmp_path: Path) -> None:
    for package in ("repro", "baselines", "downstream", "results", "slurm"):
        (tmp_path / "tree" / package).mkdir(parents=True)
        (tmp_path / "tree" / package / "__init__.py").write_text(f"# {package}\n")
    with pytest.raises(UserError, match=r"run is unknown: git rev-parse in .*: fatal: not a git repo.*; mend: "):
        take(tmp_path / "sweep", allow_dirty=False, tree=tmp_path / "tree")
    snapshot = take(tmp_path / "sweep", allow_dirty=True, tree=tmp_path / "tree")
    assert written(snapshot) == {"commit": "unknown", "dirty": True}
    assert (snapshot / "slurm" / "__init__.py").exists()
    (tmp_path / "tree" / "slurm" / "__pycache__").mkdir()
    (tmp_path / "tree" / "slurm" / "__pycache__" / "a.pyc").touch()
    assert take(tmp_path / "sweep", allow_dirty=True, tree=tmp_path / "tree") == snapshot
    (tmp_path / "tree" / "results" / "claims.yaml").touch()
    edited = take(tmp_path / "sweep", allow_dirty=True, tree=tmp_path / "tree")
    assert (edited / "results" / "claims.yaml").exists()  # it used to be missing: the report was made by the old claims
    (edited / "slurm" / "__init__.py").write_text("# anybody's\n")
    with pytest.raises(UserError, match=r"slurm/__init__.py is not as it was copied, .*; mend: remove "):
        take(tmp_path / "sweep", allow_dirty=True, tree=tmp_path / "tree")


def test_without_git_a_full_disk_is_one_short_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message named each of four hundred files, and `--feed` did not recognise the full disk and ended."""
    for package in OWN_PACKAGES:
        (tmp_path / "tree" / package).mkdir(parents=True)
        (tmp_path / "tree" / package / "__init__.py").write_text("")

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(UserError, match=r"cannot write .*/unknown-\w+: the disk of .* is full, or its quota") as raised:
        take(tmp_path / "sweep", allow_dirty=True, tree=tmp_path / "tree")
    assert is_of_a_full_disk(raised.value)


def test_the_commit_of_a_project_around_an_installation_is_not_taken_for_ours(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment often lies within another project's checkout, where git ignores it."""
    site_packages = tree / "ignored" / "site-packages"
    for package in OWN_PACKAGES:
        (site_packages / package).mkdir(parents=True)
        (site_packages / package / "__init__.py").touch()
    monkeypatch.setattr(provenance, "CODE_ROOT", site_packages)
    assert provenance.source() == provenance.CodeState("unknown", dirty=False)
    with pytest.raises(UserError, match=r"run is unknown: git ls-files in .*did not match any file.*; mend: "):
        take(tmp_path / "sweep", allow_dirty=False, tree=site_packages)
    assert written(take(tmp_path / "sweep", allow_dirty=True, tree=site_packages))["commit"] == "unknown"


@in_a_checkout
def test_a_hook_of_another_repository_changes_no_commit_on_record(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = provenance.source()
    monkeypatch.setenv("GIT_DIR", str(tree / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tree / ".git" / "index"))
    assert provenance.source() == ours


def test_a_hook_of_another_repository_changes_nothing_of_what_jobs_run(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = written(take(tmp_path / "before", allow_dirty=False, tree=tree))
    subprocess.run(["git", "init", "-q", str(tmp_path / "other")], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other" / ".git" / "index"))
    assert written(take(tmp_path / "after", allow_dirty=False, tree=tree)) == ours
