"""Files that a user provides for each image: how they are found, their hash, and the numbers that they hold."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_samples import save_numbers
from PIL import Image

from repro.data.folders import FolderImages
from repro.data.image_numbers import ImageNumbers
from repro.data.splits import names_of
from repro.data.subsets import Subset
from repro.errors import UserError
from repro.settings.image_files import files_by_name, hash_files

SETTING = "data.masks"


def test_files_are_named_as_their_images_and_lie_where_those_do(tmp_path: Path) -> None:
    for file in ("b/2.png", "b/10.npy", "a/x/1.png", "top.npy", "._a.png", "a/.hidden/3.png", "notes.txt"):
        (tmp_path / "maps" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "maps" / file).write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "5.png").write_bytes(b"")
    (tmp_path / "maps" / "linked").symlink_to(tmp_path / "elsewhere")
    expected = {"a/x/1": "a/x/1.png", "b/10": "b/10.npy", "b/2": "b/2.png", "linked/5": "linked/5.png"}
    assert files_by_name(SETTING, tmp_path / "maps") == {**expected, "top": "top.npy"}


def test_the_hash_is_of_names_and_contents_and_not_of_the_place(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for place, order in ((one, (0, 1)), (two, (1, 0))):
        for number in order:
            save_numbers(place / f"c/{number}.npy", np.full((2, 2), number))
    before = hash_files(SETTING, one)
    assert hash_files(SETTING, two) == before
    save_numbers(one / "c/1.npy", np.full((2, 2), 3))  # of the same size
    assert hash_files(SETTING, one) != before
    (two / "c/1.npy").rename(two / "c/2.npy")
    assert hash_files(SETTING, two) != before


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (shutil.rmtree, "{0} cannot be read (No such file or directory)"),
        (lambda folder: (folder / "c/1.npy").rename(folder / "c/1.txt"), "holds no file that ends with .npy or .png"),
        (lambda folder: (folder / "c/1.png").write_bytes(b""), "holds c/1.npy and c/1.png; mend: remove one of them"),
        (lambda folder: os.mkfifo(folder / "c/2.npy"), "c/2.npy is not a regular file"),
        (
            lambda folder: (folder / "c/2.npy").symlink_to("2.npy"),
            "data.masks={0}: c/2.npy cannot be read (Too many levels of symbolic links); mend: make it readable, or ",
        ),
    ],
)
def test_a_folder_without_such_files_is_refused(spoil: Callable[[Path], object], line: str, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    save_numbers(folder / "c/1.npy", np.zeros((2, 2)))
    spoil(folder)
    with pytest.raises(UserError) as caught:
        hash_files(SETTING, folder)
    assert line.format(folder) in str(caught.value)


UNFIT = {
    "nan.npy": (np.array([[0, np.nan]]), "holds NaN or an infinite number"),
    "infinite.npy": (np.array([[0, -np.inf]]), "holds NaN or an infinite number"),
    "channels.npy": (np.zeros((3, 4, 4)), "is of shape 3×4×4, where there must be rows and columns"),
    "number.npy": (np.float64(3), "is of shape (), where there must be rows and columns"),
    "nothing.npy": (np.zeros((0, 4)), "is of shape 0×4, where there must be rows and columns"),
    "words.npy": (np.array([["a"]]), "holds no array of numbers"),
    "complex.npy": (np.array([[1j]]), "holds no array of numbers"),
    "objects.npy": (np.array([[{}]], dtype=object), "cannot be decoded"),
    "colours.png": (np.zeros((4, 4, 3), dtype=np.uint8), "its mode is RGB, and not one channel of grey"),
}


def numbers_of(folder: Path, file: str, *, colours: bool = False) -> np.ndarray:
    return ImageNumbers(SETTING, folder, [file], colours, "")(0)


@pytest.mark.parametrize("file", UNFIT)
def test_what_holds_no_numbers_is_refused_by_name(file: str, tmp_path: Path) -> None:
    content, reason = UNFIT[file]
    save_numbers(tmp_path / file, content)
    with pytest.raises(UserError) as caught:
        numbers_of(tmp_path, file)
    assert str(caught.value).startswith(f"data.masks={tmp_path}: {file} ")
    assert reason in str(caught.value)


def test_an_archive_of_arrays_is_no_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "1.npz", np.zeros((2, 2)))
    (tmp_path / "1.npz").rename(tmp_path / "1.npy")
    with pytest.raises(UserError, match=r"1\.npy holds no array of numbers"):
        numbers_of(tmp_path, "1.npy")


@pytest.mark.parametrize("file", ["torn.npy", "torn.png"])
def test_a_torn_file_is_refused_by_name(file: str, tmp_path: Path) -> None:
    whole = save_numbers(tmp_path / file, np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8))
    whole.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(UserError, match=rf"data.masks={tmp_path}: {file} cannot be decoded"):
        numbers_of(tmp_path, file)


def test_pictures_and_arrays_hold_the_same_numbers(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).integers(0, 256, (6, 9), dtype=np.uint8)
    for file, content in {"8.png": numbers, "16.png": numbers.astype(np.uint16) * 257, "8.npy": numbers}.items():
        save_numbers(tmp_path / file, content)
        assert np.array_equal(numbers_of(tmp_path, file), content)
    Image.fromarray(numbers).convert("1", dither=Image.Dither.NONE).save(tmp_path / "1.png")
    assert np.array_equal(numbers_of(tmp_path, "1.png"), numbers >= 128)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "quantised"])
def test_of_a_mask_in_colours_all_but_black_is_an_object_whatever_a_palette_numbers_it(
    mode: str, tmp_path: Path
) -> None:
    pixels = np.zeros((2, 3, 3), dtype=np.uint8)
    pixels[0, 1, 1] = pixels[1, 2, 0] = 255
    picture = Image.fromarray(pixels)
    # In Pillow's own palette, black is number 1 or another, and not 0.
    picture = picture.quantize(4) if mode == "quantised" else picture.convert(mode)
    picture.save(tmp_path / "1.png")
    assert (numbers_of(tmp_path, "1.png", colours=True) > 0).tolist() == [[False, True, False], [False, False, True]]
    with pytest.raises(UserError, match=r"its mode is \w+, and not one channel of grey\); mend: a picture in grey"):
        numbers_of(tmp_path, "1.png")


def test_a_mask_as_voc_has_them_is_read_by_its_palette(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1], [15, 255]], dtype=np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 128, 0, 0] + [64, 128, 0] * 14 + [224, 224, 192] * 240)
    picture.save(tmp_path / "1.png")
    assert (numbers_of(tmp_path, "1.png", colours=True) > 0).tolist() == [[False, True], [True, True]]


def test_a_mask_that_is_transparent_in_parts_is_refused(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 255, 255, 0)).save(tmp_path / "1.png")
    with pytest.raises(UserError, match=r"it is partly transparent\); mend: an opaque picture, or an array"):
        numbers_of(tmp_path, "1.png", colours=True)


def test_numbers_beyond_double_are_infinite(tmp_path: Path) -> None:
    save_numbers(tmp_path / "1.npy", np.array([[np.longdouble("1e4000"), 0]]))
    with pytest.raises(UserError, match="holds NaN or an infinite number"):
        numbers_of(tmp_path, "1.npy")


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("1.png", b"404: not found", "is not a picture, or its header is damaged"),
        ("1.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'shape': (3," + b" " * 90, "cannot be decoded ("),
    ],
)
def test_what_is_no_such_file_at_all_is_refused(file: str, content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError) as caught:
        numbers_of(tmp_path, file)
    assert str(caught.value).startswith(f"data.masks={tmp_path}: {file} {reason}")


def test_a_part_of_the_images_has_the_files_of_its_own(folder_root: Path, tmp_path: Path) -> None:
    images = FolderImages(folder_root, "train")
    for number, name in enumerate(images.names):
        save_numbers(tmp_path / "masks" / f"{name.removesuffix('.png')}.npy", np.full((2, 3), number))
    part = Subset(images, [7, 2])
    assert names_of(part) == [images.names[7], images.names[2]]
    numbers = ImageNumbers.of(part, SETTING, tmp_path / "masks", colours=False, sha256="")
    assert [int(numbers(index)[0, 0]) for index in (0, 1)] == [7, 2]
    assert numbers.digest() == hash_files(SETTING, tmp_path / "masks")


def test_images_without_names_are_refused(tmp_path: Path) -> None:
    class Nameless:
        classes, targets = ("a",), (0,)

        def __len__(self) -> int:
            return 1

    save_numbers(tmp_path / "1.npy", np.zeros((2, 2)))
    with pytest.raises(
        UserError, match="images of Nameless have no names; mend: an attribute `names`, a name for each image"
    ):
        ImageNumbers.of(Nameless(), SETTING, tmp_path, colours=False, sha256="")  # type: ignore[arg-type]  # it lacks them
