import errno
import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from image_samples import BAD_IMAGES, bad_image, write_image
from PIL import ExifTags, Image, features

from repro.data import images, jpeg
from repro.errors import UserError
from repro.scenes.cutouts import Cutouts


def test_cmyk_becomes_the_colour_that_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "cmyk.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=100)
    image = images.decode(path)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - (255, 0, 0)).max() <= 3


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    levels = np.array([[0, 128, 129], [1000, 40000, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "grey16.png")
    assert np.asarray(images.decode(tmp_path / "grey16.png"))[..., 1].tolist() == [[0, 0, 1], [4, 156, 255]]
    Image.fromarray(levels).save(tmp_path / "grey16.tif")
    assert np.asarray(images.decode(tmp_path / "grey16.tif"))[..., 0].tolist() == [[0, 0, 1], [4, 156, 255]]
    for beyond in (-1, 65536):
        Image.fromarray(np.full((2, 2), beyond, dtype=np.int32)).save(tmp_path / "grey32.tif")
        with pytest.raises(UserError, match=r"its 32-bit pixels exceed 16 bits; save it with 8 bits"):
            images.decode(tmp_path / "grey32.tif")


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
    fault = images.inspect(path).fault
    assert fault is not None
    assert fault.kind == kind


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_torn_avif_under_another_name_is_refused_as_any_other(tmp_path: Path) -> None:
    path = tmp_path / "a.png"  # such files are handed out under any name
    image = Image.new("RGBA", (64, 64), (200, 30, 30, 255))
    image.paste((0, 0, 0, 0), (0, 0, 64, 20))
    image.save(path, format="AVIF")
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UserError, match=rf"^{path}: the image cannot be decoded \(Failed to decode"):
        images.decode(path)
    assert images.inspect(path).fault
    with pytest.raises(UserError, match=rf"^cut-out {path}: not a readable PNG \(Failed to decode"):
        Cutouts(tmp_path, 1, longest=64)


def test_a_broken_spider_image_is_refused_as_any_other(tmp_path: Path) -> None:
    path, file = tmp_path / "a.png", io.BytesIO()
    Image.new("F", (4, 4)).save(file, format="SPIDER")  # saved to a path, Pillow would take its ending for SPIDER
    content = file.getvalue()
    path.write_bytes(content[:104] + struct.pack("<f", 2.0) + content[108:])  # the second of a missing stack
    with pytest.raises(UserError, match=rf"^{path}: the image cannot be decoded \(.*stkoffset"):
        images.decode(path)


def test_a_missing_image_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png: the image .* \(No such file.*\); mend: put it back"):
        images.decode(tmp_path / "gone.png")


def test_an_image_without_permission_is_to_be_made_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image(tmp_path / "closed.png", 1)

    def closed(*_: object, **__: object) -> int:  # as a file of mode 000 is to anybody but root
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", closed)
    with pytest.raises(UserError, match=r"closed\.png: the image cannot be read \(Permission denied\)") as caught:
        images.decode(path)
    assert caught.value.mend.startswith("make it readable")


def jpeg_bytes(seed: int, mode: str = "RGB", **options: object) -> bytes:
    """A smooth picture with noise on it, 61×47: neither side is a multiple of a JPEG block."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, 47 * 61).reshape(47, 61, 1)
    pixels = (ramp * rng.random(3) + rng.integers(0, 50, (47, 61, 3))).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format="JPEG", **options)
    return file.getvalue()


def by_pillow(path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray | str:
    """The pixels, or the refusal, as if simplejpeg was not installed."""
    with monkeypatch.context() as patch:
        patch.setattr(jpeg, "libjpeg_turbo", lambda: None)
        return pixels_or_refusal(path)


def pixels_or_refusal(path: Path) -> np.ndarray | str:
    try:
        return images.decode_pixels(path)
    except UserError as error:
        return str(error)


ORDINARY = [
    {"quality": quality, "subsampling": subsampling, "progressive": progressive}
    for quality in (40, 95)
    for subsampling in (0, 1, 2)
    for progressive in (False, True)
]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_decode_to_the_very_pixels_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    pytest.importorskip("simplejpeg")
    path = tmp_path / "a.jpg"
    for seed, options in enumerate(ORDINARY):
        path.write_bytes(jpeg_bytes(seed, mode, **(options if mode == "RGB" else {"quality": options["quality"]})))
        with path.open("rb") as stream, Image.open(stream) as image:
            assert (jpeg.decode_jpeg(image, stream) is None) is (mode == "CMYK")
        expected = by_pillow(path, monkeypatch)
        assert np.array_equal(images.decode_pixels(path), expected)
        assert np.array_equal(np.asarray(images.decode(path)), expected)
        assert np.array_equal(expected, np.asarray(Image.open(path).convert("RGB")))
        assert images.read_size(path) == (61, 47)


def test_damaged_jpegs_are_refused_exactly_where_pillow_refuses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("simplejpeg")
    rng = np.random.default_rng(0)
    path = tmp_path / "a.jpg"
    refused = 0
    for seed in range(120):
        content = bytearray(jpeg_bytes(seed, progressive=seed % 3 == 0))
        if seed % 2:
            content = content[: rng.integers(2, len(content))]
        else:
            content[rng.integers(2, len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        ours, pillows = pixels_or_refusal(path), by_pillow(path, monkeypatch)
        if isinstance(pillows, str):
            refused += 1
            assert ours == pillows
        else:
            assert np.array_equal(ours, pillows)
    assert 55 < refused < 110  # both outcomes occur often


def test_what_is_no_jpeg_decodes_to_the_same_array(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", 1)
    assert np.array_equal(images.decode_pixels(path), np.asarray(images.decode(path)))
    assert images.read_size(path) == (12, 10)


@pytest.mark.parametrize("ending", ["tif", "jpg", "png", "webp"])
def test_the_size_of_a_turned_image_is_that_of_its_pixels(ending: str, tmp_path: Path) -> None:
    """Pillow before 11 gives a TIFF's size unturned, so that `data cache` could never be finished."""
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        path = tmp_path / f"{orientation}.{ending}"
        Image.new("RGB", (9, 5), (200, 30, 30)).save(path, exif=exif)
        assert images.read_size(path) == images.decode(path).size


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.jpg"
    path.write_bytes(jpeg_bytes(0))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match="bomb"):
        images.decode_pixels(path)
