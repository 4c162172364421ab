"""From a loader's batch to the network's inputs: augment, localise, mask, all on the device."""

from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Generator, Tensor

from repro.augmentation.on_device import apply_on_device
from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.masking.branches import SaliencyMasking
from repro.masking.views import Views
from repro.randomness import Purpose, stream_seed
from repro.runs.choices import Backend
from repro.runs.sections import AugmentationSettings
from repro.saliency.localizer import Localizer
from repro.saliency.scda import foreground


@dataclass(frozen=True)
class Stages:
    """What happened to a batch on its way to the network."""

    query: Tensor
    """B×3×H×W, augmented, in 0..1."""
    key: Tensor
    query_foreground: Tensor | None
    """B×g×g, boolean."""
    key_foreground: Tensor | None
    views: Views


class Augmenter(BaseDataPreprocessor):
    """A loader's crops to augmented, normalised images, on the device."""

    mean: Tensor
    std: Tensor

    def __init__(self, augmentation: AugmentationSettings) -> None:
        """Take what the loader drew from, and who applies it."""
        super().__init__(non_blocking=True)
        self.augmentation = augmentation
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def augment(self, crops: Tensor, draws: Tensor) -> Tensor:
        """B×3×S×S in 0..1 from crops (uint8) and their draws."""
        pixels = crops.to(self.device, non_blocking=True).float().div_(255)
        return apply_on_device(pixels, draws) if self.augmentation.backend is Backend.device else pixels

    def normalise(self, images: Tensor) -> Tensor:
        """By ImageNet's mean and standard deviation."""
        return (images - self.mean) / self.std


class ViewMaker(Augmenter):
    """mmengine's data preprocessor of contrastive pretraining.

    The localizer is no registered submodule: it is frozen, and has no place in checkpoints.
    """

    def __init__(
        self,
        *,
        seed: int,
        augmentation: AugmentationSettings,
        masking: SaliencyMasking | None = None,
        localizer: Localizer | None = None,
        grid: int = 7,
        relax: float = 0.6,
        row_sorted: bool = False,
        channels_last: bool = False,
    ) -> None:
        """Assemble the steps.

        Args:
            seed: of the run.
            augmentation: what the loader drew from, and who applies it.
            masking: none for plain contrastive learning.
            localizer: none for patches drawn without saliency.
            grid: cells a side where there is no localizer.
            relax: of `foreground`.
            row_sorted: of `foreground`.
            channels_last: memory layout of the network's inputs.
        """
        super().__init__(augmentation)
        self.seed, self.masking = seed, masking
        self.grid, self.relax, self.row_sorted = grid, relax, row_sorted
        self.channels_last = channels_last
        self._localizer = (localizer,)  # in a tuple, so that nn.Module does not register it

    @property
    def localizer(self) -> Localizer | None:
        """The frozen network, if there is one."""
        return self._localizer[0]

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Views]:
        """The model's keyword arguments from a batch of `TwoViews`."""
        return {"views": self.stages(data).views}

    @torch.no_grad()
    def stages(self, batch: dict[str, Any]) -> Stages:
        """Every step that a batch goes through; the gallery shows them."""
        # Filters and noise of half precision would be off by as much as what they leave: only networks run in it.
        with torch.autocast(self.device.type, enabled=False):
            query, key = (self.augment(batch[name], batch[f"{name}_draw"]) for name in ("query", "key"))
            normal_query, normal_key = (self.normalise(view) for view in (query, key))
        if self.masking is None:
            return Stages(query, key, None, None, self._layout(Views(normal_query, normal_key)))
        query_foreground, key_foreground = self._foreground(normal_query), self._foreground(normal_key)
        with torch.autocast(self.device.type, enabled=False):
            views = self.masking(normal_query, normal_key, query_foreground, key_foreground, self._generator(batch))
        return Stages(query, key, query_foreground, key_foreground, self._layout(views))

    def _foreground(self, views: Tensor) -> Tensor:
        if self.localizer is None:  # one stratum: patches are drawn anywhere
            return torch.ones(len(views), self.grid, self.grid, dtype=torch.bool, device=views.device)
        return foreground(self.localizer(views), self.relax, self.row_sorted)

    def _generator(self, batch: dict[str, Any]) -> Generator:
        """A stream of its own for each batch, named by the batch's first image: resuming needs no saved state."""
        first = (int(batch["epoch"][0]), int(batch["index"][0]))
        return Generator(self.device).manual_seed(stream_seed(self.seed, Purpose.mask, *first))

    def _layout(self, views: Views) -> Views:
        if not self.channels_last:
            return views
        query, key = (view.contiguous(memory_format=torch.channels_last) for view in (views.query, views.key))
        hard = views.hard_negative
        return Views(query, key, None if hard is None else hard.contiguous(memory_format=torch.channels_last))
