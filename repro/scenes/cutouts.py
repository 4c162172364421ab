"""Objects cut out of photographs: a folder of PNG files with alpha, where each class is one file or one folder."""

import functools
import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from repro.errors import UserError
from repro.filesystem.clutter import is_clutter
from repro.filesystem.presence import is_file, is_folder
from repro.quantities import counted
from repro.scenes.textures import Bytes, Floats, backdrop, blend, planes, value_noise

_SKIPPED_FOLDERS = frozenset({"symbols", "cartoon"})
_DUPLICATE_ENDINGS = ("_mirror", "_flip")  # Tux Paint's, which keeps the mirror image of a stamp as a file of its own
_LEAST_SIDE = 40  # pixels of the shorter side; less is too coarse to be enlarged
_MOST_PIXELS = 50_000_000  # of a whole picture: 200 MB once decoded; larger clip art is lettering of a poster's size
_MOST_OPAQUE = 0.98  # share of the whole picture; more is a picture with its background, not a cut-out
# A web of lines or a veil vanishes when it is drawn small. So a cut-out that is reduced to fit 10×10 pixels (the
# smallest object of a scene has 16×16) must keep at least 12 pixels that are clearly more than half opaque.
_PROBE_SIDE = 10
_PROBE_ALPHA = 160
_LEAST_OPAQUE = 12
_MEND = (
    "name a folder of PNG files with alpha; Debian's package tuxpaint-stamps-default has some 350, "
    "in /usr/share/tuxpaint/stamps"
)


_Item = TypeVar("_Item")


@dataclass(frozen=True, eq=False)  # compared by identity, since arrays have no truth value
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

    With `members`, each class is a folder that has enough files of its own: `members` to train on, and a quarter as
    many (at least one) that are held out. `classes` such folders are spread evenly over their sorted paths, and the
    files over those of each folder. The last ones are held out, since neighbours in the alphabet may look alike.

    Not taken are `*_mirror.png` and `*_flip.png` (duplicates), folders named `symbols` or `cartoon`, files without
    alpha or with almost nothing or almost everything opaque, and pictures whose shorter side is under 40 pixels or that
    have more than 50 million pixels.

    Attributes:
        names: The name of each class: the path in the folder, without a file's suffix.

    Raises:
        UserError: The folder is missing, a file or a folder in it cannot be read, there are fewer cut-outs, or
            folders with enough of them, than classes, or two classes would have one name.
    """

    def __init__(self, folder: Path, classes: int, *, longest: int, members: int = 0, held_out: bool = False) -> None:
        """Reads the folder once.

        Args:
            folder: The folder; it is searched with its subfolders.
            classes: The number of cut-outs to take, at least 1.
            longest: Keep them no larger than this many pixels a side, which bounds memory to longest²·4 bytes each.
            members: Training objects of each class, which is then a folder; 0: each class is a file.
            held_out: Whether the objects are the held-out members rather than the training ones.
        """
        if not is_folder(folder):
            raise UserError(f"cut-outs {folder}: no such folder", mend=_MEND)
        if classes < 1:
            raise UserError(f"classes={classes} is out of range", mend="choose 1 at least")
        usable = [path for path in _candidates(folder) if _is_cutout(folder / path)]
        if len(usable) < classes:
            found = counted(len(usable), "usable PNG file")
            raise UserError(f"cut-outs {folder}: {found} found, {classes} needed", mend=_MEND)
        if members:
            count = members + max(members // 4, 1)
            chosen = _classes_of_folders(folder, usable, classes, count)
            self.names = tuple(chosen)
            # The training members lend to grounds in both splits, which share one pool of them.
            lenders = [path for paths in chosen.values() for path in paths[:members]]
            shown = [paths[members:] if held_out else paths[:members] for paths in chosen.values()]
        else:
            lenders = _spread(usable, classes)
            shown = [[path] for path in lenders]
            self.names = tuple(map(_name, lenders))
            if repeated := [name for name, count in Counter(self.names).items() if count > 1]:
                message = f"cut-outs {folder}: two files are {repeated[0]!r} but for their endings"
                raise UserError(message, mend="rename one of them: it is the name of a class")
        cutouts = {path: _read(folder, path, longest) for path in chain(lenders, *shown)}
        self._lenders = [cutouts[path] for path in lenders]
        self._classes = [[cutouts[path] for path in paths] for paths in shown]

    def identity(self) -> list[str]:
        """Returns what tells this set of objects from another: each file's name and its SHA-256."""
        # Files that only lend to grounds count too; each file once.
        cutouts = dict.fromkeys([*self._lenders, *(cutout for members in self._classes for cutout in members)])
        return [f"{cutout.name} {cutout.digest}" for cutout in cutouts]

    def sprite(self, rng: np.random.Generator, label: int, extent: int) -> Image.Image:
        """Draws one object, flipped or not, turned by up to 25°, scaled, its brightness, contrast and colour changed.

        Args:
            rng: The source of randomness.
            label: The class, an index into `names`.
            extent: The longest side of its turned frame, in pixels.

        Returns:
            RGBA with straight alpha, no side over the extent; cropped to what is not fully transparent.
        """
        members = self._classes[label]
        cutout = members[int(rng.integers(len(members)))] if len(members) > 1 else members[0]
        # The order of the draws is part of what the scenes are: another order would give other pictures.
        angle, flip = rng.uniform(-25, 25), rng.random() < 0.5
        brightness, contrast, saturation = rng.uniform(0.7, 1.3, 3).tolist()
        pixels = cutout.pixels
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
        """Draws a ground in the colours of a random cut-out, mostly with the magnified surface of another.

        The two are drawn independently of the objects on the ground; otherwise the ground alone would tell the class.

        Args:
            rng: The source of randomness.
            side: The height and width in pixels.

        Returns:
            3×side×side in 0..1.
        """
        image = backdrop(rng, side, self._colours(rng, 7))
        if rng.random() < 0.3:
            return image
        lender = self._lenders[rng.integers(len(self._lenders))].pixels
        surface = _magnified(rng, lender, side)
        weight = np.clip((value_noise(rng, (side, side), cells=3, octaves=4) - 0.4) * 3, 0, 1)
        return blend(image, surface[:3], weight * surface[3])

    def _colours(self, rng: np.random.Generator, number: int) -> Floats:
        """Draws colours of one cut-out's opaque pixels, made duller and less black or white: number×3 in 0..1."""
        pixels = self._lenders[rng.integers(len(self._lenders))].pixels
        opaque = pixels[pixels[..., 3] >= 128]
        colours = opaque[rng.integers(len(opaque), size=number), :3] * np.float32(1 / 255)
        duller = blend(colours, colours.mean(axis=1, keepdims=True), rng.uniform(0.1, 0.6))
        return np.float32(0.12) + np.float32(0.74) * duller


def _spread(items: Sequence[_Item], number: int) -> list[_Item]:
    """Returns `number` items, evenly spread over the list: its first ones may all be of one subfolder."""
    return [items[k * len(items) // number] for k in range(number)]


def _folders(files: Sequence[Path], least: int) -> dict[str, list[Path]]:
    """Returns the files of each subfolder that has at least `least` of its own, without those below it; sorted."""
    folders: dict[str, list[Path]] = {}
    for path in files:
        folders.setdefault(path.parent.as_posix(), []).append(path)
    return {name: folders[name] for name in sorted(folders) if name != "." and len(folders[name]) >= least}


def _classes_of_folders(folder: Path, files: Sequence[Path], classes: int, count: int) -> dict[str, list[Path]]:
    """Returns `count` files of each of `classes` folders, by the folders' names; `folder` is where all of them are."""
    folders = _folders(files, count)
    if len(folders) < classes:
        found = f"{counted(len(folders), 'folder')} with {count} usable PNG files of their own"
        raise UserError(f"cut-outs {folder}: {found}, {classes} needed", mend=f"fewer classes or members, or {_MEND}")
    return {name: _spread(folders[name], count) for name in _spread(list(folders), classes)}


def _name(path: Path) -> str:
    return path.with_suffix("").as_posix()


def _candidates(folder: Path) -> list[Path]:
    """Returns the PNG files whose paths do not rule them out, in linked folders too, sorted by relative path.

    Raises:
        UserError: A folder cannot be read (leaving it out would change which files are taken), or links lead in a
            circle.
    """

    def refuse(error: OSError) -> NoReturn:
        raise UserError(f"cut-outs {error.filename}: {error.strerror}", mend="make it readable or remove it") from error

    files: list[Path] = []
    passed = {os.fspath(folder): {os.path.realpath(folder)}}  # the real paths of each folder and of those above it
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS and not is_clutter(name, folder=True)]
        for name in folders:
            below = os.path.join(place, name)  # noqa: PTH118  # as `os.walk` spells it
            real = os.path.realpath(below)
            if real in passed[place]:
                message = f"cut-outs {below}: a link that leads back to where it is"
                raise UserError(message, mend="remove the link")
            passed[below] = passed[place] | {real}
        files += [Path(place, name) for name in names if name.lower().endswith(".png") and not is_clutter(name)]
    usable = (path for path in files if not path.stem.endswith(_DUPLICATE_ENDINGS) and is_file(path))
    return sorted((path.relative_to(folder) for path in usable), key=Path.as_posix)


def _is_cutout(path: Path) -> bool:
    """Returns whether a file is a cut-out.

    Raises:
        UserError: The file is no readable PNG.
    """
    status = path.stat()
    return _holds_cutout(path.absolute(), status.st_size, status.st_mtime_ns)


@functools.cache  # each split of a data set looks through the whole folder, even if it takes few files
def _holds_cutout(path: Path, size: int, changed: int) -> bool:
    """Decodes a file to see whether it is a cut-out; `size` and `changed` distinguish a new file of the same name."""
    rgba = _cropped(path)
    if rgba is None:
        return False
    probe = rgba.getchannel("A")
    probe.thumbnail((_PROBE_SIDE, _PROBE_SIDE), Image.Resampling.BOX)
    return bool(np.count_nonzero(np.asarray(probe) >= _PROBE_ALPHA) >= _LEAST_OPAQUE)


def _read(folder: Path, path: Path, longest: int) -> _Cutout:
    """Reads a file that is a cut-out."""
    rgba = _cropped(folder / path)
    if rgba is None:
        raise UserError(f"cut-out {folder / path}: changed while it was read", mend="start again")
    rgba.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return _Cutout(_name(path), np.asarray(rgba), hashlib.sha256((folder / path).read_bytes()).hexdigest())


def _cropped(path: Path) -> Image.Image | None:
    """Decodes a file and crops it to its object; None where it has none.

    Raises:
        UserError: The file is no readable PNG.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such pictures are left out below
            image = Image.open(io.BytesIO(path.read_bytes()))
        with image:
            if min(image.size) < _LEAST_SIDE or not image.has_transparency_data:
                return None
            if image.width * image.height > _MOST_PIXELS:
                return None
            rgba = image.convert("RGBA")
    except PermissionError as error:  # the file itself may be sound
        raise UserError(f"cut-out {path}: {error.strerror}", mend="make it readable or remove it") from error
    except Image.DecompressionBombError:  # Pillow does not open pictures of over 178 million pixels
        return None
    except Exception as error:  # each of Pillow's decoders has errors of its own
        raise UserError(f"cut-out {path}: not a readable PNG ({error})", mend="replace or remove it") from error
    alpha = rgba.getchannel("A").point(lambda value: 255 * (value >= 128))
    box = alpha.getbbox()
    if box is None or np.asarray(alpha).mean() > 255 * _MOST_OPAQUE:
        return None
    return rgba.crop(box)


def _magnified(rng: np.random.Generator, pixels: Bytes, side: int) -> Floats:
    """Draws a random piece, a third of each side, enlarged to fill a ground and softened: 4×side×side in 0..1."""
    height, width = pixels.shape[:2]
    piece_height, piece_width = max(height // 3, 2), max(width // 3, 2)
    margin = height // 6
    top = int(rng.integers(margin, height - piece_height - margin + 1))
    left = int(rng.integers(width - piece_width + 1))
    piece = Image.fromarray(pixels[top : top + piece_height, left : left + piece_width])
    piece = piece.resize((side, side), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(side * 0.01))
    return planes(piece)
