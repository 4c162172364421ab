"""Scenes kept on disk: the same pictures, drawn once, whatever happens to the file."""

import errno
import logging
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repro.data.catalogue import open_images
from repro.scenes.cache import scenes_cache
from repro.scenes.dataset import Scenes
from repro.settings.sections import ScenesSettings

SIZE = 64
RECORD = 4 + 3 * SIZE**2


def scenes(count: int = 6, **settings: Any) -> Scenes:
    return Scenes("train", **{"count": count, "size": SIZE, **settings})


def kept(folder: Path, **settings: Any) -> Scenes:
    images = scenes(**settings)
    images.keep(folder)
    return images


def pixels(image: Image.Image) -> bytes:
    assert (image.mode, image.size) == ("RGB", (SIZE, SIZE))
    return np.asarray(image).tobytes()


def all_pixels(images: Scenes) -> list[bytes]:
    return [pixels(images[index][0]) for index in range(len(images))]


def never(_: Scenes, index: int) -> None:
    pytest.fail(f"scene {index} is drawn again")


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """The file of six scenes, four of which were drawn."""
    images = kept(tmp_path)
    for index in (0, 1, 3, 5):
        images[index]
    (file,) = tmp_path.iterdir()
    assert file.name == f"{images.fingerprint()}.rgb"
    return file


def test_kept_scenes_are_the_drawn_ones_and_are_drawn_once(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, first = scenes(), kept(drawn.parent)
    assert all_pixels(first) == all_pixels(plain)
    assert first.targets == plain.targets
    assert first[-1][1] == plain[-1][1]
    monkeypatch.setattr(Scenes, "scene", never)
    again = kept(drawn.parent)
    assert [again[i][1] for i in range(6)] == plain.targets
    assert pixels(again[-1][0]) == pixels(first[5][0])


def test_other_settings_have_another_file(drawn: Path) -> None:
    other = kept(drawn.parent, seed=1)
    assert pixels(other[0][0]) == pixels(scenes(seed=1)[0][0]) != pixels(scenes()[0][0])
    assert len(list(drawn.parent.iterdir())) == 2


@pytest.mark.parametrize("offset", [0, 2, 4, RECORD - 1])
def test_a_spoilt_picture_is_drawn_again(drawn: Path, offset: int) -> None:
    content = bytearray(drawn.read_bytes())
    content[3 * RECORD + offset] ^= 1
    drawn.write_bytes(content)
    images = kept(drawn.parent)
    assert pixels(images[3][0]) == pixels(scenes()[3][0])
    assert drawn.read_bytes()[3 * RECORD + offset] == content[3 * RECORD + offset] ^ 1


@pytest.mark.parametrize("length", [0, 2, RECORD, 5 * RECORD + 1000])
def test_a_file_cut_short_is_filled_up(drawn: Path, length: int) -> None:
    os.truncate(drawn, length)
    assert all_pixels(kept(drawn.parent)) == all_pixels(scenes())
    assert drawn.stat().st_size == 6 * RECORD


def test_a_place_never_written_to_is_no_black_picture(drawn: Path) -> None:
    assert drawn.read_bytes()[2 * RECORD : 3 * RECORD] == bytes(RECORD)
    assert pixels(kept(drawn.parent)[2][0]) == pixels(scenes()[2][0]) != bytes(3 * SIZE**2)


def test_on_a_full_disk_scenes_are_drawn_each_time_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with caplog.at_level(logging.WARNING, "salmask"):
        assert all_pixels(kept(tmp_path)) == all_pixels(scenes())
    (line,) = caplog.messages
    assert "No space left on device; pictures are drawn anew each time" in line
    assert str(tmp_path) in line


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING, "salmask"):
        assert all_pixels(kept(tmp_path / "file" / "folder")) == all_pixels(scenes())
    assert len(caplog.messages) == 1


def test_a_set_too_large_for_the_cache_is_not_kept(tmp_path: Path) -> None:
    fits, over = 2**31 // (3 * SIZE**2), 2**31 // (3 * SIZE**2) + 1
    kept(tmp_path, count=over)[0]
    assert not list(tmp_path.iterdir())
    kept(tmp_path, count=fits)[0]
    assert len(list(tmp_path.iterdir())) == 1


def read_all(images: Scenes) -> list[bytes]:
    return all_pixels(images) + all_pixels(images)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_may_share_it(tmp_path: Path, method: str) -> None:
    images = kept(tmp_path)
    images[0]  # the file is open when the workers start
    with multiprocessing.get_context(method).Pool(3) as pool:
        results = pool.map(read_all, [images] * 3)
    assert all(result == all_pixels(scenes()) * 2 for result in results)


def test_data_sets_are_kept_in_the_users_cache_folder() -> None:
    images = open_images("scenes", "val", None, ScenesSettings(size=SIZE, val_count=3, seed=77))
    file = scenes_cache() / f"{images.fingerprint()}.rgb"
    assert not file.exists()
    images[0]
    assert file.exists()
