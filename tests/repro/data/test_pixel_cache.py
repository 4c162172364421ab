"""A cache of decoded images holds Pillow's pixels, survives kill -9, and is written by one process at a time."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from image_samples import write_image
from PIL import Image
from training_samples import refused, salmask, tiny
from waiting import wait_until

from repro.data import pixel_cache, pixel_cache_writer
from repro.data.catalogue import open_images
from repro.data.pixel_cache import CachedImages, cache_root, open_cached, size_at
from repro.data.pixel_cache_writer import cache_images, damaged_chunks, read_checksums, unfinished
from repro.data.splits import Images, pixels_of
from repro.errors import UserError
from repro.filesystem.paths import CACHE_VARIABLE
from repro.quantities import size_text
from repro.saliency.map_file import saliency_cache
from repro.scenes.cache import scenes_cache
from repro.settings.choices import LEAST_CACHED, LONGEST_CACHED
from repro.settings.localizer_weights import weights_cache
from repro.settings.sections import ScenesSettings

SIZES = [(40, 30), (33, 70), (20, 90), (32, 32), (64, 48), (31, 31)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of 24 images, of several sizes."""
    for split in ("train", "val"):
        for index in range(24):
            name = tmp_path / "data" / split / ("ant" if index % 3 else "mole") / f"{index}.png"
            write_image(name, index, size=SIZES[index % len(SIZES)])
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pixel_cache, pixel_cache_writer):
        monkeypatch.setattr(module, "CHUNK", 5)


def images_of(data: Path) -> Images:
    return open_images("folder", "train", data, ScenesSettings())


def cached(data: Path, root: Path, side: int = 32, **options: object) -> CachedImages:
    said: list[str] = []
    outcome = cache_images(images_of(data), "folder", "train", side, root, workers=2, say=said.append, **options)
    assert outcome["folder"] == str(open_cached(images_of(data), "folder", "train", side, root, "").folder)
    return CachedImages(Path(outcome["folder"]))


def assert_holds(cache: CachedImages, images: Images, side: int) -> None:
    assert len(cache) == len(images)
    assert list(cache.targets) == list(images.targets)
    assert list(cache.classes) == list(images.classes)
    for index in range(len(images)):
        image, label = images[index]
        expected = np.asarray(image.resize(size_at(*image.size, side), Image.Resampling.BILINEAR))
        pixels, cached_label = cache.pixels(index)
        assert np.array_equal(pixels, expected)
        assert cached_label == label
        assert np.array_equal(np.asarray(cache[index][0]), expected)
        assert cache.size(index) == cache[index][0].size
        assert cache[index][1] == label


def test_it_holds_each_image_at_its_side_and_small_ones_as_they_are(data: Path, tmp_path: Path) -> None:
    cache = cached(data, tmp_path / "caches")
    assert_holds(cache, images_of(data), 32)
    assert {min(cache.size(index)) for index in range(24)} == {20, 30, 31, 32}
    assert damaged_chunks(cache.folder, 2) == []
    assert pixels_of(cache, 3)[0].base is not None  # a view of the file, no copy


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [((500, 375), 256, (341, 256)), ((375, 500), 256, (256, 341)), ((200, 100), 256, (200, 100)), ((9, 9), 9, (9, 9))],
)
def test_the_short_side_is_resized_as_torchvision_does(size: tuple, side: int, expected: tuple) -> None:
    assert size_at(*size, side) == expected


def test_the_whole_set_comes_as_flat_arrays(data: Path, tmp_path: Path) -> None:
    cache = cached(data, tmp_path / "caches")
    arrays = cache.arrays()
    assert arrays.pixels.shape == (sum(3 * h * w for h, w in zip(arrays.height, arrays.width, strict=True)),)
    assert arrays.label.tolist() == cache.targets
    for index in (0, 7, 23):
        start, height, width = arrays.offset[index], arrays.height[index], arrays.width[index]
        flat = arrays.pixels[start : start + 3 * height * width]
        assert np.array_equal(flat.reshape(height, width, 3), cache.pixels(index)[0])
    with pytest.raises(ValueError, match="read-only"):
        arrays.pixels[0] = 1


def test_a_worker_gets_the_files_and_not_the_pixels(data: Path, tmp_path: Path) -> None:
    cache = cached(data, tmp_path / "caches")
    cache.pixels(0)  # maps the file
    sent = pickle.dumps(cache)
    assert len(sent) < 5000
    assert np.array_equal(pickle.loads(sent).pixels(9)[0], cache.pixels(9)[0])


def test_the_fingerprint_names_the_original_data_and_the_side(data: Path, tmp_path: Path) -> None:
    original = images_of(data).fingerprint()
    assert cached(data, tmp_path / "caches").fingerprint() == f"{original}-32px"
    assert cached(data, tmp_path / "caches", 40).fingerprint() == f"{original}-40px"


def test_changed_data_has_another_cache(data: Path, tmp_path: Path) -> None:
    before = cached(data, tmp_path / "caches")
    write_image(data / "train" / "ant" / "new.png", 99)
    with pytest.raises(UserError, match=r"no cache of data set 'folder' as it is now at 32 px.*mend: the command, or"):
        open_cached(images_of(data), "folder", "train", 32, tmp_path / "caches", "the command")
    after = cached(data, tmp_path / "caches")
    assert after.folder != before.folder
    assert len(after) == 25


def test_what_an_interrupted_writer_finished_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def failing_at(broken: int) -> Callable[[Images, int], object]:
        def read(images: Images, index: int) -> object:
            decoded.append(index)
            if index == broken:
                raise KeyboardInterrupt
            return pixels_of(images, index)

        return read

    monkeypatch.setattr(pixel_cache_writer, "pixels_of", failing_at(13))
    with pytest.raises(KeyboardInterrupt):
        cached(data, tmp_path / "caches")
    (part,) = (tmp_path / "caches").glob(".*.part")
    kept = set(read_checksums(part))
    assert kept
    assert 2 not in kept  # the chunk of image 13
    decoded.clear()
    monkeypatch.setattr(pixel_cache_writer, "pixels_of", failing_at(-1))
    cache = cached(data, tmp_path / "caches")
    assert sorted(decoded) == [index for index in range(24) if index // 5 not in kept]
    assert_holds(cache, images_of(data), 32)
    assert damaged_chunks(cache.folder, 1) == []
    assert not part.exists()


WRITER = """
import sys, time
from pathlib import Path
from repro.data import pixel_cache, pixel_cache_writer
from repro.data.catalogue import open_images
from repro.settings.run import Run
from repro.settings.sections import ScenesSettings
pixel_cache.CHUNK = pixel_cache_writer.CHUNK = 5
read = pixel_cache_writer.pixels_of
def slowly(images, index):
    time.sleep(0.05)
    return read(images, index)
pixel_cache_writer.pixels_of = slowly
images = open_images("folder", "train", Path(sys.argv[1]), ScenesSettings())
pixel_cache_writer.cache_images(images, "folder", "train", 32, Path(sys.argv[2]), workers=2, say=print)
"""


def start_writer(data: Path, root: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", WRITER, str(data), str(root)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def test_a_writer_that_is_killed_is_followed_by_one_that_goes_on(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "caches"
    writer = start_writer(data, root)
    target = pixel_cache.cache_folder(root, "folder", "train", 32, images_of(data).fingerprint())
    wait_until(lambda: read_checksums(unfinished(target)), "a finished chunk", every=0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    kept = read_checksums(unfinished(target))
    assert 0 < len(kept) < 5
    assert not target.exists()
    cache = cached(data, root)  # its lock went with the process
    assert_holds(cache, images_of(data), 32)
    checksums = (cache.folder / pixel_cache.CHECKSUMS).read_text().splitlines()
    assert len(checksums) == 5  # no chunk was written twice


def test_two_writers_take_turns(data: Path, tmp_path: Path) -> None:
    root, said = tmp_path / "caches", list[str]()
    writer = start_writer(data, root)
    target = pixel_cache.cache_folder(root, "folder", "train", 32, images_of(data).fingerprint())
    wait_until(lambda: unfinished(target).exists(), "a writer", every=0.01)
    outcome = cache_images(images_of(data), "folder", "train", 32, root, workers=1, say=said.append)
    assert writer.wait() == 0
    assert outcome["decoded"] == 0
    assert len(said) == 1
    assert "another process is writing this cache; waiting" in said[0]
    assert_holds(CachedImages(target), images_of(data), 32)


def test_threads_of_one_process_take_turns_too(data: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        for cache in pool.map(lambda _: cached(data, tmp_path / "caches"), range(3)):
            assert_holds(cache, images_of(data), 32)


def test_a_flipped_bit_is_seen_and_mended(data: Path, tmp_path: Path) -> None:
    cache = cached(data, tmp_path / "caches")
    pixels = cache.folder / pixel_cache.PIXELS
    with pixels.open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-5, os.SEEK_END)
        file.write(bytes([byte ^ 4]))
    assert damaged_chunks(cache.folder, 2) == [4]
    outcome = cache_images(
        images_of(data), "folder", "train", 32, tmp_path / "caches", workers=2, check=True, say=lambda _: None
    )
    assert outcome["decoded"] == 4  # images 20 to 23
    assert damaged_chunks(cache.folder, 2) == []
    assert_holds(cache, images_of(data), 32)


def test_reads_that_are_cut_short_are_no_damage(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux reads at most 2 GiB at once, so that every chunk of large images used to count as damaged."""
    cache, read = cached(data, tmp_path / "caches"), os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, count, place: read(descriptor, min(count, 1000), place))
    assert damaged_chunks(cache.folder, 2) == []


def test_a_torn_line_of_checksums_counts_as_none(data: Path, tmp_path: Path) -> None:
    cache = cached(data, tmp_path / "caches")
    (cache.folder / pixel_cache.CHECKSUMS).write_text('{"chunk": 0, "crc32": 1}\n{"chunk": 1, "cr')
    assert damaged_chunks(cache.folder, 1) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("file", [pixel_cache.PIXELS, pixel_cache.INDEX_FILE, pixel_cache.MANIFEST])
def test_a_cache_with_a_short_file_is_refused(data: Path, tmp_path: Path, file: str) -> None:
    cache = cached(data, tmp_path / "caches")
    path = cache.folder / file
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"mend: remove the folder and write it again with `salmask data cache`"):
        CachedImages(cache.folder)


@pytest.mark.parametrize("array", [np.zeros(24), np.zeros((24, 1), pixel_cache.INDEX)])
def test_an_array_of_another_kind_is_no_index(data: Path, tmp_path: Path, array: np.ndarray) -> None:
    folder = cached(data, tmp_path / "caches").folder
    np.save(folder / pixel_cache.INDEX_FILE, array)
    line = rf"^{folder}: {pixel_cache.INDEX_FILE} is not of a cache; mend: {pixel_cache.WRITE_AGAIN}$"
    with pytest.raises(UserError, match=line):
        CachedImages(folder)


@pytest.mark.parametrize("size", [None, 0, 100, 200])
@pytest.mark.parametrize("file", [pixel_cache.PIXELS, pixel_cache.INDEX_FILE])
def test_what_a_check_cannot_mend_is_refused_in_one_line(
    data: Path, tmp_path: Path, file: str, size: int | None
) -> None:
    path = cached(data, tmp_path / "caches").folder / file
    path.unlink() if size is None else os.truncate(path, size)
    command = ("data", "cache", "folder", "--check", "--side", "32", "--root", str(data), "--to", str(path.parents[1]))
    if file == pixel_cache.PIXELS and size is not None:
        assert salmask(*command).code == 0  # missing pixels are decoded again
        assert damaged_chunks(path.parent, 1) == []
    else:
        assert str(path.parent) in refused(*command)


@pytest.mark.parametrize(("free", "text"), [(1000, "1.0"), (102_000, "102.0")])  # a hundredth stays free
def test_a_disk_without_room_is_refused_before_anything_is_decoded(
    data: Path, tmp_path: Path, free: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr(pixel_cache_writer.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(pixel_cache_writer, "pixels_of", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match=rf"101\.7 kB are to be written, but {text} kB are free; mend: make room"):
        cached(data, tmp_path / "caches")


def test_a_disk_that_fills_up_meanwhile_leaves_no_checksum_of_what_is_not_there(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite

    def full(descriptor: int, content: memoryview, place: int) -> int:
        if place > 10_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content[:1000], place)  # a short write, as by a signal

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match=r"the disk is full: about 101\.7 kB more are needed; mend: make room"):
        cached(data, tmp_path / "caches")
    (part,) = (tmp_path / "caches").glob(".*.part")
    assert read_checksums(part).keys() <= {0}
    monkeypatch.undo()
    monkeypatch.setattr(pixel_cache, "CHUNK", 5)
    monkeypatch.setattr(pixel_cache_writer, "CHUNK", 5)
    assert_holds(cached(data, tmp_path / "caches"), images_of(data), 32)


def test_a_bad_image_is_named_and_the_rest_is_kept(data: Path, tmp_path: Path) -> None:
    path = data / "train" / "mole" / "9.png"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UserError, match=r"mole/9\.png: the image cannot be decoded.*data verify"):
        cached(data, tmp_path / "caches")


def test_the_command_says_the_size_first_and_what_it_did_as_json(data: Path, tmp_path: Path) -> None:
    words = ("data", "cache", "folder", "--side", "32", "--root", str(data), "--to", str(tmp_path / "caches"))
    ended = salmask(*words, "--json")
    assert ended.code == 0, ended.err
    outcome = json.loads(ended.out)
    assert (outcome["images"], outcome["decoded"], outcome["side"]) == (24, 24, 32)
    assert f"24 images at 32 px will take {size_text(outcome['bytes'])}" in ended.err
    again = salmask(*words)
    assert again.code == 0
    assert again.out == f"folder: 24 images at 32 px ready in {outcome['folder']}\n"
    assert "to be written" not in again.err


@pytest.mark.parametrize("link", [False, True])
def test_what_stands_in_a_caches_place_is_refused_before_anything_is_decoded(
    data: Path, tmp_path: Path, link: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = cached(data, tmp_path / "caches").folder
    shutil.rmtree(target)
    target.symlink_to(tmp_path / "nowhere") if link else target.touch()
    monkeypatch.setattr(pixel_cache_writer, "pixels_of", lambda *_: pytest.fail("decoded"))
    words = ("data", "cache", "folder", "--side", "32", "--root", str(data), "--to", str(tmp_path / "caches"))
    assert refused(*words) == f"{target} has the name of a cache but is not a folder; mend: move it away"


@pytest.mark.parametrize("side", [LEAST_CACHED - 1, LONGEST_CACHED + 1, 10**20])
def test_a_side_that_is_not_cached_is_no_runs_either(side: int, data: Path, tmp_path: Path) -> None:
    """The mend told for such a run was a command that is refused, too."""
    words = ("data", "cache", "folder", "--side", str(side), "--root", str(data), "--to", str(tmp_path / "caches"))
    assert "invalid value for '--side'" in refused(*words)
    assert not (tmp_path / "caches").exists()
    with pytest.raises(UserError, match="cached_side"):
        tiny(changes={"data.cached_side": side})


def test_annotated_images_cannot_be_cached(tmp_path: Path) -> None:
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "VOCdevkit" / "x").touch()
    assert "no single class" in refused("data", "cache", "voc07+12", "--root", str(tmp_path))


def test_all_caches_lie_in_one_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    caches = (cache_root, scenes_cache, saliency_cache)
    assert {cache().parent.name for cache in caches} == {"salmask"}
    assert weights_cache() is None  # torch's own, which other programs share
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    folders = {cache() for cache in (*caches, weights_cache)}
    assert folders == {tmp_path / name for name in ("pixels", "scenes", "saliency", "weights")}
    assert cache_root("/given") == Path("/given")
    monkeypatch.setenv(CACHE_VARIABLE, "~/caches")
    assert cache_root() == Path.home() / "caches" / "pixels"
