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
_DUPLICATE_ENDINGS = ("_mirror", "_flip")  # Tux Paint's, which keeps the mirror image of a stamp as a file of its own
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
    """One object.

    Attributes:
        name: The file's path in the folder, without its suffix.
        pixels: H×W×4 RGBA with straight alpha, cropped to the object.
        digest: The SHA-256 of the file, in hex.
    """

    name: str
    pixels: Bytes
    digest: str


class Cutouts:
    """Real objects from a folder: `classes` files spread evenly over its sorted relative paths, one class each.

    Not taken are `*_mirror.png` and `*_flip.png` (duplicates), folders named `symbols` or `cartoon`, files without
    alpha or with almost nothing or almost everything opaque, and pictures whose shorter side is under 40 pixels.

    Attributes:
        names: The name of each class: the file's path in the folder, without its suffix.

    Raises:
        UserError: The folder is missing, a file cannot be read, or there are fewer cut-outs than classes.
    """

    def __init__(self, folder: Path, classes: int, *, longest: int) -> None:
        """Reads the folder once.

        Args:
            folder: The folder; it is searched with its subfolders.
            classes: The number of cut-outs to take, at least 1.
            longest: Keep them no larger than this many pixels a side, which bounds memory by classes·longest²·4 bytes.
        """
        if not folder.is_dir():
            raise UserError(f"cut-outs {folder}: no such folder", mend=_MEND)
        if classes < 1:
            raise UserError(f"classes={classes} is out of range", mend="choose 1 at least")
        usable = [cutout for path in _candidates(folder) if (cutout := _read(folder, path, longest)) is not None]
        if len(usable) < classes:
            raise UserError(f"cut-outs {folder}: {len(usable)} usable PNG files found, {classes} needed", mend=_MEND)
        # Spread over the whole list: the first ones of a sorted list would all be of one subfolder.
        self._cutouts = tuple(usable[k * len(usable) // classes] for k in range(classes))
        self.names: tuple[str, ...] = tuple(cutout.name for cutout in self._cutouts)

    def identity(self) -> list[str]:
        """Returns what tells this set of objects from another: each class's name and its file's SHA-256."""
        return [f"{cutout.name} {cutout.digest}" for cutout in self._cutouts]

    def sprite(self, rng: np.random.Generator, label: int, extent: int) -> Image.Image:
        """Draws one object, flipped or not, turned by up to 25°, scaled, its brightness, contrast and colour changed.

        Args:
            rng: The source of randomness.
            label: The class, an index into `names`.
            extent: The longest side of its turned frame, in pixels.

        Returns:
            RGBA with straight alpha, no side over the extent; cropped to what is not fully transparent.
        """
        # The order of the draws is part of what the scenes are: another order would give other pictures.
        angle, flip = rng.uniform(-25, 25), rng.random() < 0.5
        brightness, contrast, saturation = rng.uniform(0.7, 1.3, 3).tolist()
        pixels = self._cutouts[label].pixels
        image = Image.fromarray(pixels[:, ::-1] if flip else pixels)
        turn = np.radians(abs(angle))
        width, height = image.size
        # The frame that the picture fills once it is turned: its longest side is to become the extent.
        turned_size = np.array([[np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ image.size
        scale = (extent - 1) / turned_size.max()
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
        """Draws a ground in the colours of some cut-out, mostly with magnified surface of another.

        Which cut-outs lend colour and surface is drawn without regard to the objects that stand on the ground: else
        the ground alone would tell the class.

        Args:
            rng: The source of randomness.
            side: The height and width in pixels.

        Returns:
            3×side×side in 0..1.
        """
        image = backdrop(rng, side, self._colours(rng, 7))
        if rng.random() < 0.3:
            return image
        lender = self._cutouts[rng.integers(len(self._cutouts))].pixels
        surface = _magnified(rng, lender, side)
        weight = np.clip((value_noise(rng, (side, side), cells=3, octaves=4) - 0.4) * 3, 0, 1)
        return blend(image, surface[:3], weight * surface[3])

    def _colours(self, rng: np.random.Generator, number: int) -> Floats:
        """Draws colours of opaque pixels of one cut-out, duller, and neither black nor white: number×3 in 0..1."""
        pixels = self._cutouts[rng.integers(len(self._cutouts))].pixels
        opaque = pixels[pixels[..., 3] >= 128]
        colours = opaque[rng.integers(len(opaque), size=number), :3] * np.float32(1 / 255)
        duller = blend(colours, colours.mean(axis=1, keepdims=True), rng.uniform(0.1, 0.6))
        return np.float32(0.12) + np.float32(0.74) * duller


def _candidates(folder: Path) -> list[Path]:
    """Returns the PNG files that their paths do not rule out, sorted by relative path."""
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
    """Decodes one file; None where it is no cut-out.

    Raises:
        UserError: The file is no readable PNG.
    """
    try:
        content = (folder / path).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            if min(image.size) < _LEAST_SIDE or not image.has_transparency_data:
                return None
            rgba = image.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: a broken chunk
        message = f"cut-out {folder / path}: not a readable PNG ({error})"
        raise UserError(message, mend="replace or remove it") from error
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
    """Draws a random piece, a third of each side, blown up to fill a ground and softened: 4×side×side in 0..1."""
    height, width = pixels.shape[:2]
    piece_height, piece_width = max(height // 3, 2), max(width // 3, 2)
    margin = height // 6
    top = int(rng.integers(margin, height - piece_height - margin + 1))
    left = int(rng.integers(width - piece_width + 1))
    piece = Image.fromarray(pixels[top : top + piece_height, left : left + piece_width])
    piece = piece.resize((side, side), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(side * 0.01))
    return planes(piece)
