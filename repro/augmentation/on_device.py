"""A batch of draws applied on the device to the whole batch at once.

Each image changes its brightness, contrast, saturation and hue in its own order. The first three are blends of one form
(`colour.blend_`). Three blends, the hue, and three blends again therefore cover all orders: an image whose hue comes
second goes through its first blend before the hue, and through the other two after it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from repro.augmentation.blur import box_blur, gaussian_blur
from repro.augmentation.colour import blend_, luma, turn_hue_
from repro.augmentation.draws import COLUMNS, ORDERS
from repro.settings.choices import Blur
from repro.settings.sections import AugmentationSettings

CONTRAST, SATURATION, HUE = 1, 2, 3
"""How `ORDERS` numbers these changes; brightness is 0."""

MOCO = AugmentationSettings()
"""MoCo v2's augmentation."""


def apply_on_device(
    images: Tensor, rows: Tensor, settings: AugmentationSettings = MOCO, *, compiled: bool = False
) -> Tensor:
    """Applies a batch of draws, each to its image.

    On a CPU, a step is computed only for the images that need it. On other devices, all images go through all steps,
    and `where` selects: shapes never depend on the draws, so that the host does not wait for the device, and the whole
    can be compiled or captured. Both ways give the same views up to rounding.

    Args:
        images: B×3×H×W in 0..1, on any device; left as they are.
        rows: B×9, rows of `Draw.row`; on the host, or on the images' device.
        settings: Those that the draws were made from; they say how to blur.
        compiled: Whether `torch.compile` fuses the steps, which spend most of their time on a GPU on reading and
            writing memory; the first call then takes long.

    Returns:
        B×3×H×W in 0..1.
    """
    if compiled:
        return _compiled()(images, _Draws.read(rows.to(images.device, non_blocking=True)), settings)
    if images.is_cpu:
        return apply_to_selected(images, rows, settings)
    return apply_to_all(images, rows.to(images.device, non_blocking=True), settings)


def apply_to_selected(images: Tensor, rows: Tensor, settings: AugmentationSettings) -> Tensor:
    """Applies draws as `apply_on_device` does, each step to the images that need it; all on the host.

    Arguments and result are those of `apply_on_device`.
    """
    draws = _Draws.read(rows)
    # Jittered images come first, sorted by how many blends come before their hue, most first. So the images that need
    # a step are consecutive: a slice, which is changed in place.
    turn = torch.where(draws.jitter, draws.hue_position, -1).flatten()
    order = turn.argsort(descending=True)
    views, jittered = images.index_select(0, order), int(draws.jitter.sum())
    factors, grey_weights, mean_weights, hue = (
        amounts.index_select(-4, order) for amounts in (*draws.blends, draws.hue)
    )

    def blend(number: int, some: slice) -> None:
        if some.start < some.stop:
            blend_(views[some], factors[number, some], grey_weights[number, some], mean_weights[number, some])

    before = [int((turn > number).sum()) for number in range(3)]
    for number in range(3):
        blend(number, slice(0, before[number]))
    if jittered:
        turn_hue_(views[:jittered], hue[:jittered])
    for number in range(3):
        blend(number, slice(before[number], jittered))

    grey, blurred, flipped = (
        is_drawn.flatten()[order].nonzero().flatten() for is_drawn in (draws.grey, draws.sigma > 0, draws.flip)
    )
    if len(grey):
        views.index_copy_(0, grey, luma(views.index_select(0, grey)).expand(-1, 3, -1, -1))
    if len(blurred):
        sigma = draws.sigma.flatten()[order][blurred]
        views.index_copy_(0, blurred, _blur(views.index_select(0, blurred), sigma, settings))
    if len(flipped):
        views.index_copy_(0, flipped, views.index_select(0, flipped).flip(-1))
    return views.index_select(0, order.argsort())


def apply_to_all(images: Tensor, rows: Tensor, settings: AugmentationSettings) -> Tensor:
    """Applies draws as `apply_on_device` does, with shapes and kernels that are the same for every batch.

    Arguments and result are those of `apply_on_device`, all on one device.
    """
    return _apply(images, _Draws.read(rows), settings)


@cache
def _compiled() -> Callable[[Tensor, "_Draws", AugmentationSettings], Tensor]:
    # Without `dynamic=False`, the second image size in a process would be compiled to slower kernels for any size.
    return torch.compile(_apply, dynamic=False)


def _apply(images: Tensor, draws: "_Draws", settings: AugmentationSettings) -> Tensor:
    views = images.clone()

    def blend(number: int, chosen: Tensor) -> None:
        factors, grey_weights, mean_weights = (amounts[number] for amounts in draws.blends)
        # A factor of 1 and weights of 0 leave an image as it is, to the bit.
        blend_(views, torch.where(chosen, factors, 1), grey_weights * chosen, mean_weights * chosen)

    for number in range(3):
        blend(number, draws.jitter & (draws.hue_position > number))
    turned = views.clone()
    turn_hue_(turned, draws.hue)
    views = torch.where(draws.jitter, turned, views)
    for number in range(3):
        blend(number, draws.jitter & (draws.hue_position <= number))
    views = torch.where(draws.grey, luma(views), views)
    if settings.blur_probability:
        # A blur of sigma 0 cannot be computed: sigma is 1 there, and the result is not used.
        sigma = torch.where(draws.sigma > 0, draws.sigma, 1).flatten()
        views = torch.where(draws.sigma > 0, _blur(views, sigma, settings), views)
    return torch.where(draws.flip, views.flip(-1), views)


def _blur(images: Tensor, sigma: Tensor, settings: AugmentationSettings) -> Tensor:
    """Blurs each image by its own sigma (B), in the way that the settings name."""
    if settings.blur is Blur.box:
        return box_blur(images, sigma, settings.blur_sigma_max)
    return gaussian_blur(images, settings.blur_taps, sigma)


@dataclass(frozen=True)
class _Draws:
    """The draws of a batch as the steps need them, B×1×1×1 each."""

    jitter: Tensor
    hue_position: Tensor
    """How many blends come before the hue, 0 to 3."""
    hue: Tensor
    blends: tuple[Tensor, Tensor, Tensor]
    """Factor, grey weight and mean weight of each image's first, second and third blend; 3×B×1×1×1."""
    grey: Tensor
    sigma: Tensor
    flip: Tensor

    @classmethod
    def read(cls, rows: Tensor) -> "_Draws":
        """Reads rows B×9 of `Draw.row`, on any device, without waiting for it."""
        column = dict(zip(COLUMNS, rows.T.reshape(-1, len(rows), 1, 1, 1), strict=True))
        order = column["order"].flatten().long()
        kinds, hue_position = (table[..., order] for table in _tables(rows.device))
        kinds = kinds.view(3, -1, 1, 1, 1)
        factors = torch.stack([column[name] for name in ("brightness", "contrast", "saturation")]).gather(0, kinds)
        return cls(
            jitter=column["jitter"] > 0,
            hue_position=hue_position.view(-1, 1, 1, 1),
            hue=column["hue"],
            blends=(factors, (1 - factors) * (kinds == SATURATION), (1 - factors) * (kinds == CONTRAST)),
            grey=column["grey"] > 0,
            sigma=column["sigma"],
            flip=column["flip"] > 0,
        )


@cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the blends of each of `ORDERS` (3×24) and its hue's position (24); cached, as each copy would wait."""
    blends = [[change for change in order if change != HUE] for order in ORDERS]
    return torch.tensor(blends, device=device).T, torch.tensor([order.index(HUE) for order in ORDERS], device=device)
