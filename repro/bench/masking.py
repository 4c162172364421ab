"""The benchmark of masking: a whole batch at once, beside a plain loop over its images; and the filter alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor
from torchvision.transforms.functional import gaussian_blur

from repro.bench.timing import best_device, one_thread, seconds_in_turn
from repro.masking.branches import SaliencyMasking
from repro.masking.filters import high_pass
from repro.masking.patches import Mode
from repro.processes.distributed import device_name
from repro.settings.choices import FilterLibrary, NoiseArea, Strategy
from repro.settings.sections import FidelitySettings, MaskingSettings

GRID = 7
"""Cells per side of the foreground at 224 px; the benchmark uses as many at every size."""


def masking(batch: int, size: int) -> list[dict[str, Any]]:
    """Times high-pass masking of a query and its hard negative, beside a plain loop over images.

    The batch is masked at once, as runs do by default; on a CPU also with each of two switches that make it faster, and
    with both. One thread is used. The high-pass filter of query and key, which every way computes, is also timed alone
    on a CPU: no way can be faster.

    Args:
        batch: Number of images.
        size: Pixels a side, a multiple of 7.

    Returns:
        For each way, the milliseconds of wall-clock and CPU time, how many times as fast it is as the loop, and what
        was masked on which device.
    """
    device = best_device()
    query, key, query_foreground, key_foreground = noise_to_mask(batch, size, device)
    settings = MaskingSettings(strategy=Strategy.high_pass)
    generator = Generator(device).manual_seed(0)

    def masked_at_once(area: NoiseArea, library: FilterLibrary) -> Callable[[], object]:
        area_settings = replace(settings, noise_area=area)
        masking = SaliencyMasking(area_settings, FidelitySettings(), group_size=batch, library=library)
        return lambda: masking(query, key, query_foreground, key_foreground, generator)

    def loop() -> None:
        mask_in_a_loop(query, query_foreground, settings, Mode.positive(settings))
        mask_in_a_loop(key, key_foreground, settings, Mode.hard(settings))

    noise, filtered = "masking.noise_area=masked", "machine.filter_library=cv2"
    ways: dict[str, Callable[[], object]] = {
        "loop over images": loop,
        "salmask": masked_at_once(NoiseArea.view, FilterLibrary.torch),
    }
    if device.type == "cpu":
        ways |= {
            f"salmask, {noise}": masked_at_once(NoiseArea.masked, FilterLibrary.torch),
            f"salmask, {filtered}": masked_at_once(NoiseArea.view, FilterLibrary.cv2),
            f"salmask, {noise} {filtered}": masked_at_once(NoiseArea.masked, FilterLibrary.cv2),
            "the filter alone, loop over images": lambda: [high_pass_of_one(x) for x in (*query, *key)],
            "the filter alone, torch": lambda: [high_pass(x) for x in (query, key)],
            "the filter alone, cv2": lambda: [high_pass(x, FilterLibrary.cv2) for x in (query, key)],
        }
    # Threads that wait for their turn would count as CPU time.
    with one_thread():
        seconds, name = seconds_in_turn(ways), device_name(device)
    loops = seconds["loop over images"]
    return [
        {
            "way": way,
            "ms": round(1000 * taken.wall, 1),
            "cpu ms": round(1000 * taken.cpu, 1),
            "times as fast": round(loops.wall / taken.wall, 1),
            "times as fast, cpu": round(loops.cpu / taken.cpu, 1),
            "of": f"{batch}×3×{size}×{size} on {name}",
        }
        for way, taken in seconds.items()
    ]


def noise_to_mask(batch: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns a query and a key of noise, B×3×S×S, and the foregrounds of both, B×g×g, boolean."""
    query, key = torch.randn(2, batch, 3, size, size, device=device)
    # Near the foreground's share in scenes, the `gamma` of `salmask bench saliency`.
    query_foreground, key_foreground = torch.rand(2, batch, GRID, GRID, device=device) < 0.65
    return query, key, query_foreground, key_foreground


def high_pass_of_one(image: Tensor) -> Tensor:
    """High-passes one image 3×S×S with torchvision, as the released moco/loader.py does."""
    return image - gaussian_blur(image, [11, 11], [5.0, 5.0])


def mask_in_a_loop(images: Tensor, foregrounds: Tensor, settings: MaskingSettings, mode: Mode) -> Tensor:
    """Masks one image and one patch after the other with the high-pass strategy; slow, but easy to check.

    It does what the released random_mask_hp.py does, in a straightforward way: it filters each image with torchvision,
    then assigns noise patch by patch.

    Args:
        images: B×3×S×S, normalised.
        foregrounds: B×g×g, boolean; g divides S.
        settings: How often the mask is focal, and how often patches are hidden in all channels alike.
        mode: The rates and the noise of a positive view or of a hard negative.

    Returns:
        B×3×S×S.
    """
    masked_images = []
    for image, foreground in zip(images, foregrounds, strict=True):
        filtered = high_pass_of_one(image)
        if torch.rand(()) < settings.focal_probability:
            _hide_focally(filtered, mode)
        else:
            _hide_patches(filtered, foreground, settings.spatial_share, mode)
        masked_images.append(filtered)
    return torch.stack(masked_images)


def _hide_focally(image: Tensor, mode: Mode) -> None:
    """Hides everything outside a random window of a positive view, or a random box of a hard negative, in place."""
    size = image.shape[-1]
    # The released code's sides at 224 px (random_mask_hp.py:28-38).
    side = round(size * (200 if mode.background else 130) / 224)
    top, left = torch.randint(0, size - side + 1, (2,)).tolist()
    in_box = torch.zeros(size, size, dtype=torch.bool, device=image.device)
    in_box[top : top + side, left : left + side] = True
    area = ~in_box if mode.background else in_box
    image[:, area] = mode.noise_std * torch.randn(3, int(area.sum()), device=image.device)


def _hide_patches(image: Tensor, foreground: Tensor, spatial_share: float, mode: Mode) -> None:
    """Hides random patches, in place: the same in all channels, or others in each channel."""
    side = image.shape[-1] // foreground.shape[-1]
    low, high = mode.ratio
    ratio = low + (high - low) * float(torch.rand(()))
    # The groups of channels that share their patches.
    channel_groups = [[0, 1, 2]] if torch.rand(()) < spatial_share else [[0], [1], [2]]
    for channels in channel_groups:
        for stratum in (foreground, ~foreground) if mode.background else (foreground,):
            cells = stratum.nonzero().tolist()
            for index in torch.randperm(len(cells))[: round(ratio * len(cells))].tolist():
                row, column = (side * position for position in cells[index])
                patch = (slice(row, row + side), slice(column, column + side))
                for channel in channels:
                    image[channel][patch] = mode.noise_std * torch.randn(side, side, device=image.device)
