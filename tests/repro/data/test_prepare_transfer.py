"""`salmask data prepare` for Caltech-101 and Flowers-102: from archives, interrupted, damaged, hostile, downloaded."""

import contextlib
import errno
import hashlib
import io
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
from error_samples import message_of
from transfer_samples import (
    CALTECH,
    caltech_images,
    caltech_zip,
    flower_archives,
    make_caltech,
    recognise_miniatures,
    tar_gz,
)
from typer.testing import CliRunner

from repro.data import archives, caltech, flowers
from repro.data.annotations.archives import COCO_ARCHIVES, VOC_ARCHIVES
from repro.data.caltech import prepare_caltech101
from repro.data.catalogue import DATASETS
from repro.data.commands import app
from repro.data.flowers import official, prepare_flowers102
from repro.data.subsets import sizes
from repro.data.verification.checks import verify
from repro.errors import UserError

pytestmark = pytest.mark.usefixtures("miniatures")


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    contents = {"caltech-101.zip": caltech_zip(), **flower_archives()}
    recognise_miniatures(monkeypatch, contents)
    (tmp_path / "downloads").mkdir()
    for name, content in contents.items():
        (tmp_path / "downloads" / name).write_bytes(content)
    return tmp_path / "downloads"


def test_prepare_unpacks_what_then_verifies(downloads: Path, tmp_path: Path) -> None:
    for name, base in (("caltech101", "caltech101/101_ObjectCategories"), ("flowers102", "flowers-102/jpg")):
        root = tmp_path / name / "a root"
        arguments = ["prepare", name, "--from", str(downloads), "--root", str(root)]
        outcome = CliRunner().invoke(app, arguments)
        assert outcome.exit_code == 0, outcome.output
        assert f"{name}: ready in {root}" in outcome.stdout
        assert f"`salmask data verify {name} --root '{root}'`" in outcome.stdout  # as a shell reads it
        assert verify(name, root, workers=1).ok
        assert [path for path in root.rglob(".*") if path.name != ".salmask-prepare.lock"] == []
        stamps = {path: path.stat().st_mtime_ns for path in (root / base).rglob("*")}
        assert CliRunner().invoke(app, arguments).exit_code == 0
        assert {path: path.stat().st_mtime_ns for path in (root / base).rglob("*")} == stamps


def broken_caltech(root: Path) -> Path:
    shutil.rmtree(root / "caltech101/101_ObjectCategories/Faces")
    return root / "caltech101/101_ObjectCategories"


def broken_flowers(root: Path) -> Path:
    next((root / "flowers-102/jpg").iterdir()).unlink()
    return root / "flowers-102/jpg"


@pytest.mark.parametrize(
    ("dataset", "spoil"), [("caltech101", broken_caltech), ("flowers102", broken_flowers)], ids=["caltech", "flowers"]
)
def test_what_is_there_and_not_whole_is_never_ready(
    downloads: Path, tmp_path: Path, dataset: str, spoil: Callable[[Path], Path]
) -> None:
    """Otherwise `verify` says to prepare it, and `prepare` says that it is ready to be verified, for ever."""
    prepare, root = DATASETS[dataset].prepare, tmp_path / "root"
    assert prepare is not None
    prepare([downloads], root)
    broken = spoil(root)
    with pytest.raises(UserError) as refusal:
        prepare([downloads], root)
    assert refusal.value.mend.startswith(f"remove {broken}")
    assert "`salmask data prepare" in refusal.value.mend
    (problem,) = verify(dataset, root, workers=1).problems
    assert refusal.value.mend in problem.message
    shutil.rmtree(broken)
    prepare([downloads], root)
    assert verify(dataset, root, workers=1).ok


def test_a_list_that_is_not_the_published_one_is_replaced(downloads: Path, tmp_path: Path) -> None:
    prepare_flowers102([downloads], tmp_path / "root")
    labels = tmp_path / "root/flowers-102/imagelabels.mat"
    labels.write_bytes(labels.read_bytes()[:-1])
    (problem,) = verify("flowers102", tmp_path / "root", workers=1).problems
    assert "`salmask data prepare flowers102`" in problem.message
    prepare_flowers102([downloads], tmp_path / "root")
    assert verify("flowers102", tmp_path / "root", workers=1).ok


def test_archives_may_be_named_one_by_one(downloads: Path, tmp_path: Path) -> None:
    files = [downloads / name for name in ("102flowers.tgz", "imagelabels.mat", "setid.mat")]
    prepare_flowers102(files, tmp_path / "a")
    assert len(official(tmp_path / "a")[2]) == 180
    with pytest.raises(
        UserError, match=r"102flowers\.tgz missing; mend: download from https://www\.robots\.ox\.ac\.uk"
    ):
        prepare_flowers102(files[1:], tmp_path / "b")
    assert not (tmp_path / "b" / "flowers-102").exists()
    with pytest.raises(UserError, match=r"none\.zip: no such file or folder"):
        prepare_caltech101([tmp_path / "none.zip"], tmp_path / "c")


@pytest.mark.parametrize("dataset", ["imagenet100", "caltech101", "flowers102", "voc07+12", "coco"])
def test_a_mistyped_archive_leaves_nothing_behind(tmp_path: Path, dataset: str) -> None:
    root = tmp_path / "new" / "root"
    for wrong in ("typo.zip", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        arguments = ["prepare", dataset, "--from", str(tmp_path / wrong), "--root", str(root)]
        outcome = CliRunner().invoke(app, arguments)
        assert isinstance(outcome.exception, UserError)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("dataset", ["caltech101", "flowers102", "voc07+12", "coco"])
def test_an_archive_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    names = {
        "caltech101": ["caltech-101.zip"],
        "flowers102": ["102flowers.tgz", "imagelabels.mat", "setid.mat"],
        "voc07+12": [archive.name for archive in VOC_ARCHIVES],
        "coco": [archive.name for archive in COCO_ARCHIVES],
    }[dataset]
    for name in names:
        (tmp_path / name).touch()
    monkeypatch.setattr(hashlib, "file_digest", refuse)
    arguments = ["prepare", dataset, "--from", str(tmp_path), "--root", str(tmp_path / "root")]
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, UserError)
    assert str(error) == f"{tmp_path}/{names[0]}: Permission denied; mend: make it readable and repeat"
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("dataset", ["caltech101", "flowers102"])
def test_a_file_in_the_place_of_the_folder_is_named(downloads: Path, tmp_path: Path, dataset: str) -> None:
    place = tmp_path / "root" / {"caltech101": caltech.FOLDER, "flowers102": flowers.FOLDER}[dataset]
    place.parent.mkdir()
    place.touch()
    prepare = DATASETS[dataset].prepare
    assert prepare is not None
    with pytest.raises(UserError, match=rf"^{place}.*: Not a directory; mend: "):
        prepare([downloads], tmp_path / "root")


def test_the_older_archive_of_caltech_will_do(downloads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = {f"101_ObjectCategories/{name}": content for name, content in caltech_images().items()}
    older = tar_gz({"readme.txt": b"of no class", **images})
    recognise_miniatures(monkeypatch, {"101_ObjectCategories.tar.gz": older})
    (downloads / "caltech-101.zip").unlink()
    (downloads / "101_ObjectCategories.tar.gz").write_bytes(older)
    prepare_caltech101([downloads], tmp_path / "root")
    assert sizes(caltech.open_pool(tmp_path / "root")) == [33, 31, 36]
    assert not list(tmp_path.rglob("readme.txt"))


def test_what_another_process_prepared_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def slow_lock(root: Path) -> Iterator[None]:
        make_caltech(root)
        yield

    monkeypatch.setattr(caltech, "preparing", slow_lock)
    (tmp_path / "caltech-101.zip").write_bytes(b"not read")
    prepare_caltech101([tmp_path], tmp_path / "root")
    assert sizes(caltech.open_pool(tmp_path / "root")) == [33, 31, 36]


@pytest.mark.parametrize("dataset", ["caltech101", "flowers102"])
def test_a_wrong_checksum_is_refused_before_anything_is_unpacked(downloads: Path, tmp_path: Path, dataset: str) -> None:
    name = {"caltech101": "caltech-101.zip", "flowers102": "102flowers.tgz"}[dataset]
    (downloads / name).write_bytes((downloads / name).read_bytes()[:-10])
    prepare = DATASETS[dataset].prepare
    assert prepare is not None
    # The refused call leaves nothing: neither the root that it made, nor anything in an existing one, empty or not.
    made, empty, used = tmp_path / "new" / "root", tmp_path / "empty", tmp_path / "used"
    empty.mkdir()
    (used / "folder").mkdir(parents=True)
    (used / "mine.txt").touch()
    for root in (made, empty, used):
        with pytest.raises(UserError, match=rf"{name}: its MD5 is [0-9a-f]{{32}}, the published file's"):
            prepare([downloads], root)
    assert not made.parent.exists()
    assert list(empty.iterdir()) == []
    assert sorted(path.name for path in used.iterdir() if path.name != archives._LOCK) == ["folder", "mine.txt"]


def test_a_torn_archive_leaves_no_half_data_set(
    downloads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (downloads / "102flowers.tgz").read_bytes()
    torn = {**flower_archives(), "102flowers.tgz": whole[: len(whole) // 2]}
    recognise_miniatures(monkeypatch, torn)
    (downloads / "102flowers.tgz").write_bytes(torn["102flowers.tgz"])
    with pytest.raises(UserError, match=r"102flowers\.tgz: torn, incomplete or not the right archive"):
        prepare_flowers102([downloads], tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_an_archive_without_the_folder_is_not_the_right_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "101_ObjectCategories.tar.gz"
    other.write_bytes(tar_gz({"jpg/image_00001.jpg": b"x"}))
    recognise_miniatures(monkeypatch, {other.name: other.read_bytes()})
    line = f"{other}: holds no folder 101_ObjectCategories; not the right archive; mend: download it again"
    assert message_of(lambda: prepare_caltech101([other], tmp_path / "root")) == line
    assert not (tmp_path / "root").exists()


def test_a_member_with_fewer_bytes_than_the_archive_says_is_refused(tmp_path: Path) -> None:
    with pytest.raises(tarfile.ReadError, match=r"^a\.jpg has 2 of 3 bytes$"):
        archives.write_member(tmp_path / "a.jpg", io.BytesIO(b"ab"), 3)


def test_a_stopped_preparation_is_done_again(downloads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, counts = archives.write_member, Counter[str]()

    def stop(path: Path, stream: io.BufferedReader, size: int) -> None:
        counts["files"] += 1
        if counts["files"] == 50:
            raise KeyboardInterrupt
        write(path, stream, size)

    monkeypatch.setattr(archives, "write_member", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_caltech101([downloads], tmp_path)
    assert not (tmp_path / "caltech101/101_ObjectCategories").exists()
    monkeypatch.setattr(archives, "write_member", write)
    (tmp_path / "caltech101/.101_ObjectCategories.part/Faces").mkdir(parents=True)  # what kill -9 leaves
    (tmp_path / "caltech101/.101_ObjectCategories.part/Faces/image_9999.jpg").write_bytes(b"half")
    prepare_caltech101([downloads], tmp_path)
    assert sum(CALTECH.values()) == len(list((tmp_path / "caltech101").rglob("*.jpg")))


def test_members_that_lead_out_of_the_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = tar_gz({"jpg/../../../evil.jpg": b"x"})
    recognise_miniatures(monkeypatch, {**flower_archives(), "102flowers.tgz": hostile})
    (tmp_path / "102flowers.tgz").write_bytes(hostile)
    with pytest.raises(UserError, match=r"holds 'jpg/\.\./\.\./\.\./evil\.jpg', which does not belong there"):
        prepare_flowers102([tmp_path / "102flowers.tgz", *lists(tmp_path)], tmp_path / "a" / "b" / "root")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        link = tarfile.TarInfo("jpg/image_00001.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    recognise_miniatures(monkeypatch, {**flower_archives(), "102flowers.tgz": stream.getvalue()})
    (tmp_path / "102flowers.tgz").write_bytes(stream.getvalue())
    with pytest.raises(UserError, match="does not belong there"):
        prepare_flowers102([tmp_path], tmp_path / "a" / "b" / "root")
    assert not list(tmp_path.rglob("evil.jpg"))


def lists(folder: Path) -> list[Path]:
    for name in ("imagelabels.mat", "setid.mat"):
        (folder / name).write_bytes(flower_archives()[name])
    return [folder / "imagelabels.mat", folder / "setid.mat"]


def test_without_a_network_a_download_names_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError(OSError("Name or service not known"))

    monkeypatch.setattr("repro.data.downloads.urlopen", offline)
    with pytest.raises(UserError, match=r"cannot download https://data\.caltech.*not known\); mend: .*--from FILE"):
        prepare_caltech101([], tmp_path / "a")
    with pytest.raises(UserError, match=r"cannot download https://www\.robots.*mend: .*--from FILE"):
        prepare_flowers102([], tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_download_is_unpacked_like_a_given_archive(
    downloads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def download(url: str, root: Path, md5: str) -> Path:
        fetched.append((url, md5))
        return downloads / url.rpartition("/")[2]

    monkeypatch.setattr("repro.data.downloads.fetch", download)
    prepare_caltech101([], tmp_path / "root")
    assert fetched == [(caltech.URL, caltech.ARCHIVES["caltech-101.zip"])]
    assert sizes(caltech.open_pool(tmp_path / "root")) == [33, 31, 36]
