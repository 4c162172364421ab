import json
import os
from pathlib import Path

import pytest
from error_samples import message_of
from image_samples import bad_image
from PIL import Image
from scene_samples import copied, spoil_text
from training_samples import salmask

from repro.data.annotations import voc
from repro.data.annotations.findings import BrokenFileError
from repro.data.annotations.voc_annotation import read_annotation
from repro.data.verification.checks import verify


@pytest.fixture
def root(voc_kit: Path, tmp_path: Path) -> Path:
    copied(voc_kit, tmp_path / "data" / "VOCdevkit")
    return tmp_path / "data"


def refusal(root: Path) -> str:
    return message_of(lambda: voc.check_layout(root))


def refusal_by_lists(root: Path) -> str:
    return message_of(lambda: voc.require_lists(root))


# Reading


def test_boxes_are_read_as_voc_means_them(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(
        "<annotation><size><width>353</width><height>500</height><depth>3</depth></size>"
        "<object><name>dog</name><difficult>0</difficult><part><name>head</name><bndbox><xmin>9</xmin></bndbox></part>"
        "<bndbox><xmin>48</xmin><ymin>240</ymin><xmax>195</xmax><ymax>371</ymax></bndbox></object>"
        "<object><name>person</name><difficult>1</difficult>"
        "<bndbox><xmax>352.5</xmax><xmin>1</xmin><ymin>1</ymin><ymax>500</ymax></bndbox></object>"
        "<object><name>cat</name><bndbox><xmin>9</xmin><ymin>8</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object>"
        "</annotation>"
    )
    annotation = read_annotation(path)
    assert annotation.size == (353, 500)
    dog, person, cat = annotation.objects
    assert (dog.name, dog.box, dog.difficult) == ("dog", (47, 239, 195, 371), False)
    assert (person.name, person.box, person.difficult) == ("person", (0, 0, 352.5, 500), True)
    assert (cat.box, cat.difficult) == ((8, 7, 9, 8), False)  # one pixel, which has an area


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("</annotation>", "", r"broken XML \(no element found: line \d+, column \d+\)"),
        ("<xmin>", "<left>", r"broken XML \(mismatched tag"),
        ("\t\t<name>", "\t\t<title></title><!--", "broken XML"),
        ("<width>64</width>", "", "<size><width> is missing"),
        ("<ymax>", "<ymax>x", r"object 1: <bndbox><ymax> is 'x\d+', which is not a number"),
        ("<xmin>", "<xmin>900", "has no area"),
    ],
)
def test_broken_annotations_say_what_is_wrong(root: Path, old: str, new: str, reason: str) -> None:
    path = root / "VOCdevkit/VOC2007/Annotations/000002.xml"
    spoil_text(path, old, new)
    with pytest.raises(BrokenFileError, match=f"^{path}: .*{reason}"):
        read_annotation(path)
    assert refusal(root).startswith(f"{path}: ")
    assert refusal(root).endswith(f"mend: unpack VOCtrainval_06-Nov-2007.tar into {root}, or correct your files")
    voc.require_lists(root)


# The layout


def test_a_whole_kit_is_found_below_its_folder_or_in_it(root: Path) -> None:
    for folder in (root, root / "VOCdevkit"):
        kit = voc.check_layout(folder)
        assert kit.folder == root / "VOCdevkit"
        assert {str(image_set): len(read) for image_set, read in kit.annotations.items()} == {
            "VOC2007 trainval": 4,
            "VOC2012 trainval": 9,
            "VOC2007 test": 6,
        }
        assert kit.classes == tuple(sorted(kit.classes))
        assert len(kit.classes) == 5
        assert sum(len(image.objects) for read in kit.annotations.values() for image in read.values()) >= 19


def test_without_lists_of_classes_they_are_vocs_twenty(root: Path) -> None:
    for path in (root / "VOCdevkit/VOC2007/ImageSets/Main").glob("*_trainval.txt"):
        path.unlink()
    assert voc.class_names(root / "VOCdevkit") == voc.CLASSES
    assert len(voc.CLASSES) == 20
    assert "is none of the 20 classes" in refusal(root)


def test_what_a_mac_leaves_beside_the_lists_is_no_class(root: Path) -> None:
    classes = voc.class_names(root / "VOCdevkit")
    (root / f"VOCdevkit/VOC2007/ImageSets/Main/._{classes[0]}_trainval.txt").touch()
    assert voc.class_names(root / "VOCdevkit") == classes


def test_wrong_roots_are_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").startswith(f"{tmp_path}/empty: holds neither VOCdevkit nor VOC2007 and VOC2012")
    assert "name the folder above it" in refusal(root / "VOCdevkit" / "VOC2007")


def test_voc_without_2012_is_refused_where_it_is_needed(root: Path) -> None:
    (root / "VOCdevkit/VOC2012").rename(root / "elsewhere")
    assert refusal(root) == (
        f"{root}/VOCdevkit/VOC2012: the folder is missing (VOC2007 is there); "
        f"mend: unpack VOCtrainval_11-May-2012.tar into {root}, or correct your files"
    )
    assert refusal_by_lists(root) == refusal(root)


def test_a_missing_list_is_a_missing_split(root: Path) -> None:
    test = root / "VOCdevkit/VOC2007/ImageSets/Main/test.txt"
    test.write_text("\n")
    assert refusal(root).startswith(f"{test}: lists no image; mend: unpack VOCtest_06-Nov-2007.tar")
    test.write_text("000005 -1\n")
    assert "'000005 -1' is not the name of an image" in refusal(root)
    test.unlink()
    assert refusal(root).startswith(f"{test}: the list of images is missing")
    os.mkfifo(test)  # opening it would block
    assert refusal(root).startswith(f"{test}: not a regular file")
    test.unlink()
    test.symlink_to(test)  # nobody can read it, not even root
    assert refusal(root).startswith(f"{test}: Too many levels of symbolic links; mend: ")
    test.unlink()
    test.write_bytes("000005é\n".encode("latin-1"))
    assert refusal(root).startswith(f"{test}: cannot be read as text; mend: ")
    assert refusal_by_lists(root) == refusal(root)


def test_a_list_as_other_systems_write_it_is_read(root: Path) -> None:
    kit, test = root / "VOCdevkit", voc.TEST[0]
    names = voc.image_ids(kit, test)
    (kit / "VOC2007/ImageSets/Main/test.txt").write_text("\ufeff" + "\r\n".join([*names, " ", ""]), encoding="utf-8")
    assert voc.image_ids(kit, test) == names


def test_images_to_train_on_and_to_score_on_are_refused(root: Path) -> None:
    test = root / "VOCdevkit/VOC2007/ImageSets/Main/test.txt"
    test.write_text(test.read_text() + "000004\n")
    image = root / "VOCdevkit/VOC2007/JPEGImages/000004.jpg"
    assert refusal(root) == (
        f"{image}: is listed in VOC2007 trainval and in VOC2007 test; mend: unpack both archives again"
    )


def test_a_folder_that_cannot_be_listed_is_not_called_empty(root: Path) -> None:
    images = root / "VOCdevkit/VOC2007/JPEGImages"
    images.rename(root / "elsewhere")
    images.symlink_to(images)  # nobody can list it, not even root
    assert refusal(root) == f"{images}: Too many levels of symbolic links; mend: make it readable"
    (problem,) = verify("voc07+12", root, workers=1).problems
    assert (problem.kind, problem.message) == (
        "unusable",
        "VOCdevkit/VOC2007/JPEGImages: Too many levels of symbolic links; mend: make it readable",
    )


def test_annotations_of_the_other_split_alone(root: Path) -> None:
    """As if only trainval was unpacked, while test's lists are there."""
    year = root / "VOCdevkit/VOC2007"
    for name in (year / "ImageSets/Main/test.txt").read_text().split():
        (year / "Annotations" / f"{name}.xml").unlink()
    assert refusal(root) == (
        f"{year}/Annotations: no annotation of test is there, 6 are listed; "
        f"mend: unpack VOCtest_06-Nov-2007.tar into {root}, or correct your files"
    )


def test_missing_images_are_counted(root: Path) -> None:
    images = root / "VOCdevkit/VOC2012/JPEGImages"
    for number in (3, 5, 8):
        (images / f"2012_{number:06d}.jpg").unlink()
    assert refusal(root).startswith(
        f"{images}/2012_000003.jpg: the image is missing (VOC2012 trainval) (and 2 more: "
        f"{images}/2012_000005.jpg: the image is missing (VOC2012 trainval); "
        f"{images}/2012_000008.jpg: the image is missing (VOC2012 trainval)); mend: "
    )


def test_a_split_without_objects_is_refused(root: Path) -> None:
    annotations = root / "VOCdevkit/VOC2007/Annotations"
    for name in voc.image_ids(root / "VOCdevkit", voc.TEST[0]):
        (annotations / f"{name}.xml").write_text(
            "<annotation><size><width>64</width><height>64</height></size></annotation>"
        )
    assert refusal(root).startswith(f"{annotations}: no object in any image of test; mend: ")


# All that is wrong at once


def test_verify_finds_everything(root: Path) -> None:
    kit = root / "VOCdevkit"
    images, annotations = kit / "VOC2007/JPEGImages", kit / "VOC2007/Annotations"
    (images / "000001.jpg").unlink()
    (annotations / "000002.xml").unlink()
    spoil_text(annotations / "000003.xml", "</object>", "")
    spoil_text(annotations / "000004.xml", "<width>64", "<width>20")
    test = kit / "VOC2007/ImageSets/Main/test.txt"
    test.write_text(test.read_text() + "000004\n")
    bad_image(images, "truncated").rename(images / "000005.jpg")
    Image.new("RGB", (30, 64)).save(images / "000006.jpg")
    copy = images / "000007.jpg"
    copy.write_bytes((kit / "VOC2012/JPEGImages/2012_000001.jpg").read_bytes())
    strange = kit / "VOC2012/Annotations/2012_000002.xml"
    name = strange.read_text().split("<name>")[1].split("<")[0]
    spoil_text(strange, f"<name>{name}</name>", "<name>unicorn</name>")
    report = verify("voc07+12", root, workers=1)
    problems = {(problem.kind, problem.path) for problem in report.problems}
    expected = {
        ("missing-image", str(images / "000001.jpg")),
        ("missing-annotation", str(annotations / "000002.xml")),
        ("broken-annotation", str(annotations / "000003.xml")),
        ("outside-image", str(annotations / "000004.xml")),
        ("overlap", str(images / "000004.jpg")),
        ("unreadable", str(images / "000005.jpg")),
        ("wrong-size", str(images / "000006.jpg")),
        ("wrong-size", str(images / "000004.jpg")),
        ("overlap", str(copy)),
        ("unknown-class", str(strange)),
    }
    assert problems == expected
    messages = {(problem.kind, problem.path): problem.message for problem in report.problems}
    sizes = "30×64 pixels, where its annotation says 64×64"
    assert messages["wrong-size", str(images / "000006.jpg")] == sizes
    assert "'unicorn' is none of the 5 classes; mend: " in messages["unknown-class", str(strange)]
    assert report.images == {"VOC2007 trainval": 4, "VOC2012 trainval": 9, "VOC2007 test": 7}


def test_verify_tells_counts_of_objects_and_what_is_unusual(root: Path) -> None:
    report = verify("voc07+12", root, workers=2)
    assert report.ok
    assert list(report.counts) == [str(image_set) for image_set in voc.IMAGE_SETS]
    assert report.total("VOC2012 trainval") == 9
    texts = [path.read_text() for path in (root / "VOCdevkit/VOC2012/Annotations").iterdir()]
    assert sum(report.counts["VOC2012 trainval"].values()) == sum(text.count("<object>") for text in texts)
    first, *rest = report.warnings
    assert first == f"its 5 classes are not VOC's 20 (the first is '{voc.class_names(root / 'VOCdevkit')[0]}')"
    assert rest == [
        "VOC2007 trainval: 4 images, where PASCAL VOC 2007 + 2012 has 5011",
        "VOC2012 trainval: 9 images, where PASCAL VOC 2007 + 2012 has 11540",
        "VOC2007 test: 6 images, where PASCAL VOC 2007 + 2012 has 4952",
    ]


def test_the_command_exits_by_what_it_found(root: Path, tmp_path: Path) -> None:
    outcome = salmask("data", "verify", "voc07+12", "--root", str(root), "--workers", "1", "--quick")
    assert outcome.code == 0
    assert "no problems; images not decoded" in outcome.out
    (root / "VOCdevkit/VOC2012").rename(root / "elsewhere")
    outcome = salmask("data", "verify", "voc07+12", "--root", str(root), "--workers", "1", "--json")
    assert outcome.code == 1
    (problem,) = json.loads(outcome.out)["problems"]
    assert (problem["kind"], problem["path"]) == ("missing-split", f"{root}/VOCdevkit/VOC2012")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    outcome = salmask("data", "verify", "voc07+12", "--root", str(tmp_path / "other"))
    assert outcome.code == 1
    assert "holds neither VOCdevkit nor" in outcome.out


def test_annotated_images_cannot_be_pretrained_on_as_classes(root: Path) -> None:
    outcome = salmask("pretrain", "mocov2", "data.dataset=voc07+12", "--root", str(root), "--out", str(root / "runs"))
    assert outcome.code == 2
    assert "no single class to learn or to score; mend: use them by `salmask eval RUN --task voc07+12`" in outcome.err
