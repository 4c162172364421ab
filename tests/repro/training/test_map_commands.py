"""`salmask data saliency`: if not all maps can be kept, it is no success."""

import errno
import os
from pathlib import Path

import pytest
from training_samples import salmask, words

from repro.saliency import map_file

pytestmark = pytest.mark.usefixtures("own_maps")

SETTINGS = [word for word in words({"localizer.image_side": 128}) if not word.startswith("data.dataset")]


def test_maps_that_did_not_go_onto_the_disk_are_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They used to be kept in the memory of the process that ended, and the file was named as if they were in it."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(map_file, "write_at", full)
        ended = salmask("data", "saliency", "scenes", *SETTINGS)
    assert ended.code == 2
    (path,) = (tmp_path / "cache").rglob("*.f16")
    assert ended.err.splitlines()[1:] == [
        f"salmask: {path}: parts that could not be written: 1 of 1; mend: check the disk's space and the file's "
        "permissions, and repeat the command: other parts are kept"
    ]
    ended = salmask("data", "saliency", "scenes", *SETTINGS)
    assert ended.code == 0
    assert f"file: {path}\n" in ended.out


def test_a_file_that_could_not_be_made_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command ended well, with `file: none`, after it had computed all maps for nothing."""
    monkeypatch.setattr(map_file.MapFile, "_open", lambda *_: None)
    ended = salmask("data", "saliency", "scenes", *SETTINGS)
    assert (ended.code, ended.out) == (2, "")
    assert "parts that could not be written: 1 of 1; mend: " in ended.err
    assert list((tmp_path / "cache").rglob("*.f16")) == []
