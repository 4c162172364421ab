"""From images to a backbone's input: random and central crops of labelled images, normalised, filtered."""

from typing import Any, ClassVar

import torch
from mmengine.model import BaseDataPreprocessor
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as tvf

from repro.augmentation.draws import random_crop
from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.data.splits import Images
from repro.masking.filters import high_pass
from repro.randomness import Purpose, stream

CROP_SCALE_MIN = 0.08


class RandomCrops(Dataset[dict[str, Any]]):
    """Random resized crops with flips; an item is `images` (uint8, 3×S×S) and `labels`."""

    metainfo: ClassVar[dict[str, Any]] = {}  # mmengine asks for it, for its own visualisations

    def __init__(self, images: Images, size: int, seed: int) -> None:
        self.images, self.size, self.seed = images, size, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, index = item
        rng = stream(self.seed, Purpose.view, epoch, index)
        image, label = self.images[index]
        crop = tvf.pil_to_tensor(random_crop(image, self.size, CROP_SCALE_MIN, rng))
        return {"images": crop.flip(-1) if rng.random() < 0.5 else crop, "labels": label}


class CentralCrops(Dataset[tuple[Tensor, int]]):
    """The central crop that validation sees: short side resized to 256/224 of the crop, bilinear."""

    def __init__(self, images: Images, size: int) -> None:
        self.images, self.size = images, size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        resized = tvf.resize(image, [round(self.size * 256 / 224)], Image.Resampling.BILINEAR)
        return tvf.pil_to_tensor(tvf.center_crop(resized, [self.size, self.size])), label


class BackboneInput(BaseDataPreprocessor):
    """Pixels to the backbone's input: normalised, and high-passed where it was trained so."""

    def __init__(self, input_filter: str) -> None:
        super().__init__(non_blocking=True)
        self.input_filter = input_filter
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def normalise(self, pixels: Tensor) -> Tensor:
        """B×3×H×W from uint8 pixels."""
        images = (pixels.to(self.device, non_blocking=True).float().div_(255) - self.mean) / self.std
        return high_pass(images) if self.input_filter == "high_pass" else images

    def forward(self, data: dict[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        """A batch of `RandomCrops` as the classifier's arguments."""
        return {"images": self.normalise(data["images"]), "labels": data["labels"].to(self.device, non_blocking=True)}
