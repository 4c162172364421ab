"""The input benchmark's rivals for images that lie in a device's memory."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from repro.augmentation.draws import draw_box, draw_view
from repro.bench.input_rival import Rival, difference
from repro.data.pixel_cache import CachedImages
from repro.randomness import Purpose, stream
from repro.settings.sections import AugmentationSettings
from repro.training.batches.loading import TwoViews
from repro.training.batches.resident import ResidentImages
from repro.training.batches.view_draws import ViewDraws

BATCH = 256
"""Least number of images that are drawn for at once, and cropped at once on a GPU."""


class ResidentViews:
    """The work that is left if the images lie in a device's memory (`machine.resident`): draws, and crops."""

    def __init__(self, images: CachedImages, size: int, device: torch.device) -> None:
        """Moves the images to the device.

        Args:
            images: The photographs, decoded.
            size: Side of the views in pixels.
            device: The device that is to hold them.
        """
        self.images, self.size, self.device = images, size, device
        self.settings = AugmentationSettings()
        self.views = TwoViews(images, size, self.settings, seed=0)
        self.resident = ResidentImages.load(images, device, workers=0)
        self.draws = ViewDraws(self.views, self.resident.sizes)
        self.full_batch = -(-BATCH // len(images))
        """How many epochs make up a batch."""

    def rivals(self) -> list[Rival]:
        """Returns the draws of a batch, image by image and at once, and its crops."""
        at_once = f"{len(self.images) * self.full_batch} images at once"
        return [
            Rival("draws of two views", "image by image", self._draw_in_turn, times=self.full_batch),
            Rival("draws of two views", "salmask, machine.resident", self._draw, note=at_once, times=self.full_batch),
            self._cropper(),
        ]

    def _cropper(self) -> Rival:
        is_on_gpu = self.device.type == "cuda"
        # Only a whole batch keeps a GPU busy; a CPU would take minutes for one.
        epochs = self.full_batch if is_on_gpu else 1
        return Rival(
            "crops of two views",
            f"salmask, machine.resident on {self.device.type}",
            partial(self._crops, self.draws.__getitems__(self._names(epochs))),
            self._departure,
            f"{len(self.images) * epochs} images at once" + (", by wall-clock time" if is_on_gpu else ""),
            times=epochs,
            on_device=is_on_gpu,
        )

    def _names(self, epochs: int) -> list[tuple[int, int]]:
        return [(epoch, index) for epoch in range(epochs) for index in range(len(self.images))]

    def _draw_in_turn(self) -> None:
        for epoch, index in self._names(self.full_batch):
            rng = stream(0, Purpose.view, epoch, index)
            width, height = self.images.size(index)
            for _ in TwoViews.names:
                draw_box(width, height, self.settings.crop_scale_min, rng), draw_view(rng, self.settings).row()

    def _draw(self) -> None:
        self.draws.__getitems__(self._names(self.full_batch))

    def _crops(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        index, interpolation = batch["index"], self.settings.interpolation
        return {
            name: self.resident.crops(index, batch[f"{name}_box"], self.size, interpolation) for name in TwoViews.names
        }

    def _departure(self) -> int:
        ours = self._crops(self.draws.__getitems__(self._names(1)))
        pairs = ((self.views[0, index][name], ours[name][index]) for index in range(len(self.images)) for name in ours)
        return max(difference(expected.numpy(), crop.cpu().numpy()) for expected, crop in pairs)
