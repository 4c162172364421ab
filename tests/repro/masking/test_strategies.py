"""What each strategy puts in place of a masked patch (A.4), and which view is masked."""

from dataclasses import replace

import pytest
import torch
from contrastive_samples import noise
from scipy import stats
from torch import Generator, Tensor

from repro.masking.boxes import Box
from repro.masking.branches import SaliencyMasking
from repro.masking.filters import high_pass, strong_blur
from repro.masking.patches import Mode
from repro.masking.strategies import HighPass, MaskingStrategy, MeanFill, StrongBlur, build_strategy
from repro.masking.views import Views
from repro.settings.choices import Branch, FilterLibrary, NoiseArea, Source, Strategy
from repro.settings.sections import FidelitySettings, MaskingSettings

POSITIVE, HARD = Mode.positive(MaskingSettings()), Mode.hard(MaskingSettings())
NO_FOCAL = HighPass(focal_probability=0.0)
UNTOUCHED = 7.0
"""A value that no fill takes: pixels that still have it were not masked."""


def pictures(count: int, size: int = 56, seed: int = 0) -> Tensor:
    return noise(count, size, seed)


def half_maps(count: int, seed: int = 1) -> Tensor:
    """Foregrounds of 32 of the 49 cells (gamma .65), each at random cells."""
    order = torch.rand(count, 49, generator=Generator().manual_seed(seed)).argsort(1).argsort(1)
    return (order < 32).view(count, 7, 7)


def masked_by(strategy: MaskingStrategy, foreground: Tensor, mode: Mode, *, size: int = 28, seed: int = 5) -> Tensor:
    """Views of a constant after masking."""
    flat = torch.full((len(foreground), 3, size, size), UNTOUCHED)
    return strategy.mask(flat, torch.randn(flat.shape), foreground, mode, Generator().manual_seed(seed))


def per_cell(pixels: Tensor) -> Tensor:
    """B×C×7×7 blocks of pixels, B×C×7×7×n."""
    B, C, H, W = pixels.shape
    return pixels.view(B, C, 7, H // 7, 7, W // 7).transpose(3, 4).reshape(B, C, 7, 7, -1)


@pytest.mark.parametrize("mode", [POSITIVE, HARD], ids=["positive", "hard"])
@pytest.mark.parametrize(
    "strategy",
    [StrongBlur(), MeanFill(), HighPass(), HighPass(noise_area=NoiseArea.masked)],
    ids=["StrongBlur", "MeanFill", "HighPass", "HighPass, masked"],
)
def test_only_masked_pixels_change_and_inputs_are_left_alone(strategy: MaskingStrategy, mode: Mode) -> None:
    views, foreground = pictures(16), half_maps(16)
    clean = strategy.clean(views)
    views_before, clean_before = views.clone(), clean.clone()
    masked = strategy.mask(clean, views, foreground, mode, Generator().manual_seed(0))
    assert torch.equal(views, views_before)
    assert torch.equal(clean, clean_before)
    changed = (masked != clean).float().mean((1, 2, 3))
    assert (changed > 0).all()
    assert (changed < (0.3 if mode is POSITIVE else 0.5)).all()


@pytest.mark.parametrize("mode", [POSITIVE, HARD], ids=["positive", "hard"])
def test_strong_blur_shows_the_blurred_view_where_masked(mode: Mode) -> None:
    views, foreground = pictures(8), half_maps(8)
    masked = StrongBlur().mask(views, views, foreground, mode, Generator().manual_seed(0))
    changed = masked != views
    assert torch.equal(masked[changed], strong_blur(views)[changed])
    # Whole patches, all channels alike.
    cells = per_cell(changed)
    assert torch.equal(cells.any(-1), cells.all(-1))
    assert torch.equal(changed, changed[:, :1].expand_as(changed))


@pytest.mark.parametrize("mode", [POSITIVE, HARD], ids=["positive", "hard"])
def test_mean_fill_shows_each_channels_mean_of_the_whole_view_where_masked(mode: Mode) -> None:
    views, foreground = pictures(8) + torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1), half_maps(8)
    masked = MeanFill().mask(views, views, foreground, mode, Generator().manual_seed(0))
    changed = masked != views
    means = torch.stack([torch.stack([channel.mean() for channel in image]) for image in views])
    torch.testing.assert_close(masked[changed], means.view(8, 3, 1, 1).expand_as(views)[changed])
    assert torch.equal(changed, changed[:, :1].expand_as(changed))


def test_clean_inputs_are_high_passed_for_high_pass_only() -> None:
    views = pictures(2)
    assert torch.equal(HighPass().clean(views), high_pass(views))
    assert torch.equal(StrongBlur().clean(views), views)
    assert torch.equal(MeanFill().clean(views), views)


@pytest.mark.parametrize("strategy", [StrongBlur(), MeanFill(), NO_FOCAL], ids=lambda s: type(s).__name__)
def test_a_positive_loses_both_strata_at_one_rate_and_a_hard_negative_foreground_only(
    strategy: MaskingStrategy,
) -> None:
    foreground = half_maps(3000)
    for mode, front, back in ((POSITIVE, 0.15, 0.15), (HARD, 0.55, 0.0)):
        masked = per_cell(masked_by(strategy, foreground, mode, size=21) != UNTOUCHED)[..., 0].float()
        in_front = foreground.unsqueeze(1).expand_as(masked)
        assert masked[in_front].mean().item() == pytest.approx(front, abs=0.007)
        if back:
            assert masked[~in_front].mean().item() == pytest.approx(back, abs=0.007)
        else:
            assert masked[~in_front].sum() == 0


def test_the_mask_ratio_is_uniform_over_its_range_and_drawn_for_each_image() -> None:
    foreground = torch.ones(4000, 7, 7, dtype=torch.bool)
    for mode, low, high in ((POSITIVE, 0.05, 0.25), (HARD, 0.4, 0.7)):
        hidden = (
            per_cell(masked_by(MeanFill(), foreground, mode, size=14) != UNTOUCHED)[:, 0, ..., 0].sum((-2, -1)) / 49
        )
        assert hidden.min() >= low - 0.5 / 49
        assert hidden.max() <= high + 0.5 / 49
        # Rounding to 49ths moves the uniform distribution by at most half a step.
        distance = stats.kstest(hidden.numpy(), stats.uniform(low, high - low).cdf).statistic
        assert distance < 0.5 / 49 / (high - low) + 0.03


@pytest.mark.parametrize(("strategy", "most"), [(HighPass, 27), (MeanFill, 34)])
def test_b5_the_released_cap_is_on_high_passed_views_alone(strategy: type[HighPass | MeanFill], most: int) -> None:
    # .55 and .7 of 49 cells; a focal mask hides far fewer whole patches.
    capped = strategy(FidelitySettings(cap=Source.released))
    changed = masked_by(capped, torch.ones(200, 7, 7, dtype=torch.bool), HARD, size=14) != UNTOUCHED
    assert per_cell(changed)[:, 0].all(-1).sum((1, 2)).max() == most


def branches(changed: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Focal, spatial and channel-wise images, recognised by the pixels that changed; `window` pixels are focal."""
    alike = (changed == changed[:, :1]).all(3).all(2).all(1)
    focal = alike & (changed[:, 0].sum((-2, -1)) == window)
    return focal, alike & ~focal, ~alike


@pytest.mark.parametrize(
    # At 63 px a patch has 81 pixels, and no focal mask is a multiple of that.
    ("mode", "hidden"),
    [(POSITIVE, 63**2 - 56**2), (HARD, 37**2)],
    ids=["positive", "hard"],
)
def test_high_pass_goes_focal_spatial_and_channel_wise_as_often_as_specified(mode: Mode, hidden: int) -> None:
    count = 1500
    found = branches(masked_by(HighPass(), half_maps(count), mode, size=63) != UNTOUCHED, hidden)
    for branch, probability in zip(found, (0.2, 0.24, 0.56), strict=True):
        bound = 4 * (probability * (1 - probability) / count) ** 0.5
        assert branch.float().mean().item() == pytest.approx(probability, abs=bound)


@pytest.mark.parametrize(("size", "window", "box"), [(224, 200, 130), (112, 100, 65)])
def test_focal_masks_are_a_200_px_window_and_a_130_px_box_at_224_px(size: int, window: int, box: int) -> None:
    focal, foreground = HighPass(focal_probability=1.0), half_maps(4)
    kept = masked_by(focal, foreground, POSITIVE, size=size) == UNTOUCHED
    gone = masked_by(focal, foreground, HARD, size=size) != UNTOUCHED
    for pixels, side in ((kept, window), (gone, box)):
        assert (pixels.any(2).sum(-1) == side).all()
        assert (pixels.any(3).sum(-1) == side).all()
        assert (pixels.sum((-2, -1)) == side**2).all()  # so it is a full rectangle, in each channel
        assert torch.equal(pixels, pixels[:, :1].expand_as(pixels))


def test_a_focal_box_lies_anywhere_inside_with_equal_probability() -> None:
    box = Box.draw(20_000, (224, 224), 200 / 224, Generator().manual_seed(0))
    for place in (box.top, box.left):
        often = torch.bincount(place.flatten(), minlength=25)
        assert len(often) == 25
        assert stats.chisquare(often.numpy()).pvalue > 1e-4
    assert abs(torch.corrcoef(torch.cat([box.top, box.left], 1).T.double())[0, 1]) < 0.04
    hard = Box.draw(20_000, (224, 224), 130 / 224, Generator().manual_seed(0))
    assert hard.size == (130, 130)
    assert (hard.top.min(), hard.top.max()) == (0, 94)


@pytest.mark.parametrize(("mode", "std"), [(POSITIVE, 0.18), (HARD, 0.14)], ids=["positive", "hard"])
@pytest.mark.parametrize(
    "strategy", [HighPass(), HighPass(replace(FidelitySettings(), noise=Source.released))], ids=["fresh", "shared"]
)
def test_high_pass_fills_with_gaussian_noise_of_the_specified_strength(
    strategy: HighPass, mode: Mode, std: float
) -> None:
    size, count = (28, 800) if strategy.fidelity.noise is Source.paper else (224, 8)
    masked = masked_by(strategy, half_maps(count), mode, size=size)
    noise = masked[masked != UNTOUCHED]
    # Shared noise is one tile of 3 x 32 x 32 numbers, whose own std strays by 1/sqrt(2 * 3072) = 1.3 %.
    tolerance = 0.005 if strategy.fidelity.noise is Source.paper else 0.06
    assert noise.std().item() == pytest.approx(std, rel=tolerance)
    assert noise.mean().abs() < tolerance
    assert stats.kurtosis(noise.numpy()) == pytest.approx(0, abs=0.05 if tolerance < 0.01 else 0.4)


MASKED = HighPass(noise_area=NoiseArea.masked)


@pytest.mark.parametrize("mode", [POSITIVE, HARD], ids=["positive", "hard"])
def test_noise_of_masked_pixels_alone_hides_the_same_pixels_of_a_view(mode: Mode) -> None:
    # At 35 px the focal window ends within a patch; 500 images include all three kinds.
    whole, alone = (masked_by(strategy, half_maps(500), mode, size=35) for strategy in (HighPass(), MASKED))
    assert torch.equal(whole != UNTOUCHED, alone != UNTOUCHED)
    assert not torch.equal(whole, alone)


@pytest.mark.parametrize("way", [{"focal_probability": 1.0}, {"focal_probability": 0.0}], ids=["focal", "patches"])
@pytest.mark.parametrize(("mode", "std"), [(POSITIVE, 0.18), (HARD, 0.14)], ids=["positive", "hard"])
def test_noise_of_masked_pixels_alone_is_independent_and_gaussian(
    mode: Mode, std: float, way: dict[str, float]
) -> None:
    masked = masked_by(replace(MASKED, **way), half_maps(600), mode, size=28)
    hidden = masked != UNTOUCHED
    whole = masked_by(HighPass(**way), half_maps(600), mode, size=28)
    assert stats.ks_2samp(masked[hidden][::3].numpy(), whole[hidden][::3].numpy()).pvalue > 1e-4
    assert stats.kstest(masked[hidden][::3].numpy(), stats.norm(0, std).cdf).pvalue > 1e-4
    # No correlation between neighbours along either side, between channels, or between images.
    for a, b in (
        (masked[..., 1:], masked[..., :-1]),
        (masked[..., 1:, :], masked[..., :-1, :]),
        (masked[:, 1:], masked[:, :-1]),
        (masked[1:], masked[:-1]),
        (masked, masked.flip(-1)),
        (masked, masked.flip(-2)),
        (masked, masked.mT),
    ):
        both = (a != UNTOUCHED) & (b != UNTOUCHED) & (a != b)
        pairs = torch.stack([a[both], b[both]])
        assert abs(torch.corrcoef(pairs)[0, 1]) < 5 / (pairs.shape[1] / 2) ** 0.5


def spatial_patches(fidelity: FidelitySettings) -> tuple[Tensor, Tensor]:
    """The masked patches of a few spatially masked images: n×(3*32*32) pixels and the image of each."""
    strategy = HighPass(fidelity, focal_probability=0.0, spatial_share=1.0)
    cells = per_cell(masked_by(strategy, half_maps(6), POSITIVE, size=224)).movedim(1, 3)  # B×7×7×3×n
    hidden = (cells != UNTOUCHED).all(-1).all(-1)
    return cells[hidden].flatten(1), hidden.nonzero()[:, 0]


def test_fresh_noise_differs_between_patches_and_between_images() -> None:
    patches, _ = spatial_patches(FidelitySettings())
    assert len(patches) > 20
    similarity = torch.corrcoef(patches) - torch.eye(len(patches))
    assert similarity.abs().max() < 5 / 3072**0.5


def test_b4_released_noise_is_one_tile_for_every_patch_of_every_image() -> None:
    patches, images = spatial_patches(FidelitySettings(noise=Source.released))
    assert len(images.unique()) == 6
    assert torch.equal(patches, patches[:1].expand_as(patches))
    channels = patches[0].view(3, -1)
    assert (torch.corrcoef(channels) - torch.eye(3)).abs().max() < 5 / 1024**0.5


def test_b4_released_channel_wise_masks_share_the_tile_too() -> None:
    strategy = HighPass(FidelitySettings(noise=Source.released), focal_probability=0.0, spatial_share=0.0)
    cells = per_cell(masked_by(strategy, half_maps(6), POSITIVE, size=224))
    for channel in range(3):
        hidden = cells[:, channel][(cells[:, channel] != UNTOUCHED).all(-1)]
        assert len(hidden) > 20
        assert torch.equal(hidden, hidden[:1].expand_as(hidden))


def test_b4_released_focal_noise_is_fresh_around_a_window_and_shared_in_a_box() -> None:
    strategy = HighPass(FidelitySettings(noise=Source.released), focal_probability=1.0)
    foreground = half_maps(4)
    boxes = masked_by(strategy, foreground, HARD, size=224)
    in_box = boxes[boxes != UNTOUCHED].view(4, 3 * 130 * 130)
    assert torch.equal(in_box, in_box[:1].expand_as(in_box))
    around = masked_by(strategy, foreground, POSITIVE, size=224)
    # The corner is outside of almost every window; it is compared where both windows leave it out.
    first, second = around[0], around[1]
    outside = (first != UNTOUCHED) & (second != UNTOUCHED)
    assert outside.sum() > 3000
    assert abs(torch.corrcoef(torch.stack([first[outside], second[outside]]))[0, 1]) < 5 / outside.sum() ** 0.5


def test_the_settings_choose_strategy_rates_and_strength() -> None:
    settings = MaskingSettings(
        strategy=Strategy.high_pass, focal_probability=0.5, spatial_share=0.1, ratio_min=0.1, hard_noise_std=0.3
    )
    fidelity = FidelitySettings(counts=Source.released)
    assert build_strategy(settings, fidelity) == HighPass(fidelity, 0.5, 0.1)
    assert build_strategy(replace(settings, noise_area=NoiseArea.masked), fidelity).noise_area is NoiseArea.masked  # type: ignore[attr-defined]
    assert build_strategy(replace(settings, strategy=Strategy.strong_blur), fidelity) == StrongBlur(fidelity)
    assert build_strategy(replace(settings, strategy=Strategy.mean_fill), fidelity) == MeanFill(fidelity)
    for strategy in (Strategy.none, Strategy.learned):
        with pytest.raises(ValueError, match="masks no patches"):
            build_strategy(replace(settings, strategy=strategy), fidelity)
    assert Mode.positive(settings) == Mode((0.1, 0.25), True, 0.18)
    assert Mode.hard(settings) == Mode((0.4, 0.7), False, 0.3)


@pytest.mark.parametrize("strategy", [Strategy.high_pass, Strategy.strong_blur])
def test_opencvs_filters_leave_draws_as_they_are_and_pixels_within_rounding(strategy: Strategy) -> None:
    views = pictures(12), pictures(12, seed=1), half_maps(12), half_maps(12, seed=2)
    by = {
        library: SaliencyMasking(MaskingSettings(strategy=strategy), FidelitySettings(), group_size=12, library=library)
        for library in FilterLibrary
    }
    torchs, opencvs = (by[library](*views, Generator().manual_seed(0)) for library in FilterLibrary)
    for name in ("query", "key", "hard_negative"):
        assert not torch.equal(getattr(torchs, name), getattr(opencvs, name)) or name == "key"
        # The same pixels get the same noise: only the filtered values differ.
        torch.testing.assert_close(getattr(torchs, name), getattr(opencvs, name), rtol=0, atol=2e-6)


def masked_views(
    seed: int = 0, fidelity: FidelitySettings | None = None, group_size: int = 6, **settings: object
) -> tuple[Tensor, Tensor, Views]:
    """Mean-filled views of six images whose key has its foreground on the left, and the query on the right."""
    query, key = pictures(6, seed=1), pictures(6, seed=2)
    key_foreground = torch.zeros(6, 7, 7, dtype=torch.bool)
    key_foreground[:, :, :3] = True
    masking = SaliencyMasking(
        replace(MaskingSettings(strategy=Strategy.mean_fill), **settings),  # type: ignore[arg-type]
        fidelity or FidelitySettings(),
        group_size=group_size,
    )
    return query, key, masking(query, key, ~key_foreground, key_foreground, Generator().manual_seed(seed))


@pytest.mark.parametrize("branch", Branch)
def test_the_branch_says_which_view_is_masked(branch: Branch) -> None:
    query, key, views = masked_views(branch=branch)
    assert torch.equal(views.query, query) is (branch is Branch.key)
    assert torch.equal(views.key, key) is (branch is Branch.query)


def test_both_branches_are_masked_independently() -> None:
    query, key, views = masked_views(branch=Branch.both, ratio_min=0.25)
    in_query, in_key = (per_cell(a != b)[:, 0, ..., 0] for a, b in ((views.query, query), (views.key, key)))
    assert not torch.equal(in_query, in_key)


@pytest.mark.parametrize("branch", Branch)
def test_the_hard_negative_is_the_unmasked_key_less_much_of_its_own_foreground(branch: Branch) -> None:
    _, key, views = masked_views(branch=branch)
    assert views.hard_negative is not None
    changed = per_cell(views.hard_negative != key)[:, 0, ..., 0]
    assert not changed[:, :, 3:].any()
    assert (changed[:, :, :3].sum((-2, -1)) >= round(0.4 * 21)).all()
    assert (changed[:, :, :3].sum((-2, -1)) <= round(0.7 * 21)).all()


def test_the_hard_negative_can_be_left_out() -> None:
    _, _, views = masked_views(hard_negative=False)
    assert views.hard_negative is None


@pytest.mark.parametrize(("group_size", "firsts"), [(8, [0]), (6, [0]), (3, [0, 3]), (2, [0, 2, 4])])
def test_b2_released_hard_negatives_are_of_each_groups_image_0_alone(group_size: int, firsts: list[int]) -> None:
    _, key, views = masked_views(fidelity=FidelitySettings(hard_negative=Source.released), group_size=group_size)
    assert views.hard_negative is not None
    assert views.hard_negative.shape == (len(firsts), 3, 56, 56)
    assert views.hard_negative_serves == group_size
    changed = per_cell(views.hard_negative != key[firsts])[:, 0, ..., 0]
    assert changed.any((1, 2)).all()
    assert not changed[:, :, 3:].any()


@pytest.mark.parametrize(("group_size", "tiles"), [(6, 1), (3, 2), (2, 3), (1, 6), (4, 2)])
@pytest.mark.parametrize("spatial_share", [0.0, 1.0], ids=["channel-wise", "spatial"])
def test_b4_released_noise_is_shared_within_a_group_alone(group_size: int, tiles: int, spatial_share: float) -> None:
    fidelity = FidelitySettings(noise=Source.released)
    strategy = HighPass(fidelity, focal_probability=0.0, spatial_share=spatial_share, group_size=group_size)
    cells = per_cell(masked_by(strategy, half_maps(6), POSITIVE, size=224))[:, 0]  # of the red channel
    hidden = (cells != UNTOUCHED).all(-1)
    owners = hidden.nonzero()[:, 0] // group_size
    patches = cells[hidden]
    assert len(owners.unique()) == tiles
    for owner in owners.unique():
        assert torch.equal(patches[owners == owner], patches[owners == owner][:1].expand((owners == owner).sum(), -1))
    assert len(patches.unique(dim=0)) == tiles
    boxes = masked_by(replace(strategy, focal_probability=1.0), half_maps(6), HARD, size=224)
    assert len(boxes[boxes != UNTOUCHED].view(6, -1).unique(dim=0)) == tiles


def test_high_passed_views_come_out_even_of_the_branch_that_is_not_masked() -> None:
    _, key, views = masked_views(strategy=Strategy.high_pass)
    assert torch.equal(views.key, high_pass(key))
    assert views.hard_negative is not None
    same = views.hard_negative == views.key
    assert 0.4 < same.float().mean() < 0.95


@pytest.mark.parametrize("fidelity", [FidelitySettings(), FidelitySettings(*[Source.released] * 7)], ids=str)
def test_the_generators_seed_decides_everything(fidelity: FidelitySettings) -> None:
    first, again, other = (masked_views(seed, fidelity, strategy=Strategy.high_pass)[2] for seed in (3, 3, 4))
    assert first.hard_negative is not None
    assert again.hard_negative is not None
    assert torch.equal(first.query, again.query)
    assert torch.equal(first.hard_negative, again.hard_negative)
    assert not torch.equal(first.query, other.query)


@pytest.mark.parametrize("area", list(NoiseArea))
def test_masking_draws_from_its_generator_only(area: NoiseArea) -> None:
    before = torch.get_rng_state()
    masked_views(strategy=Strategy.high_pass, noise_area=area)
    assert torch.equal(torch.get_rng_state(), before)
