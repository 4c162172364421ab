"""How a writer of decoded images ends if it cannot go on, and what it does with files that are already there."""

import json
import os
import shutil
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from image_samples import write_image

from repro.data import pixel_cache_writer
from repro.data.catalogue import open_images
from repro.data.pixel_cache import CHECKSUMS, PIXELS, CachedImages, cache_folder
from repro.data.pixel_cache_writer import cache_images, damaged_chunks, read_checksums, unfinished
from repro.data.splits import Images, pixels_of
from repro.errors import UserError
from repro.settings.sections import ScenesSettings


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Images:
    """Ten images, in chunks of two."""
    for split in ("train", "val"):
        for index in range(10):
            write_image(tmp_path / "data" / split / "ant" / f"{index}.png", index, size=(40, 30))
    monkeypatch.setattr(pixel_cache_writer, "CHUNK", 2)
    return open_images("folder", "train", tmp_path / "data", ScenesSettings())


def cached(images: Images, root: Path, workers: int = 1) -> CachedImages:
    outcome = cache_images(images, "folder", "train", 32, root, workers=workers, say=lambda _: None)
    return CachedImages(Path(outcome["folder"]))


def test_what_will_be_written_is_said_first_and_what_was_is_told(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=2 * 10**9)
    monkeypatch.setattr(pixel_cache_writer.shutil, "disk_usage", lambda _: usage)
    root, said = tmp_path / "caches", list[str]()
    target = cache_folder(root, "folder", "train", 32, images.fingerprint())
    cache = partial(cache_images, images, "folder", "train", 32, root, workers=1, say=said.append)
    told = {"dataset": "folder", "split": "train", "side": 32, "images": 10, "bytes": 36_000, "decoded": 10}
    told |= {"fingerprint": f"{images.fingerprint()}-32px", "folder": str(target)}
    assert cache() == told
    # As if it had been killed after three of five chunks: the last line of a chunk counts, and a torn one for none.
    lines = (target / CHECKSUMS).read_text().splitlines(keepends=True)
    target.rename(unfinished(target))
    (unfinished(target) / CHECKSUMS).write_text("".join(['{"chunk": 0, "crc32": 7}\n', *lines[:3], lines[3][:-5]]))
    assert read_checksums(unfinished(target)) == {each["chunk"]: each["crc32"] for each in map(json.loads, lines[:3])}
    assert cache() == told | {"decoded": 4}
    assert damaged_chunks(target, 1) == []
    room = f"are to be written to {root}, where 2.0 GB are free"
    assert said == [
        f"{target.name}: 10 images at 32 px will take 36.0 kB; {missing} {room}" for missing in ("36.0 kB", "14.4 kB")
    ]


def test_a_chunks_checksum_follows_its_pixels_to_the_disk_and_the_name_of_the_whole_comes_last(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut, a line whose pixels never reached the disk would be taken for a whole chunk."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    cache = cached(images, tmp_path / "caches")
    files = {(cache.folder / name).stat().st_ino: name for name in (PIXELS, CHECKSUMS)}
    assert [files[inode] for inode in synced if inode in files] == [PIXELS, CHECKSUMS] * 5
    assert synced[-1] == (tmp_path / "caches").stat().st_ino


def test_after_an_error_no_further_images_are_decoded(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of 10^5 images would be decoded before the error is shown."""
    decoded: list[int] = []

    def read(of: Images, index: int) -> Any:
        decoded.append(index)
        if index == 0:
            raise UserError("torn", mend="replace it")
        time.sleep(0.1)
        return pixels_of(of, index)

    monkeypatch.setattr(pixel_cache_writer, "pixels_of", read)
    with pytest.raises(UserError, match="torn"):
        cached(images, tmp_path / "caches")
    # A chunk or two may begin before the error is seen, on a busy machine; if nothing stopped the work, all five would.
    assert max(decoded) < len(images) - 2


@pytest.mark.parametrize("what", ["pixels", "label"])
def test_an_image_that_changed_meanwhile_is_refused_with_a_mend_that_mends(
    what: str, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advice to start again led to the same index, and to the same image."""

    def read(of: Images, index: int) -> Any:
        pixels, label = pixels_of(of, index)
        if index == 5:
            return (pixels[:, :-1], label) if what == "pixels" else (pixels, label + 1)
        return pixels, label

    part = unfinished(cache_folder(tmp_path / "caches", "folder", "train", 32, images.fingerprint()))
    with monkeypatch.context() as patches:
        patches.setattr(pixel_cache_writer, "pixels_of", read)
        with pytest.raises(
            UserError, match=r"image 5 has changed since .*; mend: remove this folder and start"
        ) as caught:
            cached(images, tmp_path / "caches")
    assert str(caught.value).startswith(f"{part}: ")
    shutil.rmtree(part)
    assert np.array_equal(cached(images, tmp_path / "caches").pixels(5)[0], pixels_of(images, 5)[0])


def test_checksums_of_no_plan_count_for_nothing(images: Images, tmp_path: Path) -> None:
    """A plan without its manifest was not finished, or was removed; its checksums may not fit the present files."""
    part = unfinished(cache_folder(tmp_path / "caches", "folder", "train", 32, images.fingerprint()))
    part.mkdir(parents=True)
    (part / CHECKSUMS).write_text("".join(json.dumps({"chunk": chunk, "crc32": 1}) + "\n" for chunk in range(5)))
    cache = cached(images, tmp_path / "caches")
    assert damaged_chunks(cache.folder, 1) == []
    assert all(np.array_equal(cache.pixels(index)[0], pixels_of(images, index)[0]) for index in range(10))


@pytest.mark.parametrize("check", [False, True])
def test_a_whole_cache_that_can_only_be_read_is_enough(images: Images, tmp_path: Path, check: bool) -> None:
    cache = cached(images, tmp_path / "caches")
    lock = cache.folder.with_name(f".{cache.folder.name}.lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()  # so that no lock can be taken, as in a folder of another user
    repeat = partial(cache_images, images, "folder", "train", 32, tmp_path / "caches", workers=2, check=check)
    assert repeat(say=pytest.fail)["decoded"] == 0
    (cache.folder / CHECKSUMS).write_text("")
    if check:
        with pytest.raises(UserError, match=r"mend: name a folder that can be written with --to"):
            repeat(say=lambda _: None)


def test_a_repair_reads_again_what_was_damaged_alone(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second check, under the lock, reads only the damaged chunks: the rest, maybe 30 GB, was read before."""
    cache = cached(images, tmp_path / "caches")
    with (cache.folder / PIXELS).open("r+b") as file:
        file.write(bytes(9))
    looked: list[list[int] | None] = []

    def look(folder: Path, workers: int, among: list[int] | None = None) -> list[int]:
        looked.append(among)
        return damaged_chunks(folder, workers, among)

    monkeypatch.setattr(pixel_cache_writer, "damaged_chunks", look)
    mend = partial(cache_images, images, "folder", "train", 32, tmp_path / "caches", workers=2, check=True)
    assert mend(say=lambda _: None)["decoded"] == 2
    assert looked == [None, [0]]
    assert mend(say=lambda _: None)["decoded"] == 0


def test_whoever_may_not_mend_a_damaged_cache_is_told_that_it_is(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's damaged cache used to be told as closed, and nothing more."""

    def closed(*_: Any, **__: Any) -> None:
        raise UserError("cannot write to it")

    cache, said = cached(images, tmp_path / "caches"), list[str]()
    with (cache.folder / PIXELS).open("r+b") as file:
        file.write(bytes([file.read(1)[0] ^ 4]))
    monkeypatch.setattr(pixel_cache_writer, "writing", closed)
    with pytest.raises(UserError, match="cannot write to it"):
        cache_images(images, "folder", "train", 32, tmp_path / "caches", workers=1, check=True, say=said.append)
    assert said == [f"{cache.folder}: 1 part of 2 images damaged, to be decoded again"]
