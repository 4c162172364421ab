"""A picture of what the network sees: image, foreground, query, key and hard negative of the first images of a run."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.transforms.v2.functional import to_pil_image

from repro.filesystem.files import write_bytes
from repro.filesystem.presence import exists
from repro.masking.patches import to_pixels
from repro.processes.distributed import rank, unwrapped
from repro.runs.folder import RunFolder
from repro.runs.health import Symptom, tell_symptoms
from repro.saliency.foregrounds import Everywhere
from repro.training.steps.preprocess import Stages, ViewMaker

IMAGES = 8
"""How many images a gallery shows, the first ones of the data set."""

PICTURE_SIDE, GAP, TITLE_HEIGHT = 161, 4, 33
"""Sizes in a gallery, in pixels."""


class MaskGallery(Hook):
    """Draws the gallery once, before the first step, from the first images of the data set."""

    def __init__(self, path: Path) -> None:
        """Names the PNG to write."""
        self.path = path

    def before_train(self, runner: Any) -> None:
        """Draws the gallery on rank 0, and records a symptom if every foreground is the whole view.

        A resumed run keeps its picture; a model without two views has nothing to show.
        """
        maker = unwrapped(runner.model).data_preprocessor
        if rank() or exists(self.path) or not isinstance(maker, ViewMaker):
            return
        stages = first_stages(runner.train_dataloader.dataset, maker)
        if not isinstance(maker.foregrounds, Everywhere) and tells_nothing_apart(stages):
            self._record_blindness(len(stages.query), runner.iter)
        draw_gallery(stages, self.path)

    def _record_blindness(self, images: int, step: int) -> None:
        folder = RunFolder(self.path.parents[1])
        sources = folder.load().saliency_sources
        mends = {
            "another localizer.network, or optimization.precision=fp32 or bf16": any(s.needs_network for s in sources),
            "check that the files of localizer.files are graded": any(s.needs_files for s in sources),
            "check that the true masks show the objects": any(s.needs_truth for s in sources),
        }
        mend = "; ".join([f"see {self.path}", *(mend for mend, applies in mends.items() if applies)])
        what = f"each view of the first {images} images is all foreground, and masks fall anywhere"
        tell_symptoms(folder.health, [Symptom("blind localizer", step, what, mend)])


def tells_nothing_apart(stages: Stages) -> bool:
    """Returns whether a batch has foregrounds, and each of them covers its whole view."""
    found = [each for each in (stages.query_foreground, stages.key_foreground) if each is not None]
    return bool(found) and bool(torch.cat(found).all())


def first_stages(dataset: Any, maker: ViewMaker) -> Stages:
    """Returns the stages of a data set's first images on their way to the network, in epoch 0."""
    with maker.uncompiled():
        return maker.stages(default_collate([dataset[0, index] for index in range(min(IMAGES, len(dataset)))]))


def draw_gallery(stages: Stages, path: Path) -> None:
    """Writes a picture of a batch, one row for each image.

    Its columns are the query's view, foreground and network input, the same of the key, and the hard negative; those
    that a method does not have are left out.

    Args:
        stages: What happened to the batch.
        path: PNG, written atomically.
    """
    columns = [("query view", stages.query)]
    if stages.query_foreground is not None:
        columns.append(("its foreground", overlay(stages.query, stages.query_foreground)))
    columns += [("query", stretch(stages.views.query)), ("key view", stages.key)]
    if stages.key_foreground is not None:
        columns.append(("its foreground", overlay(stages.key, stages.key_foreground)))
    columns.append(("key", stretch(stages.views.key)))
    if stages.views.hard_negative is not None:
        hard_negative = stretch(stages.views.hard_negative)
        columns.append(("hard negative", spread(hard_negative, len(stages.query), stages.views.hard_negative_serves)))
    write_bytes(path, draw_columns(columns))


def draw_columns(columns: Sequence[tuple[str, Tensor]]) -> bytes:
    """Draws columns of pictures side by side, one row for each image.

    Args:
        columns: Title and pictures B×3×H×W in 0..1, of the same images in each.

    Returns:
        The content of a PNG.
    """
    rows, step = len(columns[0][1]), PICTURE_SIDE + GAP
    sheet = Image.new("RGB", (step * len(columns), TITLE_HEIGHT + step * rows), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TITLE_HEIGHT * 0.42)
    for column, (title, images) in enumerate(columns):
        draw.text((step * (column + 0.5), TITLE_HEIGHT / 2), title, "black", font, anchor="mm")
        for row, image in enumerate(images.clamp(0, 1).cpu()):
            # Pictures that are enlarged show their pixels.
            filter_ = Image.Resampling.NEAREST if image.shape[-1] < PICTURE_SIDE else Image.Resampling.BOX
            picture = to_pil_image(image).resize((PICTURE_SIDE, PICTURE_SIDE), filter_)
            sheet.paste(picture, (step * column + GAP // 2, TITLE_HEIGHT + step * row))
    buffer = io.BytesIO()
    sheet.save(buffer, "png")
    return buffer.getvalue()


def spread(pictures: Tensor, rows: int, step: int) -> Tensor:
    """Puts pictures into rows 0, step, 2·step and so on of a column of white ones.

    The released code makes one hard negative for a whole group of images, which is shown beside the group's first.

    Args:
        pictures: N×3×H×W.
        rows: B, of which every `step`-th takes a picture: N is B / step, rounded up.
        step: Images of a group.

    Returns:
        B×3×H×W.
    """
    sheet = pictures.new_ones(rows, *pictures.shape[1:])
    sheet[::step] = pictures
    return sheet


def overlay(views: Tensor, foreground: Tensor) -> Tensor:
    """Returns views B×3×H×W in 0..1 with the background darkened and bluish, given the foreground B×g×g, boolean."""
    foreground_pixels = to_pixels(foreground.unsqueeze(1), (views.shape[-2], views.shape[-1]))
    tint = views.new_tensor([0.1, 0.15, 0.45]).view(3, 1, 1)
    return views.where(foreground_pixels, 0.3 * views + 0.7 * tint)


def stretch(inputs: Tensor) -> Tensor:
    """Rescales normalised network inputs B×3×H×W for display.

    Three standard deviations to each side of an image's mean become 0..1; values beyond exceed that range.
    """
    # Measured for each image, as a high-passed image has far less contrast than a plain one.
    mean, std = inputs.mean((1, 2, 3), keepdim=True), inputs.std((1, 2, 3), keepdim=True)
    return (inputs - mean) / (6 * std.clamp(min=1e-6)) + 0.5
