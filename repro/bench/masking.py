"""Masking of a batch at once beside a plain loop over its images."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor
from torchvision.transforms.functional import gaussian_blur

from repro.bench.timing import timed_in_turn
from repro.masking.branches import SaliencyMasking
from repro.runs.choices import Strategy
from repro.runs.sections import FidelitySettings, MaskingSettings


def masking(batch: int, size: int) -> dict[str, Any]:
    """High-pass masking of a query and its hard negative: the batch at once, and a plain loop over images.

    The loop does what the released random_mask_hp.py does, written straightforwardly: filter each image with
    torchvision, then assign noise patch by patch.

    Args:
        batch: images.
        size: pixels a side, a multiple of 7.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    query, key = torch.randn(2, batch, 3, size, size, device=device)
    query_foreground, key_foreground = torch.rand(2, batch, 7, 7, device=device) < 0.65
    settings = MaskingSettings(strategy=Strategy.high_pass)
    ours = SaliencyMasking(settings, FidelitySettings())
    generator = Generator(device).manual_seed(0)
    sides: Mapping[str, Callable[[], object]] = {
        "batched": lambda: ours(query, key, query_foreground, key_foreground, generator),
        "loop": lambda: (
            mask_in_a_loop(query, query_foreground, settings.ratio_min, settings.ratio_max, hard=False),
            mask_in_a_loop(key, key_foreground, settings.hard_ratio_min, settings.hard_ratio_max, hard=True),
        ),
    }
    seconds = timed_in_turn(sides)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    return {
        "batch": f"{batch}×3×{size}×{size} on {name}",
        "batched_ms": round(1000 * seconds["batched"], 1),
        "loop_ms": round(1000 * seconds["loop"], 1),
        "loop / batched": round(seconds["loop"] / seconds["batched"], 1),
    }


def mask_in_a_loop(images: Tensor, foreground: Tensor, low: float, high: float, *, hard: bool) -> Tensor:
    """High-pass masking of one image and one patch after the other; slow, and easy to check."""
    made = []
    side = images.shape[-1] // foreground.shape[-1]
    std = 0.14 if hard else 0.18
    for image, front in zip(images, foreground, strict=True):
        image = image - gaussian_blur(image, [11, 11], [5.0, 5.0])  # noqa: PLW2901
        size = image.shape[-1]
        if torch.rand(()) < 0.2:
            box = round(size * (130 if hard else 200) / 224)
            top, left = torch.randint(0, size - box + 1, (2,)).tolist()
            inside = torch.zeros(size, size, dtype=torch.bool, device=image.device)
            inside[top : top + box, left : left + box] = True
            hidden = inside if hard else ~inside
            image[:, hidden] = std * torch.randn(3, int(hidden.sum()), device=image.device)
        else:
            alpha = low + (high - low) * float(torch.rand(()))
            channels = [[0, 1, 2]] if torch.rand(()) < 0.3 else [[0], [1], [2]]
            for chosen in channels:
                for stratum in (front,) if hard else (front, ~front):
                    cells = stratum.nonzero().tolist()
                    count = round(49 * alpha * len(cells) / 49)
                    for index in torch.randperm(len(cells))[:count].tolist():
                        row, column = (side * position for position in cells[index])
                        patch = (slice(row, row + side), slice(column, column + side))
                        for channel in chosen:
                            image[channel][patch] = std * torch.randn(side, side, device=image.device)
        made.append(image)
    return torch.stack(made)
