"""The commit of code that was installed from a repository: there is no checkout, but the installer recorded it."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from repro.errors import UserError
from repro.filesystem.paths import OWN_PACKAGES
from repro.runs import provenance
from repro.runs.provenance import SNAPSHOT, CodeState
from slurm.jobs import snapshot

COMMIT = "a7690aee75e8ecfb26444466d37516a725feebe5"
FETCHED = {"url": "https://example.org/salmask", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}


def install(root: Path, told: Any) -> Path:
    """Writes what pip leaves of packages with a file each, beside a library; `told` is its direct_url.json."""
    lines = ["salmask-0.1.0.dist-info/METADATA,,", "repro/__pycache__/__init__.pyc,,"]
    for package in OWN_PACKAGES:
        for name in ("__init__.py", "data.yaml"):
            (root / package).mkdir(parents=True, exist_ok=True)
            (root / package / name).write_text(f"# {package}/{name}\n")
            digest = base64.urlsafe_b64encode(hashlib.sha256((root / package / name).read_bytes()).digest())
            lines.append(f"{package}/{name},sha256={digest.rstrip(b'=').decode()},9")
    (root / "repro" / "__pycache__").mkdir()
    (root / "repro" / "__pycache__" / "other.pyc").touch()
    (root / "numpy").mkdir()
    (root / "numpy" / "__init__.py").touch()
    record = root / "salmask-0.1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: salmask\nVersion: 0.1.0\n")
    (record / "RECORD").write_text("\n".join(lines) + "\n")
    if told is not None:
        (record / "direct_url.json").write_text(told if isinstance(told, str) else json.dumps(told))
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, first on Python's path, which counts as the folder of the code."""
    root = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(root)
    for module in (provenance, snapshot):
        monkeypatch.setattr(module, "CODE_ROOT", root)
    root.mkdir()
    return root


def test_code_that_was_installed_from_a_repository_has_its_commit(here: Path) -> None:
    """For `pip install git+https://…`, `unknown` used to be recorded as the commit of every run."""
    install(here, FETCHED)
    assert provenance.source() == CodeState(COMMIT, dirty=False)


@pytest.mark.parametrize("edit", ["changed", "added", "removed"])
def test_what_was_edited_where_it_is_installed_is_told(here: Path, edit: str) -> None:
    path = install(here, FETCHED) / "downstream" / ("own.py" if edit == "added" else "data.yaml")
    if edit == "removed":
        path.unlink()
    else:
        path.write_text("# mine\n")
    assert provenance.source() == CodeState(COMMIT, dirty=True)


@pytest.mark.parametrize(
    "told",
    [
        None,  # from a package index
        {"url": "file:///salmask-0.1.0.whl", "archive_info": {"hash": "sha256=0"}},
        {"url": "file:///clone", "dir_info": {"editable": True}},
        {"url": "https://example.org/salmask", "vcs_info": {"vcs": "bzr", "commit_id": "17"}},
        {"url": "https://example.org/salmask", "vcs_info": None},
        [],
        "torn {",
    ],
)
def test_where_no_commit_is_on_record_it_stays_unknown(here: Path, told: Any) -> None:
    install(here, told)
    assert provenance.source() == CodeState("unknown", dirty=False)


def test_the_record_of_another_copy_is_not_taken_for_that_of_the_code_that_runs(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "other", FETCHED)
    monkeypatch.syspath_prepend(tmp_path / "other")
    assert here.is_dir()
    assert provenance.source() == CodeState("unknown", dirty=False)


def test_jobs_run_a_copy_of_what_was_installed_under_its_commit(here: Path, tmp_path: Path) -> None:
    """Such a sweep used to be refused, because the commit of the jobs' code was unknown."""
    install(here, FETCHED)
    copy = snapshot.take(tmp_path / "sweep", allow_dirty=False)
    assert copy.name.startswith(f"{COMMIT[:12]}-")
    assert json.loads((copy / SNAPSHOT).read_text()) == {"commit": COMMIT, "dirty": False}
    assert sorted(path.name for path in copy.iterdir()) == sorted([SNAPSHOT, *OWN_PACKAGES])
    assert snapshot.take(tmp_path / "sweep", allow_dirty=False) == copy
    (here / "slurm" / "data.yaml").write_text("# mine\n")
    with pytest.raises(UserError, match="the commit that jobs would run is unknown"):
        snapshot.take(tmp_path / "sweep", allow_dirty=False)
    edited = snapshot.take(tmp_path / "sweep", allow_dirty=True)
    assert json.loads((edited / SNAPSHOT).read_text()) == {"commit": COMMIT, "dirty": True}
