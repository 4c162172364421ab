"""Pictures of scored images with their saliency and mask, for the page of `salmask compare`."""

import io
from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Generator, Tensor
from torchvision.transforms.functional import to_pil_image

from downstream.crops import CentralCrops
from downstream.measurement import Target
from downstream.partitions import scored_images
from repro.data.roots import root_of
from repro.data.subsets import Subset
from repro.randomness import Purpose, stream_seed
from repro.settings.choices import MapOf
from repro.settings.run import Run
from repro.training.learner import build_view_maker
from repro.training.steps.preprocess import ViewMaker
from repro.training.watching.gallery import overlay, stretch

PARTS = "image, saliency, masked query"
"""What a picture shows, from left to right; only the image if the run needs no localizer."""
_GAP = 4
"""Pixels between the parts."""
_GAP_COLOUR = (128, 136, 144)
"""A grey that suits both a light and a dark page."""


def pictures_of_scored(run: Run, task: str, dataset: str, images: Sequence[tuple[int, int]]) -> list[bytes]:
    """Draws scored images as the network sees them, with the foreground that a run finds and the query that it masks.

    Args:
        run: The run whose localizer and masking are shown.
        task: The task that scored the images, which determines their pool.
        dataset: Their data set.
        images: (seed of the drawn split, index in the pool) of each.

    Returns:
        A JPEG of each.

    Raises:
        UserError: The data set or the localizer's weights are not there.
    """
    target = Target(dataset, root_of(run, dataset, None), run.data.scenes)
    scored = next(scored_images(run, task, target))  # the splits share one pool
    crops = CentralCrops(scored.pool if isinstance(scored, Subset) else scored, run.data.crop)
    maker = None
    if run.needs_localizer:
        # Maps of the crop itself: maps of whole images, map files and true masks exist for training images only.
        by_view = replace(run, localizer=replace(run.localizer.by("network"), map=MapOf.view))
        maker = build_view_maker(by_view, torch.device("cpu"))
    return [
        _picture(crops[index][0], maker, stream_seed(run.seed, Purpose.mask, split, index)) for split, index in images
    ]


@torch.no_grad()
def _picture(pixels: Tensor, maker: ViewMaker | None, seed: int) -> bytes:
    """Draws the parts of one image side by side, as a JPEG."""
    view = pixels.unsqueeze(0) / 255
    parts = [view]
    if maker is not None and maker.masking is not None and maker.foregrounds is not None:
        normal = maker.normalise(view)
        foreground = maker.foregrounds(normal, {}, "query")
        masked = maker.masking(normal, normal, foreground, foreground, Generator().manual_seed(seed))
        parts += [overlay(view, foreground), stretch(masked.query)]
    images = [to_pil_image(part[0].clamp(0, 1)) for part in parts]
    width, height = images[0].size
    sheet = Image.new("RGB", (len(images) * (width + _GAP) - _GAP, height), _GAP_COLOUR)
    for place, image in enumerate(images):
        sheet.paste(image, (place * (width + _GAP), 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
