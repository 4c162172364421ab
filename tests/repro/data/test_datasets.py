import errno
import hashlib
import importlib.resources
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from error_samples import message_of
from image_samples import write_image
from PIL import Image

from repro.data import folders
from repro.data import images as data_images
from repro.data.catalogue import open_images
from repro.data.errors import PathError
from repro.data.folders import FolderImages
from repro.data.imagenet import class_list
from repro.data.splits import SPLITS
from repro.errors import UserError
from repro.settings.sections import ScenesSettings

TINY = ScenesSettings(classes=4, size=64, train_count=12, val_count=8, seed=3)


# Folders


def test_a_folder_is_read_with_sorted_classes_nested_files_and_nothing_hidden(folder_root: Path) -> None:
    write_image(folder_root / "train/ant/deep/er/x.JPG", 90)
    write_image(folder_root / "train/ant/.hidden.png", 91)
    write_image(folder_root / "train/.part/0.png", 92)
    (folder_root / "train/ant/notes.txt").write_text("not an image")
    train = open_images("folder", "train", folder_root, TINY)
    assert list(train.classes) == ["ant", "mole", "zebra"]
    assert list(train.targets) == [0] * 5 + [1] * 4 + [2] * 4
    assert len(train) == 13
    image, label = train[len(train) - 1]
    assert (image.mode, image.size, label) == ("RGB", (12, 10), 2)
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(folder_root / "train/zebra/3.png")))


def test_a_class_that_val_lacks_does_not_shift_the_labels(folder_root: Path) -> None:
    for file in (folder_root / "val/mole").iterdir():
        file.unlink()
    (folder_root / "val/mole").rmdir()
    with pytest.raises(UserError, match=r"1 \(mole\) of 3 class folders missing"):
        open_images("folder", "val", folder_root, TINY)
    write_image(folder_root / "val/mole/0.png", 60)
    write_image(folder_root / "val/newt/0.png", 61)
    with pytest.raises(UserError, match=r"class folders that are not in train: 1 \(newt\)"):
        open_images("folder", "val", folder_root, TINY)


def test_missing_and_empty_folders_are_named(folder_root: Path, tmp_path: Path) -> None:
    for file in (folder_root / "val/ant").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"class folders without an image: 1 \(ant\)"):
        open_images("folder", "val", folder_root, TINY)
    with pytest.raises(UserError, match=r"test: No such file.*test/CLASS/IMAGE"):
        FolderImages(folder_root, "test")
    (tmp_path / "flat/train").mkdir(parents=True)
    write_image(tmp_path / "flat/train/0.png", 1)
    with pytest.raises(UserError, match="lie flat, without class folders; mend: put the images into one folder"):
        open_images("folder", "train", tmp_path / "flat", TINY)


def test_the_fingerprint_changes_with_names_sizes_and_labels_only(folder_root: Path) -> None:
    def fingerprint(classes: tuple[str, ...] | None = None) -> str:
        return FolderImages(folder_root, "train", classes=classes).fingerprint()

    first = fingerprint()
    assert len(first) == 16
    assert int(first, 16) >= 0
    os.utime(folder_root / "train/ant/0.png", (1, 1))
    assert fingerprint() == first
    assert fingerprint(("zebra", "mole", "ant")) != first
    file = folder_root / "train/ant/0.png"
    file.write_bytes(file.read_bytes() + b"\0")
    grown = fingerprint()
    assert grown != first
    file.rename(folder_root / "train/ant/9.png")
    assert fingerprint() not in {first, grown}


def plain_images(root: Path, seed: int, ending: str = ".bmp", count: int = 3) -> Path:
    """Images whose files have the same names and sizes for every seed, but different pixels."""
    for index in range(count):
        write_image(root / "train/ant" / f"{index}{ending}", 100 * seed + index)
    return root


@pytest.mark.parametrize("ending", [".bmp", ".PPM", ".pgm", ".tiff"])
def test_of_files_without_compression_the_pixels_count_too(tmp_path: Path, ending: str) -> None:
    roots = [plain_images(tmp_path / str(number), seed, ending) for number, seed in enumerate((0, 1, 0))]
    first, other, again = (FolderImages(root, "train").fingerprint() for root in roots)
    assert (first != other, first == again) == (True, True)


def test_of_many_such_files_the_middle_of_each_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "PLAIN_FILES", 2)
    monkeypatch.setattr(folders, "PLAIN_PART", 100)
    root = plain_images(tmp_path, 0, count=4)
    middle = (root / "train/ant/0.bmp").stat().st_size // 2

    def changed(index: int, place: int) -> bool:
        """Whether a changed byte of a file changes the fingerprint."""
        path = root / "train/ant" / f"{index}.bmp"
        before, content = FolderImages(root, "train").fingerprint(), bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)
        return FolderImages(root, "train").fingerprint() != before

    assert all(changed(index, middle + place) for index in range(4) for place in (-49, 49))
    assert not changed(0, middle + 51)


@pytest.mark.parametrize(("name", "form"), [("0.png", "PNG"), ("0.jpg", "BMP"), ("0.JPEG", "PPM")])
def test_files_stored_without_compression_are_known_whatever_they_are_called(
    name: str, form: str, tmp_path: Path
) -> None:
    path = tmp_path / "train/ant" / name
    path.parent.mkdir(parents=True)

    def fingerprint(level: int) -> str:
        Image.new("RGB", (30, 20), (level, 0, 0)).save(path, form, compress_level=0)
        return FolderImages(tmp_path, "train").fingerprint()

    assert fingerprint(0) != fingerprint(9)


def test_what_changed_since_the_folder_was_read_is_named(folder_root: Path) -> None:
    images = FolderImages(folder_root, "train")
    gone = folder_root / "train/mole/2.png"
    gone.unlink()
    line = f"{gone}: No such file or directory; the data changed since it was listed; mend: start again"
    assert message_of(images.fingerprint) == line


def test_a_file_without_permission_is_named_where_its_pixels_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: str, flags: int) -> int:  # as a file of mode 000 is to anybody but root
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    plain, packed = (FolderImages(plain_images(tmp_path / kind, 0, kind), "train") for kind in (".bmp", ".jpg"))
    before = FolderImages(tmp_path / ".jpg", "train").fingerprint()
    monkeypatch.setattr(data_images, "open_at_once", closed)
    assert packed.fingerprint() == before  # by its size; decoding will report it
    first = tmp_path / ".bmp/train/ant/0.bmp"
    assert message_of(plain.fingerprint) == f"{first}: Permission denied; mend: make it readable or replace it"


def test_a_pipe_with_such_a_name_is_not_waited_for(tmp_path: Path) -> None:
    root = plain_images(tmp_path, 0)
    os.mkfifo(root / "train/ant/pipe.bmp")
    assert len(FolderImages(root, "train").fingerprint()) == 16


def test_compressed_files_keep_the_fingerprint_that_runs_recorded(tmp_path: Path) -> None:
    for index, ending in enumerate(("jpg", "png", "webp", "gif")):
        path = tmp_path / "train/ant" / f"{index}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(index + 1))
    assert FolderImages(tmp_path, "train").fingerprint() == "ed8ef654f434c5dc"
    for ending in ("jpg", "png", "webp", "gif"):
        Image.linear_gradient("L").convert("RGB").save(tmp_path / "train/ant" / f"0.{ending}")
    images = FolderImages(tmp_path, "train")
    names_and_sizes = [f"\0{file}\0{(images.folder / file).stat().st_size}" for file in images.files]
    assert images.fingerprint() == hashlib.sha256(f"ant{''.join(names_and_sizes)}".encode()).hexdigest()[:16]


def test_folder_images_can_be_sent_to_a_worker(folder_root: Path) -> None:
    train = FolderImages(folder_root, "train")
    copy = pickle.loads(pickle.dumps(train))
    assert copy.fingerprint() == train.fingerprint()
    assert copy[5][0].tobytes() == train[5][0].tobytes()


def test_an_error_about_a_path_comes_out_of_another_process_as_it_was(folder_root: Path) -> None:
    with pytest.raises(PathError) as caught:
        FolderImages(folder_root, "test")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.path, copy.reason, copy.mend) == (folder_root / "test", caught.value.reason, caught.value.mend)
    assert str(copy) == str(caught.value)


# ImageNet-100


def test_the_class_list_is_the_committed_one() -> None:
    text = importlib.resources.files("repro.data").joinpath("imagenet100_classes.txt").read_bytes()
    assert hashlib.sha256(text).hexdigest().startswith("5ee5db69")
    assert len(class_list()) == len(set(class_list())) == 100
    assert list(class_list()) == sorted(class_list())
    assert (class_list()[0], class_list()[-1]) == ("n01558993", "n13040303")


def test_imagenet100_reads_only_its_classes_of_an_imagenet_root(imagenet_root: Path) -> None:
    val = open_images("imagenet100", "val", imagenet_root, TINY)
    assert tuple(val.classes) == class_list()
    assert list(val.targets) == list(range(100))
    assert isinstance(val, FolderImages)
    assert [Path(file).parent.name for file in val.files] == list(class_list())


def test_imagenet100_names_how_many_classes_are_missing(imagenet_root: Path) -> None:
    for wnid in class_list()[10:17]:
        (imagenet_root / "train" / wnid).rename(imagenet_root / f"away-{wnid}")
    with pytest.raises(UserError, match=r"7 \(n\d{8}, .*…\) of 100 class folders missing.*data prepare") as caught:
        open_images("imagenet100", "train", imagenet_root, TINY)
    assert class_list()[10] in str(caught.value)


def test_a_flat_validation_folder_is_refused_with_the_mend(imagenet_root: Path) -> None:
    (imagenet_root / "val").rename(imagenet_root / "sorted")
    write_image(imagenet_root / "val/ILSVRC2012_val_00000001.JPEG", 1)
    with pytest.raises(UserError, match=r"flat.*`salmask data prepare imagenet100 --from ARCHIVES`"):
        open_images("imagenet100", "val", imagenet_root, TINY)


# Scenes


def test_scenes_are_opened_with_the_settings_of_their_split() -> None:
    train, val = (open_images("scenes", split, None, TINY) for split in SPLITS)
    assert (len(train), len(val), len(train.classes)) == (12, 8, 4)
    assert train[0][0].size == (64, 64)
    assert train[0][1] == train.targets[0]
    assert train.fingerprint() != val.fingerprint()


@pytest.mark.parametrize("name", ["folder", "imagenet100"])
def test_a_split_in_the_place_of_the_root_is_answered_with_the_folder_above(name: str, imagenet_root: Path) -> None:
    """The mend used to be to move images into class folders, where they are, or to unpack the archives again."""
    split = imagenet_root / "train"
    with pytest.raises(UserError, match=f"; mend: name the folder above as the root: {imagenet_root}$"):
        open_images(name, "train", split, TINY)
    # A folder with such a name can still be a root.
    (split / "val").mkdir()
    with pytest.raises(UserError, match=r"expected train/CLASS/IMAGE in the data root; mend: (?!name the folder)"):
        open_images(name, "train", split, TINY)


def test_cutouts_need_a_folder() -> None:
    with pytest.raises(UserError, match=r"read from a folder, .*; mend: give machine\.data_root=DIR"):
        open_images("scenes-cutouts", "train", None, TINY)


def test_an_unknown_data_set_gets_the_nearest_name() -> None:
    with pytest.raises(
        UserError, match=r"unknown data set 'imagenet10'; mend: did you mean 'imagenet100'\? known: .*scenes"
    ):
        open_images("imagenet10", "train", None, TINY)


@pytest.mark.parametrize("name", ["/my/photos", "./photos", "photos"])
def test_a_folder_in_the_place_of_a_data_sets_name_is_a_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    said = rf"unknown data set '{name}'; mend: give its name, and the folder as its root \(`folder` is your own "
    with pytest.raises(UserError, match=rf"^{said}images\): "):
        open_images(name, "train", None, TINY)


def test_a_name_that_no_folder_can_have_is_an_unknown_data_set() -> None:
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(UserError, match=r"^unknown data set '.*'; mend: one of imagenet100, "):
            open_images(name, "train", None, TINY)
