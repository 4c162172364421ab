"""How many patches are masked and which, against loops written from the specification (A.3, B5 to B8)."""

from collections.abc import Iterator
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from repro.masking.boxes import Box
from repro.masking.branches import SaliencyMasking
from repro.masking.filters import high_pass
from repro.masking.patches import (
    Mode,
    as_many_at_random,
    draw_counts,
    draw_patches,
    overlap,
    patch_counts,
    to_pixels,
)
from repro.masking.strategies import FOCAL_WINDOW, HighPass
from repro.settings.choices import NoiseArea, Source, Strategy
from repro.settings.sections import FidelitySettings, MaskingSettings

POSITIVE, HARD = Mode.positive(MaskingSettings()), Mode.hard(MaskingSettings())
PAPER = FidelitySettings()
RELEASED = FidelitySettings(*[Source.released] * 7)
SWITCHES = ("cap", "counts", "negative_count", "single_patch")


def maps(sizes: list[int], grid: int = 7, seed: int = 0) -> Tensor:
    """Foregrounds of the given sizes, each at random cells."""
    order = torch.rand(len(sizes), grid * grid, generator=Generator().manual_seed(seed)).argsort(1).argsort(1)
    return (order < torch.tensor(sizes).unsqueeze(1)).view(-1, grid, grid)


def slow_counts(
    foreground: Tensor, alpha: float, mode: Mode, fidelity: FidelitySettings, capped: bool
) -> tuple[int, int]:
    """Patches masked in one image: lists of cells are made and sliced, as the released code does."""
    cells = foreground.flatten().tolist()
    front = [i for i, is_front in enumerate(cells) if is_front]
    back = [i for i, is_front in enumerate(cells) if not is_front]
    total = len(cells)
    gamma = len(front) / total
    share = alpha * gamma
    if capped and fidelity.cap is Source.released and share >= 0.56:
        share = 0.55
    front_count = round(share * total)
    if fidelity.counts is Source.released:
        back_count = int(total * alpha) - front_count
    else:
        back_count = round(total * alpha * (1 - gamma))
    if fidelity.negative_count is Source.paper:
        back_count = max(back_count, 0)
    masked_front, masked_back = front[:front_count], back[:back_count] if mode.background else []
    if fidelity.single_patch is Source.released:
        masked_front = [] if len(front) == 1 else masked_front
        masked_back = [] if len(back) == 1 else masked_back
    return len(masked_front), len(masked_back)


def switch_settings() -> Iterator[FidelitySettings]:
    for values in product((Source.paper, Source.released), repeat=len(SWITCHES)):
        yield FidelitySettings(**dict(zip(SWITCHES, values, strict=True)))


@pytest.mark.parametrize("fidelity", switch_settings(), ids=str)
@pytest.mark.parametrize("mode", [POSITIVE, HARD], ids=["positive", "hard"])
@pytest.mark.parametrize("capped", [True, False])
def test_counts_are_those_of_a_loop_for_every_combination_of_switches(
    fidelity: FidelitySettings, mode: Mode, capped: bool
) -> None:
    sizes = [*range(50), *range(38, 50), *range(38, 50), 1, 48, 1, 48]
    foreground = maps(sizes)
    low, high = mode.ratio
    ratio = low + (high - low) * torch.rand(len(sizes), generator=Generator().manual_seed(2))
    front, back = patch_counts(foreground, ratio, mode, fidelity, capped=capped)
    expected = [slow_counts(f, float(a), mode, fidelity, capped) for f, a in zip(foreground, ratio, strict=True)]
    assert list(zip(front.tolist(), back.tolist(), strict=True)) == expected


def test_paper_counts_by_hand() -> None:
    # gamma = 28 / 49, alpha = .2: 49 * .2 * .571 = 5.6, 49 * .2 * .429 = 4.2
    front, back = patch_counts(maps([28]), torch.tensor([0.2]), POSITIVE, PAPER)
    assert (front.item(), back.item()) == (6, 4)
    front, back = patch_counts(maps([28]), torch.tensor([0.55]), HARD, PAPER)
    assert (front.item(), back.item()) == (15, 0)


def test_halves_are_rounded_to_even_as_python_does() -> None:
    # On a 4x4 grid a quarter of 2, 6, 10 and 14 cells is .5, 1.5, 2.5 and 3.5, without rounding errors.
    foreground, quarter = maps([2, 6, 10, 14], grid=4), torch.full((4,), 0.25)
    front, back = patch_counts(foreground, quarter, POSITIVE, PAPER)
    assert front.tolist() == [0, 2, 2, 4]
    assert back.tolist() == [4, 2, 2, 0]
    front, back = patch_counts(foreground, quarter, POSITIVE, RELEASED)
    assert front.tolist() == [0, 2, 2, 4]
    assert back.tolist() == [4, 2, 2, 0]


def test_b5_caps_the_foreground_share_for_high_pass_only() -> None:
    foreground = maps([49, 49, 49])
    ratio = torch.tensor([0.555, 0.57, 0.7])
    released = FidelitySettings(cap=Source.released)
    assert patch_counts(foreground, ratio, HARD, released, capped=True)[0].tolist() == [27, 27, 27]
    assert patch_counts(foreground, ratio, HARD, released, capped=False)[0].tolist() == [27, 28, 34]
    assert patch_counts(foreground, ratio, HARD, PAPER, capped=True)[0].tolist() == [27, 28, 34]
    # The cap applies from .56 on: between .55 and .56 nothing is cut, which shows on a finer grid.
    fine, ratio = maps([100, 100, 100], grid=10), torch.tensor([0.556, 0.56, 0.564])
    assert patch_counts(fine, ratio, HARD, released, capped=True)[0].tolist() == [56, 55, 55]
    # What the cap takes from the foreground goes to a query's background, which may have fewer cells: 46 - 27 of 3.
    counts = FidelitySettings(cap=Source.released, counts=Source.released)
    assert [n.item() for n in patch_counts(maps([46]), torch.tensor([0.95]), POSITIVE, counts, capped=True)] == [27, 3]


def test_b6_leaves_the_whole_deficit_to_the_background() -> None:
    count = 40_000
    ratio = 0.05 + 0.2 * torch.rand(count, generator=Generator().manual_seed(0))

    def means(size: int, fidelity: FidelitySettings) -> tuple[float, float, float]:
        foreground = maps([size]).expand(count, 7, 7)
        front, back = (n.double().mean().item() for n in patch_counts(foreground, ratio, POSITIVE, fidelity))
        return front + back, front / size, back / (49 - size)

    total, _, _ = means(32, PAPER)
    assert total == pytest.approx(7.35, abs=0.05)
    counts = FidelitySettings(counts=Source.released)
    total, front, back = means(32, counts)  # gamma = .65
    assert total == pytest.approx(6.85, abs=0.05)
    assert front == pytest.approx(0.15, abs=0.003)
    assert back == pytest.approx(0.120, abs=0.003)
    assert means(40, counts)[2] == pytest.approx(0.095, abs=0.005)  # gamma = .82


def test_b7_a_count_of_minus_one_masks_all_but_one() -> None:
    # 46 of 49, alpha .1631: int(7.99) - round(7.503) = -1, and likewise for 47 and 49; for 46 at .15 it is 0.
    foreground, ratio = maps([46, 47, 49, 46]), torch.tensor([0.1631, 0.16, 0.16, 0.15])
    clamped = FidelitySettings(counts=Source.released)
    sliced = FidelitySettings(counts=Source.released, negative_count=Source.released)
    assert patch_counts(foreground, ratio, POSITIVE, clamped)[1].tolist() == [0, 0, 0, 0]
    assert patch_counts(foreground, ratio, POSITIVE, sliced)[1].tolist() == [2, 1, 0, 0]


def test_b8_skips_a_stratum_of_one_patch_but_not_a_count_of_one() -> None:
    released = FidelitySettings(single_patch=Source.released)
    foreground = maps([1, 10, 48])
    # .6 of the only foreground patch, .1 of ten foreground patches, .6 of the only background patch.
    front, back = patch_counts(foreground, torch.tensor([0.6, 0.1, 0.6]), POSITIVE, released)
    assert front.tolist() == [0, 1, 29]
    assert back.tolist() == [29, 4, 0]
    front, back = patch_counts(foreground, torch.tensor([0.6, 0.1, 0.6]), POSITIVE, PAPER)
    assert front.tolist() == [1, 1, 29]
    assert back.tolist() == [29, 4, 1]


@cache
def many_draws(draws: int = 20_000) -> tuple[Tensor, Tensor]:
    """B×3×7×7 draws from one foreground of 30 cells: 6 of these are masked, and 4 of the other 19."""
    foreground = maps([30])
    counts = torch.full((draws,), 6), torch.full((draws,), 4)
    return foreground[0], draw_patches(foreground.expand(draws, 7, 7), counts, 3, Generator().manual_seed(4))


def test_every_cell_of_a_stratum_is_drawn_equally_often() -> None:
    foreground, patches = many_draws()
    draws = len(patches)
    for stratum, masked, size in ((foreground, 6, 30), (~foreground, 4, 19)):
        rate = masked / size
        for channel in range(3):
            often = patches[:, channel, stratum].sum(0).double()
            # Without replacement, counts correlate by -1 / (size - 1); scaled for that, the sum is chi-square again.
            statistic = ((often - draws * rate) ** 2).sum() / (draws * rate * (1 - rate)) * (size - 1) / size
            assert 1e-4 < stats.chi2.sf(statistic.item(), size - 1) < 1 - 1e-4


def test_two_cells_are_drawn_together_as_often_as_without_replacement() -> None:
    foreground, patches = many_draws()
    for stratum, masked, size in ((foreground, 6, 30), (~foreground, 4, 19)):
        masked_cells = patches[:, 0, stratum].float()
        together = (masked_cells.T @ masked_cells / len(masked_cells))[*torch.triu_indices(size, size, 1)]
        expected = masked * (masked - 1) / (size * (size - 1))
        bound = 5 * (expected * (1 - expected) / len(masked_cells)) ** 0.5
        assert (together - expected).abs().max() < bound


def test_channels_are_drawn_independently() -> None:
    foreground, patches = many_draws()
    for stratum, rate in ((foreground, 6 / 30), (~foreground, 4 / 19)):
        masked_cells = patches[:, :, stratum]
        n = len(masked_cells)
        for a, b in ((0, 1), (0, 2), (1, 2)):
            together = (masked_cells[:, a] & masked_cells[:, b]).double().mean(0)
            assert (together - rate**2).abs().max() < 5 * (rate**2 * (1 - rate**2) / n) ** 0.5
        # All three channels of a patch are hidden at rate**3 only (B10), and at least one at 1 - (1 - rate)**3.
        assert masked_cells.all(1).double().mean().item() == pytest.approx(rate**3, abs=5e-4)
        assert masked_cells.any(1).double().mean().item() == pytest.approx(1 - (1 - rate) ** 3, abs=2e-3)


def test_images_are_drawn_independently() -> None:
    _, patches = many_draws()
    flat = patches[:, 0].flatten(1).double().numpy()
    first, second = flat[0::2], flat[1::2]
    correlations = [np.corrcoef(first[:, i], second[:, i])[0, 1] for i in range(49)]
    assert np.abs(correlations).max() < 5 / len(first) ** 0.5


def test_the_same_seed_draws_the_same_patches_and_another_draws_others() -> None:
    foreground, counts = maps([30] * 16), (torch.full((16,), 6), torch.full((16,), 4))
    first, again, other = (draw_patches(foreground, counts, 3, Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_patch_becomes_a_square_of_pixels() -> None:
    patches = torch.zeros(1, 1, 7, 7, dtype=torch.bool)
    patches[0, 0, 2, 5] = True
    pixels = to_pixels(patches, (224, 224))
    assert pixels[0, 0, 64:96, 160:192].all()
    assert pixels.sum() == 32 * 32
    assert to_pixels(patches, (56, 28)).sum() == 8 * 4


@pytest.mark.parametrize("hard_negative", Source)
def test_b4_the_released_noise_of_hard_negatives_is_shared_within_a_group_alone(hard_negative: Source) -> None:
    """Two groups of three images have two tiles, whether each image has a hard negative or its group has one."""
    settings = MaskingSettings(strategy=Strategy.high_pass, focal_probability=0.0, spatial_share=1.0)
    fidelity = FidelitySettings(noise=Source.released, hard_negative=hard_negative)
    key, foreground = torch.randn(6, 3, 56, 56, generator=Generator().manual_seed(0)), maps([32] * 6)
    masking = SaliencyMasking(settings, fidelity, group_size=3)
    views = masking(key, key, foreground, foreground, Generator().manual_seed(1))
    assert views.hard_negative is not None
    changed = views.hard_negative - high_pass(key)[:: views.hard_negative_serves] != 0
    red, hidden = (pixels[:, 0].view(-1, 7, 8, 7, 8).transpose(2, 3) for pixels in (views.hard_negative, changed))
    tiles = [image[masked.all(-1).all(-1)].flatten(1).unique(dim=0) for image, masked in zip(red, hidden, strict=True)]
    assert [len(tile) for tile in tiles] == [1] * (6 if hard_negative is Source.paper else 2)
    assert len(torch.cat(tiles).unique(dim=0)) == 2


@pytest.mark.parametrize("area", NoiseArea)
@pytest.mark.parametrize(("spatial_share", "tile"), [(1.0, 0), (0.0, 1)], ids=["spatial", "channel-wise"])
def test_b4_a_seed_gives_the_same_tiles_as_ever(spatial_share: float, tile: int, area: NoiseArea) -> None:
    """Another order of draws, or the other of the two tiles, would change every run by the released code's noise."""
    fidelity, foreground = FidelitySettings(noise=Source.released), maps([32] * 6)
    clean = torch.full((6, 3, 56, 56), 7.0)
    strategy = HighPass(fidelity, 0.0, spatial_share, noise_area=area)
    masked = strategy.mask(clean, clean, foreground, POSITIVE, Generator().manual_seed(5))
    stream = Generator().manual_seed(5)
    draw_patches(foreground, draw_counts(foreground, POSITIVE, fidelity, stream, capped=True), 3, stream)
    torch.rand(2, 6, generator=stream)  # focal or not, spatial or not
    Box.draw(6, (56, 56), FOCAL_WINDOW, stream)
    tiles = torch.randn(2, 3, 8, 8, generator=stream) * POSITIVE.noise_std
    hidden = masked != clean
    assert torch.equal(masked[hidden], tiles[tile].repeat(1, 7, 7).expand_as(masked)[hidden])


def test_chance_finds_as_many_cells_anywhere() -> None:
    sizes = [0, 1, 30, 49] * 500
    cells = maps(sizes)
    drawn = as_many_at_random(cells, Generator().manual_seed(3))
    assert drawn.shape == cells.shape
    assert drawn.sum((1, 2)).tolist() == sizes
    # 80 cells over four images, each as often as any other.
    assert (drawn.float().mean(0) - 80 / (4 * 49)).abs().max() < 5 * (0.24 / len(sizes)) ** 0.5


def test_overlap_by_hand() -> None:
    cells, masks = torch.zeros(2, 2, 2, dtype=torch.bool), torch.zeros(2, 4, 4, dtype=torch.bool)
    cells[0, 0] = True  # the upper half, 8 pixels; the second view has no foreground
    masks[0, :, 0] = masks[1, 0, 0] = True  # the left column, 4 pixels, 2 of them in the upper half
    assert overlap(cells, masks) == {"mean IoU": 0.1, "precision": 0.125, "recall": 0.25, "gamma": 0.25}
