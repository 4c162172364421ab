"""The true objects in views of images whose masks are known, and how well a run's foregrounds cover them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from repro.data.splits import Images, size_of
from repro.masking.patches import overlap
from repro.saliency.foregrounds import FLIP
from repro.saliency.true_masks import TrueMasks
from repro.settings.choices import Backend, Resizer
from repro.settings.run import Run
from repro.training.batches.loading import TwoViews
from repro.training.steps.preprocess import ViewMaker

VIEWS = 512
"""How many images foregrounds are measured on; the mean IoU is then known to about 0.01."""
BATCH = 64
"""Images at a time."""


class ObjectMasks:
    """The true masks of images as images: cropped with the stream of its image, a mask stays on the object."""

    def __init__(self, images: Images, masks: TrueMasks) -> None:
        self.images, self.masks = images, masks
        self.classes, self.targets = images.classes, images.targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        mask = Image.fromarray(self.masks(index).astype(np.uint8) * 255)
        # Resized to the image, as the boxes are drawn in its pixels.
        return mask.resize(size_of(self.images, index), Image.Resampling.NEAREST), self.targets[index]

    def fingerprint(self) -> str:
        """Returns the fingerprint of the images."""
        return self.images.fingerprint()


class MaskViews(TwoViews):
    """Two views of each mask, which has one channel."""

    def _read(self, index: int) -> tuple[Image.Image, int]:
        return self.images[index]


def load_batch(
    run: Run, images: Images, masks: TrueMasks | None, indices: Sequence[int], device: torch.device
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Loads a batch as training's first epoch does, and the true objects in its views.

    Args:
        run: Whose crops and augmentation are drawn.
        images: The data set.
        masks: The true masks of the images; None where they are not known.
        indices: Of the images.
        device: Where the objects go.

    Returns:
        The batch of `TwoViews`, and by the names of its views the objects B×H×W, boolean, after the same crops and
        flips; an empty dictionary where they are not known.
    """
    views = TwoViews(images, run.data.crop, run.augmentation, run.seed)
    batch = default_collate([views[0, index] for index in indices])
    if masks is None:
        return batch, {}
    # The same streams draw the same crops and flips. With the device's backend, crops come unchanged: a mask has no
    # colours to change, and is flipped below. Pillow's resizer is the one that takes images of one channel.
    cropped_only = replace(run.augmentation, backend=Backend.device, resizer=Resizer.pil)
    views_of_masks = MaskViews(ObjectMasks(images, masks), run.data.crop, cropped_only, run.seed)
    cropped = default_collate([views_of_masks[0, index] for index in indices])
    objects = {}
    for name in TwoViews.names:
        inside = cropped[name].squeeze(1) >= 128  # cropping resizes, which leaves grey at the rim
        flip = (cropped[f"{name}_draw"][:, FLIP] > 0).view(-1, 1, 1)
        objects[name] = torch.where(flip, inside.flip(-1), inside).to(device)
    return batch, objects


@torch.no_grad()
def measure_foregrounds(
    run: Run, maker: ViewMaker, images: Images, masks: TrueMasks, device: torch.device, count: int = VIEWS
) -> Mapping[str, Mapping[str, float | None]]:
    """Measures how well foregrounds cover the main objects in the views that training sees first.

    Args:
        run: Whose crops and augmentation are drawn.
        maker: Of a run that masks; its foregrounds are measured.
        images: The data set.
        masks: The true masks of the images.
        device: Where the views are.
        count: How many images, from the first on; all where there are fewer.

    Returns:
        For the `query`'s foreground and that of the `hard negative`, which is made from the key: `mean IoU`,
        `precision`, `recall`, and `gamma`, the foreground's share of the view (`repro.masking.patches.overlap`), over
        views that show something of the object, None if there is none; and `views`, their number.
    """
    assert maker.foregrounds is not None
    assert maker.hard_foregrounds is not None
    sources = {"query": ("query", maker.foregrounds), "hard negative": ("key", maker.hard_foregrounds)}
    cells: dict[str, list[Tensor]] = {role: [] for role in sources}
    objects: dict[str, list[Tensor]] = {role: [] for role in sources}
    indices = range(min(count, len(images)))
    for start in indices[::BATCH]:
        batch, true_objects = load_batch(run, images, masks, indices[start : start + BATCH], device)
        for role, (name, foregrounds) in sources.items():
            with maker.uncompiled():
                view = maker.normalise(maker.augment(batch, name))
            cells[role].append(foregrounds(view, batch, name))
            objects[role].append(true_objects[name])
    measured = {}
    for role in sources:
        found, true = torch.cat(cells[role]), torch.cat(objects[role])
        shown = true.any(-1).any(-1)  # a crop may miss the object
        measured[role] = {**overlap(found[shown], true[shown]), "views": int(shown.sum())}
    return measured
