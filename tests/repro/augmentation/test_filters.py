import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor
from torchvision.transforms import GaussianBlur

from repro.augmentation.blur import gaussian_blur, gaussian_matrix
from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.masking.filters import high_pass, strong_blur
from repro.settings.choices import FilterLibrary

GAIN = {224: 0.003, 64: 0.04, 32: 0.16, 22: 0.31, 16: 0.53, 11: 0.88}
"""The high-pass's gain on sinusoids, by their period in pixels (specification A.1)."""


def pictures(count: int, height: int = 224, width: int = 224, seed: int = 0) -> Tensor:
    """Normalised white noise, on which a wrong tap or a wrong border shows most clearly."""
    pixels = torch.rand(count, 3, height, width, generator=Generator().manual_seed(seed))
    return (pixels - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (96, 40)])
def test_high_pass_is_the_image_less_torchvisions_blur_of_it(height: int, width: int) -> None:
    images = pictures(4, height, width)
    blur = GaussianBlur(11, sigma=5.0)
    expected = torch.stack([image - blur(image) for image in images])
    assert (high_pass(images) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("height", "width"), [(224, 224), (32, 57)])
def test_strong_blur_is_torchvisions(height: int, width: int) -> None:
    images = pictures(4, height, width)
    blur = GaussianBlur(31, sigma=10.0)
    expected = torch.stack([blur(image) for image in images])
    assert (strong_blur(images) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("call", [high_pass, strong_blur], ids=["high_pass", "strong_blur"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
@pytest.mark.parametrize(("height", "width"), [(224, 224), (32, 57), (16, 90)])
def test_opencv_departs_from_torch_by_rounding_alone(
    call: Callable[..., Tensor], layout: torch.memory_format, height: int, width: int
) -> None:
    # Normalised pixels reach 2.7, where float32 rounds by 2.4e-7; neither library may be further from the exact filter.
    images = pictures(3, height, width).contiguous(memory_format=layout)
    before, exact = images.clone(), exactly(call, images)
    for library in FilterLibrary:
        filtered = call(images, library)
        assert filtered.dtype == torch.float32
        assert (filtered - exact).abs().max() < 1e-6, library
    assert torch.equal(images, before)


def test_opencv_filters_where_it_is_asked_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float, bool]] = []

    def blur(images: Tensor, kernel: int, sigma: float, *, removed: bool) -> Tensor:
        asked.append((kernel, sigma, removed))
        return images.clone()

    monkeypatch.setattr("repro.masking.filters._filter_with_opencv", blur)
    for library in FilterLibrary:
        for call in (high_pass, strong_blur):
            call(pictures(1, 32, 32), library)
    assert asked == [(11, 5.0, True), (31, 10.0, False)]


def exactly(call: Callable[..., Tensor], images: Tensor) -> Tensor:
    """A filter's result in double precision, by reflecting and summing the taps of its two passes."""
    radius, sigma = (5, 5.0) if call is high_pass else (15, 10.0)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    taps = torch.exp(-(offsets**2) / (2 * sigma**2))
    lines = torch.nn.functional.pad(images.double(), [radius] * 4, mode="reflect").unfold(-1, 2 * radius + 1, 1)
    across = (lines * (taps / taps.sum())).sum(-1)
    blurred = (across.unfold(-2, 2 * radius + 1, 1) * (taps / taps.sum())).sum(-1)
    return images.double() - blurred if call is high_pass else blurred


def test_opencv_gives_the_same_bits_for_any_number_of_threads() -> None:
    images, threads = pictures(3, 64, 64), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = high_pass(images, FilterLibrary.cv2)
        for several in (2, 4, 16):  # 16: more than the nine planes
            torch.set_num_threads(several)
            assert torch.equal(high_pass(images, FilterLibrary.cv2), alone)
    finally:
        torch.set_num_threads(threads)


def test_each_image_is_blurred_with_its_own_sigma() -> None:
    images, sigmas = pictures(5, 48, 64), torch.tensor([0.1, 0.5, 1.0, 1.7, 2.0])
    expected = torch.stack([GaussianBlur(17, sigma=float(s))(x) for x, s in zip(images, sigmas, strict=True)])
    assert (gaussian_blur(images, 17, sigmas) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("period", "gain"), GAIN.items())
@pytest.mark.parametrize("along", [-1, -2])
def test_high_pass_lets_a_sinusoid_through_as_the_specification_tabulates(period: int, gain: float, along: int) -> None:
    # Away from the border, whose reflection changes the phase.
    wave = torch.sin(2 * math.pi * torch.arange(448) / period).expand(1, 1, 64, 448)
    wave = wave if along == -1 else wave.mT.contiguous()
    passed, inner = high_pass(wave), slice(6, -6)
    measured = passed[..., inner, inner].std() / wave[..., inner, inner].std()
    assert measured.item() == pytest.approx(gain, abs=0.0005 if gain < 0.01 else 0.006)


def test_high_pass_commutes_with_normalisation_but_for_the_scale() -> None:
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    pixels = torch.rand(4, 3, 64, 64, generator=Generator().manual_seed(1))
    assert (high_pass((pixels - mean) / std) - high_pass(pixels) / std).abs().max() < 1e-5
    assert (strong_blur((pixels - mean) / std) - (strong_blur(pixels) - mean) / std).abs().max() < 1e-5


def test_a_constant_image_has_no_high_frequencies_and_no_blur() -> None:
    flat = torch.full((2, 3, 40, 40), 1.7)
    assert high_pass(flat).abs().max() < 1e-6
    assert (strong_blur(flat) - flat).abs().max() < 1e-6


def test_a_blur_matrix_averages_and_is_symmetric_under_reversal() -> None:
    matrix = gaussian_matrix(20, 11, torch.tensor([0.5, 5.0]))
    assert matrix.shape == (2, 20, 20)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 20))
    torch.testing.assert_close(matrix.flip(-1, -2), matrix)
    assert (matrix >= 0).all()


@pytest.mark.parametrize("library", FilterLibrary)
@pytest.mark.parametrize(("call", "smallest"), [(high_pass, 6), (strong_blur, 16)])
def test_an_image_too_small_to_reflect_is_refused(
    call: Callable[..., Tensor], smallest: int, library: FilterLibrary
) -> None:
    assert call(torch.ones(1, 3, smallest, smallest), library).shape == (1, 3, smallest, smallest)
    for height, width in ((smallest - 1, 64), (64, smallest - 1)):
        with pytest.raises(ValueError, match=f"more than {smallest - 1} pixels, not {smallest - 1}"):
            call(torch.ones(1, 3, height, width), library)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="odd kernel"):
        gaussian_blur(torch.ones(1, 3, 32, 32), 10, 5.0)


def test_autocast_does_not_coarsen_the_filter() -> None:
    images = pictures(2, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = high_pass(images)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, high_pass(images), rtol=0, atol=0)


@pytest.mark.parametrize("library", FilterLibrary)
def test_half_precision_pixels_come_back_in_half_precision(library: FilterLibrary) -> None:
    images = pictures(2, 64, 64)
    coarse = strong_blur(images.bfloat16(), library)
    assert coarse.dtype == torch.bfloat16
    assert (coarse.float() - strong_blur(images)).abs().max() < 0.02


def test_filters_leave_their_input_as_it_is() -> None:
    images = pictures(1, 32, 32)
    before = images.clone()
    high_pass(images)
    strong_blur(images)
    assert torch.equal(images, before)
