from pathlib import Path

import numpy as np
import pytest
from image_samples import BAD_IMAGES, bad_image, write_image
from PIL import Image

from repro.data import images
from repro.errors import UserError


def test_cmyk_becomes_the_colour_that_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "cmyk.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=100)
    image = images.decode(path)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - (255, 0, 0)).max() <= 3


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 128 * 257], [1000, 40000, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "grey16.png")
    assert np.asarray(images.decode(tmp_path / "grey16.png"))[..., 1].tolist() == [[0, 1, 128], [4, 156, 255]]
    Image.fromarray(levels).save(tmp_path / "grey16.tif")
    assert np.asarray(images.decode(tmp_path / "grey16.tif"))[..., 0].tolist() == [[0, 1, 128], [4, 156, 255]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_become_white_whatever_they_hide(tmp_path: Path, mode: str) -> None:
    clear = {"RGBA": (200, 10, 10, 0), "LA": (90, 0)}[mode]
    solid = {"RGBA": (200, 10, 10, 255), "LA": (90, 255)}[mode]
    image = Image.new(mode, (4, 4), clear)
    image.putpixel((2, 2), solid)
    image.save(tmp_path / "cutout.png")
    decoded = images.decode(tmp_path / "cutout.png")
    assert decoded.getpixel((0, 0)) == (255, 255, 255)
    assert decoded.getpixel((2, 2)) == ((200, 10, 10) if mode == "RGBA" else (90, 90, 90))


def test_palettes_keep_their_colours_and_their_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 255, 0, 128, 0] + [0] * 762)
    image.putpixel((1, 1), 0)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=0)
    plain, clear = images.decode(tmp_path / "plain.png"), images.decode(tmp_path / "clear.png")
    assert (plain.getpixel((0, 0)), plain.getpixel((1, 1))) == ((0, 128, 0), (0, 0, 255))
    assert (clear.getpixel((0, 0)), clear.getpixel((1, 1))) == ((0, 128, 0), (255, 255, 255))


def test_grey_bilevel_and_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    Image.new("L", (3, 3), 77).save(tmp_path / "grey.png")
    Image.new("1", (3, 3), 1).save(tmp_path / "bilevel.png")
    frames = [Image.new("RGB", (3, 3), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(tmp_path / "animated.gif", save_all=True, append_images=frames[1:])
    assert images.decode(tmp_path / "grey.png").getpixel((1, 1)) == (77, 77, 77)
    assert images.decode(tmp_path / "bilevel.png").getpixel((1, 1)) == (255, 255, 255)
    assert images.decode(tmp_path / "animated.gif").getpixel((1, 1)) == (255, 0, 0)


def test_a_png_named_jpeg_is_read_as_what_it_is(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 1).rename(tmp_path / "a.JPEG")
    expected = np.random.default_rng(1).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(images.decode(tmp_path / "a.JPEG")), expected)


@pytest.mark.parametrize("what", BAD_IMAGES)
def test_a_bad_image_is_refused_in_one_line_that_names_it(tmp_path: Path, what: str) -> None:
    path = bad_image(tmp_path, what)
    kind, words = BAD_IMAGES[what]
    with pytest.raises(UserError, match=words) as caught:
        images.decode(path)
    assert str(path) in str(caught.value)
    assert "salmask data verify" in str(caught.value)
    assert "\n" not in str(caught.value)
    fault = images.find_fault(path)
    assert fault is not None
    assert fault.kind == kind


def test_a_missing_image_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png.*No such file"):
        images.decode(tmp_path / "gone.png")
