"""SCDA with the relaxed constraint, against loops written from the specification (A.2, B1)."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from repro.saliency.scda import foreground

Map = NDArray[np.float64]


def two_clause_rule(summed: Map, relax: float) -> NDArray[np.bool_]:
    """A cell is foreground if it reaches the mean, or is within `relax` standard deviations of it (A.2)."""
    mean, std = summed.mean(), summed.std()
    chosen = np.zeros(summed.shape, dtype=bool)
    for row, column in np.ndindex(*summed.shape):
        value = summed[row, column]
        chosen[row, column] = value >= mean or abs(value - mean) <= relax * std
    return chosen


def row_sorting_code(summed: Map) -> NDArray[np.bool_]:
    """The released localisation (B1): every row is sorted, and cells are read from the sorted map by their position."""
    in_rows = np.stack([np.array(sorted(row)) for row in summed])
    return two_clause_rule(in_rows, 0.6)


def blobs(count: int, grid: int = 7, depth: int = 8, seed: int = 0) -> Tensor:
    """Activations of one soft object somewhere in each image, over noise."""
    generator = Generator().manual_seed(seed)
    place = torch.arange(grid).float()
    centre = 1 + (grid - 3) * torch.rand(count, 2, 1, 1, generator=generator)
    distance = (place.view(grid, 1) - centre[:, 0]) ** 2 + (place.view(1, grid) - centre[:, 1]) ** 2
    object_ = torch.exp(-distance / 6).unsqueeze(1) * torch.rand(count, depth, 1, 1, generator=generator)
    return object_ + 0.05 * torch.rand(count, depth, grid, grid, generator=generator)


@pytest.mark.parametrize("relax", [0.0, 0.3, 0.6, 1.5])
@pytest.mark.parametrize("grid", [4, 7])
def test_foreground_is_the_two_clause_rule_of_the_specification(relax: float, grid: int) -> None:
    activations = torch.cat([blobs(64, grid), torch.randn(64, 8, grid, grid, generator=Generator().manual_seed(1))])
    expected = [two_clause_rule(a.double().sum(0).numpy(), relax) for a in activations]
    assert np.array_equal(foreground(activations, relax).numpy(), np.stack(expected))


def test_row_sorted_is_the_released_code() -> None:
    activations = blobs(128)
    expected = [row_sorting_code(a.double().sum(0).numpy()) for a in activations]
    assert np.array_equal(foreground(activations, row_sorted=True).numpy(), np.stack(expected))


def test_row_sorting_keeps_the_size_of_each_row_and_pushes_it_right() -> None:
    activations = blobs(128)
    true, sorted_ = foreground(activations), foreground(activations, row_sorted=True)
    assert torch.equal(true.sum(-1), sorted_.sum(-1))
    assert (sorted_.long().diff(dim=-1) >= 0).all()
    assert not torch.equal(true, sorted_)


def test_the_default_relaxes_by_six_tenths_of_the_populations_standard_deviation() -> None:
    # 48 cells at 0 and one at 7: mean 1/7, population std 48**.5 / 7; cells at 0 are .144 std below the mean.
    summed = torch.zeros(1, 1, 7, 7)
    summed[0, 0, 3, 3] = 7.0
    below = (1 / 7) / (48**0.5 / 7)
    assert foreground(summed, relax=below * 1.001).all()
    assert foreground(summed, relax=below * 0.999).sum() == 1
    # The sample's std (dividing by 48) would be 1 % larger: relax is not measured by it.
    assert foreground(summed, relax=below / (49 / 48) ** 0.5 * 1.001).sum() == 1
    activations = blobs(32)
    assert torch.equal(foreground(activations), foreground(activations, 0.6))


def test_sum_and_mean_over_channels_give_the_same_map() -> None:
    activations = blobs(64)
    assert torch.equal(foreground(activations), foreground(activations.mean(1, keepdim=True)))


@pytest.mark.parametrize("row_sorted", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_map_without_contrast_is_all_foreground(
    dtype: torch.dtype, layout: torch.memory_format, row_sorted: bool
) -> None:
    generator = Generator().manual_seed(0)
    for depth in (1, 3, 8, 64, 1280, 2048):
        for height, width in ((1, 1), (2, 3), (4, 4), (6, 6), (7, 7), (9, 9), (14, 14), (5, 16)):
            # Another constant for each image and channel, over the range of half precision.
            scales = 10 ** torch.linspace(-3, 3, 4).view(4, 1, 1, 1)
            channels = torch.randn(4, depth, 1, 1, generator=generator) * scales
            activations = channels.to(dtype).expand(-1, -1, height, width).contiguous(memory_format=layout)
            for relax in (0.0, 0.6):
                assert foreground(activations, relax, row_sorted).all(), (depth, height, width, relax)


def test_the_released_code_decides_constant_maps_by_rounding() -> None:
    """In single precision, as the localizer's activations are: some constants have no foreground at all there."""

    def share_of_foreground(value: float) -> float:
        summed = np.full((7, 7), value, dtype=np.float32)
        mean, std = summed.mean(), summed.std()
        return float(np.mean((summed >= mean) | (np.abs(summed - mean) <= np.float32(0.6) * std)))

    shares = {share_of_foreground(value) for value in np.random.default_rng(0).uniform(0, 100, 200)}
    assert shares == {0.0, 1.0}


def test_an_offset_or_a_positive_scale_changes_nothing() -> None:
    activations = torch.randint(-50, 50, (64, 4, 7, 7), generator=Generator().manual_seed(0)).float()
    expected = foreground(activations)
    for changed in (activations + 1000, activations - 64, activations * 4):
        assert torch.equal(foreground(changed), expected)


def test_gaussian_maps_are_seventy_two_percent_foreground() -> None:
    maps = torch.randn(4000, 1, 7, 7, generator=Generator().manual_seed(0))
    # P(Z >= -0.6) = .726
    assert foreground(maps).float().mean().item() == pytest.approx(0.726, abs=0.006)


def test_half_precision_activations_are_summed_in_full_precision() -> None:
    activations = (blobs(64, depth=512) * 8).bfloat16()
    assert torch.equal(foreground(activations), foreground(activations.float()))
