"""Procedural objects: a class is a shape with a surface pattern, and has no colour unless that is asked for."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from repro.errors import UserError
from repro.randomness import Purpose, stream
from repro.scenes.textures import (
    Bytes,
    Floats,
    backdrop,
    blend,
    contrasting_colours,
    fill_outline,
    random_colours,
    value_noise,
)

_STEPS = 8  # points for each side of an outline that is to be bent

Points = NDArray[np.float64]
"""N×2 (x, y); also the 2×2 matrix of a pose, by which such points are multiplied."""


@dataclass(frozen=True)
class Outline:
    """A shape around the origin, y downwards, in arbitrary units: its size is set when it is drawn.

    Attributes:
        solid: N×2 (x, y), closed.
        hole: M×2 (x, y), cut out of it; None for none.
    """

    solid: Points
    hole: Points | None = None


def _polar(radius: Points, turn: Points) -> Points:
    """Returns points at these radii (N) and angles (N, in radians clockwise from the top): N×2."""
    return np.stack([radius * np.sin(turn), -radius * np.cos(turn)], axis=1)


def _regular(corners: int) -> Points:
    return _polar(np.ones(corners), np.arange(corners) * 2 * np.pi / corners)


def _disc(radius: float = 1.0) -> Points:
    return radius * _regular(64)


def _star() -> Points:
    return _polar(np.tile([1, 0.42], 5), np.arange(10) * np.pi / 5)


def _gear() -> Points:
    teeth = 8
    start = np.arange(teeth)[:, None] * 2 * np.pi / teeth
    return _polar(np.tile([0.7, 1, 1, 0.7], teeth), (start + np.array([0, 0.12, 0.4, 0.52])).ravel())


def _crescent() -> Points:
    outer = np.linspace(0.65, 2 * np.pi - 0.65, 48)
    inner = np.linspace(2 * np.pi - 0.95, 0.95, 48)
    centre, radius = np.array([0, -0.33]), np.sin(0.65) / np.sin(0.95)
    return np.concatenate([_polar(np.ones(48), outer), _polar(np.full(48, radius), inner) + centre])


def _heart() -> Points:
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    depth = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
    return np.stack([16 * np.sin(turn) ** 3, -depth - 2.5], axis=1)


def _corners(*pairs: tuple[float, float]) -> Points:
    return np.array(pairs, dtype=np.float64)


_SQUARE = _corners((-1, -1), (1, -1), (1, 1), (-1, 1))
_CROSS = _corners(
    *((-0.36, -1), (0.36, -1), (0.36, -0.36), (1, -0.36), (1, 0.36), (0.36, 0.36)),
    *((0.36, 1), (-0.36, 1), (-0.36, 0.36), (-1, 0.36), (-1, -0.36), (-0.36, -0.36)),
)
_ARROW = _corners((0, -1), (0.8, 0), (0.32, 0), (0.32, 1), (-0.32, 1), (-0.32, 0), (-0.8, 0))
_BOLT = _corners((0.25, -1), (-0.65, 0.15), (-0.12, 0.15), (-0.35, 1), (0.65, -0.25), (0.1, -0.25), (0.55, -1))

OUTLINES: dict[str, Outline] = {
    "disc": Outline(_disc()),
    "square": Outline(_SQUARE),
    "triangle": Outline(_regular(3)),
    "star": Outline(_star()),
    "cross": Outline(_CROSS),
    "ring": Outline(_disc(), _disc(0.52)),
    "crescent": Outline(_crescent()),
    "heart": Outline(_heart()),
    "arrow": Outline(_ARROW),
    "gear": Outline(_gear(), _disc(0.28)),
    "hexagon": Outline(_regular(6)),
    "bolt": Outline(_BOLT),
}


# A pattern maps object coordinates (x, y: H×W, -1..1 across the object's longest side) and the pixels in one unit to
# the share of the second colour: H×W in 0..1. The two colours come in random order, so that a pattern's mean tells
# nothing.
Pattern = Callable[[np.random.Generator, Floats, Floats, float], Floats]


def _plain(rng: np.random.Generator, x: Floats, y: Floats, unit: float) -> Floats:
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    return np.clip(0.5 + 0.45 * along, 0, 1)


def _striped(rng: np.random.Generator, x: Floats, y: Floats, unit: float) -> Floats:
    angle = rng.uniform(0, np.pi)
    frequency = rng.uniform(2.0, 3.2) * np.pi
    phase = frequency * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 2 * np.pi)
    return _harden(np.sin(phase), unit / frequency)


def _checked(rng: np.random.Generator, x: Floats, y: Floats, unit: float) -> Floats:
    frequency, shift = rng.uniform(1.6, 2.4) * np.pi, rng.uniform(0, 2 * np.pi, 2)
    return _harden(np.sin(frequency * x + shift[0]) * np.sin(frequency * y + shift[1]), unit / frequency)


def _dotted(rng: np.random.Generator, x: Floats, y: Floats, unit: float) -> Floats:
    frequency, shift = rng.uniform(3.4, 4.4) * np.pi, rng.uniform(0, 2 * np.pi, 2)
    lattice = np.cos(frequency * (x + y) / 1.41 + shift[0]) + np.cos(frequency * (x - y) / 1.41 + shift[1])
    return _harden(lattice - 0.55, unit / frequency)


def _mottled(rng: np.random.Generator, x: Floats, y: Floats, unit: float) -> Floats:
    height, width = x.shape
    cells = int(rng.integers(5, 8))
    field = value_noise(rng, (height, width), cells=cells, octaves=3)
    return _harden(field - np.median(field), 4 * unit / cells)


def _harden(field: NDArray[np.floating], pixels: float) -> Floats:
    """Returns a field's sign as 0 or 1, with an edge about one pixel wide where it changes by 1 in `pixels` pixels."""
    return (0.5 + field * max(pixels, 0.5)).clip(0, 1).astype(np.float32)


PATTERNS: dict[str, Pattern] = {
    "plain": _plain,
    "striped": _striped,
    "checked": _checked,
    "dotted": _dotted,
    "mottled": _mottled,
}

# The numbers of outlines and of patterns have no common factor, so stepping through both at once meets every pair once,
# and the first ten classes already have ten outlines.
MOST_CLASSES = len(OUTLINES) * len(PATTERNS)


class Shapes:
    """Procedural objects of `classes` classes.

    Without `members`, a class is an outline and a pattern, which each scene shows in other colours. With `members`, a
    class has that many objects to train on, and as many that are held out. Each is the class's outline bent in its own
    way, with colours and a surface of its own; scenes show it in different poses and lights.

    With `colour`, this share of the objects, or of a class's members, has two colours that belong to the class. Nothing
    else changes: the same seeds give the same outlines, patterns and poses.

    Attributes:
        names: The name of each class, such as "striped star".

    Raises:
        UserError: More classes are asked for than there are pairs of outline and pattern, or `colour` is no share.
    """

    def __init__(
        self, classes: int, *, members: int = 0, held_out: bool = False, colour: float = 0.0, seed: int = 0
    ) -> None:
        """Fixes which objects there are.

        Args:
            classes: The number of classes.
            members: The number of objects of each class, see above; 0: none.
            held_out: Whether the objects are the held-out members rather than the training ones.
            colour: The probability of the class's own colours, 0..1; both splits have the same.
            seed: The seed of the members, and of the classes' colours.
        """
        if not 1 <= classes <= MOST_CLASSES:
            message = f"classes={classes} is out of range of the built-in shapes"
            raise UserError(message, mend=f"choose from 1 to {MOST_CLASSES}")
        if not 0 <= colour <= 1:
            raise UserError(f"colour={colour:g} is out of range", mend="choose from 0 to 1")
        outlines, patterns = list(OUTLINES), list(PATTERNS)
        self._pairs = [(outlines[k % len(outlines)], patterns[k % len(patterns)]) for k in range(classes)]
        self.names: tuple[str, ...] = tuple(f"{pattern} {outline}" for outline, pattern in self._pairs)
        self._members, self._first, self._seed = members, members if held_out else 0, seed
        self._colour = colour

    def identity(self) -> list[str]:
        """Returns what tells this set of objects from another: the class names."""
        return list(self.names)

    def sprite(self, rng: np.random.Generator, label: int, extent: int) -> Image.Image:
        """Draws one object in a random pose, with random colours and lighting.

        Args:
            rng: The source of randomness.
            label: The class, an index into `names`.
            extent: The longest side, in pixels.

        Returns:
            RGBA with straight alpha; its longer side is the extent, its outermost rows and columns may be faint.
        """
        name, pattern = self._pairs[label]
        outline, surface = OUTLINES[name], rng
        if self._members:
            member = self._first + int(rng.integers(self._members))
            surface = stream(self._seed, Purpose.member, label, member)
            outline = bend_outline(surface, outline)
        pose = _random_pose(rng)
        solid = outline.solid @ pose.T
        # Scaled by what the pose made of the outline, so that every shape fills its extent whatever its units.
        low, high = solid.min(axis=0), solid.max(axis=0)
        scale, centre = extent / (high - low).max(), (low + high) / 2
        width, height = np.maximum(np.rint((high - low) * scale), 1).astype(int).tolist()
        middle = np.array([width, height]) / 2
        hole = None if outline.hole is None else (outline.hole @ pose.T - centre) * scale + middle
        alpha = fill_outline((height, width), (solid - centre) * scale + middle, hole)

        x, y = _object_coordinates(pose, (height, width), extent)
        first, second = self._colours(surface, label)[:, :, None, None]
        colour = blend(first, second, PATTERNS[pattern](surface, x, y, extent / 2))
        colour *= _shading(rng, alpha, extent) * 255
        levels = (colour + 0.5).clip(0, 255).astype(np.uint8)
        return Image.fromarray(np.stack([*levels, alpha], axis=-1))

    def _colours(self, rng: np.random.Generator, label: int) -> Floats:
        """Draws an object's two colours, 2×3 RGB in 0..1; the stream goes on alike, whichever they are."""
        colours = contrasting_colours(rng)
        # By a stream of its own, which `spawn` names without drawing: with colours, scenes differ in nothing else.
        if self._colour and rng.spawn(1)[0].random() < self._colour:
            return contrasting_colours(stream(self._seed, Purpose.colour, label))
        return colours

    def backdrop(self, rng: np.random.Generator, side: int) -> Floats:
        """Draws a ground, independently of the objects on it: 3×side×side in 0..1."""
        return backdrop(rng, side, random_colours(rng, 7))


def bend_outline(rng: np.random.Generator, outline: Outline) -> Outline:
    """Draws a member's outline: stretched by up to 1.35, and its radius changed smoothly by a tenth or so.

    Args:
        rng: The source of randomness, the member's own.
        outline: The class's.
    """
    stretch = np.exp(rng.uniform(-0.15, 0.15))
    waves, turns = rng.normal(0, 0.04, 3), rng.uniform(0, 2 * np.pi, 3)
    reach = np.abs(outline.solid).max()

    def bend(points: Points) -> Points:
        # Corners alone would leave the sides straight.
        steps = np.linspace(0, 1, _STEPS, endpoint=False)[None, :, None]
        dense = (points[:, None] + steps * (np.roll(points, -1, axis=0) - points)[:, None]).reshape(-1, 2)
        angle = np.arctan2(dense[:, 1], dense[:, 0])
        # Near the middle, where the angle turns fast, points stay where they are.
        weight = np.minimum(np.linalg.norm(dense, axis=1) / (0.3 * reach), 1)
        gain = 1 + weight * sum(
            wave * np.cos(order * angle + turn) for order, wave, turn in zip((2, 3, 4), waves, turns, strict=True)
        )
        bent: Points = dense * gain[:, None] * np.array([stretch, 1 / stretch])
        return bent

    return Outline(bend(outline.solid), None if outline.hole is None else bend(outline.hole))


def _random_pose(rng: np.random.Generator) -> Points:
    """Draws a rotation by up to 40°, stretch by up to 1.2, shear by up to 0.2, flip: 2×2, from object to picture."""
    angle, stretch, shear = rng.uniform(-0.7, 0.7), rng.uniform(-0.18, 0.18), rng.uniform(-0.2, 0.2)
    flip = rng.choice([-1.0, 1.0])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    pose: Points = rotation @ np.array([[flip * np.exp(stretch / 2), shear], [0, np.exp(-stretch / 2)]])
    return pose


def _object_coordinates(pose: Points, shape: tuple[int, int], extent: int) -> tuple[Floats, Floats]:
    """Returns where each pixel lies on the object before its pose: x and y, H×W each, 2 units to the extent."""
    # The pose without its change of area: patterns turn and shear with the object, but keep their scale.
    inverse = np.linalg.inv(pose)
    inverse = (inverse / np.sqrt(abs(np.linalg.det(inverse)))).astype(np.float32)
    height, width = shape
    across = (2 * np.arange(width, dtype=np.float32) + 1 - width) / np.float32(extent)
    down = ((2 * np.arange(height, dtype=np.float32) + 1 - height) / np.float32(extent))[:, None]
    return inverse[0, 0] * across + inverse[0, 1] * down, inverse[1, 0] * across + inverse[1, 1] * down


def _shading(rng: np.random.Generator, alpha: Bytes, extent: int) -> Floats:
    """Draws a rounded edge lit from one side, and a rough surface: the gain of each pixel, H×W about 1.

    Args:
        rng: The source of randomness.
        alpha: H×W, the object's outline.
        extent: The object's longest side in pixels.
    """
    # The blurred outline serves as a height map, and its slope towards the light as the amount of light. It is padded,
    # since a blur within the picture would see no edge where the object touches the border.
    radius = max(extent * 0.06, 1.0)
    margin = int(3 * radius)
    padded = Image.fromarray(np.pad(alpha, margin)).filter(ImageFilter.GaussianBlur(radius))
    height = np.asarray(padded, dtype=np.float32) * np.float32(1 / 255)
    slope_y, slope_x = np.gradient(height)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.0)
    relief = (slope_x * np.cos(angle) + slope_y * np.sin(angle)) * np.float32(strength * 2 * radius)
    rough = value_noise(rng, alpha.shape, cells=8, octaves=2) - 0.5
    inner = relief[margin : margin + alpha.shape[0], margin : margin + alpha.shape[1]]
    gain: Floats = 1 + inner + np.float32(rng.uniform(0.1, 0.3)) * rough
    return gain
