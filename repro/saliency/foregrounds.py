"""Where the foreground of a batch's views comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from repro.augmentation.draws import COLUMNS
from repro.saliency.cropping import crop_maps
from repro.saliency.localizer import Localizer
from repro.saliency.scda import foreground

FLIP = COLUMNS.index("flip")
"""The column of a view's draws that says whether it is flipped."""
LEAST_SHARE = 1e-3
"""A smaller share of a cell counts as none: it is an error of rounding or of half precision."""
LEAST_CONTRAST = 1e-4
"""A smaller difference between a view's cells counts as none: half precision hardly holds it in a map."""
ROW_STEP, OTHER_ROW_STEP = 7919, 7927
"""Primes, so that rows of random cells repeat late; the second is used where the first divides the number of rows."""


class Foregrounds(Protocol):
    """Tells foreground from background in the views of a batch."""

    def __call__(self, views: Tensor, batch: Mapping[str, Any], name: str) -> Tensor:
        """Returns the foreground of one view of each image.

        Args:
            views: B×3×H×W, augmented and normalised.
            batch: The batch of `TwoViews` or `ViewDraws` from which the views were made.
            name: Which of its views these are, `query` or `key`.

        Returns:
            B×g×g, boolean, on the views' device.
        """


@dataclass(frozen=True)
class Everywhere:
    """All cells are foreground: one stratum, so that patches are drawn anywhere."""

    grid: int
    """Cells a side of a view."""

    def __call__(self, views: Tensor, batch: Mapping[str, Any], name: str) -> Tensor:
        """Returns the foreground, see `Foregrounds`."""
        return torch.ones(len(views), self.grid, self.grid, dtype=torch.bool, device=views.device)


@dataclass(frozen=True)
class ByView:
    """Foreground by a frozen network's activations of each view, as in the paper."""

    localizer: Localizer
    relax: float
    row_sorted: bool = False
    """For `relax` and `row_sorted` see `repro.saliency.scda.foreground`."""

    def __call__(self, views: Tensor, batch: Mapping[str, Any], name: str) -> Tensor:
        """Returns the foreground, see `Foregrounds`."""
        # The localizer sees the view jittered and blurred (released main_moco.py:344), but not high-passed:
        # it was trained on photographs.
        return foreground(self.localizer(views), self.relax, self.row_sorted)


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare by
class ByImage:
    """Foreground by the same rule on maps of the whole images, computed beforehand and cropped like the views.

    The network has not seen the colours, blur and scale of the views; `salmask bench saliency agreement` measures how
    much this changes.
    """

    maps: Tensor
    """N×G×G, of all images, on the device; of mean 0 and standard deviation 1, or in 0..1."""
    grid: int
    """Cells a side of a view."""
    relax: float
    row_sorted: bool = False
    """For `relax` and `row_sorted` see `repro.saliency.scda.foreground`."""

    def __call__(self, views: Tensor, batch: Mapping[str, Any], name: str) -> Tensor:
        """Returns the foreground, see `Foregrounds`."""
        cells = crop_batch(self.maps, batch, name, self.grid)
        # Weighted means of equal numbers differ in their last digit, by which the rule would tell the cells of a flat
        # part of the map apart.
        is_flat = cells.amax((1, 2), keepdim=True) - cells.amin((1, 2), keepdim=True) < LEAST_CONTRAST
        return foreground(cells.masked_fill(is_flat, 0).unsqueeze(1), self.relax, self.row_sorted)


@dataclass(frozen=True, eq=False)
class ByMask:
    """Foreground by true or degraded masks, cropped like the views: cells at least half as full as the fullest one.

    A view that shows nothing of the object is all foreground, like one without saliency.
    """

    maps: Tensor
    """N×G×G, the share of each cell that is object, of all images, on the device."""
    grid: int
    """Cells a side of a view."""
    inverted: bool = False
    """Whether everything but the object is foreground."""

    def __call__(self, views: Tensor, batch: Mapping[str, Any], name: str) -> Tensor:
        """Returns the foreground, see `Foregrounds`."""
        cells = crop_batch(self.maps, batch, name, self.grid, exact=True)
        cells = 1 - cells if self.inverted else cells
        cells = cells.where(cells > LEAST_SHARE, 0)
        return cells >= cells.amax((1, 2), keepdim=True) / 2


@dataclass(frozen=True, eq=False)
class RandomCells:
    """As many cells as another source finds, at random places that differ between views and epochs."""

    counted: Foregrounds
    """The other source."""
    ranks: Tensor
    """N×g² whole numbers, on the device: each row is a random ranking of a view's cells."""

    def __call__(self, views: Tensor, batch: Mapping[str, Any], name: str) -> Tensor:
        """Returns the foreground, see `Foregrounds`."""
        cells = self.counted(views, batch, name)
        # Rows of a table instead of a generator, which would have to be seeded for each batch. A view's row follows
        # from its image, epoch and name; queries of one epoch never share a row, nor do keys.
        index, epoch = (batch[key].to(self.ranks.device, non_blocking=True) for key in ("index", "epoch"))
        # If the number of rows were a multiple of the step, an image would meet few rows: of 7919 only a single one.
        step = ROW_STEP if len(self.ranks) % ROW_STEP else OTHER_ROW_STEP
        row = (index + step * (2 * epoch + (name == "key"))) % len(self.ranks)
        return (self.ranks.index_select(0, row) < cells.flatten(1).sum(-1, keepdim=True)).view_as(cells)


def crop_batch(maps: Tensor, batch: Mapping[str, Any], name: str, grid: int, *, exact: bool = False) -> Tensor:
    """Crops the maps of a batch's images as one view of each was cropped.

    Args:
        maps: N×G×G, of all images.
        batch: A batch of `TwoViews` or `ViewDraws`.
        name: Which of its views, `query` or `key`.
        grid: Cells a side of a view.
        exact: See `crop_maps`.

    Returns:
        B×grid×grid, on the maps' device.
    """

    def moved(numbers: Tensor) -> Tensor:
        return numbers.to(maps.device, non_blocking=True)

    return crop_maps(
        maps.index_select(0, moved(batch["index"])).float(),
        moved(batch[f"{name}_box"]),
        moved(batch["size"]),
        moved(batch[f"{name}_draw"][:, FLIP] > 0),
        grid,
        exact=exact,
    )
