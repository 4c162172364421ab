"""Images whose objects are known and easily found, for tests of the audit."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tiny_runs import tiny
from torch import Tensor, nn

from repro.scenes.dataset import Instance, Scene, Scenes
from repro.settings.run import Run

METHOD = "mocov2+ours-blur"
"""A row that masks whole patches only, so that rates are exact."""
LARGE = {"data.crop": 56, "data.scenes.size": 64, "data.scenes.train_count": 64}


class Bright(nn.Module):
    """Stands in for a network that is most active where the view is red: a test paints the foreground red."""

    def forward(self, views: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(views[:, :1] - views[:, 2:], views.shape[-1] // 32)


class Discs(Scenes):
    """Scenes with one large red disc on blue, off the middle, and its mask."""

    def scene(self, index: int) -> Scene:
        side = self._size
        rows, columns = np.mgrid[:side, :side]
        mask = (rows - 0.4 * side) ** 2 + (columns - (0.3 + 0.02 * (index % 20)) * side) ** 2 < (0.3 * side) ** 2
        colours = np.where(mask[..., None], [220, 40, 40], [40, 40, 220])
        # Blurring leaves a flat colour as it is, so nothing would be hidden.
        grain = np.random.default_rng(index).integers(-30, 31, colours.shape)
        pixels = (colours + grain).astype(np.uint8)
        return Scene(Image.fromarray(pixels), (Instance(0, (0, 0, side, side), mask),))

    def main_mask(self, index: int) -> NDArray[np.bool_]:
        return self.scene(index).instances[0].mask


def plain_colours(method: str = METHOD, **changes: Any) -> Run:
    """A run with crops and flips alone: no jitter, grey or blur."""
    still = {f"augmentation.{name}_probability": 0.0 for name in ("jitter", "grey", "blur")}
    return tiny(method, {**LARGE, "data.crop": 112, **still, **changes})


def discs(count: int = 64) -> Discs:
    return Discs("train", count=count, classes=8, size=112)
