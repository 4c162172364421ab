"""Objects cut out of photographs: a folder of PNG files with alpha, each file one class."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from repro.errors import UserError
from repro.scenes.textures import Bytes, Floats, backdrop, blend, planes, value_noise

_SKIPPED_FOLDERS = frozenset({"symbols", "cartoon"})
_DUPLICATE_ENDINGS = ("_mirror", "_flip")
_LEAST_SIDE = 40  # pixels of the shorter side; less is too coarse to be enlarged
_MOST_OPAQUE = 0.98  # share of the whole picture; more is a picture with its background, not a cut-out
# A web of lines or a veil vanishes when made small: reduced to fit 10×10 pixels (the smallest object that a scene asks
# for has 16×16), at least 12 pixels must stay clearly more than half opaque.
_PROBE_SIDE = 10
_PROBE_ALPHA = 160
_LEAST_OPAQUE = 12
_MEND = (
    "name a folder of PNG files with alpha; Debian's package tuxpaint-stamps-default has some 350, "
    "in /usr/share/tuxpaint/stamps"
)


@dataclass(frozen=True)
class _Cutout:
    name: str
    pixels: Bytes  # h×w×4, straight alpha, cropped to the object
    digest: str  # sha256 of the file


class Cutouts:
    """Real objects from a folder: `classes` files spread evenly over its sorted relative paths, one class each.

    Not taken are `*_mirror.png` and `*_flip.png` (duplicates), folders named `symbols` or `cartoon`, files without
    alpha or with almost nothing or almost everything opaque, and pictures whose shorter side is under 40 pixels.

    Attributes:
        names: one a class: the file's path in the folder, without its suffix.

    Raises:
        UserError: the folder is missing, a file cannot be read, or there are fewer cut-outs than classes.
    """

    def __init__(self, folder: Path, classes: int, *, longest: int) -> None:
        """Read the folder once.

        Args:
            folder: searched with its subfolders.
            classes: number of cut-outs to take, at least 1.
            longest: keep them no larger than this many pixels a side, which bounds memory by classes·longest²·4 bytes.
        """
        if not folder.is_dir():
            raise UserError(f"cut-outs {folder}: no such folder; {_MEND}")
        if classes < 1:
            raise UserError(f"classes={classes}: at least 1 is needed")
        found = [cutout for path in _candidates(folder) if (cutout := _read(folder, path, longest)) is not None]
        if len(found) < classes:
            raise UserError(f"cut-outs {folder}: {len(found)} usable PNG files found, {classes} needed; {_MEND}")
        self._cutouts = tuple(found[k * len(found) // classes] for k in range(classes))
        self.names: tuple[str, ...] = tuple(cutout.name for cutout in self._cutouts)

    def identity(self) -> list[str]:
        """What tells this set of objects from another: each class's name and its file's sha256."""
        return [f"{cutout.name} {cutout.digest}" for cutout in self._cutouts]

    def sprite(self, rng: np.random.Generator, label: int, extent: int) -> Image.Image:
        """One object flipped or not, turned by up to 25°, scaled, its brightness, contrast and colour changed.

        Args:
            rng: the source of randomness.
            label: the class, an index into `names`.
            extent: the longest side of its turned frame, in pixels.

        Returns:
            RGBA with straight alpha, no side over the extent; cropped to what is not fully transparent.
        """
        angle, flip = rng.uniform(-25, 25), rng.random() < 0.5
        brightness, contrast, saturation = rng.uniform(0.7, 1.3, 3).tolist()
        pixels = self._cutouts[label].pixels
        image = Image.fromarray(pixels[:, ::-1] if flip else pixels)
        turn = np.radians(abs(angle))
        width, height = image.size
        turned = np.array([[np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ image.size
        scale = (extent - 1) / turned.max()
        image = image.resize((max(round(width * scale), 1), max(round(height * scale), 1)), Image.Resampling.BICUBIC)
        image = image.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        image = image.crop(image.getchannel("A").getbbox())
        image.thumbnail((extent, extent), Image.Resampling.BICUBIC)  # expanding rounds up, at most by a pixel or two
        for enhancer, factor in (
            (ImageEnhance.Brightness, brightness),
            (ImageEnhance.Contrast, contrast),
            (ImageEnhance.Color, saturation),
        ):
            image = enhancer(image).enhance(factor)
        return image

    def backdrop(self, rng: np.random.Generator, side: int) -> Floats:
        """A ground in the colours of some cut-out, mostly with magnified surface of another: 3×side×side, 0..1.

        Which cut-outs lend colour and surface is drawn without regard to the objects that stand on the ground.
        """
        image = backdrop(rng, side, self._colours(rng, 7))
        if rng.random() < 0.3:
            return image
        lender = self._cutouts[rng.integers(len(self._cutouts))].pixels
        surface = _magnified(rng, lender, side)
        where = np.clip((value_noise(rng, (side, side), cells=3, octaves=4) - 0.4) * 3, 0, 1)
        return blend(image, surface[:3], where * surface[3])

    def _colours(self, rng: np.random.Generator, number: int) -> Floats:
        """Colours of opaque pixels of one cut-out, duller, and neither black nor white: number×3 in 0..1."""
        pixels = self._cutouts[rng.integers(len(self._cutouts))].pixels
        opaque = pixels[pixels[..., 3] >= 128]
        colours = opaque[rng.integers(len(opaque), size=number), :3] * np.float32(1 / 255)
        duller = blend(colours, colours.mean(axis=1, keepdims=True), rng.uniform(0.1, 0.6))
        return np.float32(0.12) + np.float32(0.74) * duller


def _candidates(folder: Path) -> list[Path]:
    """The PNG files that their paths do not rule out, sorted by relative path."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() == ".png" and path.is_file())
    return sorted(
        (
            path
            for path in files
            if not path.stem.endswith(_DUPLICATE_ENDINGS) and _SKIPPED_FOLDERS.isdisjoint(path.parts[:-1])
        ),
        key=Path.as_posix,
    )


def _read(folder: Path, path: Path, longest: int) -> _Cutout | None:
    """Decode one file; None where it is no cut-out."""
    try:
        content = (folder / path).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            if min(image.size) < _LEAST_SIDE or not image.has_transparency_data:
                return None
            rgba = image.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: a broken chunk
        raise UserError(f"cut-out {folder / path}: not a readable PNG ({error}); replace or remove it") from error
    alpha = rgba.getchannel("A").point(lambda value: 255 * (value >= 128))
    box = alpha.getbbox()
    if box is None or np.asarray(alpha).mean() > 255 * _MOST_OPAQUE:
        return None
    rgba = rgba.crop(box)
    probe = rgba.getchannel("A")
    probe.thumbnail((_PROBE_SIDE, _PROBE_SIDE), Image.Resampling.BOX)
    if np.count_nonzero(np.asarray(probe) >= _PROBE_ALPHA) < _LEAST_OPAQUE:
        return None
    rgba.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return _Cutout(path.with_suffix("").as_posix(), np.asarray(rgba), hashlib.sha256(content).hexdigest())


def _magnified(rng: np.random.Generator, pixels: Bytes, side: int) -> Floats:
    """A random piece, a third of each side, blown up to fill a ground and softened: 4×side×side in 0..1."""
    height, width = pixels.shape[:2]
    part_y, part_x = max(height // 3, 2), max(width // 3, 2)
    top, left = int(rng.integers(height // 6, height - part_y - height // 6 + 1)), int(rng.integers(width - part_x + 1))
    piece = Image.fromarray(pixels[top : top + part_y, left : left + part_x])
    piece = piece.resize((side, side), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(side * 0.01))
    return planes(piece)
