"""The benchmarks of sources of foreground: maps of whole images beside those of views, and all sources."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import default_collate

from repro.augmentation.draws import COLUMNS
from repro.augmentation.on_device import apply_on_device
from repro.data.splits import Images
from repro.errors import UserError
from repro.masking.patches import as_many_at_random, overlap
from repro.processes.distributed import initialise
from repro.saliency.foregrounds import FLIP, ByImage
from repro.saliency.image_maps import load_maps, network_maps
from repro.saliency.localizer import STRIDE, grid_of
from repro.saliency.true_masks import true_masks
from repro.settings.choices import MapOf
from repro.settings.run import Run
from repro.training.batches.loading import TwoViews
from repro.training.learner import build_view_maker
from repro.training.steps.preprocess import ViewMaker
from repro.training.watching.true_objects import BATCH, load_batch, measure_foregrounds

SIDES = (128, 192, 256, 320, 448)
"""Pixels a side of the whole images that are compared."""
COLOURS = {"colour jitter": "jitter", "grey": "grey", "blur": "sigma"}
"""Changes that the network sees in a view but not in the whole image -> the `Draw`'s field that switches each."""
GRADES = (
    "truth-dilated-1",
    "truth-dilated-2",
    "truth-dilated-4",
    "truth",
    "truth-eroded-1",
    "truth-eroded-2",
    "truth-shifted-1",
    "truth-shifted-2",
    "truth-shifted-4",
    "centre",
    "random",
    "network-shuffled",
    "inverted",
)
"""The sources beside the network that are compared."""

Row = dict[str, Any]


@torch.no_grad()
def agreement(run: Run, images: Images, *, views: int) -> list[Row]:
    """Measures how well foregrounds from maps of whole images agree with those of the views themselves.

    Args:
        run: Its localizer, views and augmentation are used.
        images: Any, with true masks or without.
        views: Least number of views to compare; each image is cropped as often as that takes.

    Returns:
        A row for each map. `IoU` is that of its foreground with the exact one, which is found in the view itself: as
        training shows it, and without jitter, grey and blur. `gamma error` is the mean difference of the foreground's
        share from the exact one's. First come the exact maps of views that lack all or all but one of these changes, or
        that are flipped; then the maps of whole images, by the grid that they keep; then as many cells at random. With
        true objects: `mean IoU`.

    Raises:
        UserError: The run's device is not there.
    """
    device = initialise(run.machine.device)
    exact = replace(run, localizer=replace(run.localizer.by("network"), map=MapOf.view))
    maker = build_view_maker(exact, device)
    maps = {side: _maps(run, images, side, device) for side in SIDES}
    cells: dict[str, list[Tensor]] = {}
    objects: list[Tensor] = []
    for batch, true_objects in _batches(run, images, views, device):
        found = _exact(maker, batch)
        for side, of_images in maps.items():
            grid = side // STRIDE
            name = f"whole image, {side} px: {grid}×{grid} cells, {2 * grid**2} bytes"
            found[name] = ByImage(of_images, grid_of(run.data.crop), run.localizer.relax)(of_images, batch, "query")
        for name, foregrounds in found.items():
            cells.setdefault(name, []).append(foregrounds.cpu())
        objects += [true_objects["query"].cpu()] if true_objects else []
    return compare_foregrounds({name: torch.cat(parts) for name, parts in cells.items()}, objects)


SHOWN, PLAIN = "view as shown", "view, plain"
"""The exact maps that all others are compared with: of the view as training shows it, and without colour changes."""


def _exact(maker: ViewMaker, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns what the localizer finds in queries as shown, plain, with one change each, and flipped."""
    assert maker.foregrounds is not None
    foregrounds = maker.foregrounds
    crops = batch["query"].to(maker.device).float() / 255

    def find(draws: Tensor) -> Tensor:
        return foregrounds(maker.normalise(apply_on_device(crops, draws, maker.augmentation)), batch, "query")

    def with_only(*kept: str) -> Tensor:
        draws = batch["query_draw"].clone()
        for field in COLOURS.values():
            if field not in kept:
                draws[:, COLUMNS.index(field)] = 0
        return draws

    # Flipped before the network and back afterwards, so that the difference is the network's and not the place's.
    flipped = with_only()
    flipped[:, FLIP] = 1 - flipped[:, FLIP]
    return {
        SHOWN: find(batch["query_draw"]),
        PLAIN: find(with_only()),
        **{f"view, {change} only": find(with_only(field)) for change, field in COLOURS.items()},
        "view, plain, flipped": find(flipped).flip(-1),
    }


def _batches(
    run: Run, images: Images, views: int, device: torch.device
) -> Iterator[tuple[dict[str, Any], Mapping[str, Tensor]]]:
    """Yields batches of views, epoch after epoch, each with the true objects if they are known."""
    dataset = TwoViews(images, run.data.crop, run.augmentation, run.seed)
    masks = true_masks(run, images)
    for epoch in range(-(-views // len(images))):
        for start in range(0, len(images), BATCH):
            indices = range(start, min(start + BATCH, len(images)))
            if masks is not None and epoch == 0:
                yield load_batch(run, images, masks, indices, device)
            else:
                yield default_collate([dataset[epoch, index] for index in indices]), {}


def _maps(run: Run, images: Images, side: int, device: torch.device) -> Tensor:
    settings = replace(run.localizer, map=MapOf.image, image_side=side)
    return load_maps(network_maps(settings, images, run.seed), images, device, workers=run.machine.workers)


def compare_foregrounds(cells: Mapping[str, Tensor], objects: Sequence[Tensor]) -> list[Row]:
    """Compares foregrounds of the same views cell by cell.

    Args:
        cells: Name of the source -> foregrounds N×g×g; `SHOWN` and `PLAIN` are among the names.
        objects: The true objects n×g×g in parts; they may be known for the first views only, or for none.

    Returns:
        The rows of `agreement`; that of as many cells at random comes last.
    """
    cells = {**cells, "as many cells at random": as_many_at_random(cells[PLAIN], Generator().manual_seed(0))}
    true = torch.cat(list(objects)) if objects else torch.zeros(0, 1, 1, dtype=torch.bool)
    shown = true.any(-1).any(-1)  # a crop may miss the object: then there is nothing to cover
    rows = []
    for name, found in cells.items():
        row: Row = {
            "foreground by": name,
            "IoU, view as shown": _iou(found, cells[SHOWN]),
            "IoU, plain view": _iou(found, cells[PLAIN]),
            "gamma error": round((_gamma(found) - _gamma(cells[SHOWN])).abs().mean().item(), 3),
            "gamma": round(_gamma(found).mean().item(), 3),
        }
        if len(true):
            row["mean IoU"] = overlap(found[: len(true)][shown], true[shown])["mean IoU"]
        rows.append(row)
    return rows


def _gamma(cells: Tensor) -> Tensor:
    return cells.float().mean((1, 2))


def _iou(one: Tensor, other: Tensor) -> float:
    """Returns the mean intersection over union of foregrounds B×g×g; two empty ones agree."""
    intersection, union = (both.sum((1, 2)) for both in (one & other, one | other))
    return round(torch.where(union == 0, 1, intersection / union.clamp(min=1)).mean().item(), 3)


def sources(run: Run, images: Images, *, count: int) -> list[Row]:
    """Measures how well the foreground of each source covers the true object, in views as training crops them.

    Args:
        run: A row that masks; its localizer, views and grid are used.
        images: Images with true masks.
        count: How many images are looked at; all if there are fewer.

    Returns:
        A row for each source, the run's own included: `mean IoU` with the true mask of the main object, `precision`,
        `recall`, `gamma` and the number of `views`, see `repro.training.watching.true_objects.measure_foregrounds`.

    Raises:
        UserError: The images have no true masks, or the run's device is not there.
    """
    masks = true_masks(run, images)
    if masks is None:
        what = f"data.dataset={run.data.dataset} has no true masks to grade sources by"
        raise UserError(what, mend="data.masks=DIR, with a mask of each image")
    device = initialise(run.machine.device)
    count = min(count, len(images))
    only = range(count) if count < len(images) else None  # maps of all images are kept, those of some are not
    network = run.localizer.by("network")
    variants = {
        f"{network.network}, of each view": replace(network, map=MapOf.view),
        f"{network.network}, of whole images": replace(network, map=MapOf.image),
        **({"maps": run.localizer.by("maps")} if run.localizer.files else {}),
        # And the run's own source, if it is none of these: another grade, or one that a user added.
        **{source: run.localizer.by(source) for source in (*GRADES, run.localizer.source) if source != "network"},
    }
    rows = []
    for name, localizer in variants.items():
        variant = replace(run, localizer=localizer)
        maker = build_view_maker(variant, device, images, only=only)
        rows.append({"source": name, **measure_foregrounds(variant, maker, images, masks, device, count)["query"]})
    return rows
