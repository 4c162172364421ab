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
"""Where a row of draws says whether a view is flipped."""
LEAST_SHARE = 1e-3
"""Of a cell: less than half precision and rounding leave of a share is none."""
ROW_STEP, OTHER_ROW_STEP = 7919, 7927
"""Primes, so that the rows of random cells come round late: the other one where the first divides their number."""


class Foregrounds(Protocol):
    """Tells foreground from background in the views of a batch."""

    def __call__(self, views: Tensor, batch: Mapping[str, Any], name: str) -> Tensor:
        """Returns the foreground of one view of each image.

        Args:
            views: B×3×H×W, augmented and normalised.
            batch: Of `TwoViews` or `ViewDraws`, which the views were made from.
            name: Which of its views they are, `query` or `key`.

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
    """What a frozen network finds in each view, as the paper has it."""

    localizer: Localizer
    relax: float
    row_sorted: bool = False
    """Both as `repro.saliency.scda.foreground` takes them."""

    def __call__(self, views: Tensor, batch: Mapping[str, Any], name: str) -> Tensor:
        """Returns the foreground, see `Foregrounds`."""
        # The view as it is, jittered and blurred (released main_moco.py:344), and before the high-pass filter:
        # the localizer was trained on photographs.
        return foreground(self.localizer(views), self.relax, self.row_sorted)


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare by
class ByImage:
    """The same rule on maps of the whole images, computed before and cropped as the views were.

    The network has not seen the views' colours, blur and scale; how far that goes, `salmask bench saliency agreement`
    measures.
    """

    maps: Tensor
    """N×G×G, of all images, on the device."""
    grid: int
    """Cells a side of a view."""
    relax: float
    row_sorted: bool = False
    """Both as `repro.saliency.scda.foreground` takes them."""

    def __call__(self, views: Tensor, batch: Mapping[str, Any], name: str) -> Tensor:
        """Returns the foreground, see `Foregrounds`."""
        return foreground(crop_batch(self.maps, batch, name, self.grid).unsqueeze(1), self.relax, self.row_sorted)


@dataclass(frozen=True, eq=False)
class ByMask:
    """True masks, or spoilt ones, cropped as the views were: cells that hold at least half of what the fullest holds.

    A view that shows nothing of the object is all foreground, as one without saliency is.
    """

    maps: Tensor
    """N×G×G, how much of each cell is object, of all images, on the device."""
    grid: int
    """Cells a side of a view."""
    inverted: bool = False
    """Whether all that is not the object is foreground."""

    def __call__(self, views: Tensor, batch: Mapping[str, Any], name: str) -> Tensor:
        """Returns the foreground, see `Foregrounds`."""
        cells = crop_batch(self.maps, batch, name, self.grid, exact=True)
        cells = 1 - cells if self.inverted else cells
        cells = cells.where(cells > LEAST_SHARE, 0)
        return cells >= cells.amax((1, 2), keepdim=True) / 2


@dataclass(frozen=True, eq=False)
class RandomCells:
    """As many cells as another source has, anywhere in the view, others in each view of each epoch."""

    counted: Foregrounds
    """Whose cells are counted."""
    ranks: Tensor
    """N×g² whole numbers, on the device: each row has the places of a view's cells in an order at random."""

    def __call__(self, views: Tensor, batch: Mapping[str, Any], name: str) -> Tensor:
        """Returns the foreground, see `Foregrounds`."""
        cells = self.counted(views, batch, name)
        # Rows of a table, and no generator that would have to be made anew for each batch: a view's row follows from
        # its image, epoch and name, and no two images of an epoch share one.
        index, epoch = (batch[key].to(self.ranks.device, non_blocking=True) for key in ("index", "epoch"))
        # Of a multiple of the step an image would meet few rows: of 7919 a single one, in all views and epochs.
        step = ROW_STEP if len(self.ranks) % ROW_STEP else OTHER_ROW_STEP
        row = (index + step * (2 * epoch + (name == "key"))) % len(self.ranks)
        return (self.ranks.index_select(0, row) < cells.flatten(1).sum(-1, keepdim=True)).view_as(cells)


def crop_batch(maps: Tensor, batch: Mapping[str, Any], name: str, grid: int, *, exact: bool = False) -> Tensor:
    """Returns what the maps of all images show of one view of each image of a batch.

    Args:
        maps: N×G×G, of all images.
        batch: Of `TwoViews` or `ViewDraws`.
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
