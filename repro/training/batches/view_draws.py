"""What the loader sends where the images lie on the device: their numbers, and what was drawn for their views."""

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from repro.augmentation.batched_draws import draw_boxes, draw_views
from repro.augmentation.batched_streams import BatchedStreams
from repro.randomness import Purpose
from repro.training.batches.loading import RandomViews


class ViewDraws(Dataset[dict[str, Any]]):
    """The items of a `RandomViews` without their crops, bit for bit, made for a whole batch at once."""

    metainfo: ClassVar[dict[str, Any]] = {}  # mmengine asks for it, for its own visualisations

    def __init__(self, views: RandomViews, sizes: NDArray[np.int64]) -> None:
        """Takes the settings of the views.

        Args:
            views: Has the views' names, their settings and the seed; none of its images is read.
            sizes: N×2, height and width of the images in pixels.
        """
        self.names, self.settings, self.seed = views.names, views.settings, views.seed
        self.sizes, self.labels = sizes, np.asarray(views.images.targets, np.int64)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([item]).items()}

    def __getitems__(self, items: list[tuple[int, int]]) -> dict[str, Tensor]:
        """Returns a whole batch, which `collate` leaves as it is."""
        epoch, index = np.array(items, np.int64).T
        sizes = self.sizes[index]
        streams = BatchedStreams(self.seed, Purpose.view, epoch, index)
        batch = {"epoch": epoch, "index": index, "label": self.labels[index], "size": sizes.astype(np.int32)}
        for name in self.names:
            batch[f"{name}_box"] = draw_boxes(sizes, self.settings.crop_scale_min, streams).astype(np.int32)
            batch[f"{name}_draw"] = draw_views(streams, self.settings)
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in batch.items()}

    @staticmethod
    def collate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns a batch of `__getitems__`, which needs no putting together."""
        return batch
