"""The benchmark of foreground maps, compared with the true object masks of built-in scenes."""

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

CHUNK = 50
"""Views in one pass through the localizer, so that memory does not grow with the number of scenes."""


def saliency(scenes: Scenes) -> list[dict[str, Any]]:
    """Measures how well foregrounds cover the main object, on whole scenes without augmentation.

    Args:
        scenes: The scenes, S×S pixels.

    Returns:
        A row for each map: mean intersection over union with the object's mask, precision and recall over pixels, and
        the share of the picture that is foreground (gamma). The maps: the paper's; the released code's, rows sorted
        (B1); as many cells at random; and, if views are small, the paper's rule on a shallower stage, which would need
        no enlarged views.
    """
    samples = [scenes.scene(index) for index in range(len(scenes))]
    masks = torch.stack([torch.from_numpy(scene.instances[0].mask) for scene in samples])
    pixels = torch.stack([pil_to_tensor(scene.image) for scene in samples])
    views = normalize(pixels.float() / 255, IMAGENET_MEAN, IMAGENET_STD)
    localizer = build_localizer("efficientnet-lite0", "")
    activations = torch.cat([localizer(chunk) for chunk in views.split(CHUNK)])
    paper = foreground(activations)
    maps = {
        "paper": paper,
        "released (rows sorted)": foreground(activations, row_sorted=True),
        "as many cells at random": as_many_at_random(paper, Generator().manual_seed(0)),
    }
    if views.shape[-1] < MIN_GRID * STRIDE:  # the localizer enlarges such views
        shallow = torch.cat([_activations_before_last(localizer, chunk) for chunk in views.split(CHUNK)])
        maps["paper, stride-16 stage"] = foreground(shallow)
    return [{"foreground": name, **overlap(cells, masks)} for name, cells in maps.items()]


@torch.no_grad()
def _activations_before_last(localizer: Localizer, views: Tensor) -> Tensor:
    """Returns the activations B×D×h×w of the stage before the last, for views B×3×S×S that are not enlarged."""
    network: Any = localizer.network.model
    # The localizer's own `forward` would enlarge the views; its other change, to their range, is done here.
    (activations,) = network.forward_intermediates(
        views * localizer.scale + localizer.shift, indices=[-2], intermediates_only=True
    )
    return activations
