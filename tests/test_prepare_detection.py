import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from scene_samples import coco_root, voc_root
from training_samples import files_below, refused, salmask

from repro.data.annotations import archives as detection_archives
from repro.data.annotations import coco, voc
from repro.data.annotations.archives import COCO_ARCHIVES, VOC_ARCHIVES, Archive


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return voc_root(tmp_path_factory.getbasetemp() / "scenes-voc")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coco_root(tmp_path_factory.getbasetemp() / "scenes-coco")


def known(monkeypatch: pytest.MonkeyPatch, name: str, archives: tuple[Archive, ...], place: Path) -> None:
    """Take the miniatures for the published files."""
    digests = [hashlib.md5((place / archive.name).read_bytes()).hexdigest() for archive in archives]
    changed = tuple(replace(archive, md5=digest) for archive, digest in zip(archives, digests, strict=True))
    monkeypatch.setattr(detection_archives, name, changed)


@pytest.fixture
def tars(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """VOC's three archives: each has all of its split, and what detection does not need."""
    place = tmp_path / "tars"
    place.mkdir()
    for image_set, archive in zip(voc.IMAGE_SETS, VOC_ARCHIVES, strict=True):
        year = kit / f"VOC{image_set.year}"
        ids = voc.image_ids(kit, image_set)
        wanted = [f"Annotations/{name}.xml" for name in ids] + [f"JPEGImages/{name}.jpg" for name in ids]
        wanted += [f"ImageSets/Main/{path.name}" for path in (year / "ImageSets/Main").glob(f"*{image_set.split}.txt")]
        with tarfile.open(place / archive.name, "w") as tar:
            for name in wanted:
                tar.add(year / name, f"VOCdevkit/VOC{image_set.year}/{name}")
            for extra in ("VOCdevkit/VOCcode/VOCinit.m", f"VOCdevkit/VOC{image_set.year}/SegmentationClass/1.png"):
                tar.addfile(tarfile.TarInfo(extra))
            escaping = tarfile.TarInfo(f"VOCdevkit/VOC{image_set.year}/Annotations/../../../../outside.xml")
            tar.addfile(escaping)
    known(monkeypatch, "VOC_ARCHIVES", VOC_ARCHIVES, place)
    return place


@pytest.fixture
def zips(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "zips"
    place.mkdir()
    for archive in COCO_ARCHIVES:
        inside = "annotations" if archive.name == coco.ANNOTATION_ARCHIVE else archive.name.removesuffix(".zip")
        with zipfile.ZipFile(place / archive.name, "w") as packed:
            packed.mkdir(inside)
            for path in sorted((folder / inside).iterdir()):
                packed.write(path, f"{inside}/{path.name}")
            packed.writestr(f"{inside}/../../outside.jpg", "no")
            packed.writestr("annotations/captions_val2017.json", "{}")
    known(monkeypatch, "COCO_ARCHIVES", COCO_ARCHIVES, place)
    return place


def content(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in files_below(root) if not name.startswith(".salmask")}


def test_voc_is_unpacked_as_it_was(tars: Path, kit: Path, tmp_path: Path) -> None:
    root = tmp_path / "voc"
    ended = salmask("data", "prepare", "voc07+12", "--from", str(tars), "--root", str(root))
    assert ended.code == 0, ended.err
    assert content(root / "VOCdevkit") == content(kit)
    assert voc.check_layout(root).ids[voc.TEST[0]] == voc.image_ids(kit, voc.TEST[0])
    assert not (tmp_path / "outside.xml").exists()


def test_coco_is_unpacked_as_it_was(zips: Path, folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "coco"
    ended = salmask("data", "prepare", "coco", "--from", str(zips), "--root", str(root))
    assert ended.code == 0, ended.err
    assert content(root) == content(folder)
    assert coco.check_layout(root).images == {"train2017": 8, "val2017": 5}
    assert not (tmp_path / "outside.jpg").exists()


def test_it_goes_on_where_it_was_stopped(
    tars: Path, kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "voc"
    arguments = ("data", "prepare", "voc07+12", "--from", str(tars), "--root", str(root))
    write, written = detection_archives._unpack, []

    def stopping(target: Path, *rest: object) -> None:
        if len(written) == 20:
            raise KeyboardInterrupt
        written.append(target)
        write(target, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(detection_archives, "_unpack", stopping)
    assert salmask(*arguments).code == 130
    monkeypatch.setattr(detection_archives, "_unpack", write)
    torn = written[3]
    torn.write_bytes(torn.read_bytes()[:-1])
    kept = {path: path.stat().st_mtime_ns for path in written if path != torn}
    assert salmask(*arguments).code == 0
    assert content(root / "VOCdevkit") == content(kit)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_missing_torn_and_foreign_archives_are_named(tars: Path, zips: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    line = refused("data", "prepare", "coco", "--from", str(tars), "--root", str(root))
    assert line.startswith(f"{tars}: missing http://images.cocodataset.org/annotations/annotations_trainval2017.zip, ")
    assert line.endswith("mend: download and name it with --from")
    archive = tars / "VOCtest_06-Nov-2007.tar"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-2000])
    line = refused("data", "prepare", "voc07+12", "--from", str(tars), "--root", str(root))
    assert line.startswith(f"{archive}: its MD5 is {hashlib.md5(whole[:-2000]).hexdigest()}, the published file's ")


def test_an_archive_of_something_else_is_refused(tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tars / "VOCtrainval_06-Nov-2007.tar"
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("README"))
    path.write_bytes(stream.getvalue())
    known(monkeypatch, "VOC_ARCHIVES", VOC_ARCHIVES, tars)
    line = refused("data", "prepare", "voc07+12", "--from", str(tars), "--root", str(tmp_path / "root"))
    assert line.startswith(f"{path}: torn, incomplete or not the right archive (it holds nothing that detection needs)")


def test_only_what_detection_needs_is_wanted() -> None:
    of_voc, instances, images = VOC_ARCHIVES[0].wanted, COCO_ARCHIVES[0].wanted, COCO_ARCHIVES[1].wanted
    assert of_voc(PurePosixPath("VOCdevkit/VOC2007/ImageSets/Main/cat_trainval.txt"))
    assert not of_voc(PurePosixPath("VOCdevkit/VOC2007/SegmentationObject/000032.png"))
    assert not of_voc(PurePosixPath("elsewhere/VOC2007/JPEGImages/1.jpg"))
    assert instances(PurePosixPath("annotations/instances_val2017.json"))
    assert not instances(PurePosixPath("annotations/person_keypoints_val2017.json"))
    assert images(PurePosixPath("val2017/000000000139.jpg"))
    assert not images(PurePosixPath("test2017/000000000001.jpg"))


def test_the_checksums_of_voc_are_torchvisions() -> None:
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    published = {entry["url"]: entry["md5"] for entry in DATASET_YEAR_DICT.values()}
    assert {archive.url: archive.md5 for archive in VOC_ARCHIVES}.items() <= published.items()
