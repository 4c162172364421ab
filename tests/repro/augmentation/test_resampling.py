"""Batched resizing gives Pillow's own bytes, whatever the box, the filter and the order of Pillow's passes."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from repro.augmentation import resampling
from repro.augmentation.crops import RESAMPLING
from repro.augmentation.resampling import resample, taps
from repro.settings.choices import Interpolation

EXACT_TAPS = 32
"""Up to this many weights a pixel, sums are exact, as the module's docstring says."""


def pictures(rng: np.random.Generator, count: int, side: int) -> NDArray[np.uint8]:
    """Noise, and noise of black and white alone, which is the hardest to round and to clip."""
    noise = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    noise[::2] = (noise[::2] > 127) * np.uint8(255)
    return noise


def by_pillow(window: NDArray[np.uint8], height: int, width: int, size: int, how: Interpolation) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(window[:height, :width].copy()).resize((size, size), RESAMPLING[how]))


@pytest.mark.parametrize("how", list(Interpolation))
@pytest.mark.parametrize("seed", range(25))
def test_parts_of_windows_are_resized_to_pillows_bytes(seed: int, how: Interpolation) -> None:
    rng = np.random.default_rng(seed)
    side, size = (int(rng.integers(1, most)) for most in (120, 70))
    windows, (heights, widths) = pictures(rng, 5, side), rng.integers(1, side + 1, (2, 5))
    ours = resample(*(torch.from_numpy(x) for x in (windows, heights, widths)), size, how)
    assert (ours.shape, ours.dtype) == ((5, 3, size, size), torch.float32)
    for number, crop in enumerate(ours):
        expected = by_pillow(windows[number], heights[number], widths[number], size, how)
        assert np.array_equal(crop.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(("side", "size"), [(500, 224), (700, 30)])
@pytest.mark.parametrize("how", list(Interpolation))
def test_large_boxes_are_resized_to_pillows_bytes(side: int, size: int, how: Interpolation) -> None:
    rng = np.random.default_rng(0)
    windows = pictures(rng, 4, side)
    heights, widths = np.array([side, side, 9, side // 2]), np.array([side, 9, side, 70])
    ours = resample(*(torch.from_numpy(x) for x in (windows, heights, widths)), size, how)
    for number, crop in enumerate(ours):
        expected = by_pillow(windows[number], heights[number], widths[number], size, how)
        assert np.array_equal(crop.permute(1, 2, 0).numpy(), expected)


def test_views_of_photographs_stay_where_sums_are_exact() -> None:
    assert taps(96, 64, Interpolation.bilinear) == 5
    assert taps(500, 224, Interpolation.bilinear) == 7
    for how, times in ((Interpolation.bilinear, 15), (Interpolation.bicubic, 7)):
        assert taps(64 * times, 64, how) <= EXACT_TAPS < taps(64 * times + 64, 64, how)


def test_factors_are_whole_numbers_that_tf32_holds_and_together_pillows_weights() -> None:
    weights = resampling._weights(torch.arange(1, 400, 7), 64, 400, Interpolation.bicubic)
    coarse, fine = weights.chunk(2, 1)
    assert max(coarse.abs().max(), fine.abs().max()) <= 2**11  # TF32 has 11 bits of a factor
    assert torch.equal(weights, weights.round())
    sums = (coarse.double() * 4096 + fine).sum(2) / 2**22
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=400 / 2**23)


@pytest.mark.parametrize("turns", [False, True])
def test_the_passes_come_in_the_order_of_the_pillow_that_is_installed(
    turns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "_TURNS", turns)
    windows = pictures(np.random.default_rng(0), 1, 96)
    tall = resample(torch.from_numpy(windows), torch.tensor([96]), torch.tensor([70]), 64, Interpolation.bilinear)
    image = Image.fromarray(windows[0, :, :70].copy())
    first, then = ((70, 64), (64, 64)) if turns else ((64, 96), (64, 64))
    expected = image.resize(first, Image.Resampling.BILINEAR).resize(then, Image.Resampling.BILINEAR)
    assert np.array_equal(tall[0].permute(1, 2, 0).numpy(), np.asarray(expected))
