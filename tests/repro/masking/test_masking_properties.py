"""Masks of any size: as many patches as the paper counts, at one rate in both strata, and only where allowed."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from repro.masking.boxes import Box
from repro.masking.patches import Mode, draw_patches, patch_counts, to_pixels
from repro.settings.choices import Source
from repro.settings.sections import FidelitySettings, MaskingSettings

SHARES = st.floats(0, 1, width=32)
GRIDS = st.tuples(st.integers(1, 14), st.integers(1, 14))
SEEDS = st.integers(0, 2**31)
FIDELITIES = st.builds(FidelitySettings, *[st.sampled_from(Source)] * 7)


@st.composite
def foregrounds(draw: st.DrawFn) -> Tensor:
    """B×h×w, boolean, of any share, none and all of the cells included."""
    height, width = draw(GRIDS)
    cells = torch.rand(draw(st.integers(1, 4)), height, width, generator=Generator().manual_seed(draw(SEEDS)))
    return cells < draw(SHARES)


def mode(ratio: float, *, background: bool) -> Mode:
    settings = MaskingSettings(ratio_min=ratio, ratio_max=ratio, hard_ratio_min=ratio, hard_ratio_max=ratio)
    return Mode.positive(settings) if background else Mode.hard(settings)


@given(foreground=foregrounds(), ratio=SHARES, background=st.booleans())
def test_the_papers_counts_are_one_rate_in_both_strata(foreground: Tensor, ratio: float, background: bool) -> None:
    ratios = torch.full((len(foreground),), ratio)
    front, back = patch_counts(foreground, ratios, mode(ratio, background=background), FidelitySettings())
    inside = foreground.sum((1, 2))
    outside = foreground[0].numel() - inside
    # Rounded to whole patches and clipped to those that exist; counted in single precision.
    assert ((front - ratio * inside).abs() <= 0.5 + 1e-4).all()
    if background:
        assert ((back - ratio * outside).abs() <= 0.5 + 1e-4).all()
    else:
        assert not back.any()


@given(foreground=foregrounds(), ratio=SHARES, fidelity=FIDELITIES, background=st.booleans(), capped=st.booleans())
def test_so_many_are_drawn_in_each_stratum_and_channel(
    foreground: Tensor, ratio: float, fidelity: FidelitySettings, background: bool, capped: bool
) -> None:
    ratios = torch.full((len(foreground),), ratio)
    counts = patch_counts(foreground, ratios, mode(ratio, background=background), fidelity, capped=capped)
    patches = draw_patches(foreground, counts, 3, Generator().manual_seed(0))
    assert patches.shape == (len(foreground), 3, *foreground.shape[1:])
    for stratum, count in zip((foreground, ~foreground), counts, strict=True):
        assert ((count >= 0) & (count <= stratum.sum((1, 2)))).all()
        assert torch.equal((patches & stratum.unsqueeze(1)).sum((2, 3)), count.unsqueeze(1).expand(-1, 3))


@given(grid=GRIDS, scale=st.tuples(st.integers(1, 8), st.integers(1, 8)), seed=SEEDS)
def test_pixels_are_those_of_their_patch(grid: tuple[int, int], scale: tuple[int, int], seed: int) -> None:
    patches = torch.rand(2, 1, *grid, generator=Generator().manual_seed(seed)) < 0.5
    pixels = to_pixels(patches, (grid[0] * scale[0], grid[1] * scale[1]))
    assert pixels.sum() == patches.sum() * scale[0] * scale[1]
    assert torch.equal(pixels[:, :, :: scale[0], :: scale[1]], patches)


@given(image=st.tuples(st.integers(1, 96), st.integers(1, 96)), share=SHARES, seed=SEEDS)
def test_boxes_lie_within_the_picture(image: tuple[int, int], share: float, seed: int) -> None:
    box = Box.draw(5, image, share, Generator().manual_seed(seed))
    height, width = box.size
    assert (height, width) == (round(image[0] * share), round(image[1] * share))
    assert ((box.top >= 0) & (box.top + height <= image[0]) & (box.left >= 0) & (box.left + width <= image[1])).all()
    inside = ~box.outside()
    assert (inside.sum((1, 2)) == height * width).all()
    for number in range(5):
        top, left = int(box.top[number]), int(box.left[number])
        assert inside[number, top : top + height, left : left + width].all()
