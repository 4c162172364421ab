"""The built-in data set: objects on textured grounds, with exact class, box and mask. No torch."""

import hashlib
import json
import math
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from repro.errors import UserError
from repro.randomness import scene_label_stream, scene_streams
from repro.scenes.cache import MOST_BYTES, DrawnPictures
from repro.scenes.cutouts import Cutouts
from repro.scenes.grounds import Grounds
from repro.scenes.shapes import Shapes
from repro.scenes.textures import Floats, blend, planes
from repro.settings.sections import ScenesSettings

_RENDERING = 1  # raise it when the same settings draw other pixels: it is part of the fingerprint
_SPLIT_NUMBERS = {"train": 0, "val": 1}  # in the entropy of a scene's randomness
_SIZES = (64, 512)  # pixels
_SEEDS = (0, 2**32 - 1)  # one word of entropy each, so that (seed, split, index) is unambiguous
_COUNTS = (1, 2**32 - 1)
_RANGES = {"count": _COUNTS, "size": _SIZES, "seed": _SEEDS, "objects": (1, math.inf), "members": (0, math.inf)}
_ALONE = (0.55, 0.95)  # an object's longest side, in sides of the scene
_AMONG_OTHERS = (0.25, 0.5)
_LEAST_VISIBLE_MAIN = 0.5  # share of the main object that must stay visible: the scene has its label
_LEAST_VISIBLE = 0.2  # share of any other object
_TRIES = 10  # placements tried for a further object before it is left out


@dataclass(frozen=True, eq=False)  # arrays have no truth value to compare by
class Instance:
    """One object of a scene.

    Attributes:
        label: The class, an index into `Scenes.classes`.
        box: (x0, y0, x1, y1) in pixels, upper edges exclusive, tight around the mask.
        mask: H×W bool, the pixels of which the object makes up at least half; the masks of one scene are disjoint.
    """

    label: int
    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """A picture and what is on it.

    Attributes:
        image: RGB, size×size.
        instances: The main object first, then the others from back to front.
    """

    image: Image.Image
    instances: tuple[Instance, ...]


class Objects(Protocol):
    """What scenes are composed of: `Shapes` or `Cutouts`.

    Attributes:
        names: The name of each class.
    """

    names: tuple[str, ...]

    def identity(self) -> list[str]:
        """Returns what tells this set of objects from another."""

    def sprite(self, rng: np.random.Generator, label: int, extent: int) -> Image.Image:
        """Draws one object of a class in a random pose: RGBA with straight alpha, no side over the extent in pixels."""

    def backdrop(self, rng: np.random.Generator, side: int) -> Floats:
        """Draws a ground: 3×side×side in 0..1."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """One object at its place in a scene of H×W pixels.

    Attributes:
        label: The class.
        colour: 3×h×w in 0..1.
        alpha: H×W in 0..1, over the whole scene.
        window: The rows and columns where the colour lies; alpha is 0 elsewhere.
    """

    label: int
    colour: Floats
    alpha: Floats
    window: tuple[slice, slice]


class Scenes:
    """Scenes drawn on demand, each from (seed, split, index) alone, so that it is the same in any order and any worker.

    Pixels repeat exactly on one machine; on another, rounding may change one by a level. Drawing a scene takes longer
    than a small network takes to learn from it, so `keep` stores each scene once it is drawn.

    Attributes:
        classes: The class names; a label is an index into them.
        targets: The label of each scene's main object. Each block of len(classes) scenes has every class once, so the
            first n scenes have equally many of each class, to within one.
    """

    classes: tuple[str, ...]
    targets: list[int]

    def __init__(
        self,
        split: Literal["train", "val"],
        *,
        count: int,
        classes: int = 10,
        size: int = 96,
        seed: int = 0,
        objects: int = 1,
        cutouts: Path | None = None,
        grounds: int = 0,
        context: float = 0.0,
        members: int = 0,
        colour: float = 0.0,
    ) -> None:
        """Fixes which scenes there are; nothing is drawn yet.

        Args:
            split: `train` or `val`; the two never share a scene.
            count: The number of scenes; a larger data set begins with the smaller one.
            classes: The number of classes.
            size: The height and width in pixels, 64 to 512.
            seed: The seed of the scenes, at least 0.
            objects: The most objects on one scene, which has 1 to `objects`. Later ones may hide parts of earlier ones,
                but at least half of the main object and a fifth of any other stay visible.
            cutouts: A folder of PNG files with alpha to take the objects from; None for procedural shapes.
            grounds: The number of textures that all grounds are pieces of; 0: each scene has a texture of its own.
            context: The probability that a scene's ground is one of its class's own; needs `grounds`.
            members: The number of objects of each class in `train`, none of which is in `val`; 0: see `Shapes` and
                `Cutouts`.
            colour: The probability that a drawn object has its class's own colours, see `Shapes`; not for cut-outs.

        Raises:
            UserError: A setting is out of its range, or the folder of cut-outs cannot serve.
        """
        if split not in _SPLIT_NUMBERS:
            raise UserError(f"unknown split {split!r}", mend=f"choose one of {', '.join(_SPLIT_NUMBERS)}")
        _require_in_range(count=count, size=size, seed=seed, objects=objects, members=members)
        if colour and cutouts is not None:  # their pictures would be the same, under the name of another data set
            raise UserError(f"colour={colour:g}: cut-outs keep their colours", mend="choose 0, or no cut-outs")
        self._source: Objects = (
            Shapes(classes, members=members, held_out=split == "val", colour=colour, seed=seed)
            if cutouts is None
            else Cutouts(cutouts, classes, longest=size, members=members, held_out=split == "val")
        )
        self._grounds = Grounds(self._source.backdrop, size, pool=grounds, context=context, classes=classes, seed=seed)
        self._split, self._size, self._seed, self._objects = split, size, seed, objects
        self._choices = {"grounds": grounds, "context": float(context), "members": members, "colour": float(colour)}
        self.classes = self._source.names
        self.targets = self._balanced_labels(count)
        self._pictures: DrawnPictures | None = None

    @classmethod
    def by_settings(
        cls, split: Literal["train", "val"], settings: ScenesSettings, *, objects: int = 1, cutouts: Path | None = None
    ) -> Self:
        """Returns a split of the scenes that a run's settings describe.

        Args:
            split: `train` or `val`.
            settings: Of the scenes.
            objects: The most objects on one scene.
            cutouts: A folder of PNG files with alpha; None for procedural shapes.

        Raises:
            UserError: A setting is out of its range, or the folder of cut-outs cannot serve.
        """
        return cls(
            split,
            count=settings.train_count if split == "train" else settings.val_count,
            classes=settings.classes,
            size=settings.size,
            seed=settings.seed,
            objects=objects,
            cutouts=cutouts,
            grounds=settings.grounds,
            context=settings.context,
            members=settings.members,
            colour=settings.colour,
        )

    def keep(self, folder: Path) -> None:
        """Keeps pictures in a file of this folder from now on, unless all of them would take more than `MOST_BYTES`."""
        # The fingerprint is the file's name, so that no two data sets could ever take each other's pictures.
        if 3 * len(self) * self._size**2 <= MOST_BYTES:
            self._pictures = DrawnPictures(folder / f"{self.fingerprint()}.rgb", self._size)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        index = self._checked(index)
        if self._pictures is None:
            return self.scene(index).image, self.targets[index]
        return self._pictures.get(index, lambda: self.scene(index).image), self.targets[index]

    def pixels(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Returns a scene's pixels, size×size×3 and read-only, and the label of its main object."""
        image, label = self[index]
        return np.asarray(image), label

    def size(self, index: int) -> tuple[int, int]:
        """Returns a scene's width and height in pixels."""
        return self._size, self._size

    def scene(self, index: int) -> Scene:
        """Draws one scene, with its boxes and masks.

        Raises:
            IndexError: There is no such scene.
        """
        index = self._checked(index)
        ground, lighting, objects = self._streams(index)
        layers = self._place(objects, self.targets[index])
        canvas = self._grounds(ground, self.targets[index])
        for layer in layers:
            covered = canvas[:, *layer.window]
            covered[...] = blend(covered, layer.colour, layer.alpha[layer.window])
        masks = _visible_masks(layers)
        instances = tuple(
            Instance(layer.label, _tight_box(mask), mask) for layer, mask in zip(layers, masks, strict=True)
        )
        return Scene(_lit(lighting, canvas), instances)

    def main_mask(self, index: int) -> NDArray[np.bool_]:
        """Returns the mask of a scene's main object, H×W, without drawing the scene.

        Raises:
            IndexError: There is no such scene.
        """
        index = self._checked(index)
        _, _, objects = self._streams(index)
        return _visible_masks(self._place(objects, self.targets[index]))[0]

    def backdrop(self, index: int) -> Image.Image:
        """Draws a scene without its objects; where the scene has no object, the pixels are the same.

        Raises:
            IndexError: There is no such scene.
        """
        index = self._checked(index)
        ground, lighting, _ = self._streams(index)
        return _lit(lighting, self._grounds(ground, self.targets[index]))

    def fingerprint(self) -> str:
        """Returns 12 hex digits of the SHA-256 over the settings, the drawing's version and, for cut-outs, the files.

        The settings alone would not do: a cut-out replaced by another of the same name is another data set.
        """
        settings = {
            "rendering": _RENDERING,
            "split": self._split,
            "count": len(self),
            "size": self._size,
            "seed": self._seed,
            "objects": self._objects,
            "source": self._source.identity(),
            # Only those other than 0: scenes from before these settings keep their fingerprints, and their pictures.
            **{name: value for name, value in self._choices.items() if value},
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]

    def _checked(self, index: int) -> int:
        """Returns an index, which may count from the end, as 0 to len - 1.

        Raises:
            IndexError: There is no such scene.
        """
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"scene {number} of {len(self)}")
        return number % len(self)

    def _streams(self, index: int) -> list[np.random.Generator]:
        """Returns the streams of the ground, the lighting and the objects of one scene.

        They are independent so that `backdrop` draws the same ground and the same light without drawing the objects.
        """
        return scene_streams(self._seed, _SPLIT_NUMBERS[self._split], index)

    def _balanced_labels(self, count: int) -> list[int]:
        """Returns one permutation of the classes after another, cut to `count`."""
        rng = scene_label_stream(self._seed, _SPLIT_NUMBERS[self._split])
        # -(-a // b) rounds up: the last round may be cut.
        rounds = np.tile(np.arange(len(self.classes)), (-(-count // len(self.classes)), 1))
        labels: list[int] = rng.permuted(rounds, axis=1).ravel()[:count].tolist()
        return labels

    def _place(self, rng: np.random.Generator, label: int) -> list[_Layer]:
        """Places the objects of a scene, from back to front: its main one, of the label given, behind all others.

        A further object that hides too much of the others at each of `_TRIES` places is left out.
        """
        layers = [self._layer(rng, label, _ALONE if self._objects == 1 else _AMONG_OTHERS)]
        for _ in range(rng.integers(1, self._objects + 1) - 1):
            for _ in range(_TRIES):
                trial = [*layers, self._layer(rng, int(rng.integers(len(self.classes))), _AMONG_OTHERS)]
                if _enough_visible(trial):
                    layers = trial
                    break
        return layers

    def _layer(self, rng: np.random.Generator, label: int, scales: tuple[float, float]) -> _Layer:
        """Draws one object of random size at a random place, wholly inside the scene.

        Args:
            rng: The source of randomness.
            label: The object's class.
            scales: The least and the greatest length of its longest side, in sides of the scene.
        """
        sprite = planes(self._source.sprite(rng, label, round(self._size * rng.uniform(*scales))))
        height, width = sprite.shape[1:]
        top, left = int(rng.integers(self._size - height + 1)), int(rng.integers(self._size - width + 1))
        window = (slice(top, top + height), slice(left, left + width))
        # Over the whole scene, so that layers of different windows can be compared pixel by pixel.
        alpha = np.zeros((self._size, self._size), dtype=np.float32)
        alpha[window] = sprite[3]
        return _Layer(label, sprite[:3], alpha, window)


def _require_in_range(**settings: int) -> None:
    """Raises a UserError where one of the settings is out of its range in `_RANGES`."""
    for name, value in settings.items():
        least, most = _RANGES[name]
        if not least <= value <= most:
            mend = f"choose {least} at least" if most == math.inf else f"choose from {least} to {most}"
            raise UserError(f"{name}={value} is out of range", mend=mend)


def _visible_masks(layers: list[_Layer]) -> list[NDArray[np.bool_]]:
    """Returns the mask of each layer, H×W: the pixels of which at least half shows this object."""
    # From front to back: `transmission` is the share of a pixel that shows through all layers in front. Masks are
    # disjoint, because at most one layer can have half of a pixel or more, except for a tie.
    masks, transmission = [], np.ones_like(layers[0].alpha)
    for layer in reversed(layers):
        masks.append(layer.alpha * transmission >= 0.5)
        transmission = transmission * (1 - layer.alpha)
    return masks[::-1]


def _enough_visible(layers: list[_Layer]) -> bool:
    """Says whether enough of each object is left visible; the first layer is the main object's."""
    shares = [
        np.count_nonzero(mask) / np.count_nonzero(layer.alpha >= 0.5)
        for layer, mask in zip(layers, _visible_masks(layers), strict=True)
    ]
    return bool(shares[0] >= _LEAST_VISIBLE_MAIN and min(shares) >= _LEAST_VISIBLE)


def _tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Returns the (x0, y0, x1, y1) in pixels of what is set in a mask, upper edges exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _lit(rng: np.random.Generator, canvas: Floats) -> Image.Image:
    """Returns a 3×H×W canvas as a camera sees it: with gain, colour cast and falloff of the light, and sensor noise."""
    gain = (np.exp(rng.uniform(-0.3, 0.2)) * rng.uniform(0.93, 1.07, (3, 1, 1))).astype(np.float32)
    slope = rng.uniform(-0.15, 0.15, 2).astype(np.float32)
    axis = np.linspace(-1, 1, canvas.shape[-1], dtype=np.float32)
    falloff = 1 + slope[0] * axis[:, None] + slope[1] * axis
    noise = rng.standard_normal(falloff.shape, dtype=np.float32) * np.float32(255 * rng.uniform(0, 0.025))
    levels = canvas * (255 * gain * falloff) + (noise + 0.5)  # 0.5, since the conversion to bytes rounds down
    return Image.fromarray(np.moveaxis(levels.clip(0, 255).astype(np.uint8), 0, -1))
