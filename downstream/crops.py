"""From images to a backbone's input: random and central crops of labelled images, normalised, filtered."""

from typing import Any, ClassVar

import torch
from mmengine.model import BaseDataPreprocessor
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data import Subset as LoaderSubset
from torchvision.transforms.v2 import functional as tvf

from repro.augmentation.crops import resized_crop
from repro.augmentation.draws import draw_box
from repro.augmentation.normalization import Normalization
from repro.data.splits import Images, read_image
from repro.masking.filters import high_pass
from repro.processes.distributed import share_of_rank, world_size
from repro.processes.loader import Loader
from repro.randomness import Purpose, stream
from repro.settings.choices import InputFilter

CROP_SCALE_MIN = 0.08
"""Smallest share of an image's area that a random crop keeps (torchvision's default, MoCo main_lincls.py)."""


class RandomCrops(Dataset[dict[str, Any]]):
    """Random resized crops with flips; an item is `images` (uint8, 3×S×S) and `labels`."""

    metainfo: ClassVar[dict[str, Any]] = {}  # mmengine's visualisations read it

    def __init__(self, images: Images, size: int, seed: int) -> None:
        """Crops images to `size` pixels a side; an image's box and flip depend on (seed, epoch, index) only."""
        self.images, self.size, self.seed = images, size, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, index = item
        rng = stream(self.seed, Purpose.view, epoch, index)
        image, label = read_image(self.images, index)
        crop = tvf.pil_to_tensor(resized_crop(image, draw_box(*image.size, CROP_SCALE_MIN, rng), self.size))
        # The flip is drawn after the crop: in another order the same seed would give other views.
        return {"images": crop.flip(-1) if rng.random() < 0.5 else crop, "labels": label}


class CentralCrops(Dataset[tuple[Tensor, int]]):
    """The central crops that validation sees (uint8, 3×S×S) with labels: short side first resized to 256/224 of S."""

    def __init__(self, images: Images, size: int) -> None:
        """Crops images to `size` pixels a side."""
        self.images, self.size = images, size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = read_image(self.images, index)
        resized = tvf.resize(image, [round(self.size * 256 / 224)], Image.Resampling.BILINEAR)
        return tvf.pil_to_tensor(tvf.center_crop(resized, [self.size, self.size])), label


def central_crops_of_rank(images: Images, size: int, *, batch: int, workers: int) -> Loader:
    """Makes a loader of this rank's share of the central crops, in the order of `distributed.share_of_rank`.

    Args:
        images: The images of all ranks together.
        size: Of a crop, pixels a side.
        batch: Crops per step over all ranks.
        workers: Decoding processes of this rank.
    """
    share = LoaderSubset(CentralCrops(images, size), share_of_rank(len(images)))
    per_rank = max(1, batch // world_size())
    # Pinned, as a training's batches are: only from pinned memory can `normalise` copy while the device computes.
    return Loader(share, workers=workers, batch_size=per_rank, pin_memory=torch.cuda.is_initialized())


class BackboneInput(BaseDataPreprocessor):
    """Turns pixels into the backbone's input: normalised, and high-passed if the backbone was trained on those."""

    def __init__(self, input_filter: InputFilter) -> None:
        """Prepares the input of a backbone that was trained with this filter."""
        super().__init__()
        self.input_filter = input_filter
        self._normalization = Normalization()

    def normalise(self, pixels: Tensor) -> Tensor:
        """Returns the backbone's input B×3×H×W on its device, from uint8 pixels of the same shape."""
        images = self._normalization(pixels.to(self.device, non_blocking=True).float().div_(255))
        return high_pass(images) if self.input_filter == InputFilter.high_pass else images

    def forward(self, data: dict[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        """Makes the classifier's arguments from a batch of `RandomCrops`: `images` B×3×S×S and `labels` B."""
        return {"images": self.normalise(data["images"]), "labels": data["labels"].to(self.device, non_blocking=True)}
