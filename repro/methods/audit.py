"""What masking hides: pictures, and statistics against the true objects where these are known.

Ours stands beside patches drawn at random and beside the released code on the same views. What is hidden is measured on
the network's inputs themselves, as the pixels that differ from the unmasked input, not on what masking says it did: a
flat patch that is blurred, or filled with its own colour, is not hidden.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor
from torch.utils.data import default_collate

from repro.data.splits import Images
from repro.errors import UserError
from repro.masking.patches import as_many_at_random, overlap, to_pixels
from repro.randomness import Purpose, stream, stream_seed
from repro.runs.choices import Backend, Branch, Guidance, Source, Strategy
from repro.runs.frameworks import FRAMEWORKS
from repro.runs.run import Run
from repro.runs.sections import FidelitySettings
from repro.scenes.dataset import Scenes
from repro.training.gallery import overlay as overlaid
from repro.training.learner import build_view_maker
from repro.training.loading import TwoViews
from repro.training.preprocess import Stages, ViewMaker

BATCH = 32
"""Images at a time; the released code has one hard negative for so many, the batch of one of the paper's GPUs."""


OURS, RANDOM, RELEASED = "saliency", "random", "released"


MADE_FROM = {"query": "query", "key": "key", "hard negative": "key"}
"""The views that may be masked, each with the augmented view that it is made from."""


StatisticsRow = dict[str, Any]


def variants(run: Run) -> dict[str, Run]:
    """The run with each way of choosing patches: by saliency, at random, and as the released code does.

    A run that is none of the three, with single switches of `fidelity`, stands first under its own name.

    Raises:
        UserError: the run masks no patches.
    """
    if run.masking.strategy in (Strategy.none, Strategy.learned):
        what = "nothing" if run.masking.strategy is Strategy.none else "with an occlusion network that training makes"
        raise UserError(f"{run.method} masks {what}", mend="audit a row that masks patches, for example mocov2+ours-hp")
    released = FidelitySettings(**dict.fromkeys(FidelitySettings.__dataclass_fields__, Source.released))
    if not FRAMEWORKS[run.framework].released:  # where nothing was released, the hard negatives are our own
        released = replace(released, hard_negative=Source.paper)
    guided, at_random = (replace(run.masking, guidance=guidance) for guidance in (Guidance.saliency, Guidance.random))
    three = {
        OURS: replace(run, masking=guided, fidelity=FidelitySettings()),
        RANDOM: replace(run, masking=at_random, fidelity=FidelitySettings()),
        RELEASED: replace(run, masking=guided, fidelity=released),
    }
    return three if run in three.values() else {run.method: run, **three}


class ObjectMasks:
    """The mask of each scene's main object as an image: cropped with the scene's own stream, it stays on the object."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes
        self.classes, self.targets = scenes.classes, scenes.targets

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        mask = self.scenes.scene(index).instances[0].mask
        return Image.fromarray(mask.astype(np.uint8) * 255), self.targets[index]

    def fingerprint(self) -> str:
        """That of the scenes."""
        return self.scenes.fingerprint()


@dataclass(frozen=True)
class Hidden:
    """What of one view is hidden, each N, 0..1; NaN where the region is empty or unknown.

    A pixel hidden in one channel of three is hidden by a third.
    """

    all: Tensor
    foreground: Tensor
    """By the paper's saliency map, whoever drew the patches."""
    background: Tensor
    object: Tensor
    ground: Tensor

    @classmethod
    def measure(cls, hidden: Tensor, foreground: Tensor, objects: Tensor | None) -> "Hidden":
        """Measure a batch.

        Args:
            hidden: B×3×H×W, boolean.
            foreground: B×g×g, boolean.
            objects: B×H×W, boolean; none where they are not known.
        """
        amount = hidden.float().mean(1)
        front = to_pixels(foreground.unsqueeze(1), amount.shape[-2:]).squeeze(1)
        unknown = torch.full_like(amount[:, 0, 0], math.nan)

        def share(region: Tensor) -> Tensor:
            return (amount * region).sum((1, 2)) / region.sum((1, 2))

        return cls(
            amount.mean((1, 2)),
            share(front),
            share(~front),
            unknown if objects is None else share(objects),
            unknown if objects is None else share(~objects),
        )

    def row(self) -> StatisticsRow:
        """Means in percent, and how unevenly foreground and background are hidden in single images."""
        spread = (self.foreground - self.background).to(torch.float64)
        spread = spread[spread.isfinite()]
        return {
            "hidden %": _percent(self.all),
            "of foreground": _percent(self.foreground),
            "of background": _percent(self.background),
            "± difference": round(100 * spread.std().item(), 1) if len(spread) > 1 else None,
            "of object": _percent(self.object),
            "of ground": _percent(self.ground),
        }


def _percent(shares: Tensor) -> float | None:
    known = shares[shares.isfinite()]
    return round(100 * known.double().mean().item(), 1) if len(known) else None


@dataclass
class Audit:
    """Statistics and pictures."""

    run: Run
    images: int
    masks: list[StatisticsRow]
    """What is hidden, a row for each way of choosing patches and each masked view."""
    maps: list[StatisticsRow]
    """How well each foreground map fits the object, a row a map."""
    where: Mapping[str, Tensor]
    """How often each cell of the grid is foreground, g×g each; and the mean object, where known."""
    columns: Sequence[tuple[str, Tensor]]
    """Of the gallery; see `repro.training.gallery.draw_columns`."""

    def statistics(self) -> StatisticsRow:
        """All numbers, as `statistics.json` holds them."""
        run = self.run
        return {"run": run.id, "method": run.method, "images": self.images, "masks": self.masks, "maps": self.maps}


@dataclass
class _Seen:
    """What the batches so far have shown."""

    hidden: dict[tuple[str, str], list[Hidden]] = field(default_factory=dict)
    fronts: dict[str, list[Tensor]] = field(default_factory=dict)
    objects: list[Tensor] = field(default_factory=list)

    def together(self, variant: str, view: str) -> Hidden:
        parts = self.hidden[variant, view]
        return Hidden(**{name: torch.cat([getattr(part, name) for part in parts]) for name in Hidden.__annotations__})


def audit(run: Run, images: Images, *, count: int, shown: int, device: torch.device) -> Audit:
    """Mask the first images that training would see, in every way.

    Args:
        run: a row that masks patches; its views, localizer and rates are used.
        images: to look at; the true objects of Scenes are known.
        count: of images, at most all.
        shown: of images in the gallery, at most `BATCH`.
        device: where.

    Raises:
        UserError: the run masks no patches, or its localizer cannot be had.
    """
    makers = {name: build_view_maker(variant, device) for name, variant in variants(run).items()}
    seen = _Seen()
    columns: list[tuple[str, Tensor]] = []
    order = stream(run.seed, Purpose.order, 0).permutation(len(images))[:count]
    for indices in np.split(order, range(BATCH, len(order), BATCH)):
        batch, objects = _batch(run, images, indices.tolist(), device)
        stages = {name: maker.stages(batch) for name, maker in makers.items()}
        masks = {name: hidden(stages[name], maker) for name, maker in makers.items()}
        for name, view, mask in _each(masks):
            front = stages[OURS].query_foreground if view == "query" else stages[OURS].key_foreground
            assert front is not None
            known = objects.get(MADE_FROM[view])
            measured = Hidden.measure(mask, front[: len(mask)], None if known is None else known[: len(mask)])
            seen.hidden.setdefault((name, view), []).append(measured)
        for name in [name for name in makers if name != RANDOM]:
            both = [stages[name].query_foreground, stages[name].key_foreground]
            seen.fronts.setdefault(name, []).extend(part.cpu() for part in both if part is not None)
        seen.objects.extend(part.cpu() for part in objects.values())
        columns = columns or [(title, made[:shown].cpu()) for title, made in _columns(stages, masks, objects)]
    return _concluded(run, seen, len(order), columns)


def _batch(
    run: Run, images: Images, indices: Sequence[int], device: torch.device
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A batch as training sees it, and the objects B×H×W of its query and key where they are known."""
    views = TwoViews(images, run.data.crop, run.augmentation, run.seed)
    batch = default_collate([views[0, index] for index in indices])
    if not isinstance(images, Scenes):
        return batch, {}
    # The same streams draw the same crops and flips; colours, which a mask has none of, are left to the device.
    untouched = replace(run.augmentation, backend=Backend.device)
    masks = TwoViews(ObjectMasks(images), run.data.crop, untouched, run.seed)
    cropped = default_collate([masks[0, index] for index in indices])
    flips = {name: cropped[f"{name}_draw"][:, -1].bool().view(-1, 1, 1) for name in ("query", "key")}
    return batch, {
        name: torch.where(flip, (part := cropped[name].squeeze(1) >= 128).flip(-1), part).to(device)
        for name, flip in flips.items()
    }


def hidden(stages: Stages, maker: ViewMaker) -> dict[str, Tensor]:
    """What is hidden of each masked view, B×3×H×W; the released code's hard negative is of the first image alone."""
    masking = maker.masking
    assert masking is not None
    made = {"query": stages.views.query, "key": stages.views.key, "hard negative": stages.views.hard_negative}
    whole = {Branch.query: "key", Branch.key: "query"}.get(masking.branch)
    found = {}
    for view, inputs in made.items():
        if inputs is not None and view != whole:
            pixels = stages.query if MADE_FROM[view] == "query" else stages.key
            clean = masking.strategy.clean(maker.normalise(pixels))
            found[view] = inputs != clean[: len(inputs)]
    return found


def _each(masks: Mapping[str, Mapping[str, Tensor]]) -> Iterator[tuple[str, str, Tensor]]:
    """Every mask with the variant and the view that it is of, view by view."""
    for view in MADE_FROM:
        yield from ((name, view, found[view]) for name, found in masks.items() if view in found)


def _columns(
    stages: Mapping[str, Stages], masks: Mapping[str, Mapping[str, Tensor]], objects: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """The gallery: the maps beside each other, then each view with what is hidden of it dark."""
    ours = stages[OURS]
    yield "query view", ours.query
    if objects:
        yield "its object", overlaid(ours.query, objects["query"])
    for name, made in stages.items():
        if name != RANDOM and made.query_foreground is not None:
            yield f"{name} map", overlaid(ours.query, made.query_foreground)
    last = "query"
    for name, view, mask in _each(masks):
        pixels = ours.query if MADE_FROM[view] == "query" else ours.key
        if MADE_FROM[view] != last:
            last = MADE_FROM[view]
            yield f"{last} view", pixels
        yield f"{view.removesuffix(' negative')}, {name}", torch.where(mask, 0.1, pixels[: len(mask)])


def _concluded(run: Run, seen: _Seen, count: int, columns: Sequence[tuple[str, Tensor]]) -> Audit:
    masks = []
    for variant, view in seen.hidden:
        measured = seen.together(variant, view)
        own = {"own image's %": round(100 * len(measured.all) / count, 1)} if view == "hard negative" else {}
        masks.append({"patches by": variant, "view": view, **measured.row(), "own image's %": None, **own})
    fronts = {name: torch.cat(parts) for name, parts in seen.fronts.items()}
    generator = Generator().manual_seed(stream_seed(run.seed, Purpose.mask))
    fronts["as many at random"] = as_many_at_random(fronts[OURS], generator)
    objects = torch.cat(seen.objects) if seen.objects else None
    where = {name: front.float().mean(0) for name, front in fronts.items()}
    if objects is not None:
        cells = fronts[OURS].shape[-1]
        where["true object"] = F.adaptive_avg_pool2d(objects.float().mean(0, keepdim=True), cells).squeeze(0)
    return Audit(run, count, masks, [_fit(name, front, objects) for name, front in fronts.items()], where, columns)


def _fit(name: str, front: Tensor, objects: Tensor | None) -> StatisticsRow:
    """How well a map B×g×g fits; `lean` is where it lies: -1 all in the left column, 1 all in the right one, 0 even."""
    across = torch.linspace(-1, 1, front.shape[-1])
    cells = front.sum((1, 2)).clamp(min=1)
    row: StatisticsRow = {
        "map": name,
        "foreground %": _percent(front.float().mean((1, 2))),
        "lean": round(((front * across).sum((1, 2)) / cells).mean().item(), 3),
    }
    if objects is None:
        return row
    there = objects.any(-1).any(-1)  # a crop may miss the object
    fit = overlap(front[there], objects[there])
    return row | {key: fit[key] for key in ("mean IoU", "precision", "recall")}
