"""The file with the maps of all images: missing maps are known, and it works without a writable place."""

import errno
import mmap
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from repro.filesystem.files import checksum
from repro.saliency.map_file import CHUNK, MapFile, map_path
from repro.saliency.true_maps import true_maps
from repro.scenes.dataset import Scenes
from repro.settings.saliency_sources import SaliencySource


def numbered(count: int, grid: int = 3) -> np.ndarray:
    return np.arange(count * grid**2, dtype=np.float16).reshape(count, grid, grid)


def fill(file: MapFile, maps: np.ndarray) -> None:
    for chunk in range(file.chunks):
        file.write(chunk, maps[file.images_of(chunk)])


def test_a_map_file_gives_back_what_was_written_and_knows_what_is_missing(tmp_path: Path) -> None:
    count, path = 2 * CHUNK + 5, tmp_path / "folder" / "maps.f16"
    maps = numbered(count)
    file = MapFile(path, count, 3)
    assert [file.is_whole(chunk) for chunk in range(file.chunks)] == [False] * 3
    file.write(1, maps[CHUNK : 2 * CHUNK])
    assert [MapFile(path, count, 3).is_whole(chunk) for chunk in range(3)] == [False, True, False]
    fill(file, maps)
    assert np.array_equal(MapFile(path, count, 3).read().numpy(), maps)
    assert path.stat().st_size == count * 18 + 3 * 4


def test_maps_that_were_found_whole_are_not_looked_through_again(tmp_path: Path) -> None:
    maps = numbered(2 * CHUNK)
    fill(MapFile(tmp_path / "m", len(maps), 3), maps)
    file = MapFile(tmp_path / "m", len(maps), 3)
    with patch("repro.saliency.map_file.checksum", side_effect=checksum) as look:
        assert all(file.is_whole(chunk) for _ in range(3) for chunk in range(2))
        assert np.array_equal(file.read().numpy(), maps)
    assert look.call_count == 2


def test_maps_of_zeros_are_no_missing_ones(tmp_path: Path) -> None:
    file = MapFile(tmp_path / "m", 10, 3)
    file.write(0, np.zeros((10, 3, 3), np.float16))
    assert MapFile(tmp_path / "m", 10, 3).is_whole(0)


@pytest.mark.parametrize("place", [0, 17, CHUNK * 18 - 1, 2 * CHUNK * 18 + 1])
def test_a_torn_chunk_is_missing(tmp_path: Path, place: int) -> None:
    path = tmp_path / "m"
    fill(MapFile(path, 2 * CHUNK, 3), numbered(2 * CHUNK))
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)
    assert not MapFile(path, 2 * CHUNK, 3).is_whole(0)
    assert MapFile(path, 2 * CHUNK, 3).is_whole(1)


@pytest.mark.parametrize("length", [0, 100])
def test_another_users_file_that_is_too_short_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    path, maps = tmp_path / "m", numbered(10)
    path.write_bytes(bytes(length))
    monkeypatch.setattr(os, "access", lambda place, mode: mode != os.W_OK)
    file = MapFile(path, len(maps), 3)
    assert not file.is_whole(0)
    fill(file, maps)
    assert np.array_equal(file.read().numpy(), maps)
    assert path.read_bytes() == bytes(length)


def test_another_users_file_that_lacks_maps_is_said_to_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, maps = tmp_path / "m", numbered(2 * CHUNK)
    MapFile(path, len(maps), 3).write(1, maps[CHUNK:])
    monkeypatch.setattr(os, "access", lambda place, mode: mode != os.W_OK)
    file = MapFile(path, len(maps), 3)
    file.write(0, maps[:CHUNK])
    assert np.array_equal(file.read().numpy(), maps)
    (record,) = caplog.records
    assert "Permission denied" in record.getMessage()


def test_a_file_with_holes_is_read_and_not_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = numbered(2 * CHUNK + 5)
    file = MapFile(tmp_path / "m", len(maps), 3)
    file.write(1, maps[CHUNK : 2 * CHUNK])
    monkeypatch.setattr(mmap, "mmap", None)
    read = file.read().numpy()
    assert np.array_equal(read[CHUNK : 2 * CHUNK], maps[CHUNK : 2 * CHUNK])
    assert not read[:CHUNK].any()
    assert not read[2 * CHUNK :].any()


def test_maps_are_those_of_the_file_that_was_looked_through(tmp_path: Path) -> None:
    """If another file took this one's name meanwhile, empty as a run begins it, all maps used to be zeros."""
    maps = numbered(CHUNK + 5)
    file = MapFile(tmp_path / "m", len(maps), 3)
    fill(file, maps)
    (tmp_path / "m").unlink()
    another = MapFile(tmp_path / "m", len(maps), 3)
    assert np.array_equal(file.read().numpy(), maps)
    assert not another.is_whole(0)


def test_the_first_to_write_a_chunk_has_written_it(tmp_path: Path) -> None:
    first, second = (MapFile(tmp_path / "m", 8, 3) for _ in range(2))
    first.write(0, numbered(8))
    second.write(0, numbered(8) + 1)
    assert np.array_equal(second.read().numpy(), numbered(8))


def test_maps_that_cannot_be_written_are_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    maps = numbered(3 * CHUNK)
    file = MapFile(tmp_path / "m", len(maps), 3)
    file.write(0, maps[:CHUNK])
    monkeypatch.setattr(os, "pwrite", full)
    fill(file, maps)
    assert all(file.is_whole(chunk) for chunk in range(3))
    assert np.array_equal(file.read().numpy(), maps)
    (tmp_path / "file").write_text("")
    nowhere = MapFile(tmp_path / "file" / "m", len(maps), 3)
    fill(nowhere, maps)
    assert np.array_equal(nowhere.read().numpy(), maps)
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "No space left on device; saliency maps are kept in memory only",
        f"{tmp_path / 'file'} is not a folder; saliency maps are kept in memory only",
    ]


def test_each_degree_of_a_source_has_maps_of_its_own() -> None:
    """A file of maps is named by the source: without its number, one dose would be read in the place of another."""
    names = ["truth", *(f"truth-{change}-{cells}" for change in ("dilated", "eroded", "shifted") for cells in (1, 2))]
    masks = Scenes("train", count=1, size=64).main_mask
    paths = {map_path(true_maps(SaliencySource.parse(name), masks).identity, "images") for name in names}
    assert len(paths) == len(names)
