"""The way from a data set to batches, whose content is a function of (seed, epoch, index) alone."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from repro.augmentation.crops import resized_crop, resized_pixels
from repro.augmentation.draws import CropBox, Draw, draw_box, draw_view
from repro.augmentation.reference import apply_reference
from repro.data.jpeg import Pixels
from repro.data.splits import Images, pixels_of, read_image
from repro.errors import UserError
from repro.processes.distributed import decided_by_first, rank, world_size
from repro.processes.loader import Loader
from repro.randomness import Purpose, stream
from repro.settings.choices import Backend, Resizer
from repro.settings.sections import AugmentationSettings


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index): shuffled in each epoch, divided among the ranks, beginning at any step.

    A sampler runs in the main process, so that `seek` also takes effect where workers stay alive between epochs.
    """

    def __init__(self, count: int, batch: int, seed: int, *, drop_last: bool = True) -> None:
        """Plans the epochs.

        Args:
            count: Number of images.
            batch: Images of a step, over all ranks.
            seed: Of the order of the images.
            drop_last: Leave out the images of each epoch that do not fill a batch. Otherwise the last batch is smaller;
                where the ranks cannot share it evenly, images from the epoch's beginning fill it up, as in torch's
                DistributedSampler.

        Raises:
            UserError: There are fewer images than a batch holds, or the ranks cannot share a batch evenly.
        """
        if drop_last and batch > count:
            raise UserError(
                f"a batch of {batch} is larger than the data ({count} images)", mend="a smaller optimization.batch"
            )
        if batch % world_size():
            raise UserError(
                f"a batch of {batch} cannot be shared by {world_size()} processes", mend=f"a multiple of {world_size()}"
            )
        self.count, self.batch, self.seed, self.drop_last = count, batch, seed, drop_last
        self.epoch, self.start = 0, 0

    def seek(self, epoch: int, start: int) -> None:
        """Lets the next iteration begin at batch `start` of `epoch`, both from 0."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.count // self.batch if self.drop_last else -(-self.count // self.batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # Every rank draws the whole order by itself: nothing is sent, and the global batch holds the same images
        # whatever the number of ranks is.
        order = stream(self.seed, Purpose.order, self.epoch).permutation(self.count)
        # `np.resize` repeats from the beginning, which fills the last batch up to a multiple of the ranks.
        order = np.resize(order, self.count + -self.count % world_size())
        for step in range(self.start, len(self)):
            global_batch = order[step * self.batch : (step + 1) * self.batch]
            share = len(global_batch) // world_size()
            yield [(self.epoch, int(index)) for index in global_batch[rank() * share : (rank() + 1) * share]]


def fingerprint_of(*parts: Images) -> str:
    """Returns a fingerprint of a training's images, the same on every rank; a collective.

    Args:
        parts: The images to train on, and those to score on.

    Raises:
        UserError: A file has gone since its folder was read.
    """
    # On rank 0 alone, as it takes minutes for 10^5 files on a network file system.
    return decided_by_first(lambda: " ".join(part.fingerprint() for part in parts))


class RandomViews(Dataset[dict[str, Any]]):
    """Random crops of each image with the draws of colour, blur and flip that finish them.

    Items are named by (epoch, index): an image is cropped anew in each epoch. An item has, for each of `names`, a crop
    NAME (uint8, 3×S×S), its NAME_box in the image (top, left, height and width in pixels, int32), and its
    NAME_draw (a row of `Draw`); the `size` of the image (height and width in pixels, int32), `epoch`, `index`, `label`.
    """

    names: ClassVar[tuple[str, ...]]
    metainfo: ClassVar[dict[str, Any]] = {}  # mmengine asks for it, for its own visualisations

    def __init__(self, images: Images, size: int, settings: AugmentationSettings, seed: int) -> None:
        self.images, self.size, self.settings, self.seed = images, size, settings, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, index = item
        # One stream for each image and epoch, from which its views are drawn one after the other: every worker, rank
        # and attempt gives an image the same views, and the draws of one image never affect another's.
        rng = stream(self.seed, Purpose.view, epoch, index)
        image, label = self._read(index)
        height, width = image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
        size = torch.tensor((height, width), dtype=torch.int32)
        sample: dict[str, Any] = {"epoch": epoch, "index": index, "label": label, "size": size}
        for name in self.names:
            box = draw_box(width, height, self.settings.crop_scale_min, rng)
            # Drawn for both backends, so that they show the same views; the device applies it later, to whole batches.
            draw = draw_view(rng, self.settings)
            sample |= {
                name: self._view(image, box, draw),
                f"{name}_box": torch.tensor((box.top, box.left, box.height, box.width), dtype=torch.int32),
                f"{name}_draw": draw.row(),
            }
        return sample

    def _read(self, index: int) -> tuple[Image.Image | Pixels, int]:
        """Returns an image, in the form that the resizer takes, and its label."""
        return (read_image if self.settings.resizer is Resizer.pil else pixels_of)(self.images, index)

    def _view(self, image: Image.Image | Pixels, box: CropBox, draw: Draw) -> Tensor:
        """Returns a crop, 3×S×S; the reference backend applies the draw to it here, the device later."""
        if isinstance(image, Image.Image):
            crop = resized_crop(image, box, self.size, self.settings.interpolation)
        else:
            pixels = resized_pixels(image, box, self.size)
            if self.settings.backend is Backend.device:
                return pixels
            crop = to_pil_image(pixels)
        if self.settings.backend is Backend.reference:
            crop = apply_reference(crop, draw)
        return pil_to_tensor(crop)


class OneView(RandomViews):
    """One view of each image, for supervised learning."""

    names = ("view",)


class TwoViews(RandomViews):
    """Two views of each image, which contrastive learning compares."""

    names = ("query", "key")


def make_loader(dataset: Dataset[Any], batches: Sampler[Any], workers: int) -> Loader:
    """Makes a loader that reads batches of a data set in processes of its own.

    Workers have no random state of their own, so that their number changes no batch.

    Args:
        dataset: Its items are named as `batches` names them. One that makes whole batches has a `collate` of its own.
        batches: Yields the names of each batch's items.
        workers: Number of processes; with 0 the main process reads.
    """
    return Loader(
        dataset,
        workers=workers,
        batch_sampler=batches,
        collate_fn=getattr(dataset, "collate", None),
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_initialized(),  # only where the run uses a GPU: an unused one may be full
    )
