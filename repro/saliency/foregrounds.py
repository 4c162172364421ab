"""Where the foreground of a batch's views comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from repro.augmentation.draws import Draw
from repro.data.splits import Images
from repro.runs.choices import MapOf, Source
from repro.runs.run import Run
from repro.saliency.cropping import crop_maps
from repro.saliency.image_maps import MapSource, load_maps, network_maps
from repro.saliency.localizer import Localizer, grid_of
from repro.saliency.networks import build_localizer
from repro.saliency.scda import foreground

FLIP = [f.name for f in fields(Draw)].index("flip")
"""Where a row of draws says whether a view is flipped."""


class Foregrounds(Protocol):
    """Tells foreground from background in the views of a batch."""

    def __call__(self, views: Tensor, batch: Mapping[str, Any], name: str) -> Tensor:
        """Returns the foreground of one view of each image.

        Args:
            views: B×3×H×W, augmented and normalised.
            batch: of `TwoViews`, which the views were made from.
            name: which of its views they are, `query` or `key`.

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
    relax: float = 0.6
    row_sorted: bool = False
    """Both as `repro.saliency.scda.foreground` takes them."""

    def __call__(self, views: Tensor, batch: Mapping[str, Any], name: str) -> Tensor:
        """Returns the foreground, see `Foregrounds`."""
        return foreground(self.localizer(views), self.relax, self.row_sorted)


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare by
class ByImage:
    """The same rule on maps of the whole images, computed before and cropped as the views were.

    The network has not seen the views' colours, blur and scale: see `salmask bench saliency` for how far that goes.
    """

    maps: Tensor
    """N×G×G, of all images, on the device."""
    grid: int
    """Cells a side of a view."""
    relax: float = 0.6
    row_sorted: bool = False
    """Both as `repro.saliency.scda.foreground` takes them."""

    def __call__(self, views: Tensor, batch: Mapping[str, Any], name: str) -> Tensor:
        """Returns the foreground, see `Foregrounds`."""
        return foreground(crop_batch(self.maps, batch, name, self.grid).unsqueeze(1), self.relax, self.row_sorted)


def build_foregrounds(run: Run, device: torch.device, images: Images | None) -> Foregrounds:
    """Makes what tells foreground from background in the views of a run that masks.

    Args:
        run: its localizer, and whether it uses one.
        device: where the views are.
        images: of the data set; only maps of whole images need them, which are computed here where they are missing.

    Raises:
        UserError: the localizer cannot be had, or its grid does not fit the views.
    """
    grid = grid_of(run.data.crop)
    if not run.needs_localizer:
        return Everywhere(grid)
    settings, row_sorted = run.localizer, run.fidelity.saliency_map is Source.released
    if settings.map is MapOf.image:
        if images is None:
            raise ValueError("maps of whole images need the images")
        maps = load_maps(map_source(run, images), images, device, workers=run.machine.workers)
        return ByImage(maps, grid, settings.relax, row_sorted)
    localizer = build_localizer(settings.network, settings.weights, seed=run.seed, sha256=settings.sha256).to(device)
    localizer.check(run.data.crop)
    return ByView(localizer, settings.relax, row_sorted)


def map_source(run: Run, images: Images) -> MapSource:
    """Returns what makes the maps of whole images of a run."""
    return network_maps(run.localizer, images, run.seed)


def crop_batch(maps: Tensor, batch: Mapping[str, Any], name: str, grid: int, *, exact: bool = False) -> Tensor:
    """Returns what the maps of all images show of one view of each image of a batch.

    Args:
        maps: N×G×G, of all images.
        batch: of `TwoViews`.
        name: which of its views, `query` or `key`.
        grid: cells a side of a view.
        exact: see `crop_maps`.

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
