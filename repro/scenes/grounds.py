"""The grounds of scenes: a texture for each scene, or pieces of a few textures that many scenes share."""

from collections.abc import Callable
from typing import Any

import numpy as np

from repro.errors import UserError
from repro.randomness import Purpose, stream
from repro.scenes.textures import Bytes, Floats

_SHEET = 1.5  # side of a texture of the pool, in sides of a scene, which shows a piece of it
_MOST_BYTES = 128 * 2**20  # of textures that a process keeps in memory; further ones are drawn each time

Draw = Callable[[np.random.Generator, int], Floats]
"""Draws a texture of so many pixels a side: 3×side×side in 0..1."""


class Grounds:
    """The grounds of scenes. With a pool, each class has textures of its own, as natural grounds go with classes.

    Raises:
        UserError: A setting is out of its range.
    """

    def __init__(self, draw: Draw, side: int, *, pool: int, context: float, classes: int, seed: int) -> None:
        """Fixes which grounds there are; nothing is drawn yet.

        Args:
            draw: Draws a texture.
            side: The height and width of a ground in pixels.
            pool: The number of textures; 0: each scene has a texture of its own.
            context: The probability that a scene's texture is one of its class's own, rather than any of the pool. Each
                texture of the pool belongs to one class, and each class has at least `pool // classes`.
            classes: The number of classes.
            seed: The seed of the textures; both splits have the same pool.
        """
        if pool < 0:
            raise UserError(f"grounds={pool} is out of range", mend="choose 0, or the number of textures")
        if not 0 <= context <= 1:
            raise UserError(f"context={context:g} is out of range", mend="choose from 0 to 1")
        if context and pool < classes:
            raise UserError(
                f"context={context:g} needs a ground of its own for each of {classes} classes, and grounds={pool}",
                mend=f"grounds={classes} or more, or context=0",
            )
        self._draw, self._side, self._pool, self._context = draw, side, pool, context
        self._classes, self._seed = classes, seed
        self._sheets: dict[int, Bytes] = {}

    def __call__(self, rng: np.random.Generator, label: int) -> Floats:
        """Draws the ground of a scene: 3×side×side in 0..1.

        Args:
            rng: The source of randomness, the scene's own.
            label: The scene's class.
        """
        if not self._pool:
            return self._draw(rng, self._side)
        own = range(label, self._pool, self._classes) if rng.random() < self._context else range(self._pool)
        sheet = self._sheet(own[int(rng.integers(len(own)))])
        top, left = rng.integers(sheet.shape[-1] - self._side + 1, size=2).tolist()
        turns, flipped = int(rng.integers(4)), rng.random() < 0.5
        piece = np.rot90(sheet[:, top : top + self._side, left : left + self._side], turns, (1, 2))
        if flipped:
            piece = piece[:, :, ::-1]
        return np.ascontiguousarray(piece) * np.float32(1 / 255)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the textures out: a spawned worker draws its own."""
        return self.__dict__ | {"_sheets": {}}

    def _sheet(self, number: int) -> Bytes:
        """Returns a texture of the pool, 3 channels; drawn once a process as long as `_MOST_BYTES` allow."""
        sheet = self._sheets.get(number)
        if sheet is None:
            texture = self._draw(stream(self._seed, Purpose.ground, number), round(_SHEET * self._side))
            sheet = (texture * 255 + 0.5).astype(np.uint8)
            if (len(self._sheets) + 1) * sheet.nbytes <= _MOST_BYTES:
                self._sheets[number] = sheet
        return sheet
