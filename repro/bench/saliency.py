"""The foreground map beside the true masks of built-in scenes."""

from typing import Any

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2.functional import normalize, pil_to_tensor

from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.masking.patches import as_many_at_random, overlap
from repro.saliency.localizer import MIN_GRID, STRIDE, Localizer
from repro.saliency.networks import build_localizer
from repro.saliency.scda import foreground
from repro.scenes.dataset import Scenes


def saliency(scenes: Scenes, size: int) -> list[dict[str, Any]]:
    """How well the foreground covers the object whose mask is known, on whole scenes without augmentation.

    Args:
        scenes: an opened `Scenes`; its pictures are size×size.
        size: pixels a side.

    Returns:
        A row a map: mean intersection over union with the object's mask, precision and recall over pixels, and the
        share of the picture that is foreground (gamma). The maps: the paper's; the released code's, rows sorted (B1);
        as many cells at random; and, where views are small, the paper's rule on a shallower stage, which would need no
        enlarged views.
    """
    drawn = [scenes.scene(index) for index in range(len(scenes))]
    masks = torch.stack([torch.from_numpy(scene.instances[0].mask) for scene in drawn])
    pixels = torch.stack([pil_to_tensor(scene.image) for scene in drawn])
    views = normalize(pixels.float() / 255, IMAGENET_MEAN, IMAGENET_STD)
    localizer = build_localizer("efficientnet-lite0", "")
    activations = torch.cat([localizer(part) for part in views.split(50)])
    front = foreground(activations)
    generator = Generator().manual_seed(0)
    maps = {
        "paper": front,
        "released (rows sorted)": foreground(activations, row_sorted=True),
        "as many cells at random": as_many_at_random(front, generator),
    }
    if size < MIN_GRID * STRIDE:
        maps["paper, stride-16 stage"] = foreground(
            torch.cat([_shallower(localizer, part) for part in views.split(50)])
        )
    return [{"foreground": name, **overlap(cells, masks)} for name, cells in maps.items()]


@torch.no_grad()
def _shallower(localizer: Localizer, views: Tensor) -> Tensor:
    """Activations of the stage before the last, of views as small as they are."""
    network: Any = localizer.network.model
    (tapped,) = network.forward_intermediates(
        views * localizer.scale + localizer.shift, indices=[-2], intermediates_only=True
    )
    return tapped
