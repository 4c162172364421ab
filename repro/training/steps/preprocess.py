"""The way from a loader's batch to the network's inputs: augmented, localised and masked, all on the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Generator, Tensor

from repro.augmentation.normalization import Normalization
from repro.augmentation.on_device import apply_on_device
from repro.masking.branches import SaliencyMasking
from repro.masking.views import Views
from repro.randomness import Purpose, stream_seed
from repro.saliency.foregrounds import ByView, Foregrounds, RandomCells
from repro.saliency.localizer import Localizer
from repro.settings.choices import Backend
from repro.settings.sections import AugmentationSettings
from repro.training.batches.resident import ResidentImages
from repro.training.steps.memory_layout import lay_out_images


@dataclass(frozen=True)
class Stages:
    """A batch at each stage of its way to the network."""

    query: Tensor
    """B×3×H×W, augmented, in 0..1."""
    key: Tensor
    """B×3×H×W, augmented, in 0..1."""
    query_foreground: Tensor | None
    """B×g×g, boolean; None where it was not asked for."""
    key_foreground: Tensor | None
    """B×g×g, boolean; None where it was not asked for."""
    views: Views
    """The network's inputs: normalised, and masked where the run masks."""


class Augmenter(BaseDataPreprocessor):
    """Augments and normalises images on the device: a loader's crops, or boxes of images that lie there."""

    def __init__(self, augmentation: AugmentationSettings) -> None:
        """Takes the settings that the loader drew from; they also say whether loader or device apply the draws."""
        super().__init__(non_blocking=True)
        self.augmentation = augmentation
        self.compiled = False
        """Whether the augmentation is compiled, see `apply_on_device`."""
        self._resident: tuple[ResidentImages, int] | None = None
        self.normalise = Normalization()

    def crop_from(self, resident: ResidentImages, size: int) -> None:
        """Has views cropped from images on the device from now on; batches are then those of `ViewDraws`.

        Args:
            resident: The images that the batches name.
            size: Side of a view in pixels.
        """
        self._resident = (resident, size)

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        """Lets images be augmented without compiled kernels while the context lasts.

        For batches of a size that no step has: kernels for it would take longer to compile than they ever save.
        """
        compiled, self.compiled = self.compiled, False
        try:
            yield
        finally:
            self.compiled = compiled

    def augment(self, batch: dict[str, Any], name: str) -> Tensor:
        """Returns augmented images.

        Args:
            batch: Of a `RandomViews` or a `ViewDraws`, on the host.
            name: Of the view.

        Returns:
            B×3×S×S in 0..1, on the device. Where the loader has applied the draws with PIL, only the range changes.
        """
        if self._resident is None:
            # Bytes are copied to the device, a quarter of the size of floats.
            crops = batch[name].to(self.device, non_blocking=True).float()
        else:
            resident, size = self._resident
            crops = resident.crops(batch["index"], batch[f"{name}_box"], size, self.augmentation.interpolation)
        pixels = crops.div_(255)
        if self.augmentation.backend is Backend.reference:
            return pixels
        return apply_on_device(pixels, batch[f"{name}_draw"], self.augmentation, compiled=self.compiled)

    def before_capture(self) -> list[Generator]:
        """Returns the generators that a CUDA graph of a step draws from, to be registered with the graph."""
        return []

    def before_replay(self, batch: dict[str, Any]) -> None:
        """Does the host's part of preprocessing a loader's batch, before a step is replayed; by default nothing."""


class ViewMaker(Augmenter):
    """mmengine's data preprocessor of contrastive pretraining: it makes the network's views.

    The localizer within `foregrounds` is not a registered submodule: it is frozen, and is not saved in checkpoints.
    """

    def __init__(
        self,
        *,
        seed: int,
        augmentation: AugmentationSettings,
        masking: SaliencyMasking | None,
        foregrounds: Foregrounds | None,
        hard_foregrounds: Foregrounds | None,
        channels_last: bool,
    ) -> None:
        """Assembles the steps.

        Args:
            seed: Of the run.
            augmentation: See `Augmenter`.
            masking: Masks the views; None for plain contrastive learning.
            foregrounds: Tells where the objects are; None where nothing is masked.
            hard_foregrounds: Tells where the objects are that hard negatives lose. It may be another one than
                `foregrounds` only where the key itself is not masked.
            channels_last: Whether the network's inputs have their channels last in memory.
        """
        super().__init__(augmentation)
        self.seed, self.masking, self.channels_last = seed, masking, channels_last
        self.foregrounds, self.hard_foregrounds = foregrounds, hard_foregrounds
        self._captured_generator: Generator | None = None

    @property
    def localizer(self) -> Localizer | None:
        """The frozen network that the views of each step pass through, if there is one."""
        for foregrounds in (self.foregrounds, self.hard_foregrounds):
            asked = foregrounds.counted if isinstance(foregrounds, RandomCells) else foregrounds
            if isinstance(asked, ByView):
                return asked.localizer
        return None

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Views]:
        """Returns the model's keyword arguments from a batch of `TwoViews` or `ViewDraws`."""
        return {"views": self.views(data)}

    def views(self, batch: dict[str, Any]) -> Views:
        """Returns the network's inputs from a batch of `TwoViews` or `ViewDraws`.

        The localizer sees only views that are masked, or that hard negatives are made from: its pass costs as much as
        one of the encoder.
        """
        return self._stages(batch, every_foreground=False).views

    def stages(self, batch: dict[str, Any]) -> Stages:
        """Returns every stage that a batch goes through, with the foreground of both views; the gallery shows them."""
        return self._stages(batch, every_foreground=True)

    @torch.no_grad()  # views are data: nothing is learned on the way to them, the localizer least of all
    def _stages(self, batch: dict[str, Any], *, every_foreground: bool) -> Stages:
        # mmengine calls a preprocessor under the autocast of the training. In half precision, a filter's error would be
        # as large as what the filter leaves, so that only networks run in it.
        with torch.autocast(self.device.type, enabled=False):
            query, key = (self.augment(batch, name) for name in ("query", "key"))
            normal_query, normal_key = (self.normalise(view) for view in (query, key))
        if self.masking is None or self.foregrounds is None or self.hard_foregrounds is None:
            return Stages(query, key, None, None, self._lay_out(Views(normal_query, normal_key)))
        # Outside of the block above, in the training's precision, as the localizer is a network, too.
        query_foreground = key_foreground = None
        if every_foreground or self.masking.needs_query_foreground:
            query_foreground = self.foregrounds(normal_query, batch, "query")
        if every_foreground or self.masking.needs_key_foreground:
            key_foreground = self.hard_foregrounds(normal_key, batch, "key")
        with torch.autocast(self.device.type, enabled=False):
            views = self.masking(normal_query, normal_key, query_foreground, key_foreground, self._generator(batch))
        return Stages(query, key, query_foreground, key_foreground, self._lay_out(views))

    def _generator(self, batch: dict[str, Any]) -> Generator:
        """Returns the generator of a batch's masks, seeded by its epoch and first image; a resume needs no saved state.

        No image comes twice in an epoch, and the ranks' first images differ, so that no two batches share a seed. Each
        process has its own batch: with another number of processes, the same images get other masks.
        """
        if self._captured_generator is not None:
            return self._captured_generator  # `before_replay` gives it the seed of each batch
        return Generator(self.device).manual_seed(self._mask_seed(batch))

    def _mask_seed(self, batch: dict[str, Any]) -> int:
        return stream_seed(self.seed, Purpose.mask, int(batch["epoch"][0]), int(batch["index"][0]))

    def before_capture(self) -> list[Generator]:
        """Returns the generator of the masks, to be registered with the graph."""
        self._captured_generator = Generator(self.device)
        return [self._captured_generator]

    def before_replay(self, batch: dict[str, Any]) -> None:
        """Gives the generator of the masks the seed of this batch."""
        if self._captured_generator is not None:
            self._captured_generator.manual_seed(self._mask_seed(batch))

    def _lay_out(self, views: Views) -> Views:
        """Returns the views in the memory layout that the network wants."""
        laid_out = partial(lay_out_images, channels_last=self.channels_last)
        hard_negative = None if views.hard_negative is None else laid_out(views.hard_negative)
        return replace(views, query=laid_out(views.query), key=laid_out(views.key), hard_negative=hard_negative)
