import errno
import hashlib
import io
import os
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

import pytest
from scene_samples import copied
from training_samples import files_below, refused, salmask

from repro.data import downloads
from repro.data.annotations import archives as detection_archives
from repro.data.annotations import coco, voc
from repro.data.annotations.archives import COCO_ARCHIVES, VOC_ARCHIVES, Archive
from repro.errors import UserError


def recognise(monkeypatch: pytest.MonkeyPatch, name: str, archives: tuple[Archive, ...], folder: Path) -> None:
    """Make the checks take the miniatures for the published files."""
    digests = [hashlib.md5((folder / archive.name).read_bytes()).hexdigest() for archive in archives]
    miniatures = tuple(replace(archive, md5=digest) for archive, digest in zip(archives, digests, strict=True))
    monkeypatch.setattr(detection_archives, name, miniatures)


@pytest.fixture
def tars(voc_kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """VOC's three archives, with all of their splits, and with files that detection does not need."""
    downloads = tmp_path / "tars"
    downloads.mkdir()
    for image_set, archive in zip(voc.IMAGE_SETS, VOC_ARCHIVES, strict=True):
        year = voc_kit / f"VOC{image_set.year}"
        ids = voc.image_ids(voc_kit, image_set)
        names = [f"Annotations/{name}.xml" for name in ids] + [f"JPEGImages/{name}.jpg" for name in ids]
        names += [f"ImageSets/Main/{path.name}" for path in (year / "ImageSets/Main").glob(f"*{image_set.split}.txt")]
        with tarfile.open(downloads / archive.name, "w") as tar:
            for name in names:
                tar.add(year / name, f"VOCdevkit/VOC{image_set.year}/{name}")
            for extra in ("VOCdevkit/VOCcode/VOCinit.m", f"VOCdevkit/VOC{image_set.year}/SegmentationClass/1.png"):
                tar.addfile(tarfile.TarInfo(extra))
            escaping = tarfile.TarInfo(f"VOCdevkit/VOC{image_set.year}/Annotations/../../../../outside.xml")
            tar.addfile(escaping)
    recognise(monkeypatch, "VOC_ARCHIVES", VOC_ARCHIVES, downloads)
    return downloads


@pytest.fixture
def zips(coco_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    downloads = tmp_path / "zips"
    downloads.mkdir()
    for archive in COCO_ARCHIVES:
        inside = "annotations" if archive.name == coco.ANNOTATION_ARCHIVE else archive.name.removesuffix(".zip")
        with zipfile.ZipFile(downloads / archive.name, "w") as packed:
            packed.mkdir(inside)
            for path in sorted((coco_folder / inside).iterdir()):
                packed.write(path, f"{inside}/{path.name}")
            packed.writestr(f"{inside}/../../outside.jpg", "no")
            packed.writestr("annotations/captions_val2017.json", "{}")
    recognise(monkeypatch, "COCO_ARCHIVES", COCO_ARCHIVES, downloads)
    return downloads


def content(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in files_below(root) if not name.startswith(".salmask")}


def test_voc_is_unpacked_as_it_was(tars: Path, voc_kit: Path, tmp_path: Path) -> None:
    root = tmp_path / "voc"
    outcome = salmask("data", "prepare", "voc07+12", "--from", str(tars), "--root", str(root))
    assert outcome.code == 0, outcome.err
    assert content(root / "VOCdevkit") == content(voc_kit)
    assert tuple(voc.check_layout(root).annotations[voc.TEST[0]]) == voc.image_ids(voc_kit, voc.TEST[0])
    assert not (tmp_path / "outside.xml").exists()


def test_coco_is_unpacked_as_it_was(zips: Path, coco_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "coco"
    outcome = salmask("data", "prepare", "coco", "--from", str(zips), "--root", str(root))
    assert outcome.code == 0, outcome.err
    assert content(root) == content(coco_folder)
    assert coco.survey_root(root).images == {"train2017": 8, "val2017": 5}
    assert not (tmp_path / "outside.jpg").exists()


@pytest.mark.parametrize("dataset", ["voc07+12", "coco"])
def test_what_is_whole_needs_no_archive(
    dataset: str, voc_kit: Path, coco_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object) -> None:
        raise UserError("it is downloaded")

    monkeypatch.setattr(downloads, "fetch", download)
    module, source = {"voc07+12": (voc, voc_kit), "coco": (coco, coco_folder)}[dataset]
    monkeypatch.setattr(module, "EXPECTED", module.survey_root(source).images)
    root = copied(source, tmp_path / "root")
    (tmp_path / "empty").mkdir()
    command = ("data", "prepare", dataset, "--root", str(root))
    for given in ((), ("--from", str(tmp_path / "empty"))):
        outcome = salmask(*command, *given)
        assert outcome.code == 0, outcome.err
    next(root.rglob("*.jpg")).unlink()
    assert refused(*command) == "it is downloaded"
    assert " missing; mend: download from " in refused(*command, "--from", str(tmp_path / "empty"))


def test_it_goes_on_where_it_was_stopped(
    tars: Path, voc_kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "voc"
    arguments = ("data", "prepare", "voc07+12", "--from", str(tars), "--root", str(root))
    write, targets = detection_archives.write_member_atomically, []

    def stopping(target: Path, *rest: object, synced: bool) -> None:
        if len(targets) == 20:
            raise KeyboardInterrupt
        targets.append(target)
        write(target, *rest, synced=synced)  # type: ignore[arg-type]

    monkeypatch.setattr(detection_archives, "write_member_atomically", stopping)
    assert salmask(*arguments).code == 130
    monkeypatch.setattr(detection_archives, "write_member_atomically", write)
    torn = targets[3]
    torn.write_bytes(torn.read_bytes()[:-1])
    times = {path: path.stat().st_mtime_ns for path in targets if path != torn}
    assert salmask(*arguments).code == 0
    assert content(root / "VOCdevkit") == content(voc_kit)
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_the_kit_itself_may_be_named(tars: Path, voc_kit: Path, tmp_path: Path) -> None:
    kit = tmp_path / "VOCdevkit"
    copied(voc_kit / "VOC2007", kit / "VOC2007")
    outcome = salmask("data", "prepare", "voc07+12", "--from", str(tars), "--root", str(kit))
    assert outcome.code == 0, outcome.err
    assert content(kit) == content(voc_kit)
    assert voc.find_devkit(kit) == kit


def test_a_full_disk_keeps_no_half_of_a_file(
    zips: Path, coco_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfileobj

    def fill(source: IO[bytes], target: IO[bytes]) -> None:
        target.write(source.read(10))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", fill)
    arguments = ("data", "prepare", "coco", "--from", str(zips), "--root", str(tmp_path / "root"))
    assert "the disk is full" in refused(*arguments)
    assert not content(tmp_path / "root")
    monkeypatch.setattr(shutil, "copyfileobj", copy)
    assert salmask(*arguments).code == 0
    assert content(tmp_path / "root") == content(coco_folder)


def test_missing_torn_and_foreign_archives_are_named(tars: Path, zips: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    line = refused("data", "prepare", "coco", "--from", str(tars), "--root", str(root))
    assert line.startswith(
        f"{tars}: annotations_trainval2017.zip, val2017.zip, train2017.zip missing; mend: download from "
    )
    assert "http://images.cocodataset.org/annotations/annotations_trainval2017.zip, " in line
    assert line.endswith("with --from")
    archive = tars / "VOCtest_06-Nov-2007.tar"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-2000])
    line = refused("data", "prepare", "voc07+12", "--from", str(tars), "--root", str(root))
    assert line.startswith(f"{archive}: its MD5 is {hashlib.md5(whole[:-2000]).hexdigest()}, the published file's ")
    assert not root.exists()


def test_an_archive_of_something_else_is_refused(tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tars / "VOCtrainval_06-Nov-2007.tar"
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("README"))
    path.write_bytes(stream.getvalue())
    recognise(monkeypatch, "VOC_ARCHIVES", VOC_ARCHIVES, tars)
    line = refused("data", "prepare", "voc07+12", "--from", str(tars), "--root", str(tmp_path / "root"))
    assert line.startswith(f"{path}: torn, incomplete or not the right archive (it holds nothing that detection needs)")
    assert not (tmp_path / "root").exists()


def test_only_what_detection_needs_is_wanted() -> None:
    of_voc, instances, images = VOC_ARCHIVES[0].needs, COCO_ARCHIVES[0].needs, COCO_ARCHIVES[1].needs
    assert of_voc(PurePosixPath("VOCdevkit/VOC2007/ImageSets/Main/cat_trainval.txt"))
    assert not of_voc(PurePosixPath("VOCdevkit/VOC2007/SegmentationObject/000032.png"))
    assert not of_voc(PurePosixPath("elsewhere/VOC2007/JPEGImages/1.jpg"))
    assert instances(PurePosixPath("annotations/instances_val2017.json"))
    assert not instances(PurePosixPath("annotations/person_keypoints_val2017.json"))
    assert images(PurePosixPath("val2017/000000000139.jpg"))
    assert not images(PurePosixPath("test2017/000000000001.jpg"))


def test_the_checksums_of_voc_are_torchvisions() -> None:
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    # By the archive's path: torchvision 0.26 still names the host that was there before.
    published = {urlsplit(entry["url"]).path: entry["md5"] for entry in DATASET_YEAR_DICT.values()}
    assert {urlsplit(archive.url).path: archive.md5 for archive in VOC_ARCHIVES}.items() <= published.items()
