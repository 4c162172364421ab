"""A new folder is on the disk before it has its name."""

import os
from pathlib import Path

import pytest

from repro.filesystem.new_folders import new_folder


def test_files_are_on_the_disk_before_their_folder_has_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After a power cut, a name would else stand for files that are empty."""
    target, synced = tmp_path / "target", []
    monkeypatch.setattr(os, "sync", lambda: synced.append((target.exists(), [*tmp_path.glob("*/weights")] != [])))
    with new_folder(target) as folder:
        (folder / "weights").write_text("x")
    assert synced == [(False, True)]
    assert (target / "weights").read_text() == "x"
