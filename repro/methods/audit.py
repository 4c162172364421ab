"""The audit of masking: what it hides, as pictures, and as statistics against the true objects where these are known.

The run's own way of choosing patches stands beside patches drawn at random and beside the released code, on the same
views. What is hidden is measured on the network's inputs themselves, as the pixels that differ from the unmasked input,
and not on what masking says it did: a flat patch that is blurred, or filled with its own colour, is not hidden.
"""

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repro.data.splits import Images
from repro.errors import UserError
from repro.masking.patches import as_many_at_random, overlap, to_pixels
from repro.randomness import Purpose, stream, stream_seed
from repro.saliency.true_masks import true_masks
from repro.settings.choices import Branch, Guidance, Source, Strategy
from repro.settings.frameworks import FRAMEWORKS, SINGLE_CELL_CROP
from repro.settings.run import Run
from repro.settings.sections import FidelitySettings
from repro.training.learner import build_view_maker
from repro.training.steps.preprocess import Stages, ViewMaker
from repro.training.watching.gallery import overlay, spread
from repro.training.watching.true_objects import load_batch

BATCH = 32
"""Least number of images in a batch; it is rounded up to whole groups of queries that share a hard negative."""

OURS, RANDOM, RELEASED = "saliency", "random", "released"
"""Names of the variants that every audit compares."""

MADE_FROM = {"query": "query", "key": "key", "hard negative": "key"}
"""The views that may be masked, each with the augmented view that it is made from."""

StatisticsRow = dict[str, Any]


def variants(run: Run) -> dict[str, Run]:
    """Returns the run with each way of choosing patches: by saliency, at random, and as the released code does.

    A run that equals none of the three, such as one with single switches of `fidelity`, comes first, under its method's
    name.

    Raises:
        UserError: The run masks no patches.
    """
    if run.masking.strategy in (Strategy.none, Strategy.learned):
        what = "nothing" if run.masking.strategy is Strategy.none else "with an occlusion network that training makes"
        raise UserError(f"{run.method} masks {what}", mend="audit a row that masks patches, for example mocov2+ours-hp")
    released = FidelitySettings(**{switch.name: Source.released for switch in fields(FidelitySettings)})
    # Where no hard negatives were released, or they could not be trained with, they are the paper's.
    if not FRAMEWORKS[run.framework].released or run.data.crop <= SINGLE_CELL_CROP:
        released = replace(released, hard_negative=Source.paper)
    if any(source.needs_truth for source in run.saliency_sources):  # the released code sorts maps, not true masks
        released = replace(released, saliency_map=Source.paper)
    guided, at_random = (replace(run.masking, guidance=guidance) for guidance in (Guidance.saliency, Guidance.random))
    compared = {
        OURS: replace(run, masking=guided, fidelity=FidelitySettings()),
        RANDOM: replace(run, masking=at_random, fidelity=FidelitySettings()),
        RELEASED: replace(run, masking=guided, fidelity=released),
    }
    return compared if run in compared.values() else {run.method: run, **compared}


@dataclass(frozen=True)
class HiddenShares:
    """How much of each region masking hides in N views, as N shares in 0..1.

    A share is NaN if the region is unknown, or empty in that view. A pixel that is hidden in one of three channels
    counts a third.
    """

    all: Tensor
    """The whole view."""
    foreground: Tensor
    """The foreground of the paper's saliency map, whichever variant drew the patches."""
    background: Tensor
    object: Tensor
    """The true object."""
    ground: Tensor
    """All that is not the true object."""

    @classmethod
    def measure(cls, hidden: Tensor, foreground: Tensor, objects: Tensor | None) -> "HiddenShares":
        """Measures a batch.

        Args:
            hidden: B×3×H×W, boolean.
            foreground: B×g×g, boolean; g divides H and W.
            objects: B×H×W, boolean; None where the true objects are not known.
        """
        amount = hidden.float().mean(1)
        front = to_pixels(foreground.unsqueeze(1), amount.shape[-2:]).squeeze(1)
        unknown = torch.full_like(amount[:, 0, 0], math.nan)

        def share(region: Tensor) -> Tensor:
            return (amount * region).sum((1, 2)) / region.sum((1, 2))  # 0 / 0 is NaN: an empty region has no share

        return cls(
            amount.mean((1, 2)),
            share(front),
            share(~front),
            unknown if objects is None else share(objects),
            unknown if objects is None else share(~objects),
        )

    @classmethod
    def concatenate(cls, batches: Sequence["HiddenShares"]) -> "HiddenShares":
        """Joins the shares of several batches."""
        regions = [region.name for region in fields(cls)]
        return cls(**{region: torch.cat([getattr(batch, region) for batch in batches]) for region in regions})

    def row(self) -> StatisticsRow:
        """Returns means in percent, and how unevenly foreground and background are hidden in single images."""
        difference = (self.foreground - self.background).to(torch.float64)
        difference = difference[difference.isfinite()]
        return {
            "hidden %": _percent(self.all),
            "of foreground": _percent(self.foreground),
            "of background": _percent(self.background),
            "± difference": round(100 * difference.std().item(), 1) if len(difference) > 1 else None,
            "of object": _percent(self.object),
            "of ground": _percent(self.ground),
        }


def _percent(shares: Tensor) -> float | None:
    """Returns the mean of the shares that are not NaN, in percent; None if all are NaN."""
    finite = shares[shares.isfinite()]
    return round(100 * finite.double().mean().item(), 1) if len(finite) else None


@dataclass
class Audit:
    """What an audit found: statistics and pictures."""

    run: Run
    images: int
    """How many images were looked at."""
    masks: list[StatisticsRow]
    """What is hidden, a row for each way of choosing patches and each masked view."""
    maps: list[StatisticsRow]
    """How well each foreground map fits the object, a row for each map."""
    frequencies: Mapping[str, Tensor]
    """How often each cell of the grid is foreground, g×g in 0..1 for each map, and for the true object where known."""
    columns: Sequence[tuple[str, Tensor]]
    """The gallery, as `repro.training.watching.gallery.draw_columns` takes it."""

    def statistics(self) -> StatisticsRow:
        """Returns all numbers, as `statistics.json` holds them."""
        run = self.run
        return {"run": run.id, "method": run.method, "images": self.images, "masks": self.masks, "maps": self.maps}


@dataclass
class _Observations:
    """What was measured so far, batch by batch; maps and objects are moved to the CPU."""

    guided: Set[str]
    """The variants that draw patches by a map; for the others, all cells are one stratum."""
    shares: dict[tuple[str, str], list[HiddenShares]] = field(default_factory=dict)
    """By variant and view."""
    foregrounds: dict[str, list[Tensor]] = field(default_factory=dict)
    """By variant, B×g×g each, of queries and keys alike."""
    objects: list[Tensor] = field(default_factory=list)
    """B×H×W each, of queries and keys in the order of the foregrounds; empty where the objects are not known."""

    def add(
        self,
        stages: Mapping[str, Stages],
        masks: Mapping[str, Mapping[str, Tensor]],
        objects: Mapping[str, Tensor],
    ) -> None:
        """Measures a batch.

        Args:
            stages: The batch on its way to the network, by variant.
            masks: Which pixels are hidden, B×3×H×W by variant and view.
            objects: The true objects, B×H×W by augmented view; empty where they are not known.
        """
        for variant, view, mask in _by_view(masks):
            # By the paper's map for every variant: the random one has no map, and the released one's map is in doubt.
            foreground = stages[OURS].query_foreground if view == "query" else stages[OURS].key_foreground
            assert foreground is not None
            true_objects = objects.get(MADE_FROM[view])
            masked_images = _masked_images(stages[variant], view)
            shares = HiddenShares.measure(
                mask, foreground[masked_images], None if true_objects is None else true_objects[masked_images]
            )
            self.shares.setdefault((variant, view), []).append(shares)
        for variant, stage in stages.items():
            if variant in self.guided:
                pair = (stage.query_foreground, stage.key_foreground)
                self.foregrounds.setdefault(variant, []).extend(cells.cpu() for cells in pair if cells is not None)
        self.objects.extend(masks_of_view.cpu() for masks_of_view in objects.values())


def audit(run: Run, images: Images, *, count: int, gallery_images: int, device: torch.device) -> Audit:
    """Masks the first images that training would see, with every variant.

    Args:
        run: A row that masks patches; its views, localizer and rates are used.
        images: The data set.
        count: How many images are measured; all where there are fewer.
        gallery_images: How many of them the gallery shows, at most `BATCH`.
        device: Where the views are made.

    Raises:
        UserError: The run masks no patches, or its localizer, maps or true masks cannot be had.
    """
    compared = variants(run)
    order = stream(run.seed, Purpose.order, 0).permutation(len(images))[:count]  # the order of the first epoch
    # Maps of all images are kept for training; if only some are looked at, only their maps are made.
    only = order.tolist() if len(order) < len(images) else None
    true = true_masks(run, images)
    makers = {name: build_view_maker(variant, device, images, only=only) for name, variant in compared.items()}
    observations = _Observations({name for name, variant in compared.items() if variant.guided})
    columns: list[tuple[str, Tensor]] = []
    served = {name: maker.masking.hard_negative_serves for name, maker in makers.items() if maker.masking is not None}
    # Whole groups of queries, so that hard negatives are as frequent as in training.
    group_size = max(served.values())
    at_once = group_size * math.ceil(BATCH / group_size)
    for indices in np.split(order, range(at_once, len(order), at_once)):
        batch, objects = load_batch(run, images, true, indices.tolist(), device)
        stages = {name: maker.stages(batch) for name, maker in makers.items()}
        masks = {name: hidden_pixels(stages[name], maker) for name, maker in makers.items()}
        observations.add(stages, masks, objects)
        if not columns:
            columns = [
                (title, pictures[:gallery_images].cpu())
                for title, pictures in _gallery_columns(stages, masks, objects, observations.guided)
            ]
    return _conclude(run, observations, len(order), columns, served)


def hidden_pixels(stages: Stages, maker: ViewMaker) -> dict[str, Tensor]:
    """Compares a batch's inputs with what they would be without masks.

    Args:
        stages: The batch on its way to the network.
        maker: The view maker that made the stages.

    Returns:
        For each masked view, which of its pixels are hidden, B×3×H×W, boolean. The released code makes a hard negative
        only from the first image of each group, so that B is the number of groups there.
    """
    masking = maker.masking
    assert masking is not None
    inputs = {"query": stages.views.query, "key": stages.views.key, "hard negative": stages.views.hard_negative}
    unmasked_view = {Branch.query: "key", Branch.key: "query"}.get(masking.branch)
    hidden = {}
    for view, masked in inputs.items():
        if masked is not None and view != unmasked_view:
            pixels = stages.query if MADE_FROM[view] == "query" else stages.key
            clean = masking.strategy.clean(maker.normalise(pixels))
            hidden[view] = masked != clean[_masked_images(stages, view)]
    return hidden


def _masked_images(stages: Stages, view: str) -> slice:
    """Returns which images of a batch a masked view has been made from."""
    return slice(None, None, stages.views.hard_negative_serves if view == "hard negative" else 1)


def _by_view(masks: Mapping[str, Mapping[str, Tensor]]) -> Iterator[tuple[str, str, Tensor]]:
    """Yields every mask with its variant and its view: all variants of one view, then those of the next."""
    for view in MADE_FROM:
        yield from ((variant, view, views[view]) for variant, views in masks.items() if view in views)


def _gallery_columns(
    stages: Mapping[str, Stages],
    masks: Mapping[str, Mapping[str, Tensor]],
    objects: Mapping[str, Tensor],
    guided: Set[str],
) -> Iterator[tuple[str, Tensor]]:
    """Yields the gallery's columns: the maps beside each other, then each masked view with its hidden pixels dark."""
    ours = stages[OURS]
    yield "query view", ours.query
    if objects:
        yield "its object", overlay(ours.query, objects["query"])
    for variant, stage in stages.items():
        if variant in guided and stage.query_foreground is not None:
            yield f"{variant} map", overlay(ours.query, stage.query_foreground)
    last_view = "query"  # the view that has been shown unmasked
    for variant, view, mask in _by_view(masks):
        pixels = ours.query if MADE_FROM[view] == "query" else ours.key
        if MADE_FROM[view] != last_view:
            last_view = MADE_FROM[view]
            yield f"{last_view} view", pixels
        images = _masked_images(stages[variant], view)
        darkened = torch.where(mask, 0.1, pixels[images])
        yield f"{view.removesuffix(' negative')}, {variant}", spread(darkened, len(pixels), images.step)


def _conclude(
    run: Run,
    observations: _Observations,
    count: int,
    columns: Sequence[tuple[str, Tensor]],
    served: Mapping[str, int],
) -> Audit:
    """Puts the audit together from what was measured on `count` images.

    `served` holds for each variant how many queries one hard negative serves.
    """
    masks = []
    for (variant, view), batches in observations.shares.items():
        shares = HiddenShares.concatenate(batches)
        row = {"patches by": variant, "view": view, **shares.row(), "own image's %": None}
        if view == "hard negative":  # as in training, whatever the number of images here
            row["own image's %"] = round(100 / served[variant], 1)
        masks.append(row)
    foregrounds = {name: torch.cat(batches) for name, batches in observations.foregrounds.items()}
    generator = Generator().manual_seed(stream_seed(run.seed, Purpose.mask))
    foregrounds["as many at random"] = as_many_at_random(foregrounds[OURS], generator)
    objects = torch.cat(observations.objects) if observations.objects else None
    frequencies = {name: cells.float().mean(0) for name, cells in foregrounds.items()}
    if objects is not None:
        grid = foregrounds[OURS].shape[-1]
        frequencies["true object"] = F.adaptive_avg_pool2d(objects.float().mean(0, keepdim=True), grid).squeeze(0)
    maps = [_map_row(name, cells, objects) for name, cells in foregrounds.items()]
    return Audit(run, count, masks, maps, frequencies, columns)


def _map_row(name: str, foreground: Tensor, objects: Tensor | None) -> StatisticsRow:
    """Measures how well a map B×g×g fits the true objects B×H×W, and where it lies.

    The `lean` is the mean column of the foreground: -1 if all is in the left column, 1 if all is in the right one.
    """
    across = torch.linspace(-1, 1, foreground.shape[-1])
    cells = foreground.sum((1, 2)).clamp(min=1)  # a map without foreground leans nowhere
    row: StatisticsRow = {
        "map": name,
        "foreground %": _percent(foreground.float().mean((1, 2))),
        "lean": round(((foreground * across).sum((1, 2)) / cells).mean().item(), 3),
    }
    if objects is None:
        return row
    shows_object = objects.any(-1).any(-1)  # a crop may miss the object
    fit = overlap(foreground[shows_object], objects[shows_object])
    return row | {key: fit[key] for key in ("mean IoU", "precision", "recall")}
